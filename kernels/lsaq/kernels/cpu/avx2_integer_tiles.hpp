// Rows of packed codes by tiles of tokens with AVX2: many tokens. 32 rows are unpacked into four panels in the first-level cache, four bytes of every row in
// turn, of which two at a time meet tiles of up to 5 tokens.
#pragma once

#include <lsaq/kernels/cpu/avx2_integer_rows.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline
#define LSAQ_AVX2_KERNEL [[gnu::target("avx2,fma,f16c"), gnu::noinline]] inline // a loop whose registers the compiler should not share with others

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

inline constexpr std::size_t panel_bytes = 8 << 10; ///< of 8 rows: those of 32 fill a first-level cache of 32 KiB; of 24 KiB is hardly slower

/// Panels of so many rows: an even number.
constexpr std::size_t panels_of(std::size_t rows) noexcept { return (rows + 15) / 16 * 2; }

/// Eight rows of eight runs of four bytes become eight times [row][4 bytes].
LSAQ_AVX2_HELPER void store_runs(__m256i (&v)[8], std::byte* panel) noexcept {
  __m256i t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
    t[2 * i + 1] = _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i) {
    v[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    v[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    v[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    store_bytes(panel + 32 * i, _mm256_permute2x128_si256(v[i], v[4 + i], 0x20));
    store_bytes(panel + 32 * (4 + i), _mm256_permute2x128_si256(v[i], v[4 + i], 0x31));
  }
}

/// Unpacks columns [column, column + depth) of up to 32 rows into as many panels, by twos; a missing row is the last one again: its sums are never used.
template <class Step>
LSAQ_AVX2_KERNEL void fill_panels_of(const WeightRows& weights, std::size_t rows, std::size_t column, std::size_t depth, std::byte* panels) noexcept {
  constexpr std::size_t step_bytes = Step::columns * Step::bits / 8;
  const std::size_t first = column / Step::columns, steps = depth / Step::columns, row_bytes = weights.row_bytes;
  const std::size_t whole_of_row = whole_blocks(row_bytes, step_bytes, Step::loaded, first + steps), whole = whole_of_row > first ? whole_of_row - first : 0;
  for (std::size_t part = 0; part < panels_of(rows); ++part) {
    const std::byte* row[8];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < 8; ++r) row[r] = weights.row(8 * part + r < rows ? 8 * part + r : rows - 1) + first * step_bytes;
    std::byte* panel = panels + part * panel_bytes;
    __m256i v[8];
    for (std::size_t i = 0; i < whole; ++i, panel += 256) {
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) v[r] = Step::codes(row[r] + i * step_bytes);
      store_runs(v, panel);
    }
    for (std::size_t i = whole; i < steps; ++i, panel += 256) {
      const std::size_t at = (first + i) * step_bytes, left = at < row_bytes ? row_bytes - at : 0;
      for (int r = 0; r < 8; ++r) {
        alignas(32) std::byte end[64] = {};
        std::memcpy(end, row[r] + (left != 0 ? i * step_bytes : 0), left < 32 ? left : 32);
        v[r] = Step::codes(end);
      }
      store_runs(v, panel);
    }
  }
}

/// The same with the steps of each width.
template <template <unsigned> class Step>
inline void fill_panels_by(const WeightRows& weights, std::size_t rows, std::size_t column, std::size_t depth, std::byte* panels) noexcept {
  static constexpr decltype(&fill_panels_of<Step<8>>) of_bits[] = {fill_panels_of<Step<2>>, fill_panels_of<Step<3>>, fill_panels_of<Step<4>>,
                                                                   fill_panels_of<Step<5>>, fill_panels_of<Step<6>>, fill_panels_of<Step<7>>,
                                                                   fill_panels_of<Step<8>>};
  of_bits[weights.format.bits - 2](weights, rows, column, depth, panels);
}

LSAQ_AVX2_HELPER __m256i broadcast(const void* four) noexcept { return _mm256_castps_si256(_mm256_broadcast_ss(static_cast<const float*>(four))); }

/// A sum that is to be made now. Compilers regroup the additions of an unrolled loop: all products first, which no register is left for.
LSAQ_AVX2_HELPER __m256i in_order(__m256i sum) noexcept {
  asm("" : "+x"(sum));
  return sum;
}

/// The sums of N tokens of a tile by 16 rows, 8 rows a register: a[t] from sums[t * 32] on and b[t] from sums[t * 32 + 8] on; where `first`, what the offset of
/// the codes will add is taken off: start[t] * 2^(bits-1).
template <int N>
LSAQ_AVX2_HELPER void load_sums(const std::int32_t* sums, bool first, const std::int32_t* start, unsigned bits, __m256i (&a)[N], __m256i (&b)[N]) noexcept {
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t, sums += tile_rows) {
    a[t] = first ? _mm256_set1_epi32(-(start[t] << (bits - 1))) : load_bytes(sums);
    b[t] = first ? a[t] : load_bytes(sums + 8);
  }
}

template <int N> LSAQ_AVX2_HELPER void store_sums(std::int32_t* sums, const __m256i (&a)[N], const __m256i (&b)[N]) noexcept {
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t, sums += tile_rows) {
    store_bytes(sums, a[t]);
    store_bytes(sums + 8, b[t]);
  }
}

/// N tokens' low plane by two panels of `depth` columns: sums[t * 32 + r], from -start[t] * 2^(bits-1) where `first`, else added to. Products are summed in 16
/// bits for so many steps of four columns.
template <std::size_t Steps, int N>
LSAQ_AVX2_KERNEL void multiply_tile(const std::byte* panels, std::size_t depth, unsigned bits, const std::byte* tile, const std::int32_t* start, bool first,
                                    std::int32_t* sums) noexcept {
  constexpr std::size_t lanes = lanes_beside(Steps);
  __m256i sum_a[N], sum_b[N], ones = _mm256_set1_epi16(1);
  asm("" : "+x"(ones)); // a register, not a constant that is loaded for every product
  load_sums(sums, first, start, bits, sum_a, sum_b);
  for (std::size_t c = 0; c < depth; c += 4 * Steps) {
    [[maybe_unused]] __m256i a[N], b[N];
#pragma GCC unroll 8
    for (std::size_t i = 0; i < Steps; ++i) {
      const __m256i w0 = load_bytes(panels + (c + 4 * i) * 8), w1 = load_bytes(panels + panel_bytes + (c + 4 * i) * 8);
#pragma GCC unroll 5
      for (int t = 0; t < N; ++t) {
        const __m256i q = broadcast(tile + (c + 4 * i) * lanes + 4 * static_cast<std::size_t>(t));
        const __m256i p0 = _mm256_maddubs_epi16(w0, q), p1 = _mm256_maddubs_epi16(w1, q);
        if constexpr (Steps == 1) {
          sum_a[t] = in_order(_mm256_add_epi32(sum_a[t], _mm256_madd_epi16(p0, ones)));
          sum_b[t] = in_order(_mm256_add_epi32(sum_b[t], _mm256_madd_epi16(p1, ones)));
        } else {
          a[t] = in_order(i == 0 ? p0 : _mm256_add_epi16(a[t], p0));
          b[t] = in_order(i == 0 ? p1 : _mm256_add_epi16(b[t], p1));
        }
      }
    }
    if constexpr (Steps != 1) {
#pragma GCC unroll 3
      for (int t = 0; t < N; ++t) {
        sum_a[t] = _mm256_add_epi32(sum_a[t], _mm256_madd_epi16(a[t], ones));
        sum_b[t] = _mm256_add_epi32(sum_b[t], _mm256_madd_epi16(b[t], ones));
      }
    }
  }
  store_sums(sums, sum_a, sum_b);
}

/// sums[lane * 32 + r] += 128 * the products of a tile's high planes with 8 x Panels rows' columns [column, end).
template <int Panels>
LSAQ_AVX2_HELPER void multiply_high(const std::byte* panels, std::size_t column, std::size_t end, const TokenCodes& tokens, std::size_t tile,
                                    std::int32_t* sums) noexcept {
  const __m256i scale = _mm256_set1_epi16(128);
  for (const HighRun& run : tokens.runs_of(tile, column, end)) {
    const std::byte* const w = panels + (run.place * std::size_t{4} - column) * 8;
    const __m256i q = broadcast(run.plane);
    std::int32_t* const out = sums + run.lane * tile_rows;
#pragma GCC unroll 4
    for (std::size_t p = 0; p < Panels; ++p) {
      const __m256i product = _mm256_madd_epi16(_mm256_maddubs_epi16(load_bytes(w + p * panel_bytes), q), scale);
      store_bytes(out + 8 * p, _mm256_add_epi32(load_bytes(out + 8 * p), product));
    }
  }
}

using MultiplyTile = decltype(&multiply_tile<1, 4>);

/// What multiplies a tile of `count` tokens, of which 16 and more make tiles of 2 and 3, or of 4 and 5.
inline MultiplyTile tile_product(unsigned bits, std::size_t count) noexcept {
  switch (steps_in_16_bits(bits)) {
  case 8: return count == 3 ? multiply_tile<8, 3> : multiply_tile<8, 2>;
  case 4: return count == 3 ? multiply_tile<4, 3> : multiply_tile<4, 2>;
  case 2: return count == 3 ? multiply_tile<2, 3> : multiply_tile<2, 2>;
  default: return count == 5 ? multiply_tile<1, 5> : multiply_tile<1, 4>;
  }
}

LSAQ_AVX2 void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                         std::int32_t* sums, const RowOutputs& outputs) noexcept {
  alignas(64) std::byte panels[4 * panel_bytes];
  const unsigned bits = weights.format.bits;
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_bytes / 8);
  const std::size_t first_token = tokens.first_of(first_tile), lanes = tokens.layout.lanes;
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    fill_panels_by<PlanesStep>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token;
      const MultiplyTile multiply = tile_product(bits, count);
      std::int32_t* const out = sums + (token - first_token) * tile_rows;
      for (std::size_t part = 0; part < panels_of(rows); part += 2)
        multiply(panels + part * panel_bytes, depth, bits, tokens.tile(tile) + column * lanes, tokens.sums + token, column == 0, out + 8 * part);
      if (rows > 16)
        multiply_high<4>(panels, column, column + depth, tokens, tile, out);
      else
        multiply_high<2>(panels, column, column + depth, tokens, tile, out);
      if (column + depth == padded) finish(out, tile_rows, rows, count, tokens.scales + token, outputs.row_scales, outputs.of(token), outputs.stride);
    }
  }
}

/// Columns that a panel has room for beside blocks that have scales.
constexpr std::size_t block_panel_depth(unsigned bits) noexcept { return panel_bytes / (in_planes(bits) ? 8 : 16); }

/// N tokens of a tile by two panels of `depth` columns from `column` on, block by block: sums[t * 32 + r], added to unless column is 0.
template <bool Planes, int N>
LSAQ_AVX2_KERNEL void multiply_blocks(const std::byte* panels, std::size_t column, std::size_t depth, unsigned bits, const std::byte* tile, std::size_t lanes,
                                      const float* token_scales, const std::int32_t* start, std::size_t scales_per_token, const PanelScales& scales,
                                      float* sums) noexcept {
  constexpr std::size_t step = Planes ? 4 : 2; // columns in four bytes
  const __m256i ones = _mm256_set1_epi16(1);
  PanelScales::Walk walk(scales, column);
  for (std::size_t first = 0; first < depth; first += code_block, walk.next()) {
    const std::size_t block = (column + first) / code_block;
    __m256i a[N], b[N];
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) a[t] = b[t] = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (std::size_t c = first; c < first + code_block; c += step) {
      const __m256i w0 = load_bytes(panels + c / step * 32), w1 = load_bytes(panels + panel_bytes + c / step * 32);
#pragma GCC unroll 6
      for (int t = 0; t < N; ++t) {
        const __m256i q = broadcast(tile + (c / step * lanes + static_cast<std::size_t>(t)) * 4);
        if constexpr (Planes) {
          a[t] = in_order(_mm256_add_epi16(a[t], _mm256_maddubs_epi16(w0, q)));
          b[t] = in_order(_mm256_add_epi16(b[t], _mm256_maddubs_epi16(w1, q)));
        } else {
          a[t] = in_order(_mm256_add_epi32(a[t], _mm256_madd_epi16(w0, q)));
          b[t] = in_order(_mm256_add_epi32(b[t], _mm256_madd_epi16(w1, q)));
        }
      }
    }
    const float* const row_scales = walk.here();
    const __m256 s0 = _mm256_loadu_ps(row_scales), s1 = _mm256_loadu_ps(row_scales + 8);
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      if constexpr (Planes) {
        a[t] = _mm256_madd_epi16(a[t], ones);
        b[t] = _mm256_madd_epi16(b[t], ones);
      }
      const std::size_t at = static_cast<std::size_t>(t) * scales_per_token + block;
      const __m256i offset = _mm256_set1_epi32(start[at] << (bits - 1));
      const __m256 scale = _mm256_set1_ps(token_scales[at]);
      const __m256 p = _mm256_cvtepi32_ps(_mm256_sub_epi32(a[t], offset)), q = _mm256_cvtepi32_ps(_mm256_sub_epi32(b[t], offset));
      float* const out = sums + t * static_cast<int>(tile_rows);
      const bool begins = column + first == 0;
      _mm256_storeu_ps(out, _mm256_fmadd_ps(p, _mm256_mul_ps(s0, scale), begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out)));
      _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(q, _mm256_mul_ps(s1, scale), begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out + 8)));
    }
  }
}

LSAQ_AVX2 void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                          std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  static constexpr decltype(&multiply_blocks<true, 1>) of_planes[] = {multiply_blocks<true, 1>, multiply_blocks<true, 2>, multiply_blocks<true, 3>};
  static constexpr decltype(&multiply_blocks<true, 1>) of_whole[] = {multiply_blocks<false, 1>, multiply_blocks<false, 2>, multiply_blocks<false, 3>,
                                                                     multiply_blocks<false, 4>, multiply_blocks<false, 5>, multiply_blocks<false, 6>};
  if (tokens.tokens == 1) return dot_block_rows_by<StepOf>(weights, rows, tokens, column, end, scales, sums);
  alignas(64) std::byte panels[4 * panel_bytes];
  const unsigned bits = weights.format.bits;
  const std::size_t lanes = tokens.layout.lanes, per_token = tokens.scales_per_token;
  const std::size_t chunk = even_chunk(end - column, block_panel_depth(bits)), first_token = tokens.first_of(first_tile);
  for (; column < end; column += chunk) {
    const std::size_t depth = end - column < chunk ? end - column : chunk;
    fill_panels_by<StepOf>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token;
      const auto multiply = in_planes(bits) ? of_planes[count - 1] : of_whole[count - 1];
      for (std::size_t part = 0; part < panels_of(rows); part += 2)
        multiply(panels + part * panel_bytes, column, depth, bits, tokens.tile(tile) + column * lanes * tokens.layout.width, lanes,
                 tokens.scales + token * per_token, tokens.sums + token * per_token, per_token, part == 0 ? scales : scales.upper(),
                 sums + (token - first_token) * tile_rows + 8 * part);
    }
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#undef LSAQ_AVX2_KERNEL
#endif
