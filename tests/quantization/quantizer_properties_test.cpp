// What holds for every matrix: error bound, idempotence, symmetries.
#include <lsaq/quantization/quantizer.hpp>

#include "quantization/oracle.hpp"

#include <algorithm>
#include <numeric>

namespace quantizer_properties_test {

using lsaq::MatrixView;
using lsaq::PackedMatrix;
using lsaq::PerChannel;
using lsaq::ScaleType;
using oracle::codes_of;
using oracle::scale_of;

constexpr std::size_t rows = 24, columns = 77;

struct Case {
  unsigned bits;
  ScaleType scale;
};

std::string name_of_case(const testing::TestParamInfo<Case>& info) { return std::to_string(info.param.bits) + "bits" + std::string(name_of(info.param.scale)); }

std::vector<Case> cases() {
  std::vector<Case> all;
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const ScaleType scale : oracle::every_scale) all.push_back({bits, scale});
  return all;
}

class QuantizerProperties : public testing::TestWithParam<Case> {
protected:
  PackedMatrix quantize(const std::vector<float>& weights) const {
    return lsaq::quantize<PerChannel>(MatrixView(weights.data(), rows, columns), GetParam().bits, GetParam().scale);
  }

  static std::vector<float> dequantize(const PackedMatrix& packed) {
    std::vector<float> values(rows * columns);
    lsaq::dequantize(packed.view(), {values.data(), rows, columns});
    return values;
  }

  std::vector<float> weights(unsigned seed) const {
    std::mt19937 random(seed);
    return oracle::random_weights(rows, columns, random);
  }

  static bool is_normal(float scale) { return scale >= 0x1p-14f; } // in F16, the narrowest of the three
};

INSTANTIATE_TEST_SUITE_P(Widths, QuantizerProperties, testing::ValuesIn(cases()), name_of_case);

TEST_P(QuantizerProperties, TheErrorIsAtMostHalfAStep) {
  for (unsigned seed = 1; seed <= 5; ++seed) {
    const std::vector<float> original = weights(seed);
    const PackedMatrix packed = quantize(original);
    const std::vector<float> back = dequantize(packed);
    for (std::size_t i = 0; i < back.size(); ++i) {
      const double step = scale_of(packed.view(), i / columns);
      ASSERT_LE(std::fabs(static_cast<double>(original[i]) - back[i]), step / 2 * (1 + 0x1p-20)) << "row " << i / columns << ", column " << i % columns;
    }
  }
}

TEST_P(QuantizerProperties, RowsBelowTheScalesRangeLoseAtMostTheirMaximum) {
  std::vector<float> tiny = weights(6);
  for (float& value : tiny) value = std::ldexp(value, -20);
  const std::vector<float> back = dequantize(quantize(tiny));
  for (std::size_t r = 0; r < rows; ++r) {
    float largest = 0;
    for (std::size_t c = 0; c < columns; ++c) largest = std::max(largest, std::fabs(tiny[r * columns + c]));
    for (std::size_t c = 0; c < columns; ++c) ASSERT_LE(std::fabs(tiny[r * columns + c] - back[r * columns + c]), largest);
  }
}

TEST_P(QuantizerProperties, QuantizingTheResultChangesNothing) {
  const PackedMatrix first = quantize(weights(7));
  const PackedMatrix second = quantize(dequantize(first));
  for (std::size_t r = 0; r < rows; ++r) {
    const float scale = scale_of(first.view(), r);
    if (!is_normal(scale)) continue;
    EXPECT_EQ(codes_of(second.view(), r), codes_of(first.view(), r)) << "row " << r;
    if (GetParam().scale == ScaleType::f32) // Q * s is rounded once, and divided by Q again
      EXPECT_NEAR(scale_of(second.view(), r), scale, scale * 0x1p-23f);
    else
      EXPECT_EQ(scale_of(second.view(), r), scale);
  }
}

TEST_P(QuantizerProperties, NegatedWeightsGetNegatedCodes) {
  std::vector<float> original = weights(8);
  const PackedMatrix plus = quantize(original);
  for (float& value : original) value = -value;
  const PackedMatrix minus = quantize(original);
  for (std::size_t r = 0; r < rows; ++r) {
    EXPECT_EQ(scale_of(minus.view(), r), scale_of(plus.view(), r));
    std::vector<int> codes = codes_of(minus.view(), r);
    for (int& code : codes) code = -code;
    EXPECT_EQ(codes, codes_of(plus.view(), r)) << "row " << r;
  }
}

TEST_P(QuantizerProperties, PowersOfTwoScaleTheScale) {
  const std::vector<float> original = weights(9);
  const PackedMatrix base = quantize(original);
  for (const int power : {-3, -1, 1, 4}) {
    std::vector<float> scaled = original;
    for (float& value : scaled) value = std::ldexp(value, power);
    const PackedMatrix packed = quantize(scaled);
    for (std::size_t r = 0; r < rows; ++r) {
      const float expected = std::ldexp(scale_of(base.view(), r), power);
      if (!is_normal(expected) || !is_normal(scale_of(base.view(), r))) continue;
      EXPECT_EQ(scale_of(packed.view(), r), expected);
      EXPECT_EQ(codes_of(packed.view(), r), codes_of(base.view(), r)) << "row " << r << " times 2^" << power;
    }
  }
}

TEST_P(QuantizerProperties, PermutedRowsAndColumnsStayPermuted) {
  const std::vector<float> original = weights(10);
  std::vector<std::size_t> row_order(rows), column_order(columns);
  std::iota(row_order.begin(), row_order.end(), 0);
  std::iota(column_order.begin(), column_order.end(), 0);
  std::mt19937 random(11);
  std::shuffle(row_order.begin(), row_order.end(), random);
  std::shuffle(column_order.begin(), column_order.end(), random);
  std::vector<float> permuted(original.size());
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t c = 0; c < columns; ++c) permuted[r * columns + c] = original[row_order[r] * columns + column_order[c]];
  const PackedMatrix base = quantize(original), packed = quantize(permuted);
  for (std::size_t r = 0; r < rows; ++r) {
    EXPECT_EQ(scale_of(packed.view(), r), scale_of(base.view(), row_order[r]));
    const std::vector<int> codes = codes_of(packed.view(), r), unpermuted = codes_of(base.view(), row_order[r]);
    for (std::size_t c = 0; c < columns; ++c) ASSERT_EQ(codes[c], unpermuted[column_order[c]]) << "row " << r << ", column " << c;
  }
}

TEST_P(QuantizerProperties, ARowAloneGetsTheBytesItHasInTheMatrix) {
  const std::vector<float> original = weights(12);
  const PackedMatrix whole = quantize(original);
  const lsaq::PackedView view = whole.view();
  for (std::size_t r = 0; r < rows; ++r) {
    const PackedMatrix alone = lsaq::quantize<PerChannel>(MatrixView(original.data(), rows, columns).slice(r, 1), GetParam().bits, GetParam().scale);
    EXPECT_EQ(std::memcmp(alone.view().data, view.codes(r), view.row_bytes()), 0) << "row " << r;
    EXPECT_EQ(std::memcmp(alone.view().scale_data(), view.scale_data() + r * size_of(view.scale_type), size_of(view.scale_type)), 0);
  }
}

} // namespace quantizer_properties_test
