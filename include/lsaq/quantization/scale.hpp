// Scales: from the range of the weights that share one to the number that is stored.
#pragma once

#include <lsaq/kernels/cpu/scalar.hpp>
#include <lsaq/quantization/packed_matrix.hpp>

namespace lsaq::inline v0 {

/// The smallest and the largest of some weights, and zero.
struct WeightRange {
  float lowest = 0;
  float highest = 0;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Scale number `index` of an array of scales, widened to FP32.
inline float load_scale(const std::byte* scales, ScaleType type, std::size_t index) noexcept {
  switch (type) {
  case ScaleType::f16: return load_element(scales, ElementType::f16, index);
  case ScaleType::bf16: return load_element(scales, ElementType::bf16, index);
  case ScaleType::f32: break;
  }
  return load_element(scales, ElementType::f32, index);
}

/// Writes a scale that round_scale() gave, so that nothing is rounded here.
inline void store_scale(float scale, ScaleType type, std::byte* scales, std::size_t index) noexcept {
  if (type == ScaleType::f32) {
    std::memcpy(scales + 4 * index, &scale, sizeof scale);
    return;
  }
  const std::uint16_t bits = type == ScaleType::f16 ? to_f16(scale).bits : to_bf16(scale).bits;
  std::memcpy(scales + 2 * index, &bits, sizeof bits);
}

/// A scale >= 0 as it is stored: to nearest; infinity if beyond the type's range. Runs in the default floating-point environment.
///
/// A scale that would be subnormal in F16 is rounded up to the next multiple of 2^-24, so that the largest weight stays within the codes.
inline float round_scale(float scale, ScaleType type) noexcept {
  if (type == ScaleType::f32) return scale;
  if (type == ScaleType::bf16) return to_float(to_bf16(scale));
  constexpr float smallest_normal = 0x1p-14f;
  if (scale >= smallest_normal || scale == 0) return to_float(to_f16(scale));
  const float steps = scale * 0x1p24f; // this product and the last one are exact
  const auto whole = static_cast<std::uint32_t>(steps);
  return static_cast<float>(whole + (static_cast<float>(whole) < steps ? 1u : 0u)) * 0x1p-24f;
}

/// max|W| / Q as it is stored (LSAQ, Eq. 4); infinity if beyond the type's range.
inline float stored_scale(float max_magnitude, unsigned bits, ScaleType type) noexcept {
  return round_scale(scalar::divide(max_magnitude, static_cast<float>(code_limit(bits))), type);
}

/// The smallest scale with which no weight of `range` lies beyond the codes of `format`, as it is stored.
inline float stored_scale(WeightRange range, const PackedFormat& format) noexcept {
  if (format.range == CodeRange::symmetric) return stored_scale(std::max(range.highest, -range.lowest), format.bits, format.scale); // never -0
  const float upwards = scalar::divide(range.highest, static_cast<float>(format.highest_code()));
  return round_scale(std::max(upwards, scalar::divide(range.lowest, static_cast<float>(format.lowest_code()))), format.scale);
}

/// Scale of the code at (row, column), widened to FP32.
inline float scale_at(PackedView packed, std::size_t row, std::size_t column = 0) noexcept {
  return load_scale(packed.scale_data(), packed.scale_type, packed.scale_index(row, column));
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
