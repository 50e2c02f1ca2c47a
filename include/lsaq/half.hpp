// Conversions between FP32 and the two 16-bit types: exact when widening, round to nearest even when narrowing.
#pragma once

#include <lsaq/types.hpp>

#include <bit>
#include <cstring>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

constexpr float to_float(float value) noexcept { return value; }

/// Widens exactly, subnormals, infinities and NaN included. Integer arithmetic only: flush-to-zero modes do not change it.
constexpr float to_float(f16 value) noexcept {
  const std::uint32_t sign = std::uint32_t{value.bits & 0x8000u} << 16;
  const std::uint32_t exponent = (value.bits >> 10) & 0x1fu;
  std::uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0x1f) return std::bit_cast<float>(sign | 0x7f800000u | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  if (fraction == 0) return std::bit_cast<float>(sign);
  const int shift = std::countl_zero(fraction) - 21; // brings the leading one to bit 10
  fraction = (fraction << shift) & 0x3ffu;
  return std::bit_cast<float>(sign | (static_cast<std::uint32_t>(113 - shift) << 23) | (fraction << 13));
}

constexpr float to_float(bf16 value) noexcept { return std::bit_cast<float>(std::uint32_t{value.bits} << 16); }

/// Narrows with round to nearest even; beyond 65504 (and a half step) gives infinity, NaN stays NaN.
constexpr f16 to_f16(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000u);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
  if (magnitude >= 0x38800000u) { // normal in binary16
    const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return {static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13))};
  }
  if (magnitude <= 0x33000000u) return {sign}; // up to half of the smallest subnormal, ties to even
  const std::uint32_t fraction = (magnitude & 0x7fffffu) | 0x800000u;
  const unsigned shift = 126u - (magnitude >> 23); // 14 .. 24
  const std::uint32_t half = 1u << (shift - 1);
  const std::uint32_t rounded = (fraction + half - 1 + ((fraction >> shift) & 1u)) >> shift;
  return {static_cast<std::uint16_t>(sign | rounded)};
}

/// Narrows with round to nearest even; NaN stays NaN.
constexpr bf16 to_bf16(float value) noexcept {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

/// Element `index` of an array of the given type at an address of any alignment. A Q8_0 element, scale times code, is exact in FP32.
inline float load_element(const void* data, ElementType type, std::size_t index) noexcept {
  if (type == ElementType::q8_0) {
    const auto* block = static_cast<const unsigned char*>(data) + index / q8_0_block * q8_0_block_bytes;
    std::uint16_t scale;
    std::memcpy(&scale, block, sizeof scale);
    return to_float(f16{scale}) * static_cast<float>(static_cast<std::int8_t>(block[2 + index % q8_0_block]));
  }
  const auto* bytes = static_cast<const unsigned char*>(data) + index * size_of(type);
  if (type == ElementType::f32) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return type == ElementType::f16 ? to_float(f16{bits}) : to_float(bf16{bits});
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
