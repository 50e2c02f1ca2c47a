// Integer products for AArch64, with the dot product extension (sdot) and without it. What multiplies is the same for both: always inlined into functions that
// may use the extension (neon_dotprod.hpp) or may not (the end of this file).
//
// Codes of 2 to 7 bits are multiplied as they are stored, and what was added to them (2^(bits-1)) is taken off at the end, as so often the sum of q; those of 8
// bits become signed.
//
// Few tokens: rows of weights, four of them far apart so that memory sees four streams, by rows of tokens.
// Many tokens: 32 rows are unpacked into four panels of 8 rows in the first-level cache, bytes [column / 4][row][column % 4], and meet tiles of up to 8 tokens,
// [column / 4][token][column % 4]: 16 sums in registers, four tokens' bytes in each register that multiplies by lane.
#pragma once

#include <lsaq/kernels/cpu/neon_integer_rows.hpp>

#if LSAQ_ARM64
#define LSAQ_NEON_HELPER [[gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::neon {

inline constexpr std::size_t panel_depth = 512; ///< columns of a panel: four of them fill half of a first-level cache of 32 KiB
inline constexpr std::size_t panel_bytes = 8 * panel_depth;

/// Four rows of four runs of four bytes become four times [row][4 bytes], `step` bytes apart.
LSAQ_NEON_HELPER void store_runs(int8x16_t r0, int8x16_t r1, int8x16_t r2, int8x16_t r3, std::byte* panel, std::size_t step) noexcept {
  const int32x4_t a = vreinterpretq_s32_s8(r0), b = vreinterpretq_s32_s8(r1), c = vreinterpretq_s32_s8(r2), d = vreinterpretq_s32_s8(r3);
  const int64x2_t even0 = vreinterpretq_s64_s32(vtrn1q_s32(a, b)), odd0 = vreinterpretq_s64_s32(vtrn2q_s32(a, b));
  const int64x2_t even1 = vreinterpretq_s64_s32(vtrn1q_s32(c, d)), odd1 = vreinterpretq_s64_s32(vtrn2q_s32(c, d));
  auto* const out = reinterpret_cast<std::int8_t*>(panel);
  vst1q_s8(out, vreinterpretq_s8_s64(vtrn1q_s64(even0, even1)));
  vst1q_s8(out + step, vreinterpretq_s8_s64(vtrn1q_s64(odd0, odd1)));
  vst1q_s8(out + 2 * step, vreinterpretq_s8_s64(vtrn2q_s64(even0, even1)));
  vst1q_s8(out + 3 * step, vreinterpretq_s8_s64(vtrn2q_s64(odd0, odd1)));
}

/// Unpacks columns [column, column + depth) of up to 32 rows into four panels; a missing row is the last one again: its sums are never used.
template <unsigned Bits>
inline void fill_panels(const WeightRows& weights, std::size_t rows, std::size_t column, std::size_t depth, std::byte* panels) noexcept {
  std::byte copy[most_bytes_loaded];
  for (std::size_t group = 0; group < rows; group += 4) {
    const std::byte* row[4];
#pragma GCC unroll 4
    for (std::size_t r = 0; r < 4; ++r) row[r] = weights.row(group + r < rows ? group + r : rows - 1);
    std::byte* panel = panels + group / 8 * panel_bytes + group % 8 * 4;
    for (std::size_t c = 0; c < depth; c += code_block, panel += 8 * code_block) {
      int8x16x2_t v[4];
#pragma GCC unroll 4
      for (int r = 0; r < 4; ++r) v[r] = codes32<Bits>(loadable<Bits>(row[r], weights.row_bytes, (column + c) * Bits / 8, copy));
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) store_runs(v[0].val[half], v[1].val[half], v[2].val[half], v[3].val[half], panel + half * 128, 32);
    }
  }
}

/// Four columns of four tokens, or of the N that a tile has lanes for.
template <int N> LSAQ_NEON_HELPER int8x16_t load_tokens(const std::byte* tile) noexcept {
  if constexpr (N >= 4) return load_signed(tile);
  std::uint32_t words[3] = {};
  std::memcpy(words, tile, 4 * std::size_t{N});
  uint32x4_t q = vdupq_n_u32(words[0]);
  if constexpr (N > 1) q = vsetq_lane_u32(words[1], q, 1);
  if constexpr (N > 2) q = vsetq_lane_u32(words[2], q, 2);
  return vreinterpretq_s8_u32(q);
}

/// The sums of four tokens from First on, as many as N has, grow by four columns of 8 rows.
template <Dot D, int N, int First>
LSAQ_NEON_HELPER void multiply_four(int8x16_t w0, int8x16_t w1, const std::byte* tile, int32x4_t (&a)[N], int32x4_t (&b)[N]) noexcept {
  const int8x16_t q = load_tokens<N>(tile + 4 * First);
  dot_lane<D, 0>(a[First], w0, q);
  dot_lane<D, 0>(b[First], w1, q);
  if constexpr (First + 1 < N) {
    dot_lane<D, 1>(a[First + 1], w0, q);
    dot_lane<D, 1>(b[First + 1], w1, q);
  }
  if constexpr (First + 2 < N) {
    dot_lane<D, 2>(a[First + 2], w0, q);
    dot_lane<D, 2>(b[First + 2], w1, q);
  }
  if constexpr (First + 3 < N) {
    dot_lane<D, 3>(a[First + 3], w0, q);
    dot_lane<D, 3>(b[First + 3], w1, q);
  }
}

/// N tokens of a tile by a panel's columns [first, end): added to a and b.
template <Dot D, int N>
LSAQ_NEON_HELPER void multiply(const std::byte* panel, std::size_t first, std::size_t end, const std::byte* tile, std::size_t lanes, int32x4_t (&a)[N],
                               int32x4_t (&b)[N]) noexcept {
  for (std::size_t c = first; c < end; c += 4) {
    const int8x16_t w0 = load_signed(panel + c * 8), w1 = load_signed(panel + c * 8 + 16);
    multiply_four<D, N, 0>(w0, w1, tile + c * lanes, a, b);
    if constexpr (N > 4) multiply_four<D, N, 4>(w0, w1, tile + c * lanes, a, b);
  }
}

/// N tokens of a tile by a panel of `depth` columns: sums[t * 32 + r], less what is on the codes where `first`, else added to.
template <Dot D, int N>
LSAQ_NEON_HELPER void multiply_tile(const std::byte* panel, unsigned bits, std::size_t depth, const std::byte* tile, const std::int32_t* start, bool first,
                                    std::int32_t* sums) noexcept {
  int32x4_t a[N], b[N];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    const std::int32_t* const out = sums + t * static_cast<int>(tile_rows);
    a[t] = first ? vdupq_n_s32(-offset_of(bits, start[t])) : vld1q_s32(out);
    b[t] = first ? a[t] : vld1q_s32(out + 4);
  }
  multiply<D>(panel, 0, depth, tile, tile_lanes, a, b);
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    vst1q_s32(sums + t * static_cast<int>(tile_rows), a[t]);
    vst1q_s32(sums + t * static_cast<int>(tile_rows) + 4, b[t]);
  }
}

/// sums[r] += 128 * the product of a block's high plane with a panel, from its first column on.
template <Dot D> LSAQ_NEON_HELPER void multiply_high(const std::byte* panel, std::size_t column, const std::int8_t* high, std::int32_t* sums) noexcept {
  int32x4_t a = vdupq_n_s32(0), b = a;
#pragma GCC unroll 2
  for (std::size_t c = 0; c < code_block; c += 16) {
    const std::byte* w = panel + (column + c) * 8;
    const int8x16_t q = load_signed(high + c);
    dot_lane<D, 0>(a, load_signed(w), q);
    dot_lane<D, 0>(b, load_signed(w + 16), q);
    dot_lane<D, 1>(a, load_signed(w + 32), q);
    dot_lane<D, 1>(b, load_signed(w + 48), q);
    dot_lane<D, 2>(a, load_signed(w + 64), q);
    dot_lane<D, 2>(b, load_signed(w + 80), q);
    dot_lane<D, 3>(a, load_signed(w + 96), q);
    dot_lane<D, 3>(b, load_signed(w + 112), q);
  }
  vst1q_s32(sums, vaddq_s32(vld1q_s32(sums), vshlq_n_s32(a, 7)));
  vst1q_s32(sums + 4, vaddq_s32(vld1q_s32(sums + 4), vshlq_n_s32(b, 7)));
}

/// A tile with a scale a block, from a column on.
struct BlockTile {
  const std::byte* codes = nullptr;
  std::size_t lanes = 0;
  const float* scales = nullptr;      ///< of the first token, `per_token` for each
  const std::int32_t* sums = nullptr; ///< beside them
  std::size_t per_token = 0;
};

/// N tokens of a tile by a panel of `depth` columns from `column` on, block by block: sums[t * 32 + r], added to unless column is 0. row_scales are those of 16
/// rows, of which the panel's begin with first_row.
template <Dot D, int N>
LSAQ_NEON_HELPER void multiply_blocks(const std::byte* panel, unsigned bits, std::size_t column, std::size_t depth, const BlockTile& from,
                                      const PanelScales& row_scales, std::size_t first_row, float* sums) noexcept {
  for (std::size_t first = 0; first < depth; first += code_block) {
    const std::size_t block = (column + first) / code_block;
    int32x4_t a[N], b[N];
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) a[t] = b[t] = vdupq_n_s32(-offset_of(bits, from.sums[static_cast<std::size_t>(t) * from.per_token + block]));
    multiply<D>(panel, first, first + code_block, from.codes, from.lanes, a, b);
    const float* const scales = row_scales.at(column + first) + first_row;
    const float32x4_t s0 = vld1q_f32(scales), s1 = vld1q_f32(scales + 4);
    const bool begins = column + first == 0;
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
      const float scale = from.scales[static_cast<std::size_t>(t) * from.per_token + block];
      float* const out = sums + t * static_cast<int>(tile_rows);
      const float32x4_t before0 = begins ? vdupq_n_f32(0) : vld1q_f32(out), before1 = begins ? vdupq_n_f32(0) : vld1q_f32(out + 4);
      vst1q_f32(out, vfmaq_f32(before0, vcvtq_f32_s32(a[t]), vmulq_n_f32(s0, scale)));
      vst1q_f32(out + 4, vfmaq_f32(before1, vcvtq_f32_s32(b[t]), vmulq_n_f32(s1, scale)));
    }
  }
}

/// What multiplies rows, by the codes' bits less 2, and tiles, by their tokens less 1, one way or the other.
struct Products {
  void (*rows[7])(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept;
  void (*tile[tile_lanes])(const std::byte* panel, unsigned bits, std::size_t depth, const std::byte* tile, const std::int32_t* start, bool first,
                           std::int32_t* sums) noexcept;
  void (*high)(const std::byte* panel, std::size_t column, const std::int8_t* high, std::int32_t* sums) noexcept;
  void (*blocks[tile_lanes])(const std::byte* panel, unsigned bits, std::size_t column, std::size_t depth, const BlockTile& from, const PanelScales& row_scales,
                             std::size_t first_row, float* sums) noexcept;
};

/// Unpacks columns [column, column + depth) of up to 32 rows.
inline void fill_panels_of(const WeightRows& weights, std::size_t rows, std::size_t column, std::size_t depth, std::byte* panels) noexcept {
  static constexpr decltype(&fill_panels<2>) of_bits[] = {fill_panels<2>, fill_panels<3>, fill_panels<4>, fill_panels<5>,
                                                          fill_panels<6>, fill_panels<7>, fill_panels<8>};
  of_bits[weights.format.bits - 2](weights, rows, column, depth, panels);
}

/// sums[r] of 32 rows of a token grow by its high plane's products with columns [column, column + depth); `done` of its blocks are.
inline void add_high_blocks(const Products& products, const std::byte* panels, std::size_t rows, std::size_t column, std::size_t depth,
                            const TokenCodes& tokens, std::size_t token, std::uint32_t& done, std::int32_t* sums) noexcept {
  for (; done < tokens.high_counts[token]; ++done) {
    const std::size_t slot = token * tokens.high_limit + done, at = std::size_t{tokens.high_blocks[slot]} * code_block;
    if (at >= column + depth) return;
    for (std::size_t p = 0; 8 * p < rows; ++p) products.high(panels + p * panel_bytes, at - column, tokens.high + slot * code_block, sums + 8 * p);
  }
}

inline void dot_tiles_by(const Products& products, const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile,
                         std::size_t end_tile, std::int32_t* sums, const RowOutputs& outputs) noexcept {
  alignas(64) std::byte panels[4 * panel_bytes];
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_depth), first_token = tokens.first_of(first_tile);
  std::uint32_t high_done[largest_pass_of_tokens] = {};
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    fill_panels_of(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), end = tokens.first_of(tile + 1);
      std::int32_t* out = sums + (token - first_token) * tile_rows;
      for (std::size_t p = 0; 8 * p < rows; ++p)
        products.tile[end - token - 1](panels + p * panel_bytes, weights.format.bits, depth, tokens.tile(tile) + column * tile_lanes, tokens.sums + token,
                                       column == 0, out + 8 * p);
      for (std::size_t t = token; t < end; ++t, out += tile_rows)
        add_high_blocks(products, panels, rows, column, depth, tokens, t, high_done[t - first_token], out);
      if (column + depth == padded)
        finish(sums + (token - first_token) * tile_rows, tile_rows, rows, end - token, tokens.scales + token, outputs.row_scales, outputs.of(token),
               outputs.stride);
    }
  }
}

inline void dot_blocks_by(const Products& products, const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile,
                          std::size_t end_tile, std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  alignas(64) std::byte panels[4 * panel_bytes];
  const std::size_t lanes = tokens.layout.lanes, per_token = tokens.scales_per_token;
  const std::size_t chunk = even_chunk(end - column, panel_depth), first_token = tokens.first_of(first_tile);
  for (; column < end; column += chunk) {
    const std::size_t depth = end - column < chunk ? end - column : chunk;
    fill_panels_of(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile);
      const BlockTile from{tokens.tile(tile) + column * lanes, lanes, tokens.scales + token * per_token, tokens.sums + token * per_token, per_token};
      for (std::size_t p = 0; 8 * p < rows; ++p)
        products.blocks[tokens.first_of(tile + 1) - token - 1](panels + p * panel_bytes, weights.format.bits, column, depth, from,
                                                               p < 2 ? scales : scales.upper(), p % 2 * 8, sums + (token - first_token) * tile_rows + 8 * p);
    }
  }
}

template <unsigned Bits>
inline void multiply_rows(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  dot_rows_body<Dot::widening, Bits>(weights, rows, tokens, sums, stride);
}

template <int N>
inline void tile_of(const std::byte* panel, unsigned bits, std::size_t depth, const std::byte* tile, const std::int32_t* start, bool first,
                    std::int32_t* sums) noexcept {
  multiply_tile<Dot::widening, N>(panel, bits, depth, tile, start, first, sums);
}

inline void high_of(const std::byte* panel, std::size_t column, const std::int8_t* high, std::int32_t* sums) noexcept {
  multiply_high<Dot::widening>(panel, column, high, sums);
}

template <int N>
inline void blocks_of(const std::byte* panel, unsigned bits, std::size_t column, std::size_t depth, const BlockTile& from, const PanelScales& row_scales,
                      std::size_t first_row, float* sums) noexcept {
  multiply_blocks<Dot::widening, N>(panel, bits, column, depth, from, row_scales, first_row, sums);
}

inline constexpr Products products{
    {multiply_rows<2>, multiply_rows<3>, multiply_rows<4>, multiply_rows<5>, multiply_rows<6>, multiply_rows<7>, multiply_rows<8>},
    {tile_of<1>, tile_of<2>, tile_of<3>, tile_of<4>, tile_of<5>, tile_of<6>, tile_of<7>, tile_of<8>},
    high_of,
    {blocks_of<1>, blocks_of<2>, blocks_of<3>, blocks_of<4>, blocks_of<5>, blocks_of<6>, blocks_of<7>, blocks_of<8>}};

inline void dot_rows_codes(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  products.rows[weights.format.bits - 2](weights, rows, tokens, sums, stride);
}

inline void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::int32_t* sums,
                      const RowOutputs& outputs) noexcept {
  dot_tiles_by(products, weights, rows, tokens, first_tile, end_tile, sums, outputs);
}

inline void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column,
                       std::size_t end, const PanelScales& scales, float* sums) noexcept {
  dot_blocks_by(products, weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
}

inline constexpr IntegerKernels integer_kernels{layout, unit_maxima, place, dot_rows_codes, dot_tiles, dot_blocks, finish};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::neon

#undef LSAQ_NEON_HELPER
#endif
