// The elementwise functions of a path decide stored bytes, so they have to agree with the oracle in every bit: on every kind of float, NaN included.
#pragma once

#include "kernels/kernel_contract.hpp"

namespace oracle_agreement {

using namespace kernel_cases;

inline const CpuKernels& oracle() { return lsaq::kernels_of(Isa::scalar); }

/// Floats with random bits.
inline std::vector<float> random_patterns() {
  std::mt19937 random(9);
  std::vector<float> values(100001);
  for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  return values;
}

inline void widens_the_same(const CpuKernels& kernels) {
  std::vector<std::uint16_t> patterns(0x10007);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  for (const ElementType type : {ElementType::f16, ElementType::bf16}) {
    std::vector<float> a(patterns.size()), b(patterns.size());
    oracle().widen(patterns.data(), type, patterns.size(), a.data());
    kernels.widen(patterns.data(), type, patterns.size(), b.data());
    for (std::size_t i = 0; i < a.size(); ++i) // signaling NaN becomes quiet in hardware: any NaN is as good
      ASSERT_TRUE(kernel_contract::bits_of(a[i]) == kernel_contract::bits_of(b[i]) || (std::isnan(a[i]) && std::isnan(b[i]))) << i;
  }
  const std::vector<float> values = random_patterns();
  std::vector<float> copy(values.size());
  kernels.widen(values.data(), ElementType::f32, copy.size(), copy.data());
  EXPECT_EQ(std::memcmp(copy.data(), values.data(), copy.size() * sizeof(float)), 0) << "FP32 passes through untouched, NaN included";
}

inline void narrows_the_same(const CpuKernels& kernels) {
  const std::vector<float> values = random_patterns();
  std::vector<lsaq::f16> a(values.size()), b(a.size());
  oracle().narrow_f16(values.data(), a.size(), a.data());
  kernels.narrow_f16(values.data(), b.size(), b.data());
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(values[i])) { // payloads are not promised
      ASSERT_GT(a[i].bits & 0x7fff, 0x7c00);
      ASSERT_GT(b[i].bits & 0x7fff, 0x7c00);
      ASSERT_EQ(a[i].bits & 0x8000, b[i].bits & 0x8000);
    } else {
      ASSERT_EQ(a[i].bits, b[i].bits) << std::hexfloat << values[i];
    }
  }
}

inline void finds_the_same_magnitude(const CpuKernels& kernels) {
  const std::vector<float> values = random_patterns();
  for (std::size_t n = 0; n <= 100; ++n)
    for (std::size_t first = 0; first < 3000; first += 97)
      ASSERT_EQ(oracle().magnitude_bits(&values[first], n), kernels.magnitude_bits(&values[first], n)) << first << ", " << n;
}

inline void quantizes_the_same(const CpuKernels& kernels) {
  std::mt19937 random(12);
  std::lognormal_distribution<float> magnitudes(0, 2);
  for (unsigned bits = 2; bits <= 8; ++bits)
    for (int round = 0; round < 400; ++round) {
      const int limit = (1 << (bits - 1)) - 1;
      const lsaq::CodeBounds bounds{-limit - round % 2, limit, limit + 1}; // symmetric, full
      const std::size_t n = random() % 150;
      const float scale = std::ldexp(magnitudes(random), static_cast<int>(random() % 240) - 130); // subnormal ones too
      if (scale == 0) continue;
      const Exact<float> in(n, sizeof(float));
      for (float& value : in) value = scale * static_cast<float>(limit + 2) * std::uniform_real_distribution<float>(-1, 1)(random);
      if (n > 3) in[n / 2] = scale * 1.5f, in[n / 3] = -0.0f, in[n - 1] = std::numeric_limits<float>::denorm_min() * (scale > 1e-38f ? 1.0f : 0.0f);
      const Exact<std::uint8_t> a(n), b(n);
      oracle().quantize(in.data(), n, scale, bounds, a.data());
      kernels.quantize(in.data(), n, scale, bounds, b.data());
      ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin())) << n << " values, scale " << scale;
    }
}

inline void unpacks_the_same(const CpuKernels& kernels) {
  std::mt19937 random(13);
  for (const WeightFormat format : all_formats())
    for (const std::size_t columns : all_columns()) {
      const Weights weights(format, lsaq::panel_rows, columns, Numbers::any, random);
      std::vector<float> a(columns * lsaq::panel_rows), b(a.size());
      oracle().unpack(weights.rows(), lsaq::panel_rows, 0, columns, a.data());
      kernels.unpack(weights.rows(), lsaq::panel_rows, 0, columns, b.data());
      ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << name_of(format) << ", " << columns << " columns";
    }
}

} // namespace oracle_agreement

/// Defines the tests of the path `isa` in the suite `suite`.
#define LSAQ_ORACLE_AGREEMENT(suite, isa)                                                                                                                      \
  LSAQ_KERNEL_TEST(suite, isa, Widen, oracle_agreement::widens_the_same)                                                                                       \
  LSAQ_KERNEL_TEST(suite, isa, Narrow, oracle_agreement::narrows_the_same)                                                                                     \
  LSAQ_KERNEL_TEST(suite, isa, Magnitude, oracle_agreement::finds_the_same_magnitude)                                                                          \
  LSAQ_KERNEL_TEST(suite, isa, Quantize, oracle_agreement::quantizes_the_same)                                                                                 \
  LSAQ_KERNEL_TEST(suite, isa, Unpack, oracle_agreement::unpacks_the_same)
