// Codes and scales of the device's kernel: the bytes of the CPU's quantizer.
#include "cuda/kernel_cases.hpp"

#include <lsaq/kernels/cuda/quantize.cuh>
#include <lsaq/quantization/quantizer.hpp>

namespace quantize_test {

using namespace lsaq::gpu;
using namespace test_support;

template <element T> std::vector<T> cases(Shape shape, std::size_t stride, std::mt19937& random) {
  std::vector<T> values = random_elements<T>(shape.rows * stride, random);
  for (std::size_t r = 0; r < shape.rows; ++r) {
    const float factor = r % 4 == 1 ? 0.0f : r % 4 == 2 ? 0x1p-18f : r % 4 == 3 ? 0x1p-24f : 1.0f; // zero rows, scales that are subnormal in FP16
    for (std::size_t c = 0; c < stride; ++c) values[r * stride + c] = element_of<T>(widen(values[r * stride + c]) * factor);
  }
  return values;
}

template <element T, unsigned Bits, element Scale> struct Result {
  Guarded<std::uint32_t> codes;
  Guarded<Scale> scales;
  Guarded<unsigned> bad;

  Result(HostExecutor& executor, const T* in, std::size_t stride, Shape shape)
      : codes(shape.rows * lsaq::packed_row_bytes(shape.columns, Bits) / 4), scales(shape.rows), bad(1) {
    executor.launch(QuantizeRows<T, Bits>{in, stride, shape.rows, shape.columns, codes.data(), scales.data(), element_type_of<Scale>, bad.data()});
  }

  bool equals(const lsaq::PackedMatrix& packed) const {
    const lsaq::PackedView view = packed.view();
    return std::memcmp(codes.data(), view.data, codes.size() * 4) == 0 && std::memcmp(scales.data(), view.scale_data(), scales.size() * sizeof(Scale)) == 0;
  }
};

template <element T, unsigned Bits, element Scale> void compare(Shape shape, unsigned seeds, std::size_t alignment, std::size_t stride) {
  SCOPED_TRACE(std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + ", " + std::to_string(Bits) + " bits, alignment " +
               std::to_string(alignment));
  std::mt19937 random(shape.rows * 1000 + shape.columns);
  const Guarded<T> in(cases<T>(shape, stride, random), alignment);
  const lsaq::PackedMatrix expected = lsaq::quantize<lsaq::PerChannel>({in.data(), shape.rows, shape.columns, stride}, Bits, lsaq::scale_type_of<Scale>);
  on_schedules(seeds, [&](HostExecutor& executor) {
    const Result<T, Bits, Scale> result(executor, in.data(), stride, shape);
    EXPECT_TRUE((result.equals(expected)));
    EXPECT_EQ(result.bad[0], ~0u);
  });
}

template <element T, unsigned Bits, element Scale> void compare_all() {
  for (const Shape shape : tail_shapes) {
    compare<T, Bits, Scale>(shape, 3, 16, shape.columns);
    compare<T, Bits, Scale>(shape, 3, alignof(T), shape.columns + 3);
  }
  compare<T, Bits, Scale>({2, 32 * 1024 / sizeof(T) + 29}, 3, 16, 32 * 1024 / sizeof(T) + 32); // beyond what is kept of a row
}

TEST(Quantize, BytesAreThoseOfTheCpu) {
  compare_all<float, 4, lsaq::f16>();
  compare_all<float, 8, lsaq::f16>();
  compare_all<lsaq::f16, 4, lsaq::f16>();
  compare_all<lsaq::f16, 8, lsaq::bf16>();
  compare_all<lsaq::bf16, 4, float>();
  compare_all<lsaq::bf16, 8, lsaq::f16>();
}

TEST(Quantize, BytesDoNotDependOnTheSchedule) { compare<lsaq::f16, 4, lsaq::f16>({5, 1100}, many_schedules, 16, 1104); }

TEST(Quantize, TiesAreHalfToEven) {
  std::vector<float> row = {127};
  for (int code = -126; code <= 126; ++code)
    for (const float tie : {static_cast<float>(code) + 0.5f, std::nextafter(static_cast<float>(code) + 0.5f, 0.0f)}) row.push_back(tie);
  const auto columns = static_cast<unsigned>(row.size());
  const lsaq::PackedMatrix expected = lsaq::quantize<lsaq::PerChannel>({row.data(), 1, columns}, 8);
  HostExecutor executor;
  EXPECT_TRUE((Result<float, 8, lsaq::f16>(executor, row.data(), columns, {1, columns}).equals(expected)));
}

TEST(Quantize, TheFirstBadRowIsReported) {
  std::vector<float> in(6 * 40, 1.0f);
  in[2 * 40 + 39] = std::numeric_limits<float>::quiet_NaN();
  in[4 * 40 + 3] = -std::numeric_limits<float>::infinity();
  in[5 * 40] = 1e9f; // beyond an FP16 scale
  on_schedules(5, [&](HostExecutor& executor) {
    EXPECT_EQ((Result<float, 8, lsaq::f16>(executor, in.data(), 40, {6, 40}).bad[0]), 2u);
    EXPECT_EQ((Result<float, 8, lsaq::f16>(executor, in.data() + 3 * 40, 40, {3, 40}).bad[0]), 1u);
    EXPECT_EQ((Result<float, 4, lsaq::f16>(executor, in.data() + 5 * 40, 40, {1, 40}).bad[0]), 0u);
    EXPECT_EQ((Result<float, 4, lsaq::bf16>(executor, in.data() + 5 * 40, 40, {1, 40}).bad[0]), ~0u);
  });
}

TEST(Quantize, FaultsMadeOnPurposeShow) {
  std::mt19937 random(5);
  const Shape shape{3, 1100};
  const Guarded<float> in(random_elements<float>(shape.rows * shape.columns, random), 16);
  const lsaq::PackedMatrix expected = lsaq::quantize<lsaq::PerChannel>({in.data(), shape.rows, shape.columns}, 8);
  const auto wrong = [&](HostExecutor& executor) { return !Result<float, 8, lsaq::f16>(executor, in.data(), shape.columns, shape).equals(expected); };
  HostExecutor intact(1);
  EXPECT_FALSE(wrong(intact));
  EXPECT_GE(schedules_that_fail({SeededFault::Kind::barrier_removed, 0}, wrong), 4u);
  for (unsigned shuffle = 0; shuffle < 5; ++shuffle) EXPECT_GE(schedules_that_fail({SeededFault::Kind::shuffle_mask_changed, shuffle}, wrong), 1u);
}

TEST(QuantizeDeathTest, AColumnTooManyEndsTheProgram) {
  const Guarded<float> in(40);
  HostExecutor executor;
  EXPECT_DEATH((Result<float, 8, lsaq::f16>(executor, in.data(), 41, {1, 41})), "");
}

} // namespace quantize_test
