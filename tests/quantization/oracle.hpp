// The quantizer from its definition, in integer arithmetic on exact fractions: expected scales, codes and packed bytes.
//
// No floating-point division or rounding happens here, so neither the host's modes nor the compiler's flags can make it agree with a wrong quantizer.
#pragma once

#include "core/float_oracle.hpp"

#include <lsaq/quantization/quantizer.hpp>

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace oracle {

using lsaq::CodeRange;
using lsaq::ScaleType;

inline constexpr ScaleType every_scale[] = {ScaleType::f16, ScaleType::bf16, ScaleType::f32};
inline constexpr CodeRange every_range[] = {CodeRange::symmetric, CodeRange::full};
inline constexpr lsaq::Grouping every_grouping[] = {{}, {.columns = 32}, {.columns = 64}, {.columns = 96}, {.columns = 128}, {.whole_matrix = true}};

/// |value| = mantissa * 2^exponent; the mantissa of a value other than zero has 24 bits.
struct Magnitude {
  std::uint64_t mantissa;
  int exponent;

  explicit Magnitude(float value) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(value) & 0x7fffffffu;
    const int stored = static_cast<int>(bits >> 23);
    mantissa = stored == 0 ? bits : (bits & 0x7fffffu) | 0x800000u;
    exponent = (stored == 0 ? 1 : stored) - 150;
    for (; mantissa != 0 && mantissa < 0x800000u; mantissa <<= 1) --exponent;
  }
};

/// (value + something in (0, 1) if `more`) / 2^shift, to the nearest integer, ties to even.
inline std::uint64_t shift_right(std::uint64_t value, int shift, bool more) {
  if (shift > 62) return 0;
  const std::uint64_t whole = value >> shift, rest = value - (whole << shift), half = (std::uint64_t{1} << shift) / 2;
  const bool up = rest > half || (rest == half && (more || whole % 2 != 0));
  return whole + (shift != 0 && up ? 1 : 0);
}

/// |a| / |b| rounded to the nearest FP32 number, ties to even, subnormal results included; b is not zero.
inline float quotient(float a, float b) {
  const Magnitude top(a), bottom(b);
  if (top.mantissa == 0) return 0;
  const std::uint64_t dividend = top.mantissa << 39; // 63 bits: the quotient has 39 or 40
  const std::uint64_t whole = dividend / bottom.mantissa;
  const int exponent = top.exponent - bottom.exponent - 39;
  const int last = std::max(exponent + static_cast<int>(std::bit_width(whole)) - 24, -149); // exponent of the result's last bit
  return static_cast<float>(std::ldexp(static_cast<double>(shift_right(whole, last - exponent, dividend % bottom.mantissa != 0)), last));
}

/// round_half_even(|w| / |s|) of the exact quotient, which FP32 division may round onto a tie first; at most `limit`.
inline int nearest_of_exact(float w, float s, int limit) {
  const Magnitude top(w), bottom(s);
  const int exponent = top.exponent - bottom.exponent;
  if (top.mantissa == 0 || exponent < -30) return 0;
  if (exponent > 30) return limit;
  const unsigned __int128 a = static_cast<unsigned __int128>(top.mantissa) << std::max(exponent, 0);
  const unsigned __int128 b = static_cast<unsigned __int128>(bottom.mantissa) << std::max(-exponent, 0);
  const unsigned __int128 whole = a / b, twice_rest = 2 * (a % b);
  const unsigned __int128 rounded = whole + (twice_rest > b || (twice_rest == b && whole % 2 != 0) ? 1 : 0);
  return rounded > static_cast<unsigned>(limit) ? limit : static_cast<int>(rounded);
}

/// round_half_even(FP32 quotient), clamped to -limit .. limit or, with the full range, one further down; with the sign of w.
inline int code(float w, float s, unsigned bits, CodeRange range = CodeRange::symmetric) {
  if (s == 0) return 0;
  const int limit = (1 << (bits - 1)) - (std::signbit(w) && range == CodeRange::full ? 0 : 1);
  const Magnitude value(quotient(w, s));
  const int magnitude = value.exponent >= 0 ? limit : static_cast<int>(std::min<std::uint64_t>(shift_right(value.mantissa, -value.exponent, false), limit));
  return std::signbit(w) ? -magnitude : magnitude;
}

inline float_oracle::Format format_of(ScaleType type) { return type == ScaleType::f16 ? float_oracle::binary16 : float_oracle::bfloat16; }

/// Bits of a scale as it is stored; infinity's where it does not fit.
inline std::uint32_t stored_bits(float scale, ScaleType type) {
  if (type == ScaleType::f32) return std::bit_cast<std::uint32_t>(scale);
  if (type == ScaleType::f16 && scale < 0x1p-14f) return float_oracle::not_below(float_oracle::binary16, scale);
  return float_oracle::nearest(format_of(type), scale);
}

/// The scale that its stored bits stand for.
inline float value_of_bits(std::uint32_t pattern, ScaleType type) {
  if (type == ScaleType::f32) return std::bit_cast<float>(pattern);
  return static_cast<float>(float_oracle::magnitude_of(format_of(type), pattern));
}

/// Bits of the stored scale of a row whose largest magnitude is `largest`.
inline std::uint32_t scale_bits(float largest, unsigned bits, ScaleType type) {
  return stored_bits(quotient(largest, static_cast<float>((1 << (bits - 1)) - 1)), type);
}

inline float scale(float largest, unsigned bits, ScaleType type) { return value_of_bits(scale_bits(largest, bits, type), type); }

/// Bits of the stored scale of some weights: the larger of what the positive ones need by the highest code and the negative ones by the lowest.
template <class Weights> std::uint32_t scale_bits_of(const Weights& weights, const lsaq::PackedFormat& format) {
  float up = 0, down = 0;
  for (const float w : weights) (std::signbit(w) ? down : up) = std::max(std::signbit(w) ? down : up, std::fabs(w));
  const auto limit = static_cast<float>((1 << (format.bits - 1)) - 1);
  return stored_bits(std::max(quotient(up, limit), quotient(down, limit + (format.range == CodeRange::full ? 1.0f : 0.0f))), format.scale);
}

/// The packed bytes of a matrix of FP32 rows: codes bit by bit, padding, scales.
inline std::vector<std::byte> packed(const std::vector<float>& weights, std::size_t rows, std::size_t columns, const lsaq::PackedFormat& format) {
  const unsigned bits = format.bits;
  const std::size_t row_bytes = (columns * bits + 31) / 32 * 4, scale_size = format.scale == ScaleType::f32 ? 4 : 2;
  const std::size_t width = format.grouping.columns == 0 ? columns : format.grouping.columns;
  const std::size_t groups = format.grouping.columns == 0 ? 1 : (columns + width - 1) / width;
  std::vector<std::uint32_t> scales; // as bits, as they are stored
  if (format.grouping.whole_matrix && rows != 0) {
    scales.push_back(scale_bits_of(weights, format));
  } else {
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t g = 0; g < groups; ++g) {
        const float* row = weights.data() + r * columns;
        scales.push_back(scale_bits_of(std::vector<float>(row + g * width, row + std::min((g + 1) * width, columns)), format));
      }
  }
  std::vector<std::byte> bytes(rows * row_bytes + scales.size() * scale_size);
  for (std::size_t r = 0; r < rows; ++r)
    for (std::size_t column = 0; column * bits < row_bytes * 8; ++column) {
      int unsigned_code = 1 << (bits - 1);
      if (column < columns) {
        const std::uint32_t pattern = scales[format.grouping.whole_matrix ? 0 : r * groups + column / width];
        unsigned_code += code(weights[r * columns + column], value_of_bits(pattern, format.scale), bits, format.range);
      }
      for (std::size_t b = 0, bit = column * bits; b < bits && bit < row_bytes * 8; ++b, ++bit)
        if ((unsigned_code >> b & 1) != 0) bytes[r * row_bytes + bit / 8] |= static_cast<std::byte>(1u << bit % 8);
    }
  for (std::size_t i = 0; i < scales.size() * scale_size; ++i)
    bytes[rows * row_bytes + i] = static_cast<std::byte>(scales[i / scale_size] >> 8 * (i % scale_size));
  return bytes;
}

inline std::vector<std::byte> packed(const std::vector<float>& weights, std::size_t rows, std::size_t columns, unsigned bits, ScaleType type) {
  return packed(weights, rows, columns, {.bits = bits, .scale = type});
}

/// Bytes as a lower-case hexadecimal string, for messages that can be read.
template <class Bytes> std::string hex(const Bytes& bytes) {
  std::string text;
  for (const std::byte byte : bytes)
    for (const int shift : {4, 0}) text += "0123456789abcdef"[std::to_integer<unsigned>(byte) >> shift & 15u];
  return text;
}

inline std::vector<std::byte> bytes_of(const lsaq::PackedMatrix& packed) {
  const lsaq::PackedView view = packed.view();
  return {view.data, view.data + view.bytes()};
}

/// Codes of a row of packed bytes, read bit by bit.
inline std::vector<int> codes_of(lsaq::PackedView packed, std::size_t row) {
  std::vector<int> codes(packed.columns, -(1 << (packed.bits - 1)));
  for (std::size_t c = 0; c < packed.columns; ++c)
    for (std::size_t b = 0; b < packed.bits; ++b) {
      const std::size_t bit = c * packed.bits + b;
      codes[c] += static_cast<int>(std::to_integer<unsigned>(packed.codes(row)[bit / 8]) >> bit % 8 & 1u) << b;
    }
  return codes;
}

/// Scale number `index` of packed bytes: of a row where rows have one.
inline float scale_of(lsaq::PackedView packed, std::size_t index) {
  const std::byte* at = packed.scale_data() + index * size_of(packed.scale_type);
  std::uint32_t pattern = 0;
  for (std::size_t i = 0; i < size_of(packed.scale_type); ++i) pattern |= std::to_integer<std::uint32_t>(at[i]) << 8 * i;
  if (packed.scale_type == ScaleType::f32) return std::bit_cast<float>(pattern);
  return static_cast<float>(float_oracle::value_of(format_of(packed.scale_type), static_cast<std::uint16_t>(pattern)));
}

/// The paths this machine runs.
inline std::vector<lsaq::Isa> runnable_paths() {
  std::vector<lsaq::Isa> paths;
  for (const lsaq::Isa isa : lsaq::all_isas)
    if (lsaq::cpu_runs(isa)) paths.push_back(isa);
  return paths;
}

/// "4 bits, F16 scales, group:32, full", for messages.
inline std::string name_of(const lsaq::PackedFormat& format) {
  return std::to_string(format.bits) + " bits, " + std::string(lsaq::name_of(format.scale)) + " scales, " + format.grouping.name() + ", " +
         std::string(lsaq::name_of(format.range));
}

/// Every path gives the oracle's bytes, padding and scales included; `values` are the weights of `view`.
inline void expect_quantized(lsaq::MatrixView view, const std::vector<float>& values, const lsaq::PackedFormat& format) {
  const std::vector<std::byte> expected = packed(values, view.rows, view.columns, format);
  ASSERT_EQ(expected.size(), lsaq::packed_bytes({view.rows, view.columns}, format));
  for (const lsaq::Isa isa : runnable_paths()) {
    std::vector<std::byte> found(expected.size(), std::byte{0xee});
    ASSERT_FALSE(lsaq::quantize_rows(view, 0, {view.rows, view.columns}, format, found, {}, lsaq::kernels_of(isa)));
    if (found == expected) continue;
    const std::size_t at = static_cast<std::size_t>(std::mismatch(found.begin(), found.end(), expected.begin()).first - found.begin());
    FAIL() << lsaq::name_of(isa) << ": " << view.rows << " x " << view.columns << " " << lsaq::name_of(view.type) << ", " << name_of(format) << ": byte " << at
           << " is " << std::to_integer<int>(found[at]) << ", not " << std::to_integer<int>(expected[at]);
  }
}

inline void expect_quantized(const std::vector<float>& weights, std::size_t rows, std::size_t columns, const lsaq::PackedFormat& format) {
  expect_quantized(lsaq::MatrixView(weights.data(), rows, columns), weights, format);
}

inline void expect_quantized(const std::vector<float>& weights, std::size_t rows, std::size_t columns, unsigned bits, ScaleType type) {
  expect_quantized(weights, rows, columns, {.bits = bits, .scale = type});
}

/// Rows of very different size, about one in eight of the weights zero or minus zero.
inline std::vector<float> random_weights(std::size_t rows, std::size_t columns, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> weights(rows * columns);
  for (std::size_t r = 0; r < rows; ++r) {
    const int exponent = static_cast<int>(random() % 12) - 8;
    for (std::size_t c = 0; c < columns; ++c) {
      const auto kind = random() % 16;
      weights[r * columns + c] = kind == 0 ? 0.0f : kind == 1 ? -0.0f : std::ldexp(normal(random), exponent);
    }
  }
  return weights;
}

} // namespace oracle
