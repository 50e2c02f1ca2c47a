#include <lsaq/deployment/deployed_matrix.hpp>

#include "core/refusal.hpp"
#include "quantization/oracle.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/thread_pool.hpp>

#include <gmock/gmock.h>

#include <cfenv>
#include <limits>

namespace deployed_matrix_test {

using lsaq::BadInput;
using lsaq::DeployedMatrix;
using lsaq::DeployOptions;
using lsaq::ElementType;
using lsaq::MatrixShape;
using lsaq::MatrixView;
using lsaq::PerChannel;
using lsaq::ScaleType;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

constexpr float infinity = std::numeric_limits<float>::infinity();

/// A matrix that is read block by block, and what was asked of it.
struct Source {
  MatrixShape shape;
  std::vector<float> values;
  std::vector<std::pair<std::size_t, std::size_t>> reads = {};

  static Source random(MatrixShape shape, unsigned seed) {
    std::mt19937 generator(seed);
    return {shape, oracle::random_weights(shape.rows, shape.columns, generator)};
  }

  DeployedMatrix deploy(const DeployOptions& options, lsaq::ExecutorRef executor = {}) {
    reads.clear();
    const auto read = [&](std::size_t first, std::size_t count, float* out) {
      reads.emplace_back(first, count);
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(first * shape.columns), count * shape.columns, out);
    };
    return lsaq::deploy_matrix(lsaq::Backend<lsaq::Cpu>{}, "blk.3.ffn_up.weight", shape, options, read, executor);
  }

  std::string refusal(const DeployOptions& options) {
    return test_support::refusal<BadInput>([&] { deploy(options); });
  }
};

std::vector<float> rounded_to(const std::vector<float>& values, float_oracle::Format format) {
  std::vector<float> rounded;
  for (const float value : values) rounded.push_back(static_cast<float>(float_oracle::value_of(format, float_oracle::nearest(format, value))));
  return rounded;
}

std::vector<float> values_of(const DeployedMatrix& matrix) {
  const MatrixView view = matrix.floats()->view();
  std::vector<float> values;
  for (std::size_t i = 0; i < view.rows * view.columns; ++i) {
    std::uint32_t bits = 0;
    std::memcpy(&bits, static_cast<const std::byte*>(view.data) + i * size_of(view.type), size_of(view.type));
    if (view.type == ElementType::f32)
      values.push_back(std::bit_cast<float>(bits));
    else
      values.push_back(static_cast<float>(
          float_oracle::value_of(view.type == ElementType::f16 ? float_oracle::binary16 : float_oracle::bfloat16, static_cast<std::uint16_t>(bits))));
  }
  return values;
}

TEST(DeployMatrix, StreamsBlocksOfRowsInOrder) {
  Source tall = Source::random({2000, 300}, 1);
  tall.deploy({.bits = 8});
  EXPECT_THAT(tall.reads, ElementsAre(Pair(0, 873), Pair(873, 873), Pair(1746, 254))); // 2^18 weights a block
  Source wide = Source::random({130, 9000}, 2);
  wide.deploy({.bits = 16});
  EXPECT_THAT(wide.reads, ElementsAre(Pair(0, 64), Pair(64, 64), Pair(128, 2))); // 64 rows at least
  Source small = Source::random({5, 3}, 3);
  small.deploy({.bits = 4});
  EXPECT_THAT(small.reads, ElementsAre(Pair(0, 5)));
}

TEST(DeployMatrix, PackedBytesAreThoseOfTheWholeMatrix) {
  Source source = Source::random({2000, 300}, 4); // three blocks
  for (const unsigned bits : {8u, 4u, 3u})
    for (const ScaleType scale : oracle::every_scale) {
      const DeployedMatrix matrix = source.deploy({.bits = bits, .scale = scale});
      ASSERT_NE(matrix.packed(), nullptr);
      EXPECT_EQ(matrix.floats(), nullptr);
      EXPECT_EQ(matrix.bits(), bits);
      EXPECT_EQ(matrix.bytes(), lsaq::packed_bytes(source.shape, bits, scale));
      EXPECT_TRUE(oracle::bytes_of(*matrix.packed()) == oracle::packed(source.values, 2000, 300, bits, scale)) << bits << " bits, " << name_of(scale);
    }
}

TEST(DeployMatrix, ThreadsChangeNothing) {
  Source source = Source::random({1000, 300}, 5);
  const std::vector<std::byte> expected = oracle::packed(source.values, 1000, 300, 4, ScaleType::f16);
  for (std::size_t threads = 1; threads <= 4; ++threads) {
    lsaq::ThreadPool pool(threads);
    EXPECT_TRUE(oracle::bytes_of(*source.deploy({.bits = 4}, pool).packed()) == expected) << threads << " threads";
  }
}

TEST(DeployMatrix, UnquantizedWeightsAreRoundedToTheirType) {
  Source source = Source::random({2000, 300}, 6);
  source.values[7] = 65519.996f; // the last that F16 holds
  source.values[8] = 0x1p-25f;
  const DeployedMatrix half = source.deploy({});
  ASSERT_NE(half.floats(), nullptr);
  EXPECT_EQ(half.packed(), nullptr);
  EXPECT_EQ(half.bits(), 16u);
  EXPECT_EQ(half.bytes(), 2u * 2000 * 300);
  EXPECT_TRUE(values_of(half) == rounded_to(source.values, float_oracle::binary16));
  const DeployedMatrix brain = source.deploy({.unquantized = ElementType::bf16});
  EXPECT_EQ(brain.bits(), 16u);
  EXPECT_EQ(brain.bytes(), 2u * 2000 * 300);
  EXPECT_TRUE(values_of(brain) == rounded_to(source.values, float_oracle::bfloat16));
  const DeployedMatrix full = source.deploy({.unquantized = ElementType::f32});
  EXPECT_EQ(full.bits(), 32u);
  EXPECT_EQ(full.bytes(), 4u * 2000 * 300);
  EXPECT_TRUE(values_of(full) == source.values);
}

TEST(DeployMatrix, QuantizedSourcesAreRoundedToF16First) {
  Source source = Source::random({900, 300}, 7);
  const std::vector<float> halves = rounded_to(source.values, float_oracle::binary16);
  for (const unsigned bits : {8u, 4u}) {
    const DeployedMatrix matrix = source.deploy({.bits = bits, .round_to_f16_first = true, .scale = ScaleType::f32});
    const std::vector<std::byte> bytes = oracle::bytes_of(*matrix.packed());
    EXPECT_TRUE(bytes == oracle::packed(halves, 900, 300, bits, ScaleType::f32));
    EXPECT_FALSE(bytes == oracle::packed(source.values, 900, 300, bits, ScaleType::f32)) << "the test data shows the difference";
  }
}

TEST(DeployMatrix, TheHostsFloatingPointModesChangeNothing) {
  Source source = Source::random({60, 77}, 16);
  for (std::size_t i = 0; i < 77; ++i) source.values[i] *= 0x1p-140f;               // FP32 subnormals
  for (std::size_t i = 77; i < 4 * 77; ++i) source.values[i] *= 0x1p-20f;           // F16 subnormals
  for (std::size_t i = 4 * 77; i < 5 * 77; ++i) source.values[i] = 1.5f * 0x1p-24f; // ties
  for (const DeployOptions& options :
       {DeployOptions{.bits = 8}, DeployOptions{.bits = 4, .round_to_f16_first = true}, DeployOptions{}, DeployOptions{.unquantized = ElementType::bf16}}) {
    const DeployedMatrix usual = source.deploy(options);
    std::fesetround(FE_UPWARD);
#if LSAQ_X86
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040u); // FTZ, DAZ
#endif
    const DeployedMatrix found = source.deploy(options);
#if LSAQ_X86
    _mm_setcsr(saved);
#endif
    std::fesetround(FE_TONEAREST);
    const std::byte* a = usual.packed() != nullptr ? usual.packed()->view().data : usual.floats()->storage.data();
    const std::byte* b = found.packed() != nullptr ? found.packed()->view().data : found.floats()->storage.data();
    EXPECT_EQ(std::memcmp(a, b, usual.bytes()), 0) << options.bits << " bits";
  }
}

TEST(DeployMatrix, NotFiniteWeightsAreRefusedByTensorRowAndColumn) {
  for (const float value : {infinity, -infinity, std::nanf("")})
    for (const DeployOptions& options : {DeployOptions{.bits = 8}, DeployOptions{.bits = 4, .round_to_f16_first = true}, DeployOptions{},
                                         DeployOptions{.unquantized = ElementType::bf16}, DeployOptions{.unquantized = ElementType::f32}}) {
      Source source = Source::random({2000, 300}, 8);
      source.values[1900 * 300 + 299] = value; // in the third block
      source.values[1950 * 300 + 1] = infinity;
      const std::string message = source.refusal(options);
      EXPECT_THAT(message, AllOf(HasSubstr("tensor blk.3.ffn_up.weight, row 1900, column 299"), HasSubstr("not finite"))) << options.bits << " bits";
      EXPECT_THAT(message, HasSubstr(std::isnan(value) ? "nan" : "inf"));
      EXPECT_THAT(message, Not(HasSubstr("\n")));
    }
}

TEST(DeployMatrix, WeightsBeyondTheirTypeAreRefused) {
  Source source = Source::random({70, 9}, 9);
  source.values[65 * 9 + 4] = -65520;
  EXPECT_THAT(source.refusal({}), AllOf(HasSubstr("tensor blk.3.ffn_up.weight, row 65, column 4"), HasSubstr("-65520"), HasSubstr("not finite in F16")));
  EXPECT_THAT(source.refusal({.bits = 8, .round_to_f16_first = true}), HasSubstr("not finite in F16"));
  EXPECT_EQ(source.refusal({.bits = 8}), "accepted");
  EXPECT_EQ(source.refusal({.unquantized = ElementType::bf16}), "accepted");
  source.values[65 * 9 + 4] = std::numeric_limits<float>::max();
  EXPECT_THAT(source.refusal({.unquantized = ElementType::bf16}), HasSubstr("not finite in BF16"));
  EXPECT_EQ(source.refusal({.unquantized = ElementType::f32}), "accepted");
}

TEST(DeployMatrix, ScalesBeyondTheirTypeAreRefused) {
  Source source = Source::random({2000, 300}, 10);
  source.values[1000 * 300 + 2] = 9e6f; // in the second block
  EXPECT_THAT(source.refusal({.bits = 8}), AllOf(HasSubstr("tensor blk.3.ffn_up.weight, row 1000, column 2"), HasSubstr("scale beyond the range of F16")));
  EXPECT_EQ(source.refusal({.bits = 8, .scale = ScaleType::bf16}), "accepted");
  EXPECT_EQ(source.refusal({.bits = 8, .scale = ScaleType::f32}), "accepted");
}

TEST(DeployMatrix, WidthsBelowTwoBitsAreRefused) {
  Source source = Source::random({3, 4}, 11);
  EXPECT_THROW(source.deploy({.bits = 0}), lsaq::InvalidArgument);
  EXPECT_THROW(source.deploy({.bits = 1}), lsaq::InvalidArgument);
}

TEST(DeployMatrix, EmptyMatrices) {
  for (const MatrixShape shape : {MatrixShape{0, 5}, MatrixShape{5, 0}, MatrixShape{0, 0}})
    for (const unsigned bits : {16u, 8u, 4u}) {
      Source source{shape, {}};
      const DeployedMatrix matrix = source.deploy({.bits = bits});
      EXPECT_EQ(matrix.bytes(), bits == 16 ? 0 : lsaq::packed_bytes(shape, bits));
    }
}

TEST(DeployMatrix, PassesOnWhatTheReaderThrows) {
  const auto read = [](std::size_t, std::size_t, float*) { lsaq::fail<lsaq::IoError>("disk"); };
  EXPECT_THROW(lsaq::deploy_matrix(lsaq::Backend<lsaq::Cpu>{}, "t", {3, 3}, {.bits = 8}, read), lsaq::IoError);
}

TEST(DeployMatrix, BringsPackedWeightsIntoTheDevicesForm) {
  struct Reversing : lsaq::Backend<lsaq::Cpu> {
    lsaq::PackedMatrix prepare(lsaq::PackedMatrix packed) const {
      std::reverse(packed.storage().begin(), packed.storage().end());
      return packed;
    }
  };
  Source source = Source::random({4, 5}, 12);
  const auto read = [&](std::size_t, std::size_t count, float* out) { std::copy_n(source.values.begin(), count * 5, out); };
  Reversing device;
  const DeployedMatrix matrix = lsaq::deploy_matrix(device, "t", source.shape, {.bits = 8}, read);
  std::vector<std::byte> expected = oracle::packed(source.values, 4, 5, 8, ScaleType::f16);
  std::reverse(expected.begin(), expected.end());
  EXPECT_EQ(oracle::bytes_of(*matrix.packed()), expected);
}

TEST(DeployedMatrix, MultipliesInEitherForm) {
  Source source = Source::random({37, 50}, 13);
  const lsaq::Backend<lsaq::Cpu> device;
  std::mt19937 random(14);
  const std::vector<float> x = oracle::random_weights(5, 50, random);
  std::vector<float> found(5 * 37), expected(found.size());
  for (const DeployOptions& options : {DeployOptions{.bits = 8}, DeployOptions{.bits = 4}, DeployOptions{}, DeployOptions{.unquantized = ElementType::f32}}) {
    const DeployedMatrix matrix = source.deploy(options);
    ASSERT_EQ(matrix.matmul(device, {x.data(), 5, 50}, {found.data(), 5, 37}), lsaq::Status::ok);
    const lsaq::Status status = matrix.packed() != nullptr ? device.matmul(*matrix.packed(), {x.data(), 5, 50}, {expected.data(), 5, 37})
                                                           : device.matmul(matrix.floats()->view(), {x.data(), 5, 50}, {expected.data(), 5, 37});
    ASSERT_EQ(status, lsaq::Status::ok);
    EXPECT_EQ(found, expected);
    EXPECT_EQ(matrix.matmul(device, {x.data(), 5, 49}, {found.data(), 5, 37}), lsaq::Status::shape_mismatch);
  }
}

TEST(DeployedMatrix, MovesAndGivesUpItsFloats) {
  static_assert(!std::is_copy_constructible_v<DeployedMatrix> && std::is_nothrow_move_constructible_v<DeployedMatrix>);
  EXPECT_EQ(DeployedMatrix().bytes(), 0u);
  Source source = Source::random({3, 4}, 15);
  DeployedMatrix first = source.deploy({});
  const void* data = first.floats()->view().data;
  DeployedMatrix second = std::move(first);
  const lsaq::FloatMatrix floats = std::move(second).take_floats();
  EXPECT_EQ(floats.view().data, data);
  EXPECT_EQ(floats.shape, (MatrixShape{3, 4}));
  EXPECT_EQ(floats.type, ElementType::f16);
}

TEST(Narrow, FindsTheFirstValueThatDoesNotFit) {
  for (const lsaq::Isa isa : oracle::runnable_paths())
    for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16})
      for (std::size_t n = 0; n <= 40; ++n) {
        std::vector<float> values(n, 1.5f);
        std::vector<std::byte> out(n * size_of(type));
        const lsaq::CpuKernels& kernels = lsaq::kernels_of(isa);
        ASSERT_EQ(lsaq::narrow(values.data(), n, type, out.data(), kernels), n);
        for (std::size_t place = 0; place < n; ++place) {
          values[place] = place % 2 == 0 ? infinity : -std::nanf("");
          values[n - 1] = infinity;
          ASSERT_EQ(lsaq::narrow(values.data(), n, type, out.data(), kernels), place) << name_of(isa) << ", " << name_of(type) << ", " << n << " values";
          values[place] = values[n - 1] = 1.5f;
        }
      }
}

} // namespace deployed_matrix_test
