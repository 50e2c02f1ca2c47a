// Products of packed codes with integer activations, in the pieces that are spread over threads: tokens become codes, rows are multiplied, sums are scaled.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/scalar_integer.hpp>

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Bytes of tokens that a product keeps on its stack where it has no workspace.
inline constexpr std::size_t stack_token_bytes = 64 << 10;

/// What products of rows are multiplied by at the end: a scale for each, or the same for all.
struct RowScales {
  const std::byte* data = nullptr; ///< null: nothing
  ElementType type = ElementType::f16;
  std::size_t step = 1; ///< from one row's scale to the next

  /// out[i] = the scale of row first + i as FP32.
  void widen(const CpuKernels& kernels, std::size_t first, std::size_t rows, float* out) const noexcept {
    if (data == nullptr || step == 0)
      std::fill_n(out, rows, data == nullptr ? 1.0f : load_element(data, type, 0));
    else
      kernels.widen(data + bytes_of(type, first), type, rows, out);
  }
};

/// The scale of blocks whose largest magnitude is that of a float's bits, and NaN where one is not finite.
inline float block_scale(std::uint32_t maximum) noexcept {
  if (maximum >= 0x7f800000u) return std::bit_cast<float>(0x7fc00000u);
  return std::max(scalar::divide(std::bit_cast<float>(maximum), static_cast<float>(low_plane_limit)), std::numeric_limits<float>::min());
}

/// Units of the longest token.
inline constexpr std::size_t most_token_units = most_integer_columns / code_unit;

/// Number k of the `count` values in descending order, k < count; none is above `largest`. Those that may be it are found by their distance from the largest,
/// counted in sixteenths of a power of two: sorting all would take longer than making the codes.
inline std::uint32_t in_descending_order(const std::uint32_t* values, std::size_t count, std::size_t k, std::uint32_t largest) noexcept {
  constexpr unsigned sixteenth = 19; // bits of a float below its exponent's and the four highest of its fraction
  constexpr std::uint32_t last = 255;
  const auto distance = [&](std::uint32_t value) { return std::min((largest - value) >> sixteenth, last); };
  std::uint32_t counts[last + 1] = {}, found[most_token_units];
  for (std::size_t i = 0; i < count; ++i) ++counts[distance(values[i])];
  std::uint32_t at = 0;
  for (; k >= counts[at]; ++at) k -= counts[at];
  std::size_t n = 0;
  for (std::size_t i = 0; i < count; ++i) {
    found[n] = values[i];
    n += distance(values[i]) == at;
  }
  std::nth_element(found, found + k, found + n, std::greater<>());
  return found[k];
}

/// The scale of a token of `columns` columns whose units have these largest magnitudes: token_codes.hpp.
inline float token_scale(const std::uint32_t* maxima, std::size_t columns) noexcept {
  const std::size_t units = (columns + code_unit - 1) / code_unit, k = high_units_of(columns);
  std::uint32_t largest = 0;
  for (std::size_t u = 0; u < units; ++u) largest = std::max(largest, maxima[u]);
  if (largest >= 0x7f800000u) return block_scale(largest);
  const float first_low = k < units ? std::bit_cast<float>(in_descending_order(maxima, units, k, largest)) : 0.0f;
  const auto limit = std::bit_cast<std::uint32_t>(first_low * plane_slack);
  std::uint32_t one_plane = 0;
  for (std::size_t u = 0; u < units; ++u)
    if (maxima[u] <= limit) one_plane = std::max(one_plane, maxima[u]);
  return std::max(block_scale(one_plane), scalar::divide(std::bit_cast<float>(largest), static_cast<float>(high_plane_limit)));
}

/// Makes the codes of one token, columns floats at x, in its lane. Where a value is not finite, the scale that it falls under is NaN and the token's codes are
/// 0. Uses 72 KiB of stack.
inline void quantize_token(const IntegerKernels& kernels, const float* x, const TokenCodes& codes, std::size_t tile, std::size_t lane) noexcept {
  constexpr std::size_t units_of_block = code_block / code_unit;
  std::uint32_t maxima[most_token_units];
  float inverse[most_token_units / units_of_block];
  const std::size_t token = codes.first_of(tile) + lane, units = (codes.columns + code_unit - 1) / code_unit;
  float* const scales = codes.scales + token * codes.scales_per_token;
  kernels.unit_maxima(x, codes.columns, maxima);
  std::fill(maxima + units, maxima + padded_columns(codes.columns) / code_unit, 0u); // padding may have a scale
  bool finite = true;
  for (std::size_t i = 0; i < codes.scales_per_token; ++i) {
    const std::uint32_t* const of_block = maxima + i * units_of_block;
    scales[i] = codes.scales_per_token == 1 ? token_scale(maxima, codes.columns) : block_scale(*std::max_element(of_block, of_block + units_of_block));
    inverse[i] = scalar::divide(1.0f, scales[i]);
    finite = finite && (std::bit_cast<std::uint32_t>(scales[i]) & 0x7fffffffu) < 0x7f800000u;
  }
  if (finite) return kernels.place(x, inverse, tile, lane, codes);
  std::fill_n(codes.sums + token * codes.scales_per_token, codes.scales_per_token, 0);
  const int none[code_block] = {};
  for (std::size_t first = 0; first < padded_columns(codes.columns); first += code_block)
    scalar::place_codes(none, first, codes.tile(tile), lane, codes.layout);
}

/// Brings the runs of a tile's high planes in order, by granules.
inline void group_high_runs(const TokenCodes& codes, std::size_t tile) noexcept {
  constexpr std::size_t runs_of_granule = granule / 4;
  std::uint32_t next[most_integer_columns / granule];
  std::uint32_t* const ends = codes.high_ends + tile * granules(codes.columns);
  HighRun* const runs = codes.first_run(tile);
  std::fill_n(ends, granules(codes.columns), 0u);
  for (std::size_t i = 0; i < codes.high_counts[tile]; ++i) ++ends[runs[i].place / runs_of_granule];
  std::uint32_t sum = 0;
  for (std::size_t g = 0; g < granules(codes.columns); ++g) {
    next[g] = sum;
    sum += ends[g];
    ends[g] = sum;
  }
  for (std::size_t g = 0; g < granules(codes.columns); ++g)
    while (next[g] != ends[g]) {
      const std::size_t to = runs[next[g]].place / runs_of_granule;
      if (to != g) std::swap(runs[next[g]], runs[next[to]]);
      ++next[to];
    }
}

/// Makes the codes of the tokens of one tile; row t of x is token t, x_stride floats apart.
inline void quantize_tile(const IntegerKernels& kernels, const float* x, std::size_t x_stride, const TokenCodes& codes, std::size_t tile) noexcept {
  const std::size_t first = codes.first_of(tile), end = codes.first_of(tile + 1);
  if (codes.layout.runs)
    codes.high_counts[tile] = 0;
  else
    std::fill(codes.high_counts + first, codes.high_counts + end, 0u);
  for (std::size_t token = first; token < end; ++token) quantize_token(kernels, x + token * x_stride, codes, tile, token - first);
  if (codes.layout.runs) group_high_runs(codes, tile);
}

/// Rows of a dot_rows(): as there is room for sums; where it goes through the rows once for every few tokens, those that stay in a second-level cache.
inline std::size_t rows_at_once(std::size_t row_bytes, std::size_t tokens, std::size_t most_sums) noexcept {
  constexpr std::size_t cached_bytes = 256 << 10, one_pass = 2;
  const std::size_t room = std::min(most_sums / 4, most_sums / std::max<std::size_t>(1, tokens) / row_streams * row_streams);
  const std::size_t cached = std::max(cached_bytes / std::max<std::size_t>(1, row_bytes), 4 * row_streams) / row_streams * row_streams;
  return tokens <= one_pass ? room : std::min(room, cached);
}

/// Tiles of tokens that meet all rows before the next ones do: one pass, if a second-level cache keeps it over the rows; else all, so that rows are read once.
inline std::size_t tiles_kept_for_all_rows(const TokenCodes& tokens, std::size_t tiles_at_once) noexcept {
  constexpr std::size_t cached_bytes = 1280 << 10;
  const std::size_t pass_bytes = tiles_at_once * tokens.layout.lanes * padded_columns(tokens.columns) * tokens.layout.width;
  return tokens.tokens > dot_tokens_max && pass_bytes <= cached_bytes ? tiles_at_once : tokens.tiles();
}

/// y[t * y_stride + r] = row r of `weights` x token t, scaled, for `rows` rows from `first_row` on, which y begins with. Uses 76 KiB of stack,
/// with AMX 108.
inline void multiply_codes(const CpuKernels& kernels, const IntegerKernels& integer, const WeightRows& weights, std::size_t first_row, std::size_t rows,
                           const TokenCodes& tokens, const RowScales& scales, float* y, std::size_t y_stride) noexcept {
  constexpr std::size_t most_sums = largest_pass_of_tokens * tile_rows;
  alignas(64) std::int32_t sums[most_sums];
  alignas(64) float row_scales[most_sums / 4];
  const bool in_rows = tokens.layout.lanes == 1 && tokens.tokens <= dot_tokens_max;
  const std::size_t at_once = in_rows ? rows_at_once(weights.row_bytes, tokens.tokens, most_sums) : tile_rows;
  const std::size_t tiles_at_once = largest_pass_of_tokens / tokens.layout.lanes, tiles_kept = tiles_kept_for_all_rows(tokens, tiles_at_once);
  for (std::size_t kept = 0; kept < tokens.tiles(); kept += tiles_kept) {
    const std::size_t end_kept = std::min(kept + tiles_kept, tokens.tiles());
    for (std::size_t row = 0; row < rows; row += at_once) {
      const std::size_t count = std::min(at_once, rows - row);
      const WeightRows part = weights.from(first_row + row);
      scales.widen(kernels, first_row + row, count, row_scales);
      if (in_rows) {
        integer.dot_rows(part, count, tokens, sums, at_once);
        integer.finish(sums, at_once, count, tokens.tokens, tokens.scales, row_scales, y + row, y_stride);
        continue;
      }
      for (std::size_t tile = kept; tile < end_kept; tile += tiles_at_once)
        integer.dot_tiles(part, count, tokens, tile, std::min(tile + tiles_at_once, end_kept), sums, {row_scales, y + row, y_stride});
    }
  }
}

/// Fetches part of the scales of the rows after a panel's, [row, end_row): their share of columns [column, end). Each row has too few for the machine to
/// foresee.
inline void prefetch_scales(const WeightRows& weights, std::size_t row, std::size_t end_row, std::size_t column, std::size_t end) noexcept {
  constexpr std::size_t cache_line = 64;
  const GroupScales& groups = weights.groups;
  if (groups.data == nullptr || row >= end_row) return;
  const std::size_t row_bytes = groups.per_row * size_of(groups.type), bytes = std::min(tile_rows, end_row - row) * row_bytes;
  const std::size_t columns = groups.per_row * groups.columns, last = end < columns ? bytes * end / columns : bytes;
  for (std::size_t at = bytes * column / columns; at < last; at += cache_line) __builtin_prefetch(groups.data + row * row_bytes + at, 0, 2);
}

/// The same with scales of groups, and of tokens' blocks. `scales` are of rows where the weights have no groups. Uses 84 KiB of stack.
inline void multiply_blocks(const CpuKernels& kernels, const IntegerKernels& integer, const WeightRows& weights, std::size_t first_row, std::size_t rows,
                            const TokenCodes& tokens, const RowScales& scales, float* y, std::size_t y_stride) noexcept {
  constexpr std::size_t range = 4096; // columns whose scales are widened at once
  alignas(64) float sums[largest_pass_of_tokens * tile_rows];
  alignas(64) float panels[range / code_block * tile_rows];
  const GroupScales& groups = weights.groups;
  const std::size_t padded = padded_columns(tokens.columns), tiles_at_once = largest_pass_of_tokens / tokens.layout.lanes;
  for (std::size_t row = 0; row < rows; row += tile_rows) {
    const std::size_t count = std::min(tile_rows, rows - row);
    const WeightRows part = weights.from(first_row + row);
    for (std::size_t tile = 0; tile < tokens.tiles(); tile += tiles_at_once) {
      const std::size_t end_tile = std::min(tile + tiles_at_once, tokens.tiles()), first = tokens.first_of(tile);
      for (std::size_t column = 0; column < padded; column += range) {
        const std::size_t end = std::min(column + range, padded);
        PanelScales scale{panels, 0, 1, padded};
        if (groups.data == nullptr) {
          scales.widen(kernels, first_row + row, count, panels);
        } else {
          scale.columns = groups.columns;
          scale.first = column / groups.columns;
          scale.groups = std::min((end + groups.columns - 1) / groups.columns, groups.per_row) - scale.first;
          const WeightRows stored{part.groups.data, groups.per_row * size_of(groups.type), {.element = groups.type}};
          for (std::size_t half = 0; half < count; half += 16)
            kernels.unpack(stored.from(half), std::min<std::size_t>(16, count - half), scale.first, scale.groups, panels + half * scale.groups);
        }
        if (tokens.tokens == 1) prefetch_scales(weights, first_row + row + tile_rows, first_row + rows, column, end);
        integer.dot_blocks(part, count, tokens, tile, end_tile, column, end, scale, sums);
      }
      for (std::size_t t = first; t < tokens.first_of(end_tile); ++t) std::copy_n(sums + (t - first) * tile_rows, count, y + t * y_stride + row);
    }
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
