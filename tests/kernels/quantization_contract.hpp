// What every path must do to quantize: extremes of weights, and codes packed by the rule, each against plain loops.
#pragma once

#include "kernels/kernel_contract.hpp"

namespace quantization_contract {

using namespace kernel_cases;
using lsaq::CodeBounds;
using lsaq::Elements;
using lsaq::Extremes;

inline constexpr ElementType every_type[] = {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0};

inline CodeBounds bounds_of(unsigned bits, bool full) {
  const int limit = (1 << (bits - 1)) - 1;
  return {-limit - (full ? 1 : 0), limit, limit + 1};
}

/// Infinity and whatever is not a number count as one value: payloads are not promised.
inline std::uint32_t finite_or_infinity(std::uint32_t magnitude) { return std::min(magnitude, 0x7f800000u); }

/// Random patterns of a type, infinite and NaN ones in some; scales of Q8_0 blocks are finite.
inline Exact<std::byte> random_elements(ElementType type, std::size_t n, bool finite, std::size_t skew, std::mt19937& random) {
  if (type == ElementType::q8_0) n = (n + 31) / 32 * 32;
  Exact<std::byte> bytes(lsaq::bytes_of(type, n), skew);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  const std::size_t step = lsaq::size_of(type), high = type == ElementType::q8_0 ? 1 : step - 1;
  for (std::size_t i = 0; i + step <= bytes.size(); i += step)
    if (finite || type == ElementType::q8_0 || random() % 64 != 0) bytes[i + high] &= std::byte{0xbf}; // F16: below 2; the others: below 2
  return bytes;
}

/// Widened by the oracle, for which the other contract has tests.
inline std::vector<float> values_of(ElementType type, const std::byte* data, std::size_t n) {
  std::vector<float> values(n);
  lsaq::kernels_of(Isa::scalar).widen(data, type, n, values.data());
  return values;
}

inline void finds_extremes(const CpuKernels& kernels) {
  std::mt19937 random(21);
  const auto check = [&](ElementType type, const std::byte* data, std::size_t n, std::size_t group) {
    const std::vector<float> values = values_of(type, data, n);
    for (const bool by_sign : {false, true}) {
      const std::size_t groups = n == 0 ? 0 : (n + group - 1) / group;
      const Exact<Extremes> found(groups);
      kernels.extremes({data, type, n}, group, by_sign, found.data());
      for (std::size_t g = 0; g < groups; ++g) {
        std::uint32_t largest[2] = {0, 0};
        for (std::size_t i = g * group; i < std::min(n, (g + 1) * group); ++i) {
          const std::uint32_t bits = kernel_contract::bits_of(values[i]);
          largest[bits >> 31] = std::max(largest[bits >> 31], finite_or_infinity(bits & 0x7fffffffu));
        }
        if (!by_sign) largest[0] = largest[1] = std::max(largest[0], largest[1]);
        ASSERT_EQ(finite_or_infinity(found[g].positive), largest[0]) << name_of(type) << ", group " << g << " of " << groups << " x " << group << ", " << n;
        ASSERT_EQ(finite_or_infinity(found[g].negative), largest[1]) << name_of(type) << ", group " << g << " of " << groups << " x " << group << ", " << n;
      }
    }
  };
  for (const ElementType type : every_type)
    for (const bool finite : {true, false})
      for (std::size_t n = 0; n <= 1500; n += n < 140 ? 1 : 97)
        for (const std::size_t group : {std::size_t{32}, std::size_t{64}, std::size_t{128}, n}) {
          const auto data = random_elements(type, n, finite, type == ElementType::q8_0 ? 0 : n % 4, random);
          check(type, data.data(), n, group);
          if (testing::Test::HasFatalFailure()) return;
        }
  for (const float one : {1.5f, -1.5f, 0.0f, -0.0f}) // one sign only
    for (const std::size_t n : {1, 8, 31, 64, 200}) {
      const std::vector<float> same(n, one);
      check(ElementType::f32, reinterpret_cast<const std::byte*>(same.data()), n, 32);
      const std::vector<std::uint16_t> halves(n, float_oracle::nearest(float_oracle::binary16, one));
      check(ElementType::f16, reinterpret_cast<const std::byte*>(halves.data()), n, 32);
      check(ElementType::bf16, reinterpret_cast<const std::byte*>(halves.data()), n, n);
    }
}

/// One call against the definition; all memory ends where it may.
inline void check_packed(const CpuKernels& kernels, ElementType type, const std::byte* data, std::size_t n, std::size_t group, const Exact<float>& scales,
                         CodeBounds bounds, const void* ahead) {
  const unsigned bits = bounds.bits();
  const std::vector<float> values = values_of(type, data, n);
  const Exact<std::byte> found((n * bits + 31) / 32 * 4, n % 3);
  kernels.quantize_packed({data, type, n}, group, scales.data(), bounds, found.data(), ahead);
  std::vector<std::byte> expected(found.size());
  for (std::size_t bit = 0; bit < expected.size() * 8; ++bit) {
    const std::size_t i = bit / bits;
    int code = bounds.offset;
    if (i < n && scales[i / group] != 0) {
      const float quotient = values[i] / scales[i / group];
      code += std::clamp(kernel_contract::half_to_even(quotient), bounds.lowest, bounds.highest);
    }
    if ((code >> bit % bits & 1) != 0) expected[bit / 8] |= static_cast<std::byte>(1u << bit % 8);
  }
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_EQ(found[i], expected[i]) << name_of(type) << ", " << n << " elements in groups of " << group << ", " << bits << " bits: byte " << i << ", scale "
                                     << std::hexfloat << scales[std::min(scales.size() - 1, i * 8 / bits / group)];
}

/// Scales as a quantizer has them, in all types, zeros, subnormal and huge ones among them.
inline float some_scale(ElementType type, float largest, CodeBounds bounds, std::mt19937& random) {
  const float exact = std::isfinite(largest) ? largest / static_cast<float>(bounds.highest) : 1.0f;
  switch (random() % 6) {
  case 0: return exact;
  case 1: return static_cast<float>(float_oracle::value_of(float_oracle::bfloat16, float_oracle::nearest(float_oracle::bfloat16, exact)));
  case 2: return exact * 0.37f; // clips
  case 3: return random() % 4 == 0 ? 0.0f : exact;
  default: break;
  }
  const float half = static_cast<float>(float_oracle::magnitude_of(float_oracle::binary16, float_oracle::not_below(float_oracle::binary16, exact)));
  return type == ElementType::q8_0 || half < 65504 ? half : exact;
}

inline void quantizes_into_packed_rows(const CpuKernels& kernels) {
  std::mt19937 random(22);
  for (const ElementType type : every_type)
    for (unsigned bits = 2; bits <= 8; ++bits)
      for (std::size_t n = 0; n <= 1200; n += n < 140 ? 1 : 131)
        for (const std::size_t group : {std::size_t{32}, std::size_t{96}, std::max<std::size_t>(n, 1)}) {
          const auto data = random_elements(type, n, true, type == ElementType::q8_0 ? 0 : n % 4, random);
          const CodeBounds bounds = bounds_of(bits, random() % 2 != 0);
          const std::vector<float> values = values_of(type, data.data(), n);
          const Exact<float> scales((n + group - 1) / group, sizeof(float));
          for (std::size_t g = 0; g < scales.size(); ++g) {
            float largest = 0;
            for (std::size_t i = g * group; i < std::min(n, (g + 1) * group); ++i) largest = std::max(largest, std::fabs(values[i]));
            scales[g] = some_scale(type, largest, bounds, random);
          }
          if (scales.size() == 0) continue;
          check_packed(kernels, type, data.data(), n, group, scales, bounds, n % 2 == 0 ? data.data() : nullptr);
          if (testing::Test::HasFatalFailure()) return;
        }
}

/// Every pair of 11-bit significands whose quotient is a code: products with reciprocals stand in for quotients there.
inline void quantizes_every_quotient_of_f16(const CpuKernels& kernels) {
  std::vector<std::uint16_t> numbers;
  std::vector<float> values;
  for (unsigned pattern = 0x2800; pattern < 0x5c00; ++pattern) { // 2^-5 to 2^8
    numbers.push_back(static_cast<std::uint16_t>(pattern | (pattern % 3 == 0 ? 0x8000u : 0u)));
    values.push_back(static_cast<float>(float_oracle::value_of(float_oracle::binary16, numbers.back())));
  }
  const CodeBounds bounds = bounds_of(8, false);
  const bool slow = kernels.isa == Isa::scalar || kernels.isa == Isa::eigen || kernels.isa == Isa::neon; // these divide
  std::vector<std::byte> codes(numbers.size());
  for (unsigned significand = 1024; significand < 2048; significand += slow ? 97 : 1) {
    const float scale = std::ldexp(static_cast<float>(significand), -10);
    kernels.quantize_packed({numbers.data(), ElementType::f16, numbers.size()}, numbers.size(), &scale, bounds, codes.data(), nullptr);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const int code = static_cast<int>(std::nearbyint(values[i] / scale)); // half to even
      ASSERT_EQ(std::to_integer<int>(codes[i]), std::clamp(code, -127, 127) + 128) << values[i] << " / " << scale;
    }
  }
}

/// FP32 numbers around ties, where only a true quotient tells; scales of any size.
inline void divides_near_ties(const CpuKernels& kernels) {
  std::mt19937 random(23);
  for (unsigned bits = 2; bits <= 8; ++bits)
    for (int round = 0; round < 3000; ++round) {
      const CodeBounds bounds = bounds_of(bits, round % 2 != 0);
      const int exponent = round % 8 == 0 ? static_cast<int>(random() % 240) - 140 : static_cast<int>(random() % 20) - 15;
      const Exact<float> scale(1);
      scale[0] = std::ldexp(std::bit_cast<float>(0x3f800000u | static_cast<std::uint32_t>(random() & 0x7fffffu)), exponent);
      if (scale[0] == 0) continue;
      const Exact<float> in(40, sizeof(float));
      for (float& value : in) {
        value = scale[0] * (static_cast<float>(static_cast<int>(random() % (2u * bounds.offset)) - bounds.offset) + 0.5f);
        for (auto steps = random() % 4; steps != 0; --steps) value = std::nextafter(value, random() % 2 == 0 ? -1e38f : 1e38f);
      }
      check_packed(kernels, ElementType::f32, reinterpret_cast<const std::byte*>(in.data()), in.size(), in.size(), scale, bounds, nullptr);
      if (testing::Test::HasFatalFailure()) return;
    }
}

} // namespace quantization_contract

/// Defines the tests of the path `isa` in the suite `suite`.
#define LSAQ_QUANTIZATION_CONTRACT(suite, isa)                                                                                                                 \
  LSAQ_KERNEL_TEST(suite, isa, FindsExtremes, quantization_contract::finds_extremes)                                                                           \
  LSAQ_KERNEL_TEST(suite, isa, QuantizesIntoPackedRows, quantization_contract::quantizes_into_packed_rows)                                                     \
  LSAQ_KERNEL_TEST(suite, isa, QuantizesEveryQuotientOfF16, quantization_contract::quantizes_every_quotient_of_f16)                                            \
  LSAQ_KERNEL_TEST(suite, isa, DividesNearTies, quantization_contract::divides_near_ties)
