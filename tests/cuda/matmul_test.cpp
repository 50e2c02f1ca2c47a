// Products on the device's kernels against exact sums.
#include "cuda/kernel_cases.hpp"

#include <lsaq/kernels/cuda/matmul.cuh>
#include <lsaq/kernels/cuda/shared_channels.cuh>
#include <lsaq/quantization/quantizer.hpp>

namespace matmul_test {

using namespace lsaq::gpu;
using namespace test_support;

/// Rows of packed weights as the kernels take them.
DeviceRows rows_of(lsaq::PackedView view) {
  DeviceRows rows{view.data, view.row_bytes(), static_cast<unsigned>(view.rows), static_cast<unsigned>(view.columns), view.scale_data()};
  rows.scale_type = view.scale_type == lsaq::ScaleType::f32   ? lsaq::ElementType::f32
                    : view.scale_type == lsaq::ScaleType::f16 ? lsaq::ElementType::f16
                                                              : lsaq::ElementType::bf16;
  rows.scale_step = view.grouping.whole_matrix ? 0 : 1;
  rows.group_columns = view.grouping.columns;
  rows.groups = static_cast<unsigned>(view.grouping.scales_per_row(view.columns));
  return rows;
}

/// Error of a result of one product, in units of what is allowed: the sum's bound, the scale's product and the rounding to X.
template <element X> double relative_error(double found, double exact, double magnitude, unsigned terms) {
  const double unit = std::same_as<X, float> ? 0x1p-24 : std::same_as<X, lsaq::f16> ? 0x1p-11 : 0x1p-8;
  const double allowed = (terms + 8) * 0x1p-24 * magnitude + unit * std::fabs(exact) + (std::same_as<X, lsaq::f16> ? 0x1p-25 : 0);
  return std::fabs(found - exact) / std::max(allowed, 1e-300);
}

/// Multiplies and returns the largest error; NaN counts as infinite.
template <class Format, element X, unsigned Tokens, class WeightAt>
double worst_error(HostExecutor& executor, const DeviceRows& rows, const std::vector<X>& x, unsigned tokens, std::size_t x_offset, WeightAt&& weight_at) {
  const Guarded<X> in(x, x_offset == 0 ? 16 : alignof(X));
  const Guarded<X> y(std::size_t{tokens} * rows.rows);
  executor.launch(Product<Format, Tokens>{rows, {in.data(), rows.columns, tokens, element_type_of<X>}, y.data(), rows.rows, element_type_of<X>});
  const unsigned terms = (rows.columns + 32 * Format::columns - 1) / (32 * Format::columns) * Format::columns;
  double worst = 0;
  for (unsigned t = 0; t < tokens; ++t)
    for (unsigned r = 0; r < rows.rows; ++r) {
      double exact = 0, magnitude = 0;
      for (unsigned c = 0; c < rows.columns; ++c) {
        const double product = weight_at(r, c) * wide(x, std::size_t{t} * rows.columns + c);
        exact += product;
        magnitude += std::fabs(product);
      }
      const double error = relative_error<X>(widen(y[std::size_t{t} * rows.rows + r]), exact, magnitude, terms);
      worst = error <= worst ? worst : std::isnan(error) ? 1e300 : error;
    }
  return worst;
}

/// A matrix of codes in guarded memory, and what its codes stand for.
struct Packed {
  lsaq::PackedMatrix matrix;
  GuardedBytes bytes;
  std::vector<float> values;

  Packed(Shape shape, const lsaq::PackedFormat& format, std::mt19937& random, std::size_t alignment)
      : matrix([&] {
          const std::vector<float> weights = random_elements<float>(shape.rows * shape.columns, random);
          return lsaq::quantize({weights.data(), shape.rows, shape.columns}, format);
        }()),
        bytes(matrix.bytes(), alignment), values(shape.rows * shape.columns) {
    std::memcpy(bytes.data(), matrix.view().data, bytes.size());
    lsaq::dequantize(matrix.view(), {values.data(), shape.rows, shape.columns});
  }

  lsaq::PackedView view() const {
    lsaq::PackedView view = matrix.view();
    view.data = bytes.data();
    return view;
  }
};

template <unsigned Bits, element X, unsigned Tokens>
void compare(Shape shape, unsigned tokens, lsaq::Grouping grouping, unsigned seeds, std::size_t alignment = 16) {
  SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + ", " + std::to_string(Bits) + " bits, " + grouping.name() + ", " +
               std::to_string(tokens) + " tokens");
  std::mt19937 random(shape.rows * 1000 + shape.columns + tokens);
  const Packed packed(shape, {.bits = Bits, .grouping = grouping}, random, alignment);
  const std::vector<X> x = random_elements<X>(std::size_t{tokens} * shape.columns, random);
  on_schedules(seeds, [&](HostExecutor& executor) {
    const auto weight_at = [&](unsigned r, unsigned c) { return double{packed.values[std::size_t{r} * shape.columns + c]}; };
    EXPECT_LE((worst_error<Codes<Bits>, X, Tokens>(executor, rows_of(packed.view()), x, tokens, alignment == 16 ? 0 : 1, weight_at)), 1);
  });
}

constexpr lsaq::Grouping channel{}, tensor{.columns = 0, .whole_matrix = true}, groups{.columns = 32};

TEST(Matmul, CodesOfEveryShape) {
  for (const Shape shape : tail_shapes) {
    compare<4, float, 1>(shape, 1, channel, 3);
    compare<8, float, 1>(shape, 1, channel, 3);
    compare<4, float, 4>(shape, 5, channel, 3);
    compare<8, float, 4>(shape, 3, channel, 3, 4);
  }
}

TEST(Matmul, ActivationsOfSixteenBits) {
  for (const Shape shape : {Shape{5, 7}, {9, 32}, {33, 64}, {7, 1100}}) {
    compare<4, lsaq::f16, 1>(shape, 1, channel, 3);
    compare<8, lsaq::f16, 4>(shape, 6, channel, 3, 4);
    compare<4, lsaq::bf16, 4>(shape, 4, channel, 3);
    compare<8, lsaq::bf16, 1>(shape, 2, channel, 3, 4);
  }
}

TEST(Matmul, ScalesOfGroupsAndOfTheWholeMatrix) {
  for (const Shape shape : {Shape{5, 7}, {9, 32}, {3, 1100}, {18, 96}}) {
    compare<4, float, 1>(shape, 1, groups, 3);
    compare<8, float, 4>(shape, 2, groups, 3);
    compare<4, float, 1>(shape, 1, tensor, 3);
    compare<8, float, 1>(shape, 1, lsaq::Grouping{.columns = 64}, 3);
  }
}

TEST(Matmul, ResultsDoNotDependOnTheSchedule) {
  compare<4, float, 1>({37, 1100}, 1, channel, many_schedules);
  compare<8, lsaq::f16, 4>({17, 600}, 5, channel, many_schedules);
}

template <element T> void compare_floats(Shape shape, std::size_t alignment) {
  std::mt19937 random(shape.rows * 1000 + shape.columns);
  const std::vector<T> weights = random_elements<T>(shape.rows * shape.columns, random);
  const std::vector<float> x = random_elements<float>(3 * shape.columns, random);
  const std::vector<T> same = random_elements<T>(2 * shape.columns, random); // activations of the weights' type
  const Guarded<T> stored(weights, alignment);
  DeviceRows rows{reinterpret_cast<const std::byte*>(stored.data()), shape.columns * sizeof(T), shape.rows, shape.columns};
  on_schedules(3, [&](HostExecutor& executor) {
    const auto weight_at = [&](unsigned r, unsigned c) { return wide(weights, std::size_t{r} * shape.columns + c); };
    EXPECT_LE((worst_error<Floats<T>, float, 1>(executor, rows, x, 3, 0, weight_at)), 1);
    EXPECT_LE((worst_error<Floats<T>, T, 4>(executor, rows, same, 2, 1, weight_at)), 1);
  });
}

TEST(Matmul, WeightsThatAreFloats) {
  for (const Shape shape : tail_shapes) {
    compare_floats<float>(shape, 16);
    compare_floats<lsaq::f16>(shape, 16);
    compare_floats<lsaq::bf16>(shape, 2);
  }
}

TEST(Matmul, OutputsOfAnotherTypeAndSumsOfTwo) {
  const std::vector<lsaq::f16> ones(2 * 40, lsaq::to_f16(1.0f));
  const Guarded<lsaq::f16> weights(ones), x(ones);
  const Guarded<float> wide(std::vector<float>{1, 2, 3, 4});
  const Guarded<lsaq::bf16> narrow(std::vector<lsaq::bf16>(4, lsaq::to_bf16(2.0f)));
  const DeviceRows rows{reinterpret_cast<const std::byte*>(weights.data()), 80, 2, 40};
  on_schedules(3, [&](HostExecutor& executor) {
    const float before = wide[3];
    executor.launch(Product<Floats<lsaq::f16>, 4>{rows, {x.data(), 40, 2, lsaq::ElementType::f16}, wide.data(), 2, lsaq::ElementType::f32, true});
    EXPECT_EQ(wide[3], before + 40);
    executor.launch(Product<Floats<lsaq::f16>, 1>{rows, {x.data(), 40, 2, lsaq::ElementType::f16}, narrow.data(), 2, lsaq::ElementType::bf16, false});
    EXPECT_EQ(widen(narrow[3]), 40);
  });
}

TEST(Matmul, GridsAreCountedWithoutWrapping) {
  const DeviceRows rows{nullptr, 1, 0x7fffffffu, 1};
  EXPECT_EQ((Product<Codes<8>, 4>{rows, {nullptr, 1, 0x7fffffffu}, nullptr, 1}.blocks()), std::size_t{1} << 56);
  const GatherChannels gather{{}, nullptr, 1, 0x7fffffffu, 0x7fffffffu, nullptr, 1, lsaq::ElementType::f32, false};
  EXPECT_EQ(gather.blocks(), (std::size_t{1} << 23) * 0x7fffffffu);
}

TEST(Matmul, FaultsMadeOnPurposeShow) {
  const Shape shape{35, 2100}; // three chunks of columns
  std::mt19937 random(3);
  const Packed packed(shape, {.bits = 4}, random, 16);
  const std::vector<float> x = random_elements<float>(shape.columns, random);
  const auto wrong = [&](HostExecutor& executor) {
    const auto weight_at = [&](unsigned r, unsigned c) { return double{packed.values[std::size_t{r} * shape.columns + c]}; };
    return worst_error<Codes<4>, float, 1>(executor, rows_of(packed.view()), x, 1, 0, weight_at) > 1;
  };
  HostExecutor intact(1);
  EXPECT_FALSE(wrong(intact));
  // The first barrier separates the first chunk from nothing.
  for (unsigned barrier = 1; barrier < 6; ++barrier) EXPECT_GE(schedules_that_fail({SeededFault::Kind::barrier_removed, barrier}, wrong), 4u) << barrier;
  for (unsigned shuffle = 0; shuffle < 5; ++shuffle) EXPECT_EQ(schedules_that_fail({SeededFault::Kind::shuffle_mask_changed, shuffle}, wrong), 5u) << shuffle;
}

TEST(MatmulDeathTest, ARowTooManyEndsTheProgram) {
  std::mt19937 random(3);
  const Packed packed({33, 64}, {.bits = 8, .scale = lsaq::ScaleType::f32}, random, 4);
  DeviceRows rows = rows_of(packed.view());
  const Guarded<float> x(64), y(33);
  rows.rows = 34;
  HostExecutor executor;
  EXPECT_DEATH((executor.launch(Product<Codes<8>, 1>{rows, {x.data(), 64, 1}, y.data(), 33})), "");
}

} // namespace matmul_test
