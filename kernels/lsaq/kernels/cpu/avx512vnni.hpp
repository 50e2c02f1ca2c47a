// Integer products for x86-64 with AVX-512 VNNI and VBMI (Ice Lake, Zen 4 and later): vpdpbusd multiplies 64 unsigned codes with 64 signed bytes of a token at
// once. Codes stay in canonical order and are unpacked in registers; what is added to them (2^(bits-1)) is taken off at the end, as so often the sum of q.
//
// Few tokens: rows of weights, four of them far apart so that memory sees four streams, by rows of tokens.
// Many tokens: 32 rows are unpacked into two panels in the first-level cache, bytes [column / 4][row][column % 4], and meet tiles of up to 12 tokens,
// [column / 4][token][column % 4]: 24 sums in registers, every token's four bytes broadcast from memory.
#pragma once

#include <lsaq/kernels/cpu/avx512vnni_tokens.hpp>

#if LSAQ_X86
#define LSAQ_VNNI [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]] inline
#define LSAQ_VNNI_KERNEL [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"), gnu::noinline]] inline // registers of its own
#define LSAQ_VNNI_HELPER [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512vnni {

inline constexpr std::size_t panel_depth = 1024; ///< columns of a panel: two of them fill a first-level cache of 32 KiB

/// The lowest n bits set, n <= 64.
LSAQ_VNNI_HELPER __mmask64 first_bytes(std::size_t n) noexcept { return _cvtu64_mask64(n >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1); }

/// 64 unsigned codes as bytes from the `readable` bytes at `in`; codes beyond those are nothing in particular.
template <unsigned Bits> LSAQ_VNNI_HELPER __m512i codes64(const std::byte* in, std::size_t readable) noexcept {
  constexpr std::size_t all = 8 * Bits;
  if constexpr (Bits == 8) return readable >= all ? _mm512_loadu_si512(in) : _mm512_maskz_loadu_epi8(first_bytes(readable), in);
  const __m512i bytes = _mm512_maskz_loadu_epi8(first_bytes(readable < all ? readable : all), in);
  // Eight codes are Bits bytes: they go to a quadword each, and from there every code to the lowest bits of a byte.
  constexpr std::uint64_t ones = 0x0101010101010101;
  const __m512i eighths =
      _mm512_set_epi64(7 * Bits * ones, 6 * Bits * ones, 5 * Bits * ones, 4 * Bits * ones, 3 * Bits * ones, 2 * Bits * ones, Bits * ones, 0);
  const __m512i spread = _mm512_add_epi8(eighths, _mm512_set1_epi64(0x0706050403020100));
  const __m512i shifts = _mm512_set1_epi64(static_cast<long long>(0x0706050403020100 * Bits));
  const __m512i eight = _mm512_maskz_permutexvar_epi8(~__mmask64{0}, spread, bytes);
  const __m512i shifted = _mm512_maskz_multishift_epi64_epi8(~__mmask64{0}, shifts, eight);
  return _mm512_and_si512(shifted, _mm512_set1_epi8(static_cast<char>((1 << Bits) - 1)));
}

/// 32 codes, as codes64.
template <unsigned Bits> LSAQ_VNNI_HELPER __m256i codes32(const std::byte* in, std::size_t readable) noexcept {
  constexpr std::size_t all = 4 * Bits;
  return _mm512_maskz_extracti64x4_epi64(0xf, codes64<Bits>(in, readable < all ? readable : all), 0);
}

/// T tokens by four streams of `part` rows each: rows r, part + r, 2 part + r, ...; those beyond `last` are that one again, and so are tokens.
template <unsigned Bits, int T>
LSAQ_VNNI_KERNEL void dot_part(const WeightRows& weights, std::size_t part, std::size_t last, const TokenCodes& tokens, std::size_t first_token,
                               std::int32_t* sums, std::size_t stride) noexcept {
  const std::size_t whole = tokens.columns / 64 * 64, row_bytes = weights.row_bytes;
  std::size_t token[T];
  const std::byte* q[T];
#pragma GCC unroll 4
  for (std::size_t t = 0; t < T; ++t) {
    token[t] = first_token + t < tokens.tokens ? first_token + t : tokens.tokens - 1;
    q[t] = tokens.tile(token[t]);
  }
  for (std::size_t r = 0; r < part; ++r) {
    std::size_t number[row_streams];
    const std::byte* row[row_streams];
    __m512i sum[row_streams][T];
#pragma GCC unroll 4
    for (std::size_t s = 0; s < row_streams; ++s) {
      number[s] = row_of_stream(r, s, part, last);
      row[s] = weights.row(number[s]);
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) sum[s][t] = _mm512_setzero_si512();
    }
    for (std::size_t c = 0; c < whole; c += 64) {
      __m512i w[row_streams];
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) {
        if (c * Bits / 8 % 64 < 8 * Bits) fetch_ahead(row[s] + c * Bits / 8, 1); // the first step that reads from a cache line
        w[s] = codes64<Bits>(row[s] + c * Bits / 8, 64);
      }
#pragma GCC unroll 4
      for (int t = 0; t < T; ++t) {
        const __m512i low = _mm512_loadu_si512(q[t] + c);
#pragma GCC unroll 4
        for (std::size_t s = 0; s < row_streams; ++s) sum[s][t] = _mm512_dpbusd_epi32(sum[s][t], w[s], low);
      }
    }
    if (whole != tokens.columns) {
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) {
        const __m512i w = codes64<Bits>(row[s] + whole * Bits / 8, row_bytes - whole * Bits / 8);
#pragma GCC unroll 4
        for (int t = 0; t < T; ++t) sum[s][t] = _mm512_dpbusd_epi32(sum[s][t], w, _mm512_loadu_si512(q[t] + whole));
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
      __m256i high[row_streams];
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) high[s] = _mm256_setzero_si256();
      for (std::size_t slot = token[t] * tokens.high_limit; slot < token[t] * tokens.high_limit + tokens.high_counts[token[t]]; ++slot) {
        const std::size_t at = std::size_t{tokens.high_blocks[slot]} * code_block * Bits / 8;
        const __m256i upper = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tokens.high + slot * code_block));
#pragma GCC unroll 4
        for (std::size_t s = 0; s < row_streams; ++s) high[s] = _mm256_dpbusd_epi32(high[s], codes32<Bits>(row[s] + at, row_bytes - at), upper);
      }
      __m512i total[row_streams];
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) total[s] = _mm512_add_epi32(sum[s][t], _mm512_maskz_broadcast_i64x4(0x0f, _mm256_slli_epi32(high[s], 7)));
      const __m128i offset = _mm_set1_epi32(tokens.sums[token[t]] << (Bits - 1));
      alignas(16) std::int32_t result[4];
      _mm_store_si128(reinterpret_cast<__m128i*>(result), _mm_sub_epi32(sum_lanes(total[0], total[1], total[2], total[3]), offset));
#pragma GCC unroll 4
      for (std::size_t s = 0; s < row_streams; ++s) sums[token[t] * stride + number[s]] = result[s];
    }
  }
}

template <unsigned Bits>
LSAQ_VNNI void dot_rows_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  for (std::size_t t = 0; t < tokens.tokens; t += 4) switch (tokens.tokens - t) {
    case 1: dot_streams<dot_part<Bits, 1>>(weights, rows, tokens, t, sums, stride); break;
    case 2: dot_streams<dot_part<Bits, 2>>(weights, rows, tokens, t, sums, stride); break;
    default: dot_streams<dot_part<Bits, 4>>(weights, rows, tokens, t, sums, stride);
    }
}

inline void dot_rows(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  static constexpr decltype(&dot_rows_of<2>) of_bits[] = {dot_rows_of<2>, dot_rows_of<3>, dot_rows_of<4>, dot_rows_of<5>,
                                                          dot_rows_of<6>, dot_rows_of<7>, dot_rows_of<8>};
  of_bits[weights.format.bits - 2](weights, rows, tokens, sums, stride);
}

/// 16 rows of 64 codes become 16 times [row][4 columns].
template <unsigned Bits>
LSAQ_VNNI_HELPER void unpack_panel64(const std::byte* const (&row)[16], std::size_t at, std::size_t row_bytes, std::byte* panel) noexcept {
  __m512i r[16], t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = codes64<Bits>(row[i] + at, row_bytes - at);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_maskz_unpacklo_epi32(0xffff, r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_maskz_unpackhi_epi32(0xffff, r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_maskz_unpacklo_epi64(0xff, t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_maskz_unpackhi_epi64(0xff, t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_maskz_unpacklo_epi64(0xff, t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_maskz_unpackhi_epi64(0xff, t[4 * i + 1], t[4 * i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) { // r[4 g + i]: rows 4 g to 4 g + 3, columns i * 4 + 16 * lane of 128 bits
    const __m512i a = _mm512_maskz_shuffle_i32x4(0xffff, r[i], r[4 + i], 0x88), b = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + i], r[12 + i], 0x88);
    const __m512i c = _mm512_maskz_shuffle_i32x4(0xffff, r[i], r[4 + i], 0xdd), d = _mm512_maskz_shuffle_i32x4(0xffff, r[8 + i], r[12 + i], 0xdd);
    _mm512_store_si512(panel + 64 * i, _mm512_maskz_shuffle_i32x4(0xffff, a, b, 0x88));
    _mm512_store_si512(panel + 64 * (8 + i), _mm512_maskz_shuffle_i32x4(0xffff, a, b, 0xdd));
    _mm512_store_si512(panel + 64 * (4 + i), _mm512_maskz_shuffle_i32x4(0xffff, c, d, 0x88));
    _mm512_store_si512(panel + 64 * (12 + i), _mm512_maskz_shuffle_i32x4(0xffff, c, d, 0xdd));
  }
}

/// sum += 64 products of `codes` with a token's four bytes at `q`, the same for every row. Written out since GCC 12 copies the sums of the intrinsic around.
#define LSAQ_MULTIPLY_BROADCAST(sum, codes, q) asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*reinterpret_cast<const std::int32_t*>(q)))

/// N tokens of a tile by two panels of `depth` columns: sums[t * 32 + r], from -start[t] * 2^(bits-1) where `first`, else added to.
template <int N>
LSAQ_VNNI_KERNEL void multiply_tile(const std::byte* panels, std::size_t depth, unsigned bits, const std::byte* tile, const std::int32_t* start, bool first,
                                    std::int32_t* sums) noexcept {
  __m512i a[N], b[N];
#pragma GCC unroll 12
  for (int t = 0; t < N; ++t) {
    a[t] = first ? _mm512_set1_epi32(-(start[t] << (bits - 1))) : _mm512_loadu_si512(sums + t * static_cast<int>(tile_rows));
    b[t] = first ? a[t] : _mm512_loadu_si512(sums + t * static_cast<int>(tile_rows) + 16);
  }
  for (std::size_t c = 0; c < depth; c += 4) {
    const __m512i w0 = _mm512_load_si512(panels + c * 16), w1 = _mm512_load_si512(panels + 16 * panel_depth + c * 16);
    const std::byte* q = tile + c * tile_lanes;
#pragma GCC unroll 12
    for (int t = 0; t < N; ++t) {
      LSAQ_MULTIPLY_BROADCAST(a[t], w0, q + 4 * t);
      LSAQ_MULTIPLY_BROADCAST(b[t], w1, q + 4 * t);
    }
  }
#pragma GCC unroll 12
  for (int t = 0; t < N; ++t) {
    _mm512_storeu_si512(sums + t * static_cast<int>(tile_rows), a[t]);
    _mm512_storeu_si512(sums + t * static_cast<int>(tile_rows) + 16, b[t]);
  }
}

/// sums[lane * 32 + r] += 128 * the products of a tile's high planes with two panels of columns [column, end), which are `Apart` bytes apart.
template <std::size_t Apart = 16 * panel_depth>
LSAQ_VNNI_HELPER void multiply_high(const std::byte* panels, std::size_t column, std::size_t end, const TokenCodes& tokens, std::size_t tile,
                                    std::int32_t* sums) noexcept {
  for (const HighRun& run : tokens.runs_of(tile, column, end)) {
    const std::byte* const w = panels + (run.place * std::size_t{4} - column) * 16;
    std::int32_t* const out = sums + run.lane * tile_rows;
    __m512i a = _mm512_setzero_si512(), b = a;
    LSAQ_MULTIPLY_BROADCAST(a, _mm512_load_si512(w), run.plane);
    LSAQ_MULTIPLY_BROADCAST(b, _mm512_load_si512(w + Apart), run.plane);
    _mm512_storeu_si512(out, _mm512_add_epi32(_mm512_loadu_si512(out), _mm512_maskz_slli_epi32(0xffff, a, 7)));
    _mm512_storeu_si512(out + 16, _mm512_add_epi32(_mm512_loadu_si512(out + 16), _mm512_maskz_slli_epi32(0xffff, b, 7)));
  }
}

/// Unpacks columns [column, column + depth) of up to 32 rows into two panels, `apart` bytes from start to start; missing rows are the last one again.
template <unsigned Bits>
LSAQ_VNNI_KERNEL void fill_panels_of(const WeightRows& weights, std::size_t rows, std::size_t column, std::size_t depth, std::byte* panels,
                                     std::size_t apart) noexcept {
  for (std::size_t half = 0; half < 2; ++half) {
    const std::byte* row[16];
#pragma GCC unroll 16
    for (std::size_t r = 0; r < 16; ++r) row[r] = weights.row(16 * half + r < rows ? 16 * half + r : rows - 1);
    for (std::size_t c = 0; c < depth; c += 64) {
      if constexpr (Bits < 8) { // parts of cache lines of 16 rows in turn: too little for the machine to see where they go
#pragma GCC unroll 16
        for (std::size_t r = 0; r < 16; ++r) __builtin_prefetch(row[r] + (column + c + 512) * Bits / 8);
      }
      unpack_panel64<Bits>(row, (column + c) * Bits / 8, weights.row_bytes, panels + half * apart + 16 * c);
    }
  }
}

inline void fill_panels(const WeightRows& weights, std::size_t rows, std::size_t column, std::size_t depth, std::byte* panels,
                        std::size_t apart = 16 * panel_depth) noexcept {
  static constexpr decltype(&fill_panels_of<2>) of_bits[] = {fill_panels_of<2>, fill_panels_of<3>, fill_panels_of<4>, fill_panels_of<5>,
                                                             fill_panels_of<6>, fill_panels_of<7>, fill_panels_of<8>};
  of_bits[weights.format.bits - 2](weights, rows, column, depth, panels, apart);
}

/// Fetches a tile's share of columns [column, column + depth) of the tile_rows rows that follow, if there are any, into the second-level cache: while a chunk's
/// tiles are multiplied, the rows that come next arrive.
LSAQ_VNNI_HELPER void fetch_next_rows(const WeightRows& weights, std::size_t column, std::size_t depth, std::size_t tile, std::size_t tiles) noexcept {
  constexpr std::size_t cache_line = 64;
  const std::size_t bytes = depth * weights.format.bits / 8, end = tile_rows * (tile + 1) / tiles;
  const auto first = reinterpret_cast<std::uintptr_t>(weights.data) + tile_rows * weights.row_bytes + column * weights.format.bits / 8;
  for (std::size_t r = tile_rows * tile / tiles; r < end; ++r)
    for (std::size_t byte = 0; byte < bytes; byte += cache_line) __builtin_prefetch(reinterpret_cast<const void*>(first + r * weights.row_bytes + byte), 0, 2);
}

LSAQ_VNNI void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                         std::int32_t* sums, const RowOutputs& outputs) noexcept {
  static constexpr decltype(&multiply_tile<8>) of_count[] = {multiply_tile<8>, multiply_tile<9>, multiply_tile<10>, multiply_tile<11>, multiply_tile<12>};
  alignas(64) std::byte panels[2 * 16 * panel_depth];
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_depth);
  const std::size_t first_token = tokens.first_of(first_tile);
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    fill_panels(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token; // 16 tokens and more make tiles of 8 to 12
      fetch_next_rows(weights, column, depth, tile - first_tile, end_tile - first_tile);
      std::int32_t* const out = sums + (token - first_token) * tile_rows;
      of_count[count - 8](panels, depth, weights.format.bits, tokens.tile(tile) + column * tile_lanes, tokens.sums + token, column == 0, out);
      multiply_high(panels, column, column + depth, tokens, tile, out);
      if (column + depth == padded) finish(out, tile_rows, rows, count, tokens.scales + token, outputs.row_scales, outputs.of(token), outputs.stride);
    }
  }
}

/// N tokens of a tile by two panels of `depth` columns from `column` on, block by block: sums[t * 32 + r], added to unless column is 0.
template <int N>
LSAQ_VNNI_KERNEL void multiply_blocks(const std::byte* panels, std::size_t column, std::size_t depth, unsigned bits, const std::byte* tile, std::size_t lanes,
                                      const float* token_scales, const std::int32_t* start, std::size_t scales_per_token, const PanelScales& scales,
                                      float* sums) noexcept {
  __m512 a[N], b[N];
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    a[t] = column == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + t * static_cast<int>(tile_rows));
    b[t] = column == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(sums + t * static_cast<int>(tile_rows) + 16);
  }
  PanelScales::Walk walk(scales, column);
  for (std::size_t first = 0; first < depth; first += code_block, walk.next()) {
    const std::size_t block = (column + first) / code_block;
    __m512i p[N], q[N];
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) p[t] = q[t] = _mm512_set1_epi32(-(start[static_cast<std::size_t>(t) * scales_per_token + block] << (bits - 1)));
#pragma GCC unroll 8
    for (std::size_t c = first; c < first + code_block; c += 4) {
      const __m512i w0 = _mm512_load_si512(panels + c * 16), w1 = _mm512_load_si512(panels + 16 * panel_depth + c * 16);
#pragma GCC unroll 6
      for (int t = 0; t < N; ++t) {
        LSAQ_MULTIPLY_BROADCAST(p[t], w0, tile + c * lanes + 4 * t);
        LSAQ_MULTIPLY_BROADCAST(q[t], w1, tile + c * lanes + 4 * t);
      }
    }
    const float* const row_scales = walk.here();
    const __m512 s0 = _mm512_loadu_ps(row_scales), s1 = _mm512_loadu_ps(row_scales + scales.groups * 16);
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      const __m512 scale = _mm512_set1_ps(token_scales[static_cast<std::size_t>(t) * scales_per_token + block]);
      a[t] = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xffff, p[t]), _mm512_mul_ps(s0, scale), a[t]);
      b[t] = _mm512_fmadd_ps(_mm512_maskz_cvtepi32_ps(0xffff, q[t]), _mm512_mul_ps(s1, scale), b[t]);
    }
  }
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    _mm512_storeu_ps(sums + t * static_cast<int>(tile_rows), a[t]);
    _mm512_storeu_ps(sums + t * static_cast<int>(tile_rows) + 16, b[t]);
  }
}

LSAQ_VNNI void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                          std::size_t column, std::size_t end, const PanelScales& scales, float* sums) noexcept {
  static constexpr decltype(&multiply_blocks<1>) of_count[] = {multiply_blocks<1>, multiply_blocks<2>, multiply_blocks<3>,
                                                               multiply_blocks<4>, multiply_blocks<5>, multiply_blocks<6>};
  if (tokens.tokens == 1) return avx2::dot_block_rows_by<avxvnni::Steps<avxvnni::Encoding::evex>::Of>(weights, rows, tokens, column, end, scales, sums);
  alignas(64) std::byte panels[2 * 16 * panel_depth];
  const std::size_t chunk = even_chunk(end - column, panel_depth), first_token = tokens.first_of(first_tile);
  const std::size_t per_token = tokens.scales_per_token, lanes = tokens.layout.lanes;
  for (; column < end; column += chunk) {
    const std::size_t depth = end - column < chunk ? end - column : chunk;
    fill_panels(weights, rows, column, depth, panels);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token;
      of_count[count - 1](panels, column, depth, weights.format.bits, tokens.tile(tile) + column * lanes, lanes, tokens.scales + token * per_token,
                          tokens.sums + token * per_token, per_token, scales, sums + (token - first_token) * tile_rows);
    }
  }
}

#undef LSAQ_MULTIPLY_BROADCAST

inline constexpr IntegerKernels integer_kernels{layout, avx2::unit_maxima, place, dot_rows, dot_tiles, dot_blocks, finish};

inline constexpr CpuKernels kernels = with_integer_products(avx512::kernels, Isa::avx512vnni, integer_kernels);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512vnni

#undef LSAQ_VNNI
#undef LSAQ_VNNI_HELPER
#undef LSAQ_VNNI_KERNEL
#endif
