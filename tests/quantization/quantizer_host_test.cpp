// The same bytes in every host: threads, rounding modes, flush-to-zero, LSAQ_ISA, strides and addresses.
#include <lsaq/quantization/quantizer.hpp>

#include "quantization/oracle.hpp"

#include <lsaq/thread_pool.hpp>

#include <cfenv>
#include <cstdlib>
#include <memory>

#if LSAQ_X86
#include <pmmintrin.h>
#endif

namespace quantizer_host_test {

using lsaq::MatrixView;
using lsaq::PerChannel;
using lsaq::ScaleType;

constexpr std::size_t rows = 75, columns = 301;

/// Rows that a host's mode could change: ties, subnormals, subnormal scales, ordinary ones.
std::vector<float> delicate_weights() {
  std::mt19937 random(21);
  std::vector<float> weights = oracle::random_weights(rows, columns, random);
  for (std::size_t c = 0; c < columns; ++c) {
    weights[c] = c == 0 ? 127 : static_cast<float>(c % 127) + 0.5f; // row 0: ties of 8 bits
    weights[columns + c] = c == 0 ? 7 : static_cast<float>(c % 7) - 3.5f;
    weights[2 * columns + c] = static_cast<float>(c) * std::numeric_limits<float>::denorm_min();
    weights[3 * columns + c] = static_cast<float>(c) * 1e-42f;
    weights[4 * columns + c] = static_cast<float>(c) * 1e-8f; // F16: subnormal scale
  }
  return weights;
}

struct Combination {
  lsaq::PackedFormat format;
  std::vector<std::byte> expected;
};

class QuantizerInAnyHost : public testing::Test {
protected:
  static void SetUpTestSuite() {
    for (const unsigned bits : {8u, 4u, 3u})
      for (const ScaleType scale : oracle::every_scale)
        for (const lsaq::Grouping grouping : {lsaq::Grouping{}, lsaq::Grouping{.columns = 32}, lsaq::Grouping{.whole_matrix = true}})
          for (const lsaq::CodeRange range : oracle::every_range) {
            const lsaq::PackedFormat format{bits, scale, grouping, range};
            combinations_.push_back({format, oracle::packed(delicate_weights(), rows, columns, format)});
          }
  }
  static void TearDownTestSuite() { combinations_.clear(); }

  /// Quantizes everything with every path between `enter` and `leave`, and compares after that.
  template <class Enter, class Leave> void expect_the_same(const char* what, lsaq::ExecutorRef executor, Enter enter, Leave leave) {
    for (const Combination& combination : combinations_)
      for (const lsaq::Isa isa : oracle::runnable_paths()) {
        std::vector<std::byte> found(combination.expected.size());
        enter();
        const lsaq::QuantizationFault fault =
            lsaq::quantize_rows(MatrixView(weights_.data(), rows, columns), 0, {rows, columns}, combination.format, found, executor, lsaq::kernels_of(isa));
        leave();
        ASSERT_FALSE(fault);
        ASSERT_EQ(found == combination.expected, true) << what << ": " << oracle::name_of(combination.format) << ", " << name_of(isa);
      }
  }

  const std::vector<float> weights_ = delicate_weights();
  inline static std::vector<Combination> combinations_;
};

TEST_F(QuantizerInAnyHost, Threads) {
  for (std::size_t threads = 1; threads <= 8; ++threads) {
    lsaq::ThreadPool pool(threads);
    expect_the_same(
        "threads", pool, [] {}, [] {});
  }
}

TEST_F(QuantizerInAnyHost, RoundingModes) {
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    int after = 0;
    expect_the_same(
        "rounding mode", {}, [&] { std::fesetround(mode); },
        [&] {
          after = std::fegetround();
          std::fesetround(FE_TONEAREST);
        });
    EXPECT_EQ(after, mode) << "the host's mode is restored";
  }
}

TEST_F(QuantizerInAnyHost, RoundingModeOfThePoolsThreads) {
  std::fesetround(FE_UPWARD);
  lsaq::ThreadPool pool(3); // its threads start with the mode of the thread that makes them
  std::fesetround(FE_TONEAREST);
  expect_the_same(
      "rounding mode of threads", pool, [] {}, [] {});
}

#if LSAQ_X86
TEST_F(QuantizerInAnyHost, FlushToZeroAndDenormalsAreZero) {
  const unsigned saved = _mm_getcsr();
  unsigned after = 0;
  const auto enter = [] {
    _MM_SET_FLUSH_ZERO_MODE(_MM_FLUSH_ZERO_ON);
    _MM_SET_DENORMALS_ZERO_MODE(_MM_DENORMALS_ZERO_ON);
  };
  const auto leave = [&] {
    after = _mm_getcsr();
    _mm_setcsr(saved);
  };
  expect_the_same("FTZ and DAZ", {}, enter, leave);
  EXPECT_EQ(after & 0x8040u, 0x8040u) << "the host's mode is restored";
  enter();
  lsaq::ThreadPool pool(3);
  leave();
  expect_the_same("FTZ and DAZ in a pool", pool, enter, leave);
}

TEST_F(QuantizerInAnyHost, ModesAreRestoredWhenARowIsRefused) {
  std::vector<float> bad = {1, 2, std::numeric_limits<float>::infinity(), 4};
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040u | 0x4000u); // FTZ, DAZ, upward
  const auto refused = lsaq::Quantizer<PerChannel, 8>{}.try_quantize(MatrixView(bad.data(), 2, 2));
  const unsigned after = _mm_getcsr();
  _mm_setcsr(saved);
  EXPECT_FALSE(refused);
  EXPECT_EQ(after & ~0x3fu, (saved | 0xc040u) & ~0x3fu);
}
#endif

TEST_F(QuantizerInAnyHost, EveryIsaTheEnvironmentNames) {
  const char* before = std::getenv("LSAQ_ISA");
  const std::string saved = before != nullptr ? before : "";
  std::vector<std::vector<std::byte>> results;
  for (const lsaq::Isa isa : oracle::runnable_paths()) {
    ::setenv("LSAQ_ISA", std::string(name_of(isa)).c_str(), 1);
    results.push_back(oracle::bytes_of(lsaq::Quantizer<PerChannel, 4>{}(MatrixView(weights_.data(), rows, columns))));
  }
  saved.empty() ? ::unsetenv("LSAQ_ISA") : ::setenv("LSAQ_ISA", saved.c_str(), 1);
  for (const auto& bytes : results) EXPECT_EQ(bytes == oracle::packed(weights_, rows, columns, 4, ScaleType::f16), true);
  if (!lsaq::cpu_runs(lsaq::Isa::avx2)) GTEST_SKIP() << "avx2: not on this machine";
}

TEST_F(QuantizerInAnyHost, StridesAndAddresses) {
  for (const std::size_t gap : {1, 8, 100})
    for (const std::size_t skew : {0, 1, 2, 3}) {
      const std::size_t stride = columns + gap, floats = (rows - 1) * stride + columns;
      const auto block = std::make_unique<std::byte[]>(floats * sizeof(float) + skew); // ends with the last weight
      std::fill_n(block.get(), floats * sizeof(float) + skew, std::byte{0xff});        // between rows: NaN
      for (std::size_t r = 0; r < rows; ++r) std::memcpy(block.get() + skew + r * stride * sizeof(float), &weights_[r * columns], columns * sizeof(float));
      MatrixView view(static_cast<const float*>(nullptr), rows, columns, stride);
      view.data = block.get() + skew;
      for (const Combination& combination : combinations_) {
        const lsaq::PackedMatrix packed = lsaq::quantize(view, combination.format);
        ASSERT_EQ(oracle::bytes_of(packed) == combination.expected, true) << "gap " << gap << ", " << skew << " bytes off";
      }
    }
}

TEST_F(QuantizerInAnyHost, HalvesAtOddAddresses) {
  std::vector<std::uint16_t> halves(33 * 5);
  std::mt19937 random(22);
  for (std::uint16_t& bits : halves) bits = static_cast<std::uint16_t>(random() & 0xbfffu);
  std::vector<float> values;
  for (const std::uint16_t bits : halves) values.push_back(static_cast<float>(float_oracle::value_of(float_oracle::binary16, bits)));
  const auto block = std::make_unique<std::byte[]>(2 * halves.size() + 1);
  std::memcpy(block.get() + 1, halves.data(), 2 * halves.size());
  MatrixView view(static_cast<const lsaq::f16*>(nullptr), 5, 33);
  view.data = block.get() + 1;
  EXPECT_EQ(oracle::bytes_of(lsaq::quantize<PerChannel>(view, 8)), oracle::packed(values, 5, 33, 8, ScaleType::f16));
}

} // namespace quantizer_host_test
