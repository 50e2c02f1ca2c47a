// What only the stand-in can tell of the CUDA path: failing allocations, sectors of accesses, turns of threads, devices of any kind.
#include "cuda_device/control.hpp"
#include "cuda_device/device_environment.hpp"
#include "cuda_device/path_cases.hpp"

#include <lsaq/quantization/quantizer.hpp>

#include <gtest/gtest.h>

namespace path_test {

using namespace path_cases;
using cuda_device::control;

/// Starts from a fresh device; at the end of each test nothing is left of it and nothing has raced.
class CudaPath : public testing::Test {
protected:
  void SetUp() override { device_environment::begin(); }
  void TearDown() override { EXPECT_EQ(device_environment::end(), ""); }
};

/// Whichever allocation fails: an exception that says so, nothing left behind, and the next attempt succeeds.
TEST_F(CudaPath, EveryFailingAllocationLeavesNothingBehind) {
  control().machine.check_races = false; // looked at by others
  device_calls::deploy();
  const std::uint64_t allocations = control().allocations;
  ASSERT_GT(allocations, 10u);
  for (std::uint64_t number = 1; number <= allocations; ++number) {
    control().failing_allocation = number;
    const device_calls::Outcome outcome = device_calls::try_deploy();
    EXPECT_TRUE(outcome.from_runtime) << outcome.error;
    EXPECT_NE(outcome.error.find("cudaErrorMemoryAllocation (out of memory)"), std::string::npos) << outcome.error;
    EXPECT_NE(outcome.error.find(" bytes"), std::string::npos) << outcome.error;
    EXPECT_EQ(control().live.size(), 0u) << number;
    EXPECT_EQ(control().last_error, 0) << number;
  }
  EXPECT_EQ(device_calls::try_deploy().error, "");
}

/// Likewise whichever launch of the top-k fails, Thrust's among them.
TEST_F(CudaPath, EveryFailingLaunchLeavesNothingBehind) {
  const device_calls::ToyModel model;
  const MatrixView embedding(model.embedding.data(), 200, 64), states(model.embedding.data(), 3, 64);
  ASSERT_EQ(device_calls::try_top_tokens(states, embedding, 20).error, "");
  const std::uint64_t launches = control().launches;
  ASSERT_GE(launches, 3u); // a kernel before and one after what sorts
  unsigned of_thrust = 0;
  for (std::uint64_t number = 1; number <= launches; ++number) {
    control().failing_launch = number;
    const device_calls::Outcome outcome = device_calls::try_top_tokens(states, embedding, 20);
    EXPECT_TRUE(outcome.from_runtime) << number << ": " << outcome.error;
    EXPECT_NE(outcome.error.find("cudaErrorLaunchOutOfResources"), std::string::npos) << outcome.error;
    of_thrust += outcome.error.starts_with("thrust::sort of ");
    EXPECT_EQ(control().live.size(), 0u) << number;
    EXPECT_EQ(control().last_error, 0) << number;
  }
  EXPECT_EQ(of_thrust, launches - 2); // but for the kernels before and after it
  EXPECT_EQ(device_calls::try_top_tokens(states, embedding, 20).error, "");
}

/// Accesses of the streaming kernels on aligned matrices: at most 1.1 times the sectors that their bytes fill.
TEST_F(CudaPath, StreamingKernelsReadWholeSectors) {
  control().machine.profiler.enabled = true;
  const std::vector<float> weights = random_values<float>(32 * 2048, 1), x = random_values<float>(4 * 2048, 2);
  const std::vector<f16> halves = random_values<f16>(64 * 1024, 3);
  const PackedMatrix four = lsaq::quantize<PerChannel>({weights.data(), 32, 2048}, 4), eight = lsaq::quantize<PerChannel>({weights.data(), 32, 2048}, 8);
  device_calls::quantize({weights.data(), 32, 2048}, 4, ScaleType::f16);
  device_calls::quantize({halves.data(), 64, 1024}, 8, ScaleType::f16);
  for (const std::size_t tokens : {1, 4}) {
    device_calls::multiply(four.view(), {x.data(), tokens, 2048});
    device_calls::multiply(eight.view(), {x.data(), tokens, 2048});
  }
  device_calls::multiply(MatrixView(halves.data(), 64, 1024), {x.data(), 1, 1024});
  device_calls::distances({weights.data(), 4, 1024}, {halves.data(), 64, 1024}, 10);
  unsigned wide = 0;
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> of_kernel;
  for (const auto& [key, profile] : control().machine.profiler.profiles) {
    const bool streaming = profile.kernel.find("QuantizeRows") != std::string::npos || profile.kernel.find("Product") != std::string::npos ||
                           profile.kernel.find("Project") != std::string::npos || profile.kernel.find("CompareDirections") != std::string::npos;
    if (profile.shared && profile.kernel.find("Product") != std::string::npos) { // free of bank conflicts
      EXPECT_LE(static_cast<double>(profile.wavefronts), 1.1 * static_cast<double>(profile.ideal_wavefronts)) << profile.text << " of " << profile.kernel;
    }
    if (!streaming || profile.shared) continue;
    of_kernel[profile.kernel].first += profile.sectors;
    of_kernel[profile.kernel].second += profile.ideal;
    wide += profile.bytes == 16 && profile.text.starts_with("ld.global");
    if (profile.bytes == 16) {
      EXPECT_LE(static_cast<double>(profile.sectors), 1.1 * static_cast<double>(profile.ideal)) << profile.text << " of " << profile.kernel;
    }
  }
  EXPECT_GE(of_kernel.size(), 8u);
  EXPECT_GE(wide, of_kernel.size()); // 128-bit loads in every one of them
  for (const auto& [kernel, sectors] : of_kernel) EXPECT_LE(static_cast<double>(sectors.first), 1.1 * static_cast<double>(sectors.second)) << kernel;
}

TEST_F(CudaPath, TurnsOfThreadsDoNotMatter) {
  const std::vector<float> weights = random_values<float>(6 * 600, 1);
  const device_calls::ToyModel model;
  const MatrixView embedding(model.embedding.data(), 200, 64);
  const auto expected = device_calls::top_tokens({model.embedding.data(), 3, 64}, embedding, 20);
  for (unsigned seed = 1; seed <= 3; ++seed) {
    control().machine = cuda_device::Machine(seed);
    control().machine.trusted = "3cub";
    EXPECT_TRUE(equal_bytes(device_calls::quantize({weights.data(), 6, 600}, 4, ScaleType::f16), lsaq::quantize<PerChannel>({weights.data(), 6, 600}, 4)));
    const auto found = device_calls::top_tokens({model.embedding.data(), 3, 64}, embedding, 20);
    for (std::size_t i = 0; i < found.size(); ++i) EXPECT_EQ(found[i].id, expected[i].id);
    EXPECT_EQ(control().machine.races.races, 0u) << control().machine.races.first;
  }
}

/// The checks see what they are for: without any one of its barriers a kernel races, or reads what nobody wrote.
TEST_F(CudaPath, ARemovedBarrierIsNoticed) {
  const std::vector<float> weights = random_values<float>(32 * 2100, 1), x = random_values<float>(2100, 2);
  const PackedMatrix packed = lsaq::quantize<PerChannel>({weights.data(), 32, 2100}, 4);
  const auto noticed = [](int barrier, auto&& work) {
    control().machine.removed_barrier = barrier;
    work();
    const bool found = control().machine.races.races != 0 || !control().fault.empty();
    device_environment::begin();
    return found;
  };
  const auto multiply = [&] {
    try {
      device_calls::multiply(packed.view(), {x.data(), 1, 2100});
    } catch (const Error&) { // the stand-in refused it
    }
  };
  for (const int barrier : {1, 2, 3, 4, 5}) EXPECT_TRUE(noticed(barrier, multiply)) << barrier; // before the first there is nothing to wait for
  EXPECT_FALSE(noticed(6, multiply));                                                           // there are six
  EXPECT_TRUE(noticed(0, [&] { device_calls::try_quantize({weights.data(), 4, 2100}, 8, ScaleType::f16); }));
}

TEST_F(CudaPath, DevicesAreListedAndChosen) {
  control().devices = {{std::size_t{3} << 30, std::size_t{4} << 30}, {std::size_t{5} << 30, std::size_t{8} << 30}};
  EXPECT_EQ(device_calls::devices(), (std::vector<std::string>{"cuda:0: 3221225472 of 4294967296", "cuda:1: 5368709120 of 8589934592"}));
  EXPECT_EQ(control().device, 0); // as it was
  EXPECT_EQ(device_calls::chosen(), "cuda:1");
  EXPECT_EQ(device_calls::unusable(), "");
  control().driver_error = 35;
  EXPECT_TRUE(device_calls::devices().empty());
  EXPECT_EQ(device_calls::chosen(), "cpu");
  EXPECT_NE(device_calls::unusable().find("no usable CUDA device: cudaErrorInsufficientDriver"), std::string::npos);
  EXPECT_EQ(control().last_error, 0);
  control().driver_error = 0;
  control().devices.clear();
  EXPECT_EQ(device_calls::chosen(), "cpu");
  EXPECT_NE(device_calls::unusable().find("cudaErrorNoDevice"), std::string::npos);
}

} // namespace path_test
