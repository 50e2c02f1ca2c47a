// What every CPU path implements, as one table of functions chosen once per backend.
//
// Weights reach the kernels as rows of bytes in a WeightFormat; products are computed in FP32 between plain rows and panels, which are 16 rows transposed:
//
//   unpack:  panel[k * 16 + r] = row r, column first_column + k, as FP32 (integer codes without their scale)
//   product: y[i][lane] (+)= sum over k of x[i][k] * panel[k][lane], up to four panels side by side
//
// Either side of a matrix product may be the panels: the weights when there are few tokens, the tokens when there are many. The order of summation depends on
// the shapes only, never on the number of threads.
#pragma once

#include <lsaq/kernels/cpu/cpu_features.hpp>
#include <lsaq/kernels/cpu/decoder_kernels.hpp>
#include <lsaq/types.hpp>

#include <bit>

namespace lsaq::inline v0 {

/// How the weights of a row are stored: a float type, or codes of 2 to 8 bits in canonical packed order.
struct WeightFormat {
  ElementType element = ElementType::f16; ///< meaningful when bits is 0
  unsigned bits = 0;                      ///< 2 .. 8: codes plus 2^(bits-1), unsigned, first column in the lowest bits; 0: `element`

  constexpr bool packed() const noexcept { return bits != 0; }
  friend constexpr bool operator==(WeightFormat, WeightFormat) = default;
};

/// Codes a weight may become, and what is added to store them unsigned: 2^(bits-1).
struct CodeBounds {
  int lowest = 0;
  int highest = 0;
  int offset = 0;

  /// The width of the codes.
  constexpr unsigned bits() const noexcept { return static_cast<unsigned>(std::bit_width(static_cast<unsigned>(offset))); }
};

/// Consecutive weights in memory, at any alignment; Q8_0 begins with a whole block.
struct Elements {
  const void* data = nullptr;
  ElementType type = ElementType::f32;
  std::size_t count = 0;
};

/// The largest magnitudes of some weights as the bits of a float: at least 0x7f800000 if one is infinite or NaN; 0 where there are none.
struct Extremes {
  std::uint32_t positive; ///< of those without a sign bit
  std::uint32_t negative; ///< of those with one
  friend constexpr bool operator==(Extremes, Extremes) = default;
};

/// Scales of groups of columns, where codes have those: every row has `per_row` of them.
struct GroupScales {
  const std::byte* data = nullptr; ///< null: codes are summed without a scale
  ElementType type = ElementType::f16;
  std::size_t columns = 0; ///< of a group, a multiple of 32
  std::size_t per_row = 0;
};

/// Rows of weights as the kernels see them.
struct WeightRows {
  const std::byte* data = nullptr;
  std::size_t row_bytes = 0; ///< from one row to the next; for FP32, which is read in place, a multiple of 4
  WeightFormat format;
  GroupScales groups = {}; ///< for widen_row(); the kernels of the table see codes only

  [[gnu::always_inline]] const std::byte* row(std::size_t r) const noexcept { return data + r * row_bytes; }

  /// The rows from r on.
  [[gnu::always_inline]] WeightRows from(std::size_t r) const noexcept {
    WeightRows rest = *this;
    rest.data = row(r);
    if (groups.data != nullptr) rest.groups.data += r * groups.per_row * size_of(groups.type);
    return rest;
  }
};

/// Rows that meet few tokens are read in so many streams, far apart, so that memory sees as many: stream s of `part` rows begins at row s * part.
inline constexpr std::size_t row_streams = 4;

/// Bytes that are fetched ahead in each stream: further than a machine looks on its own when what is done with a cache line takes a while.
inline constexpr std::size_t fetched_ahead = 2048;

/// Fetches the cache lines that `bytes` bytes at `at` will be followed by when the stream has gone on for fetched_ahead. Always inlined: calls of functions
/// that do nothing but fetch are taken for calls without effect, and removed.
[[gnu::always_inline]] inline void fetch_ahead(const std::byte* at, std::size_t bytes) noexcept {
  constexpr std::size_t cache_line = 64;
  for (std::size_t i = 0; i < bytes; i += cache_line)
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(at) + fetched_ahead + i));
}

/// The row that is number r of stream s; where rows end with `last`, that one again: its sums are the same.
[[gnu::always_inline]] constexpr std::size_t row_of_stream(std::size_t r, std::size_t s, std::size_t part, std::size_t last) noexcept {
  return r + s * part < last ? r + s * part : last;
}

inline constexpr std::size_t panel_rows = 16;     ///< rows transposed into a panel: the lanes of a product
inline constexpr std::size_t panels_at_once = 4;  ///< panels a product takes side by side
inline constexpr std::size_t panel_columns = 256; ///< 16 KiB of FP32: half of a 32 KiB first-level cache

/// Up to 64 transposed rows: lane l at depth k is data[l / 16 * panel_stride + k * step + l % 16], readable for the 16 floats of every panel used.
struct Panels {
  const float* data = nullptr;
  std::size_t lanes = 0;
  std::size_t panel_stride = 0;  ///< floats from one panel to the next
  std::size_t step = panel_rows; ///< floats from one depth to the next
};

/// What a product's caller reads next: fetched into the cache on the way, row by row beside the rows of x. Nothing where `first` is null.
struct Ahead {
  const std::byte* first = nullptr;
  std::size_t row_bytes = 0;
  std::size_t column_bits = 0;
};

struct IntegerKernels;

/// The functions of one instruction-set path. All are noexcept, allocate nothing and read nothing outside the ranges named.
struct CpuKernels {
  Isa isa;

  /// out[i] = in[i] widened, n elements of `type` at any alignment; for Q8_0 `in` begins a block.
  void (*widen)(const void* in, ElementType type, std::size_t n, float* out) noexcept;

  /// out[i] = the code at column first_column + i of a packed row, less 2^(bits-1); first_column % 8 == 0.
  void (*widen_codes)(const std::byte* row, unsigned bits, std::size_t first_column, std::size_t n, float* out) noexcept;

  /// out[i] = in[i] rounded to FP16, half to even; overflow becomes infinity.
  void (*narrow_f16)(const float* in, std::size_t n, f16* out) noexcept;

  /// The largest |in[i]| as the bits of a float: at least 0x7f800000 if any element is infinite or NaN; 0 for n = 0.
  std::uint32_t (*magnitude_bits)(const float* in, std::size_t n) noexcept;

  /// out[i] = clamp(round_half_even(in[i] / scale), bounds) + offset, as unsigned bytes. scale > 0, all finite.
  void (*quantize)(const float* in, std::size_t n, float scale, CodeBounds bounds, std::uint8_t* out) noexcept;

  /// out[i] = the extremes of elements [i * group, (i + 1) * group), the last group what is left; unless `by_sign`, both are the larger one.
  void (*extremes)(const Elements& in, std::size_t group, bool by_sign, Extremes* out) noexcept;

  /// As `quantize`, elements [i * group, (i + 1) * group) by scales[i], packed in canonical order into whole 32-bit words; a scale of 0 makes codes of 0. All
  /// finite, |in / scale| < 2^23. `group` is a multiple of 32 or all elements. As many bytes as are read are fetched from `ahead` on, where it is not null.
  void (*quantize_packed)(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void* ahead) noexcept;

  /// y[r] = sum over the columns of weight(r, c) * x[c], for `rows` rows.
  void (*dot_rows)(const WeightRows& weights, std::size_t rows, std::size_t columns, const float* x, float* y) noexcept;

  /// Fills panel[0 .. columns * 16) from up to 16 rows; the lanes of missing rows hold nothing in particular.
  void (*unpack)(const WeightRows& weights, std::size_t rows, std::size_t first_column, std::size_t columns, float* panel) noexcept;

  /// y[i * y_stride + l] = sum over k < depth of x[i * x_stride + k] * (lane l of panels at k), for `rows` rows of x; with `accumulate` the sum is added to y.
  /// Each sum runs over k in order, by fused multiply-adds where the machine has them.
  void (*product)(const Panels& panels, std::size_t depth, const float* x, std::size_t x_stride, std::size_t rows, float* y, std::size_t y_stride,
                  bool accumulate, const Ahead& ahead) noexcept;

  /// Bit i is set unless values[i] <= limits[i]: where it is greater, or one of them is NaN; n <= 64.
  std::uint64_t (*above)(const float* values, const float* limits, std::size_t n) noexcept;

  /// Products with activations that are integers (integer_kernels.hpp).
  const IntegerKernels* integer;

  /// What a decoder computes between its products (decoder_kernels.hpp).
  const DecoderKernels* decoder;
};

} // namespace lsaq::inline v0
