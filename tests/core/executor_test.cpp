#include <lsaq/executor.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace executor_test {

using lsaq::ExecutorRef;
using lsaq::Serial;
using lsaq::TaskRef;
using testing::ElementsAre;
using testing::IsEmpty;

/// An engine's own pool, as far as the library can see: runs backwards and counts its calls.
struct Backwards {
  std::size_t calls = 0;
  std::size_t concurrency() const { return 3; }
  void parallel_for(std::size_t count, TaskRef task) {
    ++calls;
    for (std::size_t i = count; i-- > 0;) task(i);
  }
};

struct NoConcurrency {
  void parallel_for(std::size_t, TaskRef) {}
};
struct NoParallelFor {
  std::size_t concurrency() const { return 1; }
};

static_assert(lsaq::executor<Serial> && lsaq::executor<const Serial>);
static_assert(lsaq::executor<Backwards> && lsaq::executor<ExecutorRef>);
static_assert(!lsaq::executor<const Backwards>);
static_assert(!lsaq::executor<NoConcurrency> && !lsaq::executor<NoParallelFor> && !lsaq::executor<int>);
static_assert(std::is_trivially_copyable_v<ExecutorRef> && std::is_trivially_copyable_v<TaskRef>);
static_assert(!std::is_convertible_v<int, TaskRef> && !std::is_convertible_v<void (*)(), TaskRef>);

std::vector<std::size_t> indices_run_by(ExecutorRef executor, std::size_t count) {
  std::vector<std::size_t> seen;
  executor.parallel_for(count, [&](std::size_t i) { seen.push_back(i); });
  return seen;
}

TEST(Serial, RunsEveryTaskInOrder) {
  std::vector<std::size_t> seen;
  const Serial serial;
  serial.parallel_for(4, [&](std::size_t i) { seen.push_back(i); });
  EXPECT_THAT(seen, ElementsAre(0, 1, 2, 3));
  serial.parallel_for(0, [&](std::size_t i) { seen.push_back(i); });
  EXPECT_EQ(seen.size(), 4u);
  EXPECT_EQ(serial.concurrency(), 1u);
}

TEST(ExecutorRef, IsSerialByDefault) {
  const ExecutorRef executor;
  EXPECT_EQ(executor.concurrency(), 1u);
  EXPECT_THAT(indices_run_by(executor, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(indices_run_by({}, 0), IsEmpty());
}

TEST(ExecutorRef, UsesTheExecutorItRefersTo) {
  Backwards engine;
  const ExecutorRef executor = engine;
  const ExecutorRef copy = executor;
  EXPECT_EQ(copy.concurrency(), 3u);
  EXPECT_THAT(indices_run_by(executor, 4), ElementsAre(3, 2, 1, 0));
  EXPECT_THAT(indices_run_by(copy, 2), ElementsAre(1, 0));
  EXPECT_EQ(engine.calls, 2u);
}

TEST(ExecutorRef, TakesConstExecutors) {
  const Serial serial;
  EXPECT_THAT(indices_run_by(serial, 2), ElementsAre(0, 1));
}

TEST(ExecutorRef, KeepsEmptyAndSingleTasksFromTheExecutor) {
  Backwards engine;
  EXPECT_THAT(indices_run_by(engine, 0), IsEmpty());
  EXPECT_THAT(indices_run_by(engine, 1), ElementsAre(0));
  EXPECT_EQ(engine.calls, 0u);
}

TEST(TaskRef, CallsTheObjectItselfThroughEveryCopy) {
  struct Counter {
    std::size_t sum = 0;
    void operator()(std::size_t i) noexcept { sum += i; }
  } counter;
  const TaskRef task = counter;
  const TaskRef copy = task;
  task(3);
  copy(4);
  EXPECT_EQ(counter.sum, 7u);
}

TEST(TaskRef, TakesConstCallables) {
  std::size_t last = 0;
  const auto store = [&](std::size_t i) { last = i; };
  const TaskRef task = store;
  task(9);
  EXPECT_EQ(last, 9u);
}

} // namespace executor_test
