// The oracle: every kernel as the plainest loop that says what it computes.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/kernel_table.hpp>
#include <lsaq/kernels/cpu/pack_codes.hpp>
#include <lsaq/kernels/cpu/scalar_decoder.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#if LSAQ_X86
#include <xmmintrin.h>
#endif

namespace lsaq::inline v0::inline LSAQ_BASELINE::scalar {

/// Nearest integer, ties to even, whatever -ffast-math does to the consumer; |value| < 2^31, default rounding mode.
inline int round_half_even(float value) noexcept {
#if LSAQ_X86
  return _mm_cvtss_si32(_mm_set_ss(value));
#else
  return static_cast<int>(std::lrint(value));
#endif
}

/// a / b rounded once, whatever -ffast-math does to the consumer: unseen, b has no reciprocal the compiler could multiply by instead, and a quotient that is
/// used at once can't be one lane of a vector, which Clang divides by estimates.
inline float divide(float a, float b) noexcept {
#if LSAQ_X86 && defined(__GNUC__)
  asm volatile("" : "+x"(b));
  float quotient = a / b;
  asm volatile("" : "+x"(quotient));
  return quotient;
#elif LSAQ_ARM64 && defined(__GNUC__)
  asm volatile("" : "+w"(b));
  float quotient = a / b;
  asm volatile("" : "+w"(quotient));
  return quotient;
#else
  return a / b;
#endif
}

/// The unsigned code at `column` of a canonically packed row; reads only bytes the code occupies.
inline unsigned unpack_code(const std::byte* row, unsigned bits, std::size_t column) noexcept {
  const std::size_t first_bit = column * bits;
  const std::byte* at = row + first_bit / 8;
  const unsigned shift = static_cast<unsigned>(first_bit % 8);
  unsigned word = std::to_integer<unsigned>(at[0]);
  if (shift + bits > 8) word |= std::to_integer<unsigned>(at[1]) << 8;
  return (word >> shift) & ((1u << bits) - 1u);
}

/// Weight at `column` as FP32; codes without their scale.
inline float weight_at(const std::byte* row, WeightFormat format, std::size_t column) noexcept {
  if (!format.packed()) return load_element(row, format.element, column);
  return static_cast<float>(static_cast<int>(unpack_code(row, format.bits, column)) - (1 << (format.bits - 1)));
}

inline void widen(const void* in, ElementType type, std::size_t n, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = load_element(in, type, i);
}

inline void widen_codes(const std::byte* row, unsigned bits, std::size_t first_column, std::size_t n, float* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = weight_at(row, {.bits = bits}, first_column + i);
}

inline void narrow_f16(const float* in, std::size_t n, f16* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = to_f16(in[i]);
}

inline std::uint32_t magnitude_bits(const float* in, std::size_t n) noexcept {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<std::uint32_t>(in[i]) & 0x7fffffffu);
  return largest;
}

inline void quantize(const float* in, std::size_t n, float scale, CodeBounds bounds, std::uint8_t* out) noexcept {
  for (std::size_t i = 0; i < n; ++i)
    out[i] = static_cast<std::uint8_t>(std::clamp(round_half_even(divide(in[i], scale)), bounds.lowest, bounds.highest) + bounds.offset);
}

inline void extremes(const Elements& in, std::size_t group, bool by_sign, Extremes* out) noexcept {
  for (std::size_t first = 0; first < in.count; first += group, ++out) {
    *out = {};
    for (std::size_t i = first; i < std::min(first + group, in.count); ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(load_element(in.data, in.type, i));
      std::uint32_t& largest = bits >> 31 == 0 ? out->positive : out->negative;
      largest = std::max(largest, bits & 0x7fffffffu);
    }
    if (!by_sign) out->positive = out->negative = std::max(out->positive, out->negative);
  }
}

inline void quantize_packed(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void*) noexcept {
  std::uint8_t codes[32]; // packed, they fill whole words
  for (std::size_t first = 0; first < in.count; first += sizeof codes) {
    const std::size_t count = std::min(sizeof codes, in.count - first);
    const float scale = scales[first / group];
    for (std::size_t i = 0; i < count; ++i) {
      const float value = load_element(in.data, in.type, first + i);
      codes[i] = static_cast<std::uint8_t>(bounds.offset);
      if (scale != 0) quantize(&value, 1, scale, bounds, codes + i);
    }
    pack_codes(codes, count, bounds.bits(), static_cast<std::uint8_t>(bounds.offset), out + first * bounds.bits() / 8);
  }
}

inline void dot_rows(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept {
  for (std::size_t r = 0; r < rows; ++r) {
    float sum = 0;
    for (std::size_t c = 0; c < columns; ++c) sum += weight_at(weights.row(r), weights.format, c) * x[c];
    y[r] = sum;
  }
}

inline void unpack(const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t columns, float* panel) noexcept {
  for (std::size_t k = 0; k < columns; ++k)
    for (std::size_t r = 0; r < panel_rows; ++r) panel[k * panel_rows + r] = r < rows ? weight_at(weights.row(r), weights.format, first_column + k) : 0.0f;
}

inline void product(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                    bool accumulate, const Ahead&) noexcept {
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t lane = 0; lane < panels.lanes; ++lane) {
      const float* column = panels.data + lane / panel_rows * panels.panel_stride + lane % panel_rows;
      float sum = 0;
      for (std::size_t k = 0; k < depth; ++k) sum += x[i * x_stride + k] * column[k * panels.step];
      float& out = y[i * y_stride + lane];
      out = accumulate ? out + sum : sum;
    }
}

inline std::uint64_t above(const float* values, const float* limits, std::size_t n) noexcept {
  std::uint64_t mask = 0;
  for (std::size_t i = 0; i < n; ++i) mask |= std::uint64_t{!(values[i] <= limits[i])} << i;
  return mask;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::scalar
