#include <lsaq/thread_pool.hpp>

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <numeric>
#include <set>

namespace thread_pool_test {

using lsaq::ExecutorRef;
using lsaq::ThreadPool;

class Pools : public testing::TestWithParam<std::size_t> {
protected:
  ThreadPool pool{GetParam()};
};

INSTANTIATE_TEST_SUITE_P(Threads, Pools, testing::Values(1, 2, 3, 4), testing::PrintToStringParamName());

TEST_P(Pools, HasTheConcurrencyAskedFor) {
  EXPECT_EQ(pool.concurrency(), GetParam());
  EXPECT_EQ(ExecutorRef(pool).concurrency(), GetParam());
}

TEST_P(Pools, RunsEveryIndexOnce) {
  for (const std::size_t count : {0, 1, 2, 3, 4, 5, 16, 1000}) {
    std::vector<int> runs(count); // plain ints: the pool orders the tasks' writes before its return
    pool.parallel_for(count, [&](std::size_t i) { ++runs[i]; });
    for (std::size_t i = 0; i < count; ++i) ASSERT_EQ(runs[i], 1) << i << " of " << count;
  }
}

TEST_P(Pools, SumsWhatTheCallerWrote) {
  std::vector<std::uint64_t> values(5000), doubled(values.size());
  for (std::uint64_t round = 1; round <= 3; ++round) {
    std::iota(values.begin(), values.end(), round);
    pool.parallel_for(values.size(), [&](std::size_t i) { doubled[i] = 2 * values[i]; });
    EXPECT_EQ(std::accumulate(doubled.begin(), doubled.end(), std::uint64_t{0}), 2 * (5000 * round + 4999 * 2500));
  }
}

TEST_P(Pools, ManySmallCalls) {
  std::atomic<std::size_t> sum = 0;
  std::size_t expected = 0;
  for (std::size_t call = 0; call < 3000; ++call) {
    const std::size_t count = call % 7;
    pool.parallel_for(count, [&](std::size_t i) { sum.fetch_add(i + 1, std::memory_order_relaxed); });
    expected += count * (count + 1) / 2;
    ASSERT_EQ(sum.load(std::memory_order_relaxed), expected) << "call " << call; // all done when parallel_for returns
  }
}

TEST_P(Pools, CallersTakeTurns) {
  constexpr std::size_t callers = 3, calls = 200, tasks = 9;
  std::atomic<int> inside = 0, most = 0; // callers whose tasks run at this moment
  std::vector<std::size_t> sums(callers);
  std::vector<std::thread> threads;
  for (std::size_t c = 0; c < callers; ++c)
    threads.emplace_back([&, c] {
      for (std::size_t call = 0; call < calls; ++call) {
        std::atomic<std::size_t> sum = 0;
        std::atomic<bool> entered = false;
        std::atomic<std::size_t> left = tasks;
        pool.parallel_for(tasks, [&](std::size_t i) {
          if (!entered.exchange(true)) {
            const int now = inside.fetch_add(1) + 1;
            for (int seen = most.load(); now > seen && !most.compare_exchange_weak(seen, now);) {
            }
          }
          sum.fetch_add(i);
          if (left.fetch_sub(1) == 1) inside.fetch_sub(1);
        });
        sums[c] += sum.load();
      }
    });
  for (std::thread& thread : threads) thread.join();
  for (const std::size_t sum : sums) EXPECT_EQ(sum, calls * tasks * (tasks - 1) / 2);
  EXPECT_EQ(most.load(), 1);
}

TEST_P(Pools, TasksMayUseAnotherPool) {
  ThreadPool inner(2);
  std::vector<std::size_t> sums(6);
  pool.parallel_for(sums.size(), [&](std::size_t outer) {
    std::atomic<std::size_t> sum = 0;
    inner.parallel_for(outer, [&](std::size_t i) { sum.fetch_add(i + 1); });
    sums[outer] = sum.load();
  });
  for (std::size_t outer = 0; outer < sums.size(); ++outer) EXPECT_EQ(sums[outer], outer * (outer + 1) / 2);
}

TEST_P(Pools, TheCallerTakesPart) {
  std::mutex mutex;
  std::set<std::thread::id> ids;
  const auto collect = [&](std::size_t) {
    const std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
  };
  for (int call = 0; call < 50; ++call) pool.parallel_for(20, collect);
  EXPECT_LE(ids.size(), GetParam());
  ids.clear();
  pool.parallel_for(1, collect);
  EXPECT_EQ(ids, std::set{std::this_thread::get_id()}) << "a single task is not handed over";
}

TEST(ThreadPool, TasksRunAtTheSameTime) {
  ThreadPool pool(2);
  std::atomic<int> arrived = 0;
  pool.parallel_for(2, [&](std::size_t) { // either task returns only when both have started
    arrived.fetch_add(1);
    while (arrived.load() < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(ThreadPool, ReturnsWhenTheSlowestTaskIsDone) {
  ThreadPool pool(2);
  const std::thread::id caller = std::this_thread::get_id();
  for (int round = 0; round < 5; ++round) {
    std::atomic<int> arrived = 0;
    bool worker_done = false; // a plain bool: the pool orders it before its return
    pool.parallel_for(2, [&](std::size_t) {
      arrived.fetch_add(1);
      while (arrived.load() < 2) std::this_thread::yield(); // one task each
      if (std::this_thread::get_id() == caller) return;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      worker_done = true;
    });
    ASSERT_TRUE(worker_done);
  }
}

TEST(ThreadPool, ZeroMeansOneForEachCore) { EXPECT_EQ(ThreadPool(0).concurrency(), std::max(1u, std::thread::hardware_concurrency())); }

TEST(ThreadPool, EndsWhetherItsThreadsSleepOrNeverRan) {
  for (int i = 0; i < 50; ++i) ThreadPool(4); // destroyed before its threads have started
  const auto slept = std::make_unique<ThreadPool>(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(20)); // beyond the time workers spin
  std::atomic<int> runs = 0;
  slept->parallel_for(8, [&](std::size_t) { runs.fetch_add(1); });
  EXPECT_EQ(runs.load(), 8);
}

} // namespace thread_pool_test
