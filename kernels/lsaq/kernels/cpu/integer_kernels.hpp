// What every CPU path implements for products of packed codes with activations that are integers too (token_codes.hpp).
//
// Sums are exact: sum over columns of (code of row r) x (q of token t), in 32 bits, the same on every path, for any number of threads and tokens.
#pragma once

#include <lsaq/kernels/cpu/kernel_table.hpp>
#include <lsaq/kernels/cpu/token_codes.hpp>

namespace lsaq::inline v0 {

inline constexpr std::size_t tile_rows = 32;               ///< weight rows that tiles of tokens are multiplied with at once
inline constexpr std::size_t dot_tokens_max = 15;          ///< up to so many tokens, rows of weights meet rows of tokens; more are tiles
inline constexpr std::size_t largest_pass_of_tokens = 264; ///< tokens of one dot_tiles(): half of a prompt's usual 512 in any path's tiles

/// Scales of up to tile_rows rows of weights for a range of columns: that of row r in group g is data[(r / 16 * groups + g - first) * 16 + r % 16].
struct PanelScales {
  const float* data = nullptr;
  std::size_t first = 0;   ///< group of the range's first column
  std::size_t groups = 1;  ///< groups of the range
  std::size_t columns = 0; ///< of a group

  /// The scales of the first 16 rows at a column; padding behind the last group has that one's.
  [[gnu::always_inline]] const float* at(std::size_t column) const noexcept {
    const std::size_t group = column / columns - first;
    return data + (group < groups ? group : groups - 1) * 16;
  }
  /// What at() gives for block after block from a column on, without its divisions.
  class Walk {
  public:
    [[gnu::always_inline]] Walk(const PanelScales& scales, std::size_t column) noexcept
        : here_(scales.at(column)), last_(scales.data + (scales.groups - 1) * 16), columns_(scales.columns), left_(columns_ - column % columns_) {}
    [[gnu::always_inline]] const float* here() const noexcept { return here_; }
    [[gnu::always_inline]] void next() noexcept {
      left_ -= code_block;
      if (left_ != 0) return;
      left_ = columns_;
      if (here_ != last_) here_ += 16;
    }

  private:
    const float *here_, *last_;
    std::size_t columns_, left_; ///< of the group that are still to come
  };

  /// Those of the other 16.
  [[gnu::always_inline]] PanelScales upper() const noexcept { return {data + groups * 16, first, groups, columns}; }
};

/// Where products of rows go, and what they are multiplied by on the way.
struct RowOutputs {
  const float* row_scales = nullptr; ///< of the rows
  float* y = nullptr;                ///< y[t * stride + r] of token t and row r
  std::size_t stride = 0;

  [[gnu::always_inline]] float* of(std::size_t token) const noexcept { return y + token * stride; }
};

/// The integer products of one instruction-set path. All are noexcept, allocate nothing and read nothing outside the ranges named.
struct IntegerKernels {
  /// How this path reads `tokens` tokens beside codes of `bits` bits: with a scale a token, one lane up to dot_tokens_max tokens.
  TokenLayout (*layout)(unsigned bits, std::size_t tokens, Scaling scaling) noexcept;

  /// maxima[u] = the largest |x[c]| of unit u of 8 columns as the bits of a float; 0x7f800000 or more if one is not finite.
  void (*unit_maxima)(const float* x, std::size_t columns, std::uint32_t* maxima) noexcept;

  /// Writes q = round_half_even(x * inverse scale) of a token into its lane, both planes, padding, and the sums of q. What the high
  /// planes hold is appended to them. inverse_scales are one, or as many as scales_per_token.
  void (*place)(const float* x, const float* inverse_scales, std::size_t tile, std::size_t lane, const TokenCodes& codes) noexcept;

  /// sums[t * stride + r] for `rows` rows and all tokens, in rows (layout with one lane).
  void (*dot_rows)(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept;

  /// What finish() makes of the sums of at most tile_rows rows and the tokens of tiles [first_tile, end_tile), tile after tile, so that writing them is hidden
  /// behind the products of the next. `sums`: room for tile_rows of each of these tokens.
  void (*dot_tiles)(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::int32_t* sums,
                    const RowOutputs& outputs) noexcept;

  /// sums[(t - first token) * tile_rows + r] for at most tile_rows rows and the tokens of tiles [first_tile, end_tile), which have a scale a block: block after
  /// block of columns [column, end), sum = fma(float(sum of code x q), row's scale * token's scale, sum). Begins with 0 where column is 0. Both are multiples
  /// of 64, with the padding.
  void (*dot_blocks)(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column,
                     std::size_t end, const PanelScales& scales, float* sums) noexcept;

  /// y[t * y_stride + r] = (float(sums[t * stride + r]) * token_scales[t]) * row_scales[r], each rounded once.
  void (*finish)(const std::int32_t* sums, std::size_t stride, std::size_t rows, std::size_t tokens, const float* token_scales, const float* row_scales,
                 float* y, std::size_t y_stride) noexcept;
};

/// The kernels of one path with another's integer products.
constexpr CpuKernels with_integer_products(CpuKernels kernels, Isa isa, const IntegerKernels& integer) noexcept {
  kernels.isa = isa;
  kernels.integer = &integer;
  return kernels;
}

/// How many of `columns` are unpacked at once where there is room for `most`: the parts are even. columns > 0.
constexpr std::size_t even_chunk(std::size_t columns, std::size_t most) noexcept {
  const std::size_t chunks = (columns + most - 1) / most;
  return padded_columns((columns + chunks - 1) / chunks);
}

/// How many of the `blocks` of a row, of `block_bytes` each, can be loaded as if the row went on, where `loaded` bytes are from every block's first on.
constexpr std::size_t whole_blocks(std::size_t row_bytes, std::size_t block_bytes, std::size_t loaded, std::size_t blocks) noexcept {
  if (row_bytes < loaded) return 0;
  const std::size_t whole = (row_bytes - loaded) / block_bytes + 1;
  return whole < blocks ? whole : blocks;
}

/// Rows by the tokens that a path's Part takes at once: as many rows as fill all streams, then those left over, one a stream.
template <auto Part>
[[gnu::always_inline]] inline void dot_streams(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_token,
                                               std::int32_t* sums, std::size_t stride) noexcept {
  const std::size_t whole = rows / row_streams * row_streams;
  if (whole != 0) Part(weights, whole / row_streams, whole - 1, tokens, first_token, sums, stride);
  if (whole != rows) Part(weights.from(whole), 1, rows - whole - 1, tokens, first_token, sums + whole, stride);
}

} // namespace lsaq::inline v0
