// Integer products for x86-64 with AVX-VNNI and no AVX-512 (Alder Lake, Sierra Forest and later): vpdpbusd multiplies 32 unsigned codes with 32 signed bytes of
// a token at once. Everything else is AVX2's; what is added to codes (2^(bits-1)) is taken off at the end, as so often the sum of q.
//
// Few tokens: rows of weights, four of them far apart so that memory sees four streams, by rows of tokens.
// Many tokens: 16 rows are unpacked into two panels in the first-level cache, bytes [column / 4][row][column % 4], and meet tiles of up to 6 tokens,
// [column / 4][token][column % 4]: 12 sums in registers, every token's four bytes broadcast.
#pragma once

#include <lsaq/kernels/cpu/avx2.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avxvnni {

/// The bytes vpdpbusd is written in: those of AVX-VNNI, or those that machines with AVX-512 VNNI and VL run, so that these can test the rest.
enum class Encoding : std::uint8_t { vex, evex };

inline constexpr std::size_t tile_lanes = 6;
inline constexpr std::size_t panel_depth = 1024; ///< columns of a panel of 8 rows: two of them fill half of a first-level cache
inline constexpr std::size_t panel_bytes = 8 * panel_depth;

inline TokenLayout layout(unsigned, std::size_t tokens, Scaling scaling) noexcept {
  if (scaling == Scaling::block) return {.width = 1, .lanes = std::clamp<std::size_t>(tokens, 1, tile_lanes)};
  return {.width = 1, .lanes = tokens <= dot_tokens_max ? 1 : tile_lanes};
}

/// sum += products of four unsigned codes with four signed bytes in every lane. Written out since an intrinsic would have one encoding only.
template <Encoding E> LSAQ_AVX2_HELPER void dot(__m256i& sum, __m256i codes, __m256i q) noexcept {
  if constexpr (E == Encoding::vex)
    asm("%{vex%} vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(sum) : "x"(codes), "x"(q));
  else
    asm("%{evex%} vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+x"(sum) : "x"(codes), "x"(q));
}

/// 32 unsigned codes as bytes from the `readable` bytes at `in`; codes beyond those are nothing in particular.
template <unsigned Bits> LSAQ_AVX2_HELPER __m256i codes32(const std::byte* in, std::size_t readable) noexcept {
  if constexpr (Bits != 8) {
    return avx2::codes32<Bits>(in, readable);
  } else {
    if (readable >= 32) return avx2::load_bytes(in);
    alignas(32) std::byte copy[32] = {};
    std::memcpy(copy, in, readable);
    return avx2::load_bytes(copy);
  }
}

/// T tokens by S streams of `part` rows each: rows r, part + r, 2 part + r, ...
template <Encoding E, unsigned Bits, int S, int T>
LSAQ_AVX2 void dot_streams(const WeightRows& weights, std::size_t part, const TokenCodes& tokens, std::size_t first_token, std::int32_t* sums,
                           std::size_t stride) noexcept {
  const std::size_t row_bytes = weights.row_bytes, blocks = (tokens.columns + code_block - 1) / code_block;
  const std::size_t whole = whole_blocks(row_bytes, 4 * Bits, avx2::bytes_loaded_of_32(Bits), blocks);
  const std::byte* q[T];
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) q[t] = tokens.tile(first_token + static_cast<std::size_t>(t));
  for (std::size_t r = 0; r < part; ++r) {
    const std::byte* row[S];
    __m256i sum[S][T];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      row[s] = weights.row(r + static_cast<std::size_t>(s) * part);
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) sum[s][t] = _mm256_setzero_si256();
    }
    for (std::size_t b = 0; b < blocks; ++b) {
      const std::size_t at = b * 4 * Bits;
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        const __m256i w = codes32<Bits>(row[s] + at, b < whole ? 32 : row_bytes - at);
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) dot<E>(sum[s][t], w, avx2::load_bytes(q[t] + b * code_block));
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
      const std::size_t token = first_token + static_cast<std::size_t>(t);
      __m256i high[S];
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) high[s] = _mm256_setzero_si256();
      for (std::size_t slot = token * tokens.high_limit; slot < token * tokens.high_limit + tokens.high_counts[token]; ++slot) {
        const std::size_t at = std::size_t{tokens.high_blocks[slot]} * 4 * Bits;
        const __m256i upper = avx2::load_bytes(tokens.high + slot * code_block);
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) dot<E>(high[s], codes32<Bits>(row[s] + at, row_bytes - at), upper);
      }
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s)
        sums[token * stride + r + static_cast<std::size_t>(s) * part] =
            avx2::sum_lanes(_mm256_add_epi32(sum[s][t], _mm256_slli_epi32(high[s], 7))) - (tokens.sums[token] << (Bits - 1));
    }
  }
}

template <Encoding E, unsigned Bits>
LSAQ_AVX2 void dot_rows_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  const std::size_t part = rows / 4;
  const WeightRows rest = weights.from(4 * part);
  std::size_t t = 0;
  for (; t + 2 <= tokens.tokens; t += 2) {
    dot_streams<E, Bits, 4, 2>(weights, part, tokens, t, sums, stride);
    dot_streams<E, Bits, 1, 2>(rest, rows - 4 * part, tokens, t, sums + 4 * part, stride);
  }
  if (t == tokens.tokens) return;
  dot_streams<E, Bits, 4, 1>(weights, part, tokens, t, sums, stride);
  dot_streams<E, Bits, 1, 1>(rest, rows - 4 * part, tokens, t, sums + 4 * part, stride);
}

/// Unpacks columns [column, column + depth) of up to 16 rows into two panels; a missing row is the last one again: its sums are never used.
template <unsigned Bits>
LSAQ_AVX2 void fill_panels(const WeightRows& weights, std::size_t rows, std::size_t column, std::size_t depth, std::byte* panels) noexcept {
  for (std::size_t half = 0; half < 2; ++half) {
    const std::byte* row[8];
#pragma GCC unroll 8
    for (std::size_t r = 0; r < 8; ++r) row[r] = weights.row(8 * half + r < rows ? 8 * half + r : rows - 1);
    std::byte* panel = panels + half * panel_bytes;
    for (std::size_t c = 0; c < depth; c += code_block, panel += 8 * code_block) {
      const std::size_t at = (column + c) * Bits / 8, readable = weights.row_bytes > at ? weights.row_bytes - at : 0;
      __m256i v[8];
#pragma GCC unroll 8
      for (int r = 0; r < 8; ++r) v[r] = codes32<Bits>(row[r] + (readable != 0 ? at : 0), readable);
      avx2::store_runs(v, panel);
    }
  }
}

/// N tokens of a tile by two panels' columns [first, end): added to a and b.
template <Encoding E, int N>
LSAQ_AVX2_HELPER void multiply(const std::byte* panels, std::size_t first, std::size_t end, const std::byte* tile, std::size_t lanes, __m256i (&a)[N],
                               __m256i (&b)[N]) noexcept {
  for (std::size_t c = first; c < end; c += 4) {
    const __m256i w0 = avx2::load_bytes(panels + c * 8), w1 = avx2::load_bytes(panels + panel_bytes + c * 8);
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      const __m256i q = avx2::broadcast(tile + c * lanes + 4 * static_cast<std::size_t>(t));
      dot<E>(a[t], w0, q);
      dot<E>(b[t], w1, q);
    }
  }
}

/// N tokens of a tile by two panels of `depth` columns: sums[t * 32 + r], from -start[t] * 2^(bits-1) where `first`, else added to.
template <Encoding E, unsigned Bits, int N>
LSAQ_AVX2 void multiply_tile(const std::byte* panels, std::size_t depth, const std::byte* tile, const std::int32_t* start, bool first,
                             std::int32_t* sums) noexcept {
  __m256i a[N], b[N];
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    const std::int32_t* const out = sums + t * static_cast<int>(tile_rows);
    a[t] = first ? _mm256_set1_epi32(-(start[t] << (Bits - 1))) : avx2::load_bytes(out);
    b[t] = first ? a[t] : avx2::load_bytes(out + 8);
  }
  multiply<E>(panels, 0, depth, tile, tile_lanes, a, b);
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    avx2::store_bytes(sums + t * static_cast<int>(tile_rows), a[t]);
    avx2::store_bytes(sums + t * static_cast<int>(tile_rows) + 8, b[t]);
  }
}

/// sums[r] += 128 * the product of a block's high plane with two panels, from its first column on.
template <Encoding E> LSAQ_AVX2_HELPER void multiply_high(const std::byte* panels, std::size_t column, const std::int8_t* high, std::int32_t* sums) noexcept {
  __m256i a = _mm256_setzero_si256(), b = a;
#pragma GCC unroll 8
  for (std::size_t c = 0; c < code_block; c += 4) {
    const std::byte* w = panels + (column + c) * 8;
    const __m256i q = avx2::broadcast(reinterpret_cast<const std::byte*>(high + c));
    dot<E>(a, avx2::load_bytes(w), q);
    dot<E>(b, avx2::load_bytes(w + panel_bytes), q);
  }
  avx2::store_bytes(sums, _mm256_add_epi32(avx2::load_bytes(sums), _mm256_slli_epi32(a, 7)));
  avx2::store_bytes(sums + 8, _mm256_add_epi32(avx2::load_bytes(sums + 8), _mm256_slli_epi32(b, 7)));
}

/// dot_tiles() of at most 16 rows.
template <Encoding E, unsigned Bits>
LSAQ_AVX2 void dot_half(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                        std::int32_t* sums) noexcept {
  alignas(64) std::byte panels[2 * panel_bytes];
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_depth), first_token = tokens.first_of(first_tile);
  std::uint32_t high_done[largest_pass_of_tokens] = {};
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    fill_panels<Bits>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token;
      const std::byte* const q = tokens.tile(tile) + column * tile_lanes;
      std::int32_t* out = sums + (token - first_token) * tile_rows;
      switch (count) { // 16 tokens and more make tiles of 4 to 6
      case 6: multiply_tile<E, Bits, 6>(panels, depth, q, tokens.sums + token, column == 0, out); break;
      case 5: multiply_tile<E, Bits, 5>(panels, depth, q, tokens.sums + token, column == 0, out); break;
      default: multiply_tile<E, Bits, 4>(panels, depth, q, tokens.sums + token, column == 0, out); break;
      }
      for (std::size_t t = token; t < token + count; ++t, out += tile_rows) {
        std::uint32_t& done = high_done[t - first_token];
        for (; done < tokens.high_counts[t]; ++done) {
          const std::size_t slot = t * tokens.high_limit + done, at = std::size_t{tokens.high_blocks[slot]} * code_block;
          if (at >= column + depth) break;
          multiply_high<E>(panels, at - column, tokens.high + slot * code_block, out);
        }
      }
    }
  }
}

template <Encoding E, unsigned Bits>
LSAQ_AVX2 void dot_tiles_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                            std::int32_t* sums) noexcept {
  dot_half<E, Bits>(weights, rows < 16 ? rows : 16, tokens, first_tile, end_tile, sums);
  if (rows > 16) dot_half<E, Bits>(weights.from(16), rows - 16, tokens, first_tile, end_tile, sums + 16);
}

/// N tokens of a tile by two panels of `depth` columns from `column` on, block by block: sums[t * 32 + r], added to unless column is 0.
template <Encoding E, unsigned Bits, int N>
LSAQ_AVX2 void multiply_blocks(const std::byte* panels, std::size_t column, std::size_t depth, const std::byte* tile, std::size_t lanes,
                               const float* token_scales, const std::int32_t* start, std::size_t scales_per_token, const PanelScales& scales,
                               float* sums) noexcept {
  for (std::size_t first = 0; first < depth; first += code_block) {
    const std::size_t block = (column + first) / code_block;
    __m256i a[N], b[N];
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) a[t] = b[t] = _mm256_set1_epi32(-(start[static_cast<std::size_t>(t) * scales_per_token + block] << (Bits - 1)));
    multiply<E>(panels, first, first + code_block, tile, lanes, a, b);
    const float* const row_scales = scales.at(column + first);
    const __m256 s0 = _mm256_loadu_ps(row_scales), s1 = _mm256_loadu_ps(row_scales + 8);
    const bool begins = column + first == 0;
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      const __m256 scale = _mm256_set1_ps(token_scales[static_cast<std::size_t>(t) * scales_per_token + block]);
      float* const out = sums + t * static_cast<int>(tile_rows);
      const __m256 before0 = begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out), before1 = begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out + 8);
      _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(a[t]), _mm256_mul_ps(s0, scale), before0));
      _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(b[t]), _mm256_mul_ps(s1, scale), before1));
    }
  }
}

/// dot_blocks() of at most 16 rows.
template <Encoding E, unsigned Bits>
LSAQ_AVX2 void dot_half_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                               std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  static constexpr decltype(&multiply_blocks<E, Bits, 1>) of_count[] = {multiply_blocks<E, Bits, 1>, multiply_blocks<E, Bits, 2>, multiply_blocks<E, Bits, 3>,
                                                                        multiply_blocks<E, Bits, 4>, multiply_blocks<E, Bits, 5>, multiply_blocks<E, Bits, 6>};
  alignas(64) std::byte panels[2 * panel_bytes];
  const std::size_t lanes = tokens.layout.lanes, per_token = tokens.scales_per_token;
  const std::size_t chunk = even_chunk(end - column, panel_depth), first_token = tokens.first_of(first_tile);
  for (; column < end; column += chunk) {
    const std::size_t depth = end - column < chunk ? end - column : chunk;
    fill_panels<Bits>(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile);
      of_count[tokens.first_of(tile + 1) - token - 1](panels, column, depth, tokens.tile(tile) + column * lanes, lanes, tokens.scales + token * per_token,
                                                      tokens.sums + token * per_token, per_token, scales, sums + (token - first_token) * tile_rows);
    }
  }
}

template <Encoding E, unsigned Bits>
LSAQ_AVX2 void dot_blocks_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                             std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  dot_half_blocks<E, Bits>(weights, rows < 16 ? rows : 16, tokens, first_tile, end_tile, column, end, scales, sums);
  if (rows > 16) dot_half_blocks<E, Bits>(weights.from(16), rows - 16, tokens, first_tile, end_tile, column, end, scales.upper(), sums + 16);
}

template <Encoding E>
inline void dot_rows(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  static constexpr decltype(&dot_rows_of<E, 2>) of_bits[] = {dot_rows_of<E, 2>, dot_rows_of<E, 3>, dot_rows_of<E, 4>, dot_rows_of<E, 5>,
                                                             dot_rows_of<E, 6>, dot_rows_of<E, 7>, dot_rows_of<E, 8>};
  of_bits[weights.format.bits - 2](weights, rows, tokens, sums, stride);
}

template <Encoding E>
inline void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                      std::int32_t* sums) noexcept {
  static constexpr decltype(&dot_tiles_of<E, 2>) of_bits[] = {dot_tiles_of<E, 2>, dot_tiles_of<E, 3>, dot_tiles_of<E, 4>, dot_tiles_of<E, 5>,
                                                              dot_tiles_of<E, 6>, dot_tiles_of<E, 7>, dot_tiles_of<E, 8>};
  of_bits[weights.format.bits - 2](weights, rows, tokens, first_tile, end_tile, sums);
}

template <Encoding E>
inline void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column,
                       std::size_t end, const PanelScales& scales, float* sums) noexcept {
  static constexpr decltype(&dot_blocks_of<E, 2>) of_bits[] = {dot_blocks_of<E, 2>, dot_blocks_of<E, 3>, dot_blocks_of<E, 4>, dot_blocks_of<E, 5>,
                                                               dot_blocks_of<E, 6>, dot_blocks_of<E, 7>, dot_blocks_of<E, 8>};
  of_bits[weights.format.bits - 2](weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
}

template <Encoding E>
inline constexpr IntegerKernels integer_kernels{layout, avx2::block_maxima, avx2::place, dot_rows<E>, dot_tiles<E>, dot_blocks<E>, avx2::finish};

inline constexpr CpuKernels kernels = with_integer_products(avx2::kernels, Isa::avxvnni, integer_kernels<Encoding::vex>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avxvnni

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
