// What every CPU path implements, as one table of functions chosen once per backend.
//
// Weights reach the kernels as rows of bytes in a WeightFormat; products are computed in FP32 on 16-row panels:
//
//   unpack:  panel[k * 16 + r] = weight of row r, column first_column + k, as FP32 (integer codes without their scale)
//   product: y[t][r] (+)= sum over k of x[t][k] * panel[k * 16 + r]
//
// The order of summation depends on the shapes only, never on the number of threads.
#pragma once

#include <lsaq/kernels/cpu/cpu_features.hpp>
#include <lsaq/types.hpp>

namespace lsaq::inline v0 {

/// How the weights of a row are stored: a float type, or codes of 2 to 8 bits in canonical packed order.
struct WeightFormat {
  ElementType element = ElementType::f16; ///< meaningful when bits is 0
  unsigned bits = 0;                      ///< 2 .. 8: codes plus 2^(bits-1), unsigned, first column in the lowest bits; 0: `element`

  constexpr bool packed() const noexcept { return bits != 0; }
  friend constexpr bool operator==(WeightFormat, WeightFormat) = default;
};

/// Rows of weights as the kernels see them.
struct WeightRows {
  const std::byte* data = nullptr;
  std::size_t row_bytes = 0;
  WeightFormat format;

  [[gnu::always_inline]] const std::byte* row(std::size_t r) const noexcept { return data + r * row_bytes; }
};

inline constexpr std::size_t panel_rows = 16;
inline constexpr std::size_t panel_columns = 256; ///< 16 KiB of FP32: half of a 32 KiB first-level cache

/// The functions of one instruction-set path. All are noexcept, allocate nothing and read nothing outside the ranges named.
struct CpuKernels {
  Isa isa;

  /// out[i] = in[i] widened, n elements of `type` at any alignment.
  void (*widen)(const void* in, ElementType type, std::size_t n, float* out) noexcept;

  /// out[i] = in[i] rounded to FP16, half to even; overflow becomes infinity.
  void (*narrow_f16)(const float* in, std::size_t n, f16* out) noexcept;

  /// The largest |in[i]| as the bits of a float: at least 0x7f800000 if any element is infinite or NaN; 0 for n = 0.
  std::uint32_t (*magnitude_bits)(const float* in, std::size_t n) noexcept;

  /// out[i] = clamp(round_half_even(in[i] / scale), -limit, limit) + offset, as unsigned bytes. scale > 0, all finite.
  void (*quantize)(const float* in, std::size_t n, float scale, int limit, int offset, std::uint8_t* out) noexcept;

  /// y[r] = sum over the columns of weight(r, c) * x[c], for `rows` rows.
  void (*dot_rows)(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept;

  /// Fills panel[0 .. columns * 16) from up to 16 rows; the lanes of missing rows hold nothing in particular.
  void (*unpack)(const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t columns, float* panel) noexcept;

  /// y[t * y_stride + r] (+)= sum over k < depth of x[t * x_stride + k] * panel[k * panel_stride + r], for rows <= 16.
  /// The panel must be readable for 16 floats at every k.
  void (*product)(const float* panel, std::size_t panel_stride, std::size_t depth, const float* x, std::size_t x_stride, std::size_t tokens, float* y,
                  std::size_t y_stride, std::size_t rows, bool accumulate) noexcept;
};

} // namespace lsaq::inline v0
