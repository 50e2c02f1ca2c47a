// Quantization in chunks that are widened to FP32 first: for paths and formats without kernels that read them directly.
#pragma once

#include <lsaq/kernels/cpu/scalar_integer.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE::unfused {

inline constexpr std::size_t chunk = 512; ///< elements; packed codes of 32 of any width are whole words

/// CpuKernels::extremes through a path's own `widen`.
template <auto Widen> void extremes(const Elements& in, std::size_t group, bool by_sign, Extremes* out) noexcept {
  float values[chunk];
  for (std::size_t first = 0; first < in.count; first += group, ++out) {
    *out = {};
    for (std::size_t i = first, end = std::min(first + group, in.count); i < end; i += chunk) {
      const std::size_t count = std::min(chunk, end - i);
      Widen(static_cast<const std::byte*>(in.data) + bytes_of(in.type, i), in.type, count, values);
      Extremes part;
      scalar::extremes({values, ElementType::f32, count}, count, by_sign, &part);
      *out = {std::max(out->positive, part.positive), std::max(out->negative, part.negative)};
    }
  }
}

/// CpuKernels::quantize_packed through a path's own `widen` and `quantize`.
template <auto Widen, auto Quantize>
void quantize_packed(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out) noexcept {
  float values[chunk];
  std::uint8_t codes[chunk];
  for (std::size_t first = 0; first < in.count; first += group, ++scales)
    for (std::size_t i = first, end = std::min(first + group, in.count); i < end; i += chunk) {
      const std::size_t count = std::min(chunk, end - i);
      if (*scales == 0) {
        std::memset(codes, bounds.offset, count);
      } else {
        Widen(static_cast<const std::byte*>(in.data) + bytes_of(in.type, i), in.type, count, values);
        Quantize(values, count, *scales, bounds, codes);
      }
      pack_codes(codes, count, bounds.bits(), static_cast<std::uint8_t>(bounds.offset), out + i * bounds.bits() / 8);
    }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::unfused
