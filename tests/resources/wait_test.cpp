// Waiting for memory with a made-up clock and made-up memory, and for a process that gives some back.
#include <lsaq/resources/wait.hpp>

#include <lsaq/resources/host_memory.hpp>

#include <formats/make_files.hpp>

#include <cstring>
#include <numeric>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace wait_test {

using lsaq::Bytes;
using lsaq::WaitOptions;
using lsaq::WaitResult;
using lsaq::WaitState;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Duration = WaitOptions::Duration;

/// Time that passes only in sleeps.
struct FakeClock {
  Duration time = seconds(77);
  std::vector<Duration> sleeps = {};
  std::function<void()> during = [] {};

  Duration now() const { return time; }
  void sleep(Duration pause, const std::stop_token&) {
    sleeps.push_back(pause);
    time += pause;
    during();
  }
};

class Waiting : public testing::Test {
protected:
  FakeClock clock;
  WaitOptions options{.timeout = seconds(60), .jitter = 0};
  std::vector<WaitState> seen;
  std::stop_source stop;

  /// Waits for 100 bytes where memory(seconds since the beginning) are free.
  WaitState wait(const std::function<Bytes(double)>& memory) {
    const Duration start = clock.time;
    return lsaq::wait_for_memory(
        100, [&] { return memory(std::chrono::duration<double>(clock.time - start).count()); }, options, stop.get_token(),
        [&](const WaitState& state) { seen.push_back(state); }, clock);
  }
};

TEST_F(Waiting, EndsAtOnceWhereThereIsEnough) {
  const WaitState state = wait([](double) { return 100; });
  EXPECT_EQ(state.result, WaitResult::enough);
  EXPECT_EQ(state.available, 100u);
  EXPECT_EQ(state.looks, 2u) << "and once more, whether it stays";
  EXPECT_EQ(state.waited, options.first_pause);
}

TEST_F(Waiting, OneLookIsOneLook) {
  options.timeout = Duration::zero();
  EXPECT_EQ(wait([](double) { return 100; }).result, WaitResult::enough);
  const WaitState state = wait([](double) { return 99; });
  EXPECT_EQ(state.result, WaitResult::timed_out);
  EXPECT_EQ(state.looks, 1u);
  EXPECT_TRUE(clock.sleeps.empty());
}

TEST_F(Waiting, SeesMemoryComeBack) {
  const WaitState state = wait([](double t) { return t < 20 ? 10 : 250; });
  EXPECT_EQ(state.result, WaitResult::enough);
  EXPECT_EQ(state.available, 250u);
  EXPECT_GE(state.waited, seconds(20));
  EXPECT_LT(state.waited, seconds(20) + options.longest_pause + options.first_pause);
  EXPECT_EQ(seen.size(), state.looks);
  for (std::size_t i = 0; i + 1 < seen.size(); ++i) EXPECT_NE(seen[i].result, WaitResult::enough);
  EXPECT_EQ(seen.front().available, 10u);
  EXPECT_EQ(seen.front().needed, 100u);
}

TEST_F(Waiting, GivesUpAtTheTimeoutToTheMoment) {
  const WaitState state = wait([](double) { return 99; });
  EXPECT_EQ(state.result, WaitResult::timed_out);
  EXPECT_EQ(state.waited, options.timeout);
  EXPECT_EQ(state.available, 99u);
  EXPECT_LT(state.looks, 30u);
}

TEST_F(Waiting, PausesDoubleUpToTheLongest) {
  wait([](double) { return 0; });
  EXPECT_EQ(clock.sleeps.at(0), milliseconds(100));
  EXPECT_EQ(clock.sleeps.at(1), milliseconds(200));
  EXPECT_EQ(clock.sleeps.at(2), milliseconds(400));
  EXPECT_EQ(*std::max_element(clock.sleeps.begin(), clock.sleeps.end()), options.longest_pause);
  EXPECT_EQ(std::accumulate(clock.sleeps.begin(), clock.sleeps.end(), Duration{}), options.timeout);
}

TEST_F(Waiting, LooksMoreOftenWhileMemoryIsGivenBack) {
  wait([](double t) { return t < 30 ? 0 : std::min<Bytes>(99, static_cast<Bytes>((t - 30) * 10)); });
  bool again = false; // a short pause after a long one
  for (std::size_t i = 1; i < clock.sleeps.size(); ++i) again |= clock.sleeps[i] == options.first_pause && clock.sleeps[i - 1] > seconds(3);
  EXPECT_TRUE(again);
}

TEST_F(Waiting, FlappingMemoryIsNotEnough) {
  std::size_t look = 0;
  const WaitState state = wait([&](double) { return look++ % 2 == 0 ? 50 : 500; });
  EXPECT_EQ(state.result, WaitResult::timed_out);
  options.steady = 1;
  look = 0;
  EXPECT_EQ(wait([&](double) { return look++ % 2 == 0 ? 50 : 500; }).result, WaitResult::enough);
  options.steady = 4;
  look = 0;
  const WaitState steady = wait([&](double) { return look++ < 5 ? look % 2 * 200 : 200; });
  EXPECT_EQ(steady.result, WaitResult::enough);
  EXPECT_EQ(steady.looks, 8u) << "the fifth look finds enough, and the next three";
}

TEST_F(Waiting, CanBeStopped) {
  clock.during = [&] {
    if (clock.sleeps.size() == 3) stop.request_stop();
  };
  const WaitState state = wait([](double) { return 0; });
  EXPECT_EQ(state.result, WaitResult::stopped);
  EXPECT_EQ(state.looks, 3u);
  EXPECT_EQ(wait([](double) { return 0; }).result, WaitResult::stopped);
  EXPECT_EQ(wait([](double) { return 0; }).looks, 1u);
}

TEST_F(Waiting, JitterKeepsProcessesApart) {
  options.jitter = 0.25;
  wait([](double) { return 0; });
  const std::vector<Duration> first = std::exchange(clock.sleeps, {});
  for (std::size_t i = 0; i + 1 < first.size(); ++i) {
    EXPECT_GE(first[i], options.first_pause * 0.75);
    EXPECT_LE(first[i], options.longest_pause * 1.25);
  }
  options.seed = 2;
  wait([](double) { return 0; });
  EXPECT_NE(first, clock.sleeps);
}

TEST_F(Waiting, WhatTheProviderThrowsEndsIt) {
  EXPECT_THROW(wait([](double t) -> Bytes { return t < 1 ? 0 : throw lsaq::IoError("gone"); }), lsaq::IoError);
}

TEST(WaitingHere, AStopEndsASleep) {
  std::stop_source stop;
  std::thread later([&] {
    std::this_thread::sleep_for(milliseconds(20));
    stop.request_stop();
  });
  const WaitState state = lsaq::wait_for_memory(
      1, [] { return Bytes{0}; }, {.timeout = seconds(600), .first_pause = seconds(500), .longest_pause = seconds(500)}, stop.get_token(),
      [](const WaitState&) {});
  later.join();
  EXPECT_EQ(state.result, WaitResult::stopped);
}

TEST(WaitingHere, AProcessGivesMemoryBack) {
  // 128 MiB are there in all; another process holds 64 of them until it is told to give them back.
  constexpr Bytes all = Bytes{128} << 20, taken = Bytes{64} << 20, wanted = Bytes{96} << 20;
  int told[2], holds[2];
  ASSERT_EQ(::pipe(told), 0);
  ASSERT_EQ(::pipe(holds), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    void* const memory = ::mmap(nullptr, taken, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(memory, 1, taken);
    char byte = 'x';
    (void)!::write(holds[1], &byte, 1);
    (void)!::read(told[0], &byte, 1);
    ::munmap(memory, taken);
    (void)!::read(told[0], &byte, 1);
    ::_exit(0);
  }
  char byte = 'x';
  ASSERT_EQ(::read(holds[0], &byte, 1), 1);
  const auto free = [&] {
    const std::string status = lsaq::detail::read_text("/proc/" + std::to_string(child) + "/status").value_or("");
    return all - std::min(all, lsaq::detail::number_after(status, "RssAnon:").value_or(0) * 1024);
  };
  const WaitState state = lsaq::wait_for_memory(wanted, free, {.timeout = seconds(120), .first_pause = milliseconds(2), .longest_pause = milliseconds(50)}, {},
                                                [&](const WaitState& look) {
                                                  if (look.looks == 3) (void)!::write(told[1], &byte, 1);
                                                });
  (void)!::write(told[1], &byte, 1);
  int status = 0;
  ::waitpid(child, &status, 0);
  for (const int end : {told[0], told[1], holds[0], holds[1]}) ::close(end);
  EXPECT_EQ(state.result, WaitResult::enough);
  EXPECT_GE(state.available, wanted);
  EXPECT_GE(state.looks, 4u);
}

} // namespace wait_test
