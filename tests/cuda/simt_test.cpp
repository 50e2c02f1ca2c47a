// The executor itself: it gives what the kernel says, and reports what no device would take.
#include "cuda/host_executor.hpp"

#include <gtest/gtest.h>

namespace simt_test {

using namespace lsaq::gpu;
using test_support::Guarded;
using test_support::HostExecutor;
using test_support::KernelFault;
using test_support::SeededFault;

/// out[block] = the sum of the block's 64 numbers.
struct SumOfBlock {
  const float* in;
  float* out;
  unsigned count;

  static constexpr unsigned threads = 64;
  struct Shared {
    float of_warp[2];
  };
  unsigned blocks() const { return count / threads; }
  unsigned dynamic_bytes() const { return 0; }

  template <class Group> void operator()(const Group& group, Shared& shared) const {
    const float sum = warp_sum(group, in[group.block() * threads + group.thread()]);
    if (group.thread() % warp_size == 0) shared.of_warp[group.thread() / warp_size] = sum;
    group.sync();
    if (group.thread() == 0) out[group.block()] = shared.of_warp[0] + shared.of_warp[1];
  }
};

std::vector<float> numbers(std::size_t count) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i * i % 17); // sums are exact
  return values;
}

std::vector<float> sums(HostExecutor& executor) {
  const Guarded<float> in(numbers(256)), out(4);
  executor.launch(SumOfBlock{in.data(), out.data(), 256});
  return out.values();
}

TEST(Simt, EveryScheduleGivesTheSame) {
  HostExecutor in_order;
  const std::vector<float> expected = sums(in_order);
  const std::vector<float> in = numbers(256);
  EXPECT_EQ(expected[1], std::accumulate(in.begin() + 64, in.begin() + 128, 0.0f));
  for (unsigned seed = 1; seed <= 100; ++seed) {
    HostExecutor executor(seed);
    EXPECT_EQ(sums(executor), expected);
  }
}

TEST(Simt, ARemovedBarrierShows) {
  HostExecutor in_order;
  const std::vector<float> expected = sums(in_order);
  unsigned noticed = 0;
  for (unsigned seed = 1; seed <= 10; ++seed) {
    HostExecutor executor(seed, {SeededFault::Kind::barrier_removed, 0});
    const std::vector<float> found = sums(executor);
    noticed += found != expected;
  }
  EXPECT_GE(noticed, 5u);
}

TEST(Simt, AWrongShuffleMaskShows) {
  HostExecutor in_order;
  const std::vector<float> expected = sums(in_order);
  for (unsigned number = 0; number < 5; ++number) {
    HostExecutor executor(1, {SeededFault::Kind::shuffle_mask_changed, number});
    EXPECT_NE(sums(executor), expected);
  }
}

/// Half of a block, or of each warp, stays away.
struct HalfStaysAway {
  bool from_barrier;
  static constexpr unsigned threads = 64;
  struct Shared {};
  unsigned blocks() const { return 1; }
  unsigned dynamic_bytes() const { return 0; }
  template <class Group> void operator()(const Group& group, Shared&) const {
    if (from_barrier && group.thread() < 32) group.sync();
    if (!from_barrier && group.thread() % 2 == 0) group.ballot(true);
  }
};

TEST(Simt, DivergentBarriersAndBallotsAreFaults) {
  HostExecutor executor;
  EXPECT_THROW(executor.launch(HalfStaysAway{true}), KernelFault);
  EXPECT_THROW(executor.launch(HalfStaysAway{false}), KernelFault);
}

TEST(SimtDeathTest, AccessesOutsideOfMemoryEndTheProgram) {
  const Guarded<float> in(numbers(256)), out(4);
  HostExecutor executor;
  EXPECT_DEATH(executor.launch(SumOfBlock{in.data(), out.data(), 320}), "");     // a block too many
  EXPECT_DEATH(executor.launch(SumOfBlock{in.data() + 1, out.data(), 256}), ""); // a value too many
}

} // namespace simt_test
