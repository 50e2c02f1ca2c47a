// The rule of LSAQ's Eq. 4 with everything it leaves open, case by case; expected values from exact fractions (oracle.hpp) or written out.
#include <lsaq/quantization/quantizer.hpp>

#include "quantization/oracle.hpp"

#include <gmock/gmock.h>

#include <limits>

namespace quantizer_rule_test {

using lsaq::MatrixView;
using lsaq::PackedMatrix;
using lsaq::PerChannel;
using lsaq::quantize;
using lsaq::ScaleType;
using oracle::codes_of;
using oracle::every_scale;
using oracle::scale_of;
using testing::Each;
using testing::ElementsAre;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float smallest = std::numeric_limits<float>::denorm_min();

PackedMatrix quantized_row(const std::vector<float>& row, unsigned bits, ScaleType type = ScaleType::f16) {
  return quantize<PerChannel>(MatrixView(row.data(), 1, row.size()), bits, type);
}

TEST(QuantizerRule, RandomMatricesOfEveryShapeWidthAndScale) {
  std::mt19937 random(1);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const ScaleType type : every_scale) {
      for (std::size_t columns = 1; columns <= 70; ++columns) {
        const std::size_t rows = columns % 5 + 1;
        oracle::expect_quantized(oracle::random_weights(rows, columns, random), rows, columns, bits, type);
      }
      for (const std::size_t columns : {511, 512, 513, 545, 1024, 1025}) // around the blocks rows are read in
        oracle::expect_quantized(oracle::random_weights(3, columns, random), 3, columns, bits, type);
      for (std::size_t rows = 15; rows <= 35; rows += 2) oracle::expect_quantized(oracle::random_weights(rows, 9, random), rows, 9, bits, type);
      ASSERT_FALSE(HasFailure());
    }
}

TEST(QuantizerRule, TiesGoToEvenAndTheirNeighboursDoNot) {
  for (const unsigned bits : {8u, 4u}) {
    const int limit = lsaq::code_limit(bits);
    std::vector<float> row = {static_cast<float>(limit)}; // scale 1
    std::vector<int> expected = {limit};
    for (const int sign : {1, -1})
      for (int k = 0; k < limit; ++k) { // 254 ties with 8 bits, 14 with 4
        const float tie = static_cast<float>(k) + 0.5f;
        for (const float value : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, infinity)}) row.push_back(static_cast<float>(sign) * value);
        expected.insert(expected.end(), {sign * (k + k % 2), sign * k, sign * (k + 1)});
      }
    for (const ScaleType type : every_scale) {
      const PackedMatrix packed = quantized_row(row, bits, type);
      EXPECT_EQ(scale_of(packed.view(), 0), 1.0f);
      EXPECT_EQ(codes_of(packed.view(), 0), expected) << bits << " bits";
    }
  }
  EXPECT_THAT(codes_of(quantized_row({127, 0.5f, 1.5f, -2.5f}, 8).view(), 0), ElementsAre(127, 0, 2, -2));
}

TEST(QuantizerRule, TheMaximumGetsTheLargestCodeForEveryMantissa) {
  // FP32 scales and those of normal 16-bit numbers: |W/s| lies in [126.9, 127.5) and always rounds to 127. One mantissa in 61.
  for (const ScaleType type : every_scale)
    for (const unsigned bits : {8u, 4u, 3u}) {
      std::vector<float> column;
      for (std::uint32_t mantissa = 0; mantissa < 0x800000; mantissa += 61)
        column.push_back(std::bit_cast<float>((mantissa % 2 == 0 ? 0x3f800000u : 0xbf800000u) | mantissa));
      const PackedMatrix packed = quantize<PerChannel>(MatrixView(column.data(), column.size(), 1), bits, type);
      for (std::size_t r = 0; r < column.size(); ++r)
        ASSERT_EQ(codes_of(packed.view(), r)[0], column[r] > 0 ? lsaq::code_limit(bits) : -lsaq::code_limit(bits)) << std::hexfloat << column[r];
    }
}

TEST(QuantizerRule, TheMostNegativeCodeNeverAppears) {
  const PackedMatrix eight = quantized_row({-3, 1, 2.9f}, 8), four = quantized_row({-3, 1, 2.9f}, 4);
  EXPECT_EQ(codes_of(eight.view(), 0)[0], -127);
  EXPECT_EQ(codes_of(four.view(), 0)[0], -7);
  std::mt19937 random(2);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const ScaleType type : every_scale) {
      const std::vector<float> weights = oracle::random_weights(64, 257, random);
      const PackedMatrix packed = quantize<PerChannel>(MatrixView(weights.data(), 64, 257), bits, type);
      for (std::size_t r = 0; r < 64; ++r) ASSERT_THAT(codes_of(packed.view(), r), Each(testing::Ge(-lsaq::code_limit(bits))));
    }
}

TEST(QuantizerRule, ZeroRowsHaveScalePlusZeroAndCodesZero) {
  for (const ScaleType type : every_scale)
    for (const unsigned bits : {8u, 4u, 3u}) {
      const std::vector<float> weights = {1, -2, 3, 0, 0, 0, -0.0f, -0.0f, -0.0f, -0.0f, 0, -0.0f, 3, 2, -1};
      const PackedMatrix packed = quantize<PerChannel>(MatrixView(weights.data(), 5, 3), bits, type);
      for (const std::size_t r : {1, 2, 3}) {
        EXPECT_EQ(scale_of(packed.view(), r), 0.0f);
        EXPECT_FALSE(std::signbit(scale_of(packed.view(), r)));
        EXPECT_THAT(codes_of(packed.view(), r), Each(0));
      }
      oracle::expect_quantized(weights, 5, 3, bits, type); // its neighbours are as without it
    }
}

TEST(QuantizerRule, Fp32SubnormalRows) {
  const std::vector<float> row = {1e-40f, -0.5e-40f, 0};
  const PackedMatrix f32 = quantized_row(row, 8, ScaleType::f32);
  EXPECT_EQ(scale_of(f32.view(), 0), oracle::quotient(1e-40f, 127));
  EXPECT_THAT(codes_of(f32.view(), 0), ElementsAre(127, -63, 0)); // 71362 and 35681 units by a scale of 562
  const PackedMatrix f16 = quantized_row(row, 8, ScaleType::f16); // rounded up to the smallest scale there is
  EXPECT_EQ(scale_of(f16.view(), 0), 0x1p-24f);
  EXPECT_THAT(codes_of(f16.view(), 0), Each(0));
  const PackedMatrix bf16 = quantized_row(row, 8, ScaleType::bf16); // nearest: 0, a zero row
  EXPECT_EQ(scale_of(bf16.view(), 0), 0.0f);
  EXPECT_THAT(codes_of(bf16.view(), 0), Each(0));
}

TEST(QuantizerRule, AScaleThatUnderflowsMakesAZeroRow) {
  for (const ScaleType type : every_scale) {
    const PackedMatrix packed = quantized_row({smallest, -smallest, 0}, 8, type); // smallest / 127 is 0 in FP32
    EXPECT_EQ(scale_of(packed.view(), 0), 0.0f);
    EXPECT_THAT(codes_of(packed.view(), 0), Each(0));
  }
  for (const ScaleType type : every_scale) {
    const std::vector<float> row = {63 * smallest, 64 * smallest, 190 * smallest, -191 * smallest}; // one row each, around half of the smallest scale
    for (std::size_t r = 0; r < row.size(); ++r) oracle::expect_quantized({row[r]}, 1, 1, 8, type);
  }
}

TEST(QuantizerRule, SubnormalF16ScalesAreRoundedUpAndClampNothing) {
  for (const unsigned bits : {8u, 4u}) {
    const auto limit = static_cast<float>(lsaq::code_limit(bits));
    std::vector<float> maxima = {9.6e-6f, 3.79e-6f, 2.09e-7f, 0x1p-40f, smallest * 1024};
    for (int k = 1; k <= 1030; ++k)
      for (const float value : {limit * static_cast<float>(k) * 0x1p-24f, limit * (static_cast<float>(k) + 0.5f) * 0x1p-24f})
        maxima.insert(maxima.end(), {value, std::nextafter(value, 0.0f), std::nextafter(value, 1.0f)});
    for (const float largest : maxima) {
      const PackedMatrix packed = quantized_row({largest, -largest / 3}, bits);
      const float exact = oracle::quotient(largest, limit), stored = scale_of(packed.view(), 0);
      if (exact >= 0x1p-14f) {
        ASSERT_EQ(stored, oracle::scale(largest, bits, ScaleType::f16));
        continue;
      }
      ASSERT_GE(stored, exact);
      ASSERT_LT(stored - 0x1p-24f, exact) << "the next multiple of 2^-24, no further";
      ASSERT_LE(static_cast<double>(largest) / static_cast<double>(stored), limit * (1 + 0x1p-23)) << "nothing is left to clamp";
    }
    for (const float largest : maxima) oracle::expect_quantized({largest, -largest / 3}, 1, 2, bits, ScaleType::f16);
  }
  EXPECT_EQ(scale_of(quantized_row({9.6e-6f}, 8).view(), 0), 0x1p-23f); // 9.6e-6 / 127 = 1.27 * 2^-24
  EXPECT_EQ(codes_of(quantized_row({9.6e-6f}, 8).view(), 0)[0], 81);    // 80.53: rounding to nearest would have asked for 161
}

TEST(QuantizerRule, LargestF16ScaleIsReached) {
  for (const unsigned bits : {8u, 4u}) {
    const float beyond = 65520.0f * static_cast<float>(lsaq::code_limit(bits)); // 8321040 and 458640
    const PackedMatrix packed = quantized_row({std::nextafter(beyond, 0.0f), 1}, bits);
    EXPECT_EQ(scale_of(packed.view(), 0), 65504.0f);
    EXPECT_THAT(codes_of(packed.view(), 0), ElementsAre(lsaq::code_limit(bits), 0));
    EXPECT_THROW(quantized_row({beyond, 1}, bits), lsaq::InvalidArgument);
  }
}

TEST(QuantizerRule, WiderScalesHaveNoSuchLimit) {
  constexpr float huge = std::numeric_limits<float>::max();
  for (const ScaleType type : {ScaleType::bf16, ScaleType::f32})
    for (const unsigned bits : {8u, 4u, 3u}) {
      const PackedMatrix packed = quantized_row({1e7f, -huge, huge}, bits, type);
      EXPECT_THAT(codes_of(packed.view(), 0), ElementsAre(0, -lsaq::code_limit(bits), lsaq::code_limit(bits)));
    }
  EXPECT_EQ(scale_of(quantized_row({huge}, 2, ScaleType::f32).view(), 0), huge);
  EXPECT_THROW(quantized_row({huge}, 2, ScaleType::bf16), lsaq::InvalidArgument); // Q = 1: the maximum itself rounds beyond BF16
}

TEST(QuantizerRule, CodesAreChosenFromTheStoredScale) {
  // s = 1 + 0.4 * 2^-10 is stored as 1: the tie candidate is judged by 1, not by s.
  const float largest = 127 * (1 + 0.4f * 0x1p-10f), value = 63.5f + 0x1p-10f;
  const PackedMatrix packed = quantized_row({largest, value}, 8);
  EXPECT_EQ(scale_of(packed.view(), 0), 1.0f);
  EXPECT_EQ(codes_of(packed.view(), 0)[1], 64);
  EXPECT_EQ(codes_of(quantized_row({largest, value}, 8, ScaleType::f32).view(), 0)[1], 63);
}

TEST(QuantizerRule, DividesAndDoesNotMultiplyByTheReciprocal) {
  // Elements whose quotient is a tie only if it is computed by a true division.
  std::mt19937 random(3);
  std::size_t differ = 0;
  for (int i = 0; i < 200000; ++i) {
    const float s = std::bit_cast<float>(0x3f800000u | static_cast<std::uint32_t>(random() & 0x7fffffu)), reciprocal = oracle::quotient(1, s);
    const float value = s * (static_cast<float>(random() % 127) + 0.5f);
    const int by_division = oracle::code(value, s, 8);
    volatile float product = value * reciprocal;
    if (static_cast<int>(std::nearbyint(product)) == by_division) continue;
    ++differ;
    for (const lsaq::Isa isa : oracle::runnable_paths()) {
      float values[32]; // whole vectors and a tail
      std::uint8_t codes[33];
      std::fill(std::begin(values), std::end(values), value);
      lsaq::kernels_of(isa).quantize(values, 32, s, {-127, 127, 128}, codes);
      lsaq::kernels_of(isa).quantize(values, 1, s, {-127, 127, 128}, codes + 32);
      ASSERT_THAT(codes, Each(by_division + 128)) << name_of(isa);
    }
  }
  EXPECT_GT(differ, 100u) << "the cases do tell the two apart";
}

TEST(QuantizerRule, EqualElementsGetTheLargestCode) {
  const PackedMatrix packed = quantized_row(std::vector<float>(40, 0.125f), 8);
  EXPECT_THAT(codes_of(packed.view(), 0), Each(127));
  std::vector<float> back(40);
  lsaq::dequantize(packed.view(), {back.data(), 1, 40});
  EXPECT_THAT(back, Each(testing::FloatNear(0.125f, 0.125f * 0x1p-11f))); // half a unit of the F16 scale
}

TEST(QuantizerRule, OneOutlierTakesTheWholeGrid) {
  std::vector<float> row(33, 0.05f);
  row[20] = -1e4f;
  std::vector<int> expected(33, 0);
  expected[20] = -127;
  EXPECT_EQ(codes_of(quantized_row(row, 8).view(), 0), expected);
}

TEST(QuantizerRule, OneColumn) {
  const std::vector<float> column = {1, -1, 0, 0.3f, -1e-3f, -0.0f};
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits) {
    const PackedMatrix packed = quantize<PerChannel>(MatrixView(column.data(), 6, 1), bits, ScaleType::f32);
    const int limit = lsaq::code_limit(bits);
    const int expected[] = {limit, -limit, 0, limit, -limit, 0};
    for (std::size_t r = 0; r < 6; ++r) EXPECT_THAT(codes_of(packed.view(), r), ElementsAre(expected[r])) << bits << " bits, row " << r;
  }
}

/// All finite F16 values up to a row's maximum, against the exact quotient.
TEST(QuantizerRule, EveryF16ValueInRowsOfSeveralMaxima) {
  for (const unsigned maximum : {0x7bffu, 0x57f0u, 0x3c00u, 0x3555u, 0x211fu, 0x1fe0u, 0x0400u, 0x0065u, 0x0001u}) {
    std::vector<float> row;
    for (unsigned bits = 0; bits <= maximum; ++bits)
      for (const float sign : {1.0f, -1.0f}) row.push_back(sign * static_cast<float>(float_oracle::magnitude_of(float_oracle::binary16, bits)));
    for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
      for (const ScaleType type : every_scale) {
        oracle::expect_quantized(row, 1, row.size(), bits, type);
        ASSERT_FALSE(HasFatalFailure());
      }
    // With 16-bit weights and scales FP32 division never lands on a tie that the exact quotient misses, so the nearest point is chosen always.
    for (const unsigned bits : {8u, 4u}) {
      const float scale = oracle::scale(row.back(), bits, ScaleType::f16);
      for (const float value : row) ASSERT_EQ(std::abs(oracle::code(value, scale, bits)), oracle::nearest_of_exact(value, scale, lsaq::code_limit(bits)));
    }
  }
}

TEST(QuantizerRule, HalfSourcesGiveTheBytesOfTheirValues) {
  std::mt19937 random(4);
  for (const std::size_t columns : {1, 7, 33, 300, 513}) {
    std::vector<lsaq::f16> halves(4 * columns);
    std::vector<lsaq::bf16> brains(4 * columns);
    std::vector<float> half_values, brain_values;
    for (std::size_t i = 0; i < halves.size(); ++i) {
      halves[i].bits = static_cast<std::uint16_t>(random() & (i / columns == 1 ? 0x83ffu : 0xbfffu)); // row 1: subnormals only
      brains[i].bits = static_cast<std::uint16_t>(random() & 0xbfffu);
      half_values.push_back(static_cast<float>(float_oracle::value_of(float_oracle::binary16, halves[i].bits)));
      brain_values.push_back(static_cast<float>(float_oracle::value_of(float_oracle::bfloat16, brains[i].bits)));
    }
    for (const unsigned bits : {8u, 4u})
      for (const ScaleType type : every_scale) {
        EXPECT_EQ(oracle::bytes_of(quantize<PerChannel>(MatrixView(halves.data(), 4, columns), bits, type)),
                  oracle::packed(half_values, 4, columns, bits, type));
        EXPECT_EQ(oracle::bytes_of(quantize<PerChannel>(MatrixView(brains.data(), 4, columns), bits, type)),
                  oracle::packed(brain_values, 4, columns, bits, type));
      }
  }
}

} // namespace quantizer_rule_test
