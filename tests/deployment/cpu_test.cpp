#include <lsaq/deployment/cpu.hpp>

#include "deployment/count_allocations.hpp"
#include "kernels/kernel_cases.hpp"
#include "quantization/oracle.hpp"

#include <lsaq/thread_pool.hpp>

#include <gmock/gmock.h>

#include <cstdlib>

namespace cpu_test {

using kernel_cases::Numbers;
using kernel_cases::Rows;
using kernel_cases::Sum;
using kernel_cases::Weights;
using lsaq::Backend;
using lsaq::Cpu;
using lsaq::ElementType;
using lsaq::Isa;
using lsaq::MatrixView;
using lsaq::MutableMatrixView;
using lsaq::PackedMatrix;
using lsaq::PerChannel;
using lsaq::ScaleType;
using lsaq::Status;

using Exact = Backend<Cpu, lsaq::Activation<lsaq::Float32>>;

MatrixView view_of(const Rows& rows, std::size_t count, std::size_t columns) { return {rows.data(), count, columns, rows.stride()}; }
MutableMatrixView output_of(const Rows& rows, std::size_t count, std::size_t columns) { return {rows.data(), count, columns, rows.stride()}; }

PackedMatrix random_packed(std::size_t rows, std::size_t columns, unsigned bits, ScaleType type, std::mt19937& random) {
  const std::vector<float> weights = oracle::random_weights(rows, columns, random);
  return lsaq::quantize<PerChannel>(MatrixView(weights.data(), rows, columns), bits, type);
}

/// Weights in one of the types read in place, with `gap` elements between the rows.
MatrixView view_of(const Weights& weights, ElementType type, std::size_t rows, std::size_t columns, std::size_t gap) {
  MatrixView view(static_cast<const float*>(nullptr), rows, columns, columns + gap);
  view.data = weights.rows().data;
  view.type = type;
  return view;
}

/// Runs backwards and counts what it was given.
struct Backwards {
  std::size_t calls = 0, tasks = 0;
  std::size_t concurrency() const { return 3; }
  void parallel_for(std::size_t count, lsaq::TaskRef task) {
    ++calls;
    tasks += count;
    for (std::size_t i = count; i-- > 0;) task(i);
  }
};

class CpuBackend : public testing::TestWithParam<Isa> {
protected:
  void SetUp() override { SKIP_UNLESS_RUNS(GetParam()); }
  Exact device(lsaq::ExecutorRef executor = {}) const { return Exact(executor, GetParam()); }

  std::mt19937 random_{31};
};

INSTANTIATE_TEST_SUITE_P(Paths, CpuBackend, testing::ValuesIn(kernel_cases::family_paths()),
                         [](const auto& param) { return std::string(name_of(param.param)); });

TEST_P(CpuBackend, PackedProductsStayWithinTheBoundOfTheirLength) {
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const ScaleType type : oracle::every_scale)
      for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(1, 1), {17, 33}, {40, 300}, {16, 513}})
        for (const std::size_t tokens : {1, 3, 4, 9}) {
          const PackedMatrix packed = random_packed(rows, columns, bits, type, random_);
          const Rows x(tokens, columns, columns + 3, Numbers::any, random_), y(tokens, rows, rows + 2);
          ASSERT_EQ(device().matmul(packed, view_of(x, tokens, columns), output_of(y, tokens, rows)), Status::ok);
          for (std::size_t r = 0; r < rows; ++r) {
            const std::vector<int> codes = oracle::codes_of(packed.view(), r);
            const double scale = oracle::scale_of(packed.view(), r);
            for (std::size_t t = 0; t < tokens; ++t) {
              Sum sum;
              for (std::size_t c = 0; c < columns; ++c) sum.add(scale * codes[c], x.at(t, c));
              ASSERT_NEAR(static_cast<double>(y.at(t, r)), sum.value, sum.bound())
                  << bits << " bits, " << name_of(type) << ", row " << r << " of " << rows << " x " << columns << ", token " << t << " of " << tokens;
            }
          }
          kernel_cases::expect_gaps_untouched(y, tokens, rows);
        }
}

/// Products of weights that share scales in every way, against a plain loop over the dequantized weights; divided between threads, the same bits.
TEST_P(CpuBackend, EveryGroupingMultipliesAsItsDequantizedWeights) {
  std::size_t turn = 0;
  lsaq::ThreadPool pool(3);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const lsaq::Grouping grouping : oracle::every_grouping)
      for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(1, 31), {21, 161}, {117, 333}}) {
        ++turn;
        const std::vector<float> weights = oracle::random_weights(rows, columns, random_);
        const PackedMatrix packed =
            lsaq::quantize(MatrixView(weights.data(), rows, columns),
                           {bits, oracle::every_scale[turn % 3], grouping, turn % 2 == 0 ? lsaq::CodeRange::full : lsaq::CodeRange::symmetric});
        std::vector<float> dequantized(rows * columns);
        lsaq::dequantize(packed.view(), {dequantized.data(), rows, columns});
        for (const std::size_t tokens : {1, 3, 5, 16, 70}) {
          const Rows x(tokens, columns, columns + 3, Numbers::any, random_), y(tokens, rows, rows + 2), divided(tokens, rows, rows + 2);
          std::vector<std::byte> workspace(turn % 3 == 0 ? 0 : device().workspace_bytes(packed.view(), tokens));
          ASSERT_EQ(device().matmul(packed, view_of(x, tokens, columns), output_of(y, tokens, rows), workspace), Status::ok);
          for (std::size_t r = 0; r < rows; ++r)
            for (std::size_t t = 0; t < tokens; ++t) {
              Sum sum;
              for (std::size_t c = 0; c < columns; ++c) sum.add(dequantized[r * columns + c], x.at(t, c));
              sum.add(0, 0); // a dequantized weight is rounded once itself
              ASSERT_NEAR(static_cast<double>(y.at(t, r)), sum.value, sum.bound())
                  << bits << " bits, " << grouping.name() << ", row " << r << " of " << rows << " x " << columns << ", token " << t << " of " << tokens;
            }
          kernel_cases::expect_gaps_untouched(y, tokens, rows);
          ASSERT_EQ(device(pool).matmul(packed, view_of(x, tokens, columns), output_of(divided, tokens, rows), workspace), Status::ok);
          ASSERT_EQ(std::memcmp(y.data(), divided.data(), y.all().size() * sizeof(float)), 0) << bits << " bits, " << grouping.name();
        }
      }
}

TEST_P(CpuBackend, GroupsThatNoPackedMatrixHasAreUnsupported) {
  const PackedMatrix packed = random_packed(2, 64, 8, ScaleType::f16, random_);
  const Rows x(1, 64, 64, Numbers::any, random_), y(1, 2, 2);
  for (const std::uint32_t width : {1u, 16u, 33u, 48u}) {
    lsaq::PackedView view = packed.view();
    view.grouping = {.columns = width};
    EXPECT_EQ(device().matmul(view, view_of(x, 1, 64), output_of(y, 1, 2)), Status::unsupported);
  }
  for (const float value : y.all()) EXPECT_TRUE(std::isnan(value));
}

TEST_P(CpuBackend, WholeNumbersGiveExactProducts) {
  for (const unsigned bits : {8u, 4u})
    for (const std::size_t columns : {31, 256, 700})
      for (const std::size_t tokens : {1, 5}) {
        constexpr std::size_t rows = 35;
        const int limit = lsaq::code_limit(bits);
        std::vector<float> weights(rows * columns);
        for (std::size_t i = 0; i < weights.size(); ++i)
          weights[i] = static_cast<float>(i % columns == 0 ? limit : static_cast<int>(random_() % (2u * limit + 1)) - limit) * 0.25f; // scale 1/4
        const PackedMatrix packed = lsaq::quantize<PerChannel>(MatrixView(weights.data(), rows, columns), bits);
        const Rows x(tokens, columns, columns, Numbers::whole, random_), y(tokens, rows, rows);
        ASSERT_EQ(device().matmul(packed.view(), view_of(x, tokens, columns), output_of(y, tokens, rows)), Status::ok);
        for (std::size_t t = 0; t < tokens; ++t)
          for (std::size_t r = 0; r < rows; ++r) {
            double expected = 0;
            for (std::size_t c = 0; c < columns; ++c) expected += static_cast<double>(weights[r * columns + c]) * x.at(t, c);
            ASSERT_EQ(static_cast<double>(y.at(t, r)), expected) << bits << " bits, row " << r << ", token " << t;
          }
      }
}

TEST_P(CpuBackend, FloatProductsReadTheirRowsInPlace) {
  for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0})
    for (const bool strided : {false, true})
      for (const auto& [rows, some] : {std::pair<std::size_t, std::size_t>(1, 1), {17, 33}, {40, 300}, {16, 513}})
        for (const std::size_t tokens : {1, 3, 4, 9, 13}) {
          const std::size_t columns = type == ElementType::q8_0 ? (some + 31) / 32 * 32 : some; // whole blocks
          const std::size_t gap = !strided ? 0 : type == ElementType::q8_0 ? 64 : 5;
          const Weights weights({.element = type, .bits = 0}, rows, columns, Numbers::any, random_, bytes_of(type, gap));
          const Rows x(tokens, columns, columns + gap, Numbers::any, random_), y(tokens, rows, rows + gap);
          ASSERT_EQ(device().matmul(view_of(weights, type, rows, columns, gap), view_of(x, tokens, columns), output_of(y, tokens, rows)), Status::ok);
          for (std::size_t t = 0; t < tokens; ++t)
            for (std::size_t r = 0; r < rows; ++r) {
              kernel_cases::expect_sum(y.at(t, r), kernel_cases::product_of(weights, r, x, t), Numbers::any);
              ASSERT_FALSE(HasFatalFailure()) << name_of(type) << ", row " << r << " of " << rows << " x " << columns << ", token " << t << " of " << tokens;
            }
          kernel_cases::expect_gaps_untouched(y, tokens, rows);
        }
}

TEST_P(CpuBackend, MatvecIsTheProductWithOneToken) {
  const PackedMatrix packed = random_packed(50, 70, 4, ScaleType::f16, random_);
  const Rows x(1, 70, 70, Numbers::any, random_), y(1, 50, 50), spans(1, 50, 50);
  ASSERT_EQ(device().matmul(packed, view_of(x, 1, 70), output_of(y, 1, 50)), Status::ok);
  ASSERT_EQ(device().matvec(packed, std::span<const float>(x.data(), 70), std::span<float>(spans.data(), 50)), Status::ok);
  EXPECT_EQ(std::memcmp(y.data(), spans.data(), 50 * sizeof(float)), 0);
  ASSERT_EQ(device().matvec(packed.view(), std::span<const float>(x.data(), 70), std::span<float>(spans.data(), 50)), Status::ok);
  EXPECT_EQ(std::memcmp(y.data(), spans.data(), 50 * sizeof(float)), 0);
}

TEST_P(CpuBackend, EmptyProducts) {
  const PackedMatrix no_rows({0, 8}, 8, ScaleType::f16);
  const std::vector<float> nothing;
  const PackedMatrix no_columns = lsaq::quantize<PerChannel>(MatrixView(nothing.data(), 3, 0), 4);
  for (const std::size_t tokens : {5, 20}) {
    const Rows x(tokens, 8, 8, Numbers::any, random_), y(tokens, 3, 3);
    EXPECT_EQ(device().matmul(no_rows, view_of(x, tokens, 8), MutableMatrixView(nullptr, tokens, 0)), Status::ok);
    EXPECT_EQ(device().matmul(no_columns, MatrixView(nothing.data(), tokens, 0), output_of(y, tokens, 3)), Status::ok);
    for (const float value : y.all()) EXPECT_EQ(value, 0.0f);
  }
  const Rows x(5, 8, 8, Numbers::any, random_);
  const PackedMatrix packed = random_packed(3, 8, 8, ScaleType::f16, random_);
  EXPECT_EQ(device().matmul(packed, view_of(x, 0, 8), MutableMatrixView(nullptr, 0, 3)), Status::ok);
}

TEST_P(CpuBackend, ShapesThatDoNotMatchAreAStatusAndWriteNothing) {
  const PackedMatrix packed = random_packed(6, 10, 8, ScaleType::f16, random_);
  const Weights floats({.element = ElementType::f16, .bits = 0}, 6, 10, Numbers::any, random_);
  const Rows x(4, 12, 12, Numbers::any, random_), y(4, 8, 8);
  const auto expect_mismatch = [&](MatrixView input, MutableMatrixView output) {
    EXPECT_EQ(device().matmul(packed, input, output), Status::shape_mismatch);
    EXPECT_EQ(device().matmul(view_of(floats, ElementType::f16, 6, 10, 0), input, output), Status::shape_mismatch);
  };
  expect_mismatch(view_of(x, 4, 9), output_of(y, 4, 6));
  expect_mismatch(view_of(x, 4, 11), output_of(y, 4, 6));
  expect_mismatch(view_of(x, 4, 10), output_of(y, 4, 5));
  expect_mismatch(view_of(x, 4, 10), output_of(y, 4, 7));
  expect_mismatch(view_of(x, 3, 10), output_of(y, 4, 6));
  expect_mismatch(view_of(x, 4, 10), output_of(y, 3, 6));
  MatrixView halves = view_of(x, 4, 10);
  halves.type = ElementType::f16; // activations are FP32
  expect_mismatch(halves, output_of(y, 4, 6));
  EXPECT_EQ(device().matvec(packed, std::span<const float>(x.data(), 9), std::span<float>(y.data(), 6)), Status::shape_mismatch);
  EXPECT_EQ(device().matvec(packed, std::span<const float>(x.data(), 10), std::span<float>(y.data(), 7)), Status::shape_mismatch);
  for (const float value : y.all()) EXPECT_TRUE(std::isnan(value));
}

TEST_P(CpuBackend, WidthsWithoutAKernelAreUnsupported) {
  const PackedMatrix packed = random_packed(2, 4, 8, ScaleType::f16, random_);
  const Rows x(1, 4, 4, Numbers::any, random_), y(1, 2, 2);
  for (const unsigned bits : {0u, 1u, 9u, 16u}) {
    lsaq::PackedView view = packed.view();
    view.bits = bits;
    EXPECT_EQ(device().matmul(view, view_of(x, 1, 4), output_of(y, 1, 2)), Status::unsupported);
  }
  for (const float value : y.all()) EXPECT_TRUE(std::isnan(value));
}

TEST_P(CpuBackend, EveryExecutorGivesTheSameBits) {
  constexpr std::size_t rows = 301, columns = 1024;
  const PackedMatrix eight = random_packed(rows, columns, 8, ScaleType::f16, random_), four = random_packed(rows, columns, 4, ScaleType::bf16, random_);
  const Weights floats({.element = ElementType::bf16, .bits = 0}, rows, columns, Numbers::any, random_);
  const MatrixView halves = view_of(floats, ElementType::bf16, rows, columns, 0);
  for (const std::size_t tokens : {1, 3, 4, 13}) {
    const Rows x(tokens, columns, columns, Numbers::any, random_);
    const auto products = [&](lsaq::ExecutorRef executor) {
      const Rows y(3 * tokens, rows, rows + 1);
      const auto part = [&](std::size_t i) { return MutableMatrixView(&y.at(i * tokens, 0), tokens, rows, y.stride()); };
      EXPECT_EQ(device(executor).matmul(eight, view_of(x, tokens, columns), part(0)), Status::ok);
      EXPECT_EQ(device(executor).matmul(four, view_of(x, tokens, columns), part(1)), Status::ok);
      EXPECT_EQ(device(executor).matmul(halves, view_of(x, tokens, columns), part(2)), Status::ok);
      kernel_cases::expect_gaps_untouched(y, 3 * tokens, rows);
      return std::vector<float>(y.all().begin(), y.all().end());
    };
    const std::vector<float> serial = products({});
    const auto same = [&](const std::vector<float>& found) { return std::memcmp(found.data(), serial.data(), serial.size() * sizeof(float)) == 0; };
    for (std::size_t threads = 1; threads <= 4; ++threads) {
      lsaq::ThreadPool pool(threads);
      EXPECT_TRUE(same(products(pool))) << threads << " threads, " << tokens << " tokens";
    }
    Backwards backwards;
    EXPECT_TRUE(same(products(backwards)));
    EXPECT_EQ(backwards.calls, 3u);
    EXPECT_GT(backwards.tasks, 9u) << "products of this size are divided";
  }
}

TEST_P(CpuBackend, SmallProductsAreNotHandedOver) {
  const PackedMatrix packed = random_packed(64, 64, 8, ScaleType::f16, random_);
  const Rows x(1, 64, 64, Numbers::any, random_), y(1, 64, 64);
  Backwards executor;
  EXPECT_EQ(device(executor).matmul(packed, view_of(x, 1, 64), output_of(y, 1, 64)), Status::ok);
  EXPECT_EQ(executor.calls, 0u);
}

/// A product of packed, F16 and Q8_0 weights with the same input, for what depends on tokens and workspace.
class ThreeProducts {
public:
  static constexpr std::size_t rows = 130, columns = 544;

  ThreeProducts(std::size_t tokens, std::mt19937& random)
      : tokens_(tokens), packed_(random_packed(rows, columns, 4, ScaleType::f16, random)),
        halves_({.element = ElementType::f16}, rows, columns, Numbers::any, random),
        blocks_({.element = ElementType::q8_0}, rows, columns, Numbers::any, random), x_(tokens, columns, columns + 3, Numbers::any, random),
        y_(3 * tokens, rows, rows + 1) {}

  const PackedMatrix& packed() const { return packed_; }
  MatrixView halves() const { return view_of(halves_, ElementType::f16, rows, columns, 0); }
  MatrixView blocks() const { return view_of(blocks_, ElementType::q8_0, rows, columns, 0); }

  /// All of y; fails unless every product is computed. Allocates nothing but the result.
  std::span<const float> run(const Exact& cpu, std::span<std::byte> workspace) {
    ok_ = true;
    for (float& value : y_.all()) value = std::nanf("");
    ok_ &= cpu.matmul(packed_, view_of(x_, tokens_, columns), part(0), workspace) == Status::ok;
    ok_ &= cpu.matmul(halves(), view_of(x_, tokens_, columns), part(1), workspace) == Status::ok;
    ok_ &= cpu.matmul(blocks(), view_of(x_, tokens_, columns), part(2), workspace) == Status::ok;
    return {y_.data(), y_.all().size()};
  }
  bool ok() const { return ok_; }

  void expect_right() const {
    EXPECT_TRUE(ok_);
    kernel_cases::expect_gaps_untouched(y_, 3 * tokens_, rows);
    for (std::size_t r = 0; r < rows; ++r) {
      const std::vector<int> codes = oracle::codes_of(packed_.view(), r);
      const double scale = oracle::scale_of(packed_.view(), r);
      for (std::size_t t = 0; t < tokens_; ++t) {
        Sum sum;
        for (std::size_t c = 0; c < columns; ++c) sum.add(scale * codes[c], x_.at(t, c));
        ASSERT_NEAR(static_cast<double>(y_.at(t, r)), sum.value, sum.bound()) << "4 bits, row " << r << ", token " << t << " of " << tokens_;
        kernel_cases::expect_sum(y_.at(tokens_ + t, r), kernel_cases::product_of(halves_, r, x_, t), Numbers::any);
        kernel_cases::expect_sum(y_.at(2 * tokens_ + t, r), kernel_cases::product_of(blocks_, r, x_, t), Numbers::any);
        ASSERT_FALSE(testing::Test::HasFatalFailure()) << "row " << r << ", token " << t << " of " << tokens_;
      }
    }
  }

private:
  MutableMatrixView part(std::size_t i) const { return {&y_.at(i * tokens_, 0), tokens_, rows, y_.stride()}; }

  std::size_t tokens_;
  PackedMatrix packed_;
  Weights halves_, blocks_;
  Rows x_, y_;
  bool ok_ = true;
};

TEST_P(CpuBackend, WorkspaceIsTheInputInWholePanelsFromTwelveTokensOn) {
  const ThreeProducts products(1, random_);
  const Exact cpu = device();
  for (const std::size_t tokens : {0, 1, 4, 11}) {
    EXPECT_EQ(cpu.workspace_bytes(products.packed().view(), tokens), 0u);
    EXPECT_EQ(cpu.workspace_bytes(products.halves(), tokens), 0u);
  }
  for (const auto& [tokens, panels] : {std::pair<std::size_t, std::size_t>(12, 1), {16, 1}, {17, 2}, {64, 4}, {65, 5}, {130, 9}}) {
    EXPECT_EQ(cpu.workspace_bytes(products.packed().view(), tokens), panels * 16 * 544 * 4) << tokens;
    EXPECT_EQ(cpu.workspace_bytes(products.halves(), tokens), panels * 16 * 544 * 4);
    EXPECT_EQ(cpu.workspace_bytes(products.blocks(), tokens), panels * 16 * 544 * 4);
  }
}

TEST_P(CpuBackend, WorkspaceForAnyWeightsIsEnoughForCodesOfEveryWidth) {
  const lsaq::Backend<lsaq::Cpu> cpu({}, GetParam());
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const lsaq::Grouping grouping : {lsaq::Grouping{}, lsaq::Grouping{.columns = 32}})
      for (const std::size_t columns : {64, 576, 4100})
        for (const std::size_t tokens : {12, 16, 17, 33, 512}) {
          const lsaq::PackedView view{.rows = 1, .columns = columns, .bits = bits, .grouping = grouping};
          EXPECT_LE(cpu.workspace_bytes(view, tokens), lsaq::Backend<lsaq::Cpu>::workspace_bytes(columns, tokens)) << bits << " " << columns << " " << tokens;
        }
}

TEST_P(CpuBackend, ProductsAreRightWithAnyWorkspace) {
  for (const std::size_t tokens : {1, 9, 12, 33, 70}) {
    ThreeProducts products(tokens, random_);
    const std::size_t needed = device().workspace_bytes(products.halves(), tokens);
    const kernel_cases::Exact<std::byte> memory(needed + 8, 0); // aligned as new is
    for (const auto& [skew, bytes] : {std::pair<std::size_t, std::size_t>(0, 0), {0, 3}, {0, needed}, {4, needed}, {8, needed}, {0, needed + 8}}) {
      products.run(device(), {memory.data() + skew, bytes});
      products.expect_right();
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(CpuBackend, AWorkspaceTooSmallOrMisalignedIsLeftAlone) {
  constexpr std::size_t tokens = 20;
  ThreeProducts products(tokens, random_);
  const std::size_t needed = device().workspace_bytes(products.halves(), tokens);
  const kernel_cases::Exact<std::byte> memory(needed + 8, 0);
  const std::span<const float> found = products.run(device(), {});
  const std::vector<float> without(found.begin(), found.end());
  for (const auto& [skew, bytes] : {std::pair<std::size_t, std::size_t>(0, needed - 1), {4, needed - 4}, {1, needed}, {2, needed + 6}, {3, needed}}) {
    std::fill(memory.begin(), memory.end(), std::byte{0x5a});
    products.run(device(), {memory.data() + skew, bytes});
    products.expect_right();
    EXPECT_EQ(std::memcmp(found.data(), without.data(), found.size_bytes()), 0) << skew << ", " << bytes;
    EXPECT_TRUE(std::all_of(memory.begin(), memory.end(), [](std::byte byte) { return byte == std::byte{0x5a}; })) << skew << ", " << bytes;
  }
  products.run(device(), {memory.data(), needed});
  EXPECT_FALSE(std::all_of(memory.begin(), memory.end(), [](std::byte byte) { return byte == std::byte{0x5a}; })) << "but one that fits is used";
}

TEST_P(CpuBackend, EveryExecutorGivesTheSameBitsWithAWorkspace) {
  for (const std::size_t tokens : {12, 13, 64, 71}) {
    ThreeProducts products(tokens, random_);
    std::vector<std::byte> workspace(device().workspace_bytes(products.halves(), tokens));
    const std::span<const float> found = products.run(device(), workspace);
    const std::vector<float> serial(found.begin(), found.end());
    for (std::size_t threads = 1; threads <= 4; ++threads) {
      lsaq::ThreadPool pool(threads);
      products.run(device(pool), workspace);
      EXPECT_TRUE(products.ok());
      EXPECT_EQ(std::memcmp(found.data(), serial.data(), found.size_bytes()), 0) << threads << " threads, " << tokens << " tokens";
    }
    Backwards backwards;
    products.run(device(backwards), workspace);
    EXPECT_EQ(std::memcmp(found.data(), serial.data(), found.size_bytes()), 0);
    EXPECT_EQ(backwards.calls, tokens > 16 ? 6u : 3u) << "each product is divided, and so is the packing of more than one panel";
  }
}

TEST_P(CpuBackend, ProductsThrowNothing) {
  const Exact cpu = device();
  static_assert(noexcept(cpu.matmul(std::declval<const PackedMatrix&>(), MatrixView(), MutableMatrixView(), std::span<std::byte>())));
  static_assert(noexcept(cpu.matmul(MatrixView(), MatrixView(), MutableMatrixView(), std::span<std::byte>())));
  static_assert(noexcept(cpu.matvec(std::declval<const PackedMatrix&>(), std::span<const float>(), std::span<float>())));
}

TEST_P(CpuBackend, ProductsAllocateNothing) {
  if (count_allocations() == 0) GTEST_SKIP() << "operator new: can't be counted in this build";
  lsaq::ThreadPool pool(2);
  for (const Exact& cpu : {device(), device(pool)})
    for (const std::size_t tokens : {1, 9, 12, 70}) {
      ThreeProducts products(tokens, random_);
      std::vector<std::byte> workspace(cpu.workspace_bytes(products.halves(), tokens));
      const std::size_t before = count_allocations();
      products.run(cpu, {});
      products.run(cpu, workspace);
      EXPECT_EQ(count_allocations(), before) << tokens << " tokens";
      EXPECT_TRUE(products.ok());
    }
}

TEST_P(CpuBackend, TopTokensRunOnItsKernels) {
  const std::vector<float> embedding = {1, 0, 0, 2, 0.5f, 0.5f, -3, 0};
  const std::vector<float> states = {1, 0, 0, 1};
  std::vector<lsaq::ScoredToken> found(4);
  device().top_tokens(MatrixView(states.data(), 2, 2), MatrixView(embedding.data(), 4, 2), 2, found);
  std::vector<lsaq::TokenId> tokens;
  for (const lsaq::ScoredToken& scored : found) tokens.push_back(scored.id);
  std::sort(tokens.begin(), tokens.begin() + 2);
  std::sort(tokens.begin() + 2, tokens.end());
  EXPECT_THAT(tokens, testing::ElementsAre(0, 2, 1, 2));
}

TEST_P(CpuBackend, KnowsItsPathAndExecutor) {
  Backwards executor;
  EXPECT_EQ(device(executor).isa(), GetParam());
  EXPECT_EQ(device(executor).kernels().isa, GetParam());
  EXPECT_EQ(device(executor).executor().concurrency(), 3u);
}

TEST(Cpu, PrepareHandsTheSameBytesBack) {
  std::mt19937 random(32);
  PackedMatrix packed = random_packed(4, 9, 4, ScaleType::f16, random);
  const std::byte* bytes = packed.view().data;
  const PackedMatrix prepared = Backend<Cpu>{}.prepare(std::move(packed));
  EXPECT_EQ(prepared.view().data, bytes);
}

TEST(Cpu, FollowsTheEnvironmentUnlessTold) {
  const char* before = std::getenv("LSAQ_ISA");
  const std::string saved = before != nullptr ? before : "";
  ::setenv("LSAQ_ISA", "scalar", 1);
  EXPECT_EQ(Backend<Cpu>{}.isa(), Isa::scalar);
  ::setenv("LSAQ_ISA", "pentium", 1);
  EXPECT_THROW(Backend<Cpu>{}, lsaq::InvalidArgument);
  EXPECT_EQ(Backend<Cpu>({}, Isa::eigen).isa(), Isa::eigen);
  saved.empty() ? ::unsetenv("LSAQ_ISA") : ::setenv("LSAQ_ISA", saved.c_str(), 1);
}

TEST(Cpu, TheHostIsItsOnlyDevice) {
  const std::vector<lsaq::Device> devices = Backend<Cpu>::devices();
  ASSERT_EQ(devices.size(), 1u);
  EXPECT_EQ(devices[0].id, "cpu");
  EXPECT_GT(devices[0].total_bytes, 0u);
  EXPECT_LE(devices[0].free_bytes, devices[0].total_bytes);
}

} // namespace cpu_test
