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

/// Scales at once in store_scales().
inline constexpr std::size_t most_scales = 64;

/// stored_scale() of up to 64 ranges, given by their extremes, and the bytes of these scales; false if one is not finite, which they all may be then.
inline bool store_scales(const Extremes* extremes, std::size_t count, const PackedFormat& format, const CpuKernels& kernels, float* scales,
                         std::byte* stored) noexcept {
  constexpr std::uint32_t infinity = 0x7f800000u, smallest_normal_f16 = 0x38800000u;
  const auto highest = static_cast<float>(format.highest_code()), lowest = static_cast<float>(-format.lowest_code());
  std::uint32_t largest = 0; // of magnitudes, and then of scales, as bits
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint32_t magnitude = std::max(extremes[i].positive, extremes[i].negative);
    largest = std::max(largest, magnitude);
    scales[i] = scalar::divide(std::bit_cast<float>(format.range == CodeRange::full ? extremes[i].positive : magnitude), highest);
    if (format.range == CodeRange::full) scales[i] = std::max(scales[i], scalar::divide(std::bit_cast<float>(extremes[i].negative), lowest));
  }
  if (largest >= infinity) return false;
  if (format.scale == ScaleType::f16) { // by vectors what is not subnormal
    f16 halves[most_scales];
    float rounded[most_scales];
    kernels.narrow_f16(scales, count, halves);
    kernels.widen(halves, ElementType::f16, count, rounded);
    for (std::size_t i = 0; i < count; ++i) {
      if (std::bit_cast<std::uint32_t>(scales[i]) < smallest_normal_f16) halves[i] = to_f16(rounded[i] = round_scale(scales[i], format.scale));
      largest = std::max(largest, std::bit_cast<std::uint32_t>(scales[i] = rounded[i]));
    }
    std::memcpy(stored, halves, count * sizeof(f16));
    return largest < infinity;
  }
  for (std::size_t i = 0; i < count; ++i) {
    scales[i] = round_scale(scales[i], format.scale);
    store_scale(scales[i], format.scale, stored, i);
    largest = std::max(largest, std::bit_cast<std::uint32_t>(scales[i]));
  }
  return largest < infinity;
}

/// Scale of the code at (row, column), widened to FP32.
inline float scale_at(PackedView packed, std::size_t row, std::size_t column = 0) noexcept {
  return load_scale(packed.scale_data(), packed.scale_type, packed.scale_index(row, column));
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
