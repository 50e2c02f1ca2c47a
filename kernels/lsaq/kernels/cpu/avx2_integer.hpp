// Integer products for x86-64 with AVX2. There is no product of bytes that can't overflow 16 bits with 8-bit codes, so the width of the codes decides:
//
//   2 to 4 bits: codes stay bytes, vpmaddubsw multiplies them with the tokens' planes, and sums of pairs run in 16 bits for eight steps: 8 x 2 x 15 x 127 < 2^15
//   5 to 8 bits: codes become 16 bits, vpmaddwd multiplies them with the tokens' q, whole: no planes
//
// Few tokens: rows of weights, four of them far apart so that memory sees four streams, by rows of tokens. Many tokens: 16 rows are unpacked into two panels in
// the first-level cache, four bytes of every row in turn, and meet tiles of up to 6 (whole) or 4 (planes) tokens.
#pragma once

#include <lsaq/kernels/cpu/avx2_quantize.hpp>
#include <lsaq/kernels/cpu/scalar_integer.hpp>

#include <array>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

inline constexpr std::size_t whole_lanes = 6, plane_lanes = 4;
inline constexpr std::size_t panel_bytes = 8 << 10; ///< of 8 rows: two panels fill half of a first-level cache
inline constexpr std::size_t steps_in_16_bits = 8;

constexpr bool in_planes(unsigned bits) noexcept { return bits <= 4; }

inline TokenLayout layout(unsigned bits, std::size_t tokens, Scaling scaling) noexcept {
  const std::size_t most = in_planes(bits) ? plane_lanes : whole_lanes;
  const std::size_t lanes = scaling == Scaling::block ? std::clamp<std::size_t>(tokens, 1, most) : tokens <= dot_tokens_max ? 1 : most;
  return {.width = in_planes(bits) ? 1u : 2u, .lanes = lanes};
}

LSAQ_AVX2_HELPER __m256i load_bytes(const void* in) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(in)); }
LSAQ_AVX2_HELPER void store_bytes(void* out, __m256i v) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(out), v); }

LSAQ_AVX2 void block_maxima(const float* x, std::size_t columns, std::uint32_t* maxima) noexcept {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  const std::size_t whole = columns / code_block * code_block;
  for (std::size_t c = 0; c < whole; c += code_block) {
    const __m256i a = _mm256_max_epi32(_mm256_and_si256(no_sign, load_bytes(x + c)), _mm256_and_si256(no_sign, load_bytes(x + c + 8)));
    const __m256i b = _mm256_max_epi32(_mm256_and_si256(no_sign, load_bytes(x + c + 16)), _mm256_and_si256(no_sign, load_bytes(x + c + 24)));
    const __m256i ab = _mm256_max_epi32(a, b);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(ab), _mm256_extracti128_si256(ab, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    *maxima++ = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
  }
  if (whole != columns) scalar::block_maxima(x + whole, columns - whole, maxima);
}

/// The sum of eight lanes.
LSAQ_AVX2_HELPER std::int32_t sum_lanes(__m256i v) noexcept {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}

/// Two times eight numbers as 16 bits, in order.
LSAQ_AVX2_HELPER __m256i narrow16(__m256i first, __m256i second) noexcept { return _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xd8); }

/// Two times sixteen as bytes, in order.
LSAQ_AVX2_HELPER __m256i narrow8(__m256i first, __m256i second) noexcept { return _mm256_permute4x64_epi64(_mm256_packs_epi16(first, second), 0xd8); }

/// Stores eight runs of four bytes, `step` bytes apart.
LSAQ_AVX2_HELPER void scatter(__m256i runs, std::byte* out, std::size_t step) noexcept {
  if (step == 4) return store_bytes(out, runs);
  alignas(32) std::uint32_t words[8];
  store_bytes(words, runs);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < 8; ++i) std::memcpy(out + i * step, words + i, 4);
}

LSAQ_AVX2 void place(const float* x, const float* inverse_scales, std::size_t tile, std::size_t lane, const TokenCodes& codes) noexcept {
  const std::size_t token = codes.first_of(tile) + lane, padded = padded_columns(codes.columns), step = 4 * codes.layout.lanes;
  const std::uint16_t* high_block = codes.high_blocks + token * codes.high_limit;
  const std::uint16_t* const high_end = high_block + codes.high_counts[token];
  std::int8_t* high = codes.high + token * codes.high_limit * code_block;
  std::byte* out = codes.tile(tile) + 4 * lane;
  const bool by_block = codes.scales_per_token != 1;
  std::int32_t* const sums = codes.sums + token * codes.scales_per_token;
  __m256i sum = _mm256_setzero_si256();
  alignas(32) float last[code_block];
  for (std::size_t first = 0; first < padded; first += code_block) {
    const float* from = x + first;
    if (first + code_block > codes.columns) { // zeros beyond the token's end
      for (std::size_t i = 0; i < code_block; ++i) last[i] = first + i < codes.columns ? x[first + i] : 0.0f;
      from = last;
    }
    const __m256 inverse = _mm256_set1_ps(inverse_scales[by_block ? first / code_block : 0]);
    if (by_block) sum = _mm256_setzero_si256();
    __m256i q[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + 8 * i), inverse));
      sum = _mm256_add_epi32(sum, q[i]);
    }
    if (by_block) sums[first / code_block] = sum_lanes(sum);
    __m256i q0 = narrow16(q[0], q[1]), q1 = narrow16(q[2], q[3]);
    if (codes.layout.width == 2) {
      scatter(q0, out + 2 * first / 4 * step, step);
      scatter(q1, out + 2 * (first + 16) / 4 * step, step);
      continue;
    }
    if (high_block != high_end && *high_block == first / code_block) {
      const __m256i half = _mm256_set1_epi16(64);
      const __m256i upper0 = _mm256_srai_epi16(_mm256_add_epi16(q0, half), 7), upper1 = _mm256_srai_epi16(_mm256_add_epi16(q1, half), 7);
      store_bytes(high, narrow8(upper0, upper1));
      q0 = _mm256_sub_epi16(q0, _mm256_slli_epi16(upper0, 7));
      q1 = _mm256_sub_epi16(q1, _mm256_slli_epi16(upper1, 7));
      ++high_block;
      high += code_block;
    }
    scatter(narrow8(q0, q1), out + first / 4 * step, step);
  }
  if (!by_block) *sums = sum_lanes(sum);
}

/// 16 bytes of a row of which `readable` may be read.
LSAQ_AVX2_HELPER __m128i load_some(const std::byte* in, std::size_t readable) noexcept {
  if (readable >= 16) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(in));
  alignas(16) std::byte copy[16] = {};
  std::memcpy(copy, in, readable);
  return _mm_load_si128(reinterpret_cast<const __m128i*>(copy));
}

/// 16 unsigned codes as 16 bits each; codes beyond the row are nothing in particular.
template <unsigned Bits> LSAQ_AVX2_HELPER __m256i wide16(const std::byte* in, std::size_t readable) noexcept {
  const __m128i bytes = load_some(in, readable);
  if constexpr (Bits == 8) return _mm256_cvtepu8_epi16(bytes);
  // The two bytes that hold a code, its upper bits shifted out by a product, then the lower ones.
  alignas(32) static constexpr auto spread = [] {
    std::array<std::uint8_t, 32> at{};
    for (unsigned i = 0; i < 16; ++i) at[2 * i] = static_cast<std::uint8_t>(i * Bits / 8), at[2 * i + 1] = static_cast<std::uint8_t>(i * Bits / 8 + 1);
    return at;
  }();
  alignas(32) static constexpr auto factors = [] {
    std::array<std::uint16_t, 16> factor{};
    for (unsigned i = 0; i < 16; ++i) factor[i] = static_cast<std::uint16_t>(1u << (16 - Bits - i * Bits % 8));
    return factor;
  }();
  const __m256i pairs = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), load_bytes(spread.data()));
  return _mm256_srli_epi16(_mm256_mullo_epi16(pairs, load_bytes(factors.data())), 16 - Bits);
}

/// 32 unsigned codes as bytes.
template <unsigned Bits> LSAQ_AVX2_HELPER __m256i codes32(const std::byte* in, std::size_t readable) noexcept {
  if constexpr (Bits == 4) {
    const __m128i bytes = load_some(in, readable), low = _mm_set1_epi8(15);
    const __m128i even = _mm_and_si128(bytes, low), odd = _mm_and_si128(_mm_srli_epi16(bytes, 4), low);
    return _mm256_set_m128i(_mm_unpackhi_epi8(even, odd), _mm_unpacklo_epi8(even, odd));
  } else {
    constexpr std::size_t half = 2 * Bits;
    return narrow8(wide16<Bits>(in, readable), wide16<Bits>(in + (readable > half ? half : 0), readable > half ? readable - half : 0));
  }
}

/// Bytes that codes32() loads where there is no end to mind.
constexpr std::size_t bytes_loaded_of_32(unsigned bits) noexcept { return bits == 4 ? 16 : 2 * bits + 16; }

/// T tokens by S streams of `part` rows each: rows r, part + r, 2 part + r, ... Codes of 2 to 4 bits.
template <unsigned Bits, int S, int T>
LSAQ_AVX2 void dot_planes(const WeightRows& weights, std::size_t part, const TokenCodes& tokens, std::size_t first_token, std::int32_t* sums,
                          std::size_t stride) noexcept {
  const std::size_t row_bytes = weights.row_bytes, blocks = (tokens.columns + code_block - 1) / code_block;
  const std::size_t whole = whole_blocks(row_bytes, 4 * Bits, bytes_loaded_of_32(Bits), blocks);
  const __m256i ones = _mm256_set1_epi16(1);
  for (std::size_t r = 0; r < part; ++r) {
    const std::byte* row[S];
    __m256i sum[S][T];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      row[s] = weights.row(r + static_cast<std::size_t>(s) * part);
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) sum[s][t] = _mm256_setzero_si256();
    }
    for (std::size_t first = 0; first < blocks; first += steps_in_16_bits) {
      const std::size_t end = first + steps_in_16_bits < blocks ? first + steps_in_16_bits : blocks;
      __m256i some[S][T];
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s)
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) some[s][t] = _mm256_setzero_si256();
      for (std::size_t b = first; b < end; ++b) {
        const std::size_t at = b * 4 * Bits;
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s) {
          const __m256i w = codes32<Bits>(row[s] + at, b < whole ? 32 : row_bytes - at);
#pragma GCC unroll 2
          for (int t = 0; t < T; ++t) {
            const std::byte* q = tokens.tile(first_token + static_cast<std::size_t>(t)) + b * code_block;
            some[s][t] = _mm256_add_epi16(some[s][t], _mm256_maddubs_epi16(w, load_bytes(q)));
          }
        }
      }
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s)
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) sum[s][t] = _mm256_add_epi32(sum[s][t], _mm256_madd_epi16(some[s][t], ones));
    }
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
      const std::size_t token = first_token + static_cast<std::size_t>(t);
      __m256i high[S];
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) high[s] = _mm256_setzero_si256();
      for (std::size_t slot = token * tokens.high_limit; slot < token * tokens.high_limit + tokens.high_counts[token]; ++slot) {
        const std::size_t at = std::size_t{tokens.high_blocks[slot]} * 4 * Bits;
        const __m256i upper = load_bytes(tokens.high + slot * code_block);
#pragma GCC unroll 4
        for (int s = 0; s < S; ++s)
          high[s] = _mm256_add_epi32(high[s], _mm256_madd_epi16(_mm256_maddubs_epi16(codes32<Bits>(row[s] + at, row_bytes - at), upper), ones));
      }
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s)
        sums[token * stride + r + static_cast<std::size_t>(s) * part] =
            sum_lanes(_mm256_add_epi32(sum[s][t], _mm256_slli_epi32(high[s], 7))) - (tokens.sums[token] << (Bits - 1));
    }
  }
}

/// The same for codes of 5 to 8 bits.
template <unsigned Bits, int S, int T>
LSAQ_AVX2 void dot_whole(const WeightRows& weights, std::size_t part, const TokenCodes& tokens, std::size_t first_token, std::int32_t* sums,
                         std::size_t stride) noexcept {
  const std::size_t row_bytes = weights.row_bytes, steps = (tokens.columns + 15) / 16;
  const std::size_t whole = whole_blocks(row_bytes, 2 * Bits, 16, steps);
  for (std::size_t r = 0; r < part; ++r) {
    const std::byte* row[S];
    __m256i sum[S][T];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) {
      row[s] = weights.row(r + static_cast<std::size_t>(s) * part);
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) sum[s][t] = _mm256_setzero_si256();
    }
    for (std::size_t i = 0; i < steps; ++i) {
      const std::size_t at = i * 2 * Bits;
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        const __m256i w = wide16<Bits>(row[s] + at, i < whole ? 16 : row_bytes - at);
#pragma GCC unroll 2
        for (int t = 0; t < T; ++t) {
          const std::byte* q = tokens.tile(first_token + static_cast<std::size_t>(t)) + i * 32;
          sum[s][t] = _mm256_add_epi32(sum[s][t], _mm256_madd_epi16(w, load_bytes(q)));
        }
      }
    }
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
      const std::size_t token = first_token + static_cast<std::size_t>(t);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s)
        sums[token * stride + r + static_cast<std::size_t>(s) * part] = sum_lanes(sum[s][t]) - (tokens.sums[token] << (Bits - 1));
    }
  }
}

template <unsigned Bits, int S, int T>
LSAQ_AVX2_HELPER void dot_streams(const WeightRows& weights, std::size_t part, const TokenCodes& tokens, std::size_t first_token, std::int32_t* sums,
                                  std::size_t stride) noexcept {
  if constexpr (in_planes(Bits))
    dot_planes<Bits, S, T>(weights, part, tokens, first_token, sums, stride);
  else
    dot_whole<Bits, S, T>(weights, part, tokens, first_token, sums, stride);
}

template <unsigned Bits>
LSAQ_AVX2 void dot_rows_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  const std::size_t part = rows / 4;
  const WeightRows rest = weights.from(4 * part);
  std::size_t t = 0;
  for (; t + 2 <= tokens.tokens; t += 2) {
    dot_streams<Bits, 4, 2>(weights, part, tokens, t, sums, stride);
    dot_streams<Bits, 1, 2>(rest, rows - 4 * part, tokens, t, sums + 4 * part, stride);
  }
  if (t == tokens.tokens) return;
  dot_streams<Bits, 4, 1>(weights, part, tokens, t, sums, stride);
  dot_streams<Bits, 1, 1>(rest, rows - 4 * part, tokens, t, sums + 4 * part, stride);
}

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

/// Unpacks columns [column, column + depth) of eight rows into a panel; a missing row is the last one again: its sums are never used.
template <unsigned Bits>
LSAQ_AVX2 void fill_panel(const WeightRows& weights, std::size_t first_row, std::size_t rows, std::size_t column, std::size_t depth,
                          std::byte* panel) noexcept {
  constexpr std::size_t columns = in_planes(Bits) ? 32 : 16; // of a register
  const std::byte* row[8];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < 8; ++r) row[r] = weights.row(first_row + r < rows ? first_row + r : rows - 1);
  for (std::size_t c = 0; c < depth; c += columns, panel += 256) {
    const std::size_t at = (column + c) * Bits / 8, readable = weights.row_bytes > at ? weights.row_bytes - at : 0;
    __m256i v[8];
#pragma GCC unroll 8
    for (int r = 0; r < 8; ++r) {
      if constexpr (in_planes(Bits))
        v[r] = codes32<Bits>(row[r] + (readable != 0 ? at : 0), readable);
      else
        v[r] = wide16<Bits>(row[r] + (readable != 0 ? at : 0), readable);
    }
    store_runs(v, panel);
  }
}

LSAQ_AVX2_HELPER __m256i broadcast(const std::byte* four) noexcept { return _mm256_castps_si256(_mm256_broadcast_ss(reinterpret_cast<const float*>(four))); }

/// N whole tokens of a tile by two panels of `depth` columns: sums[t * 32 + r] += or, where `first`, =.
template <int N>
LSAQ_AVX2 void multiply_whole(const std::byte* panels, std::size_t depth, const std::byte* tile, bool first, std::int32_t* sums) noexcept {
  __m256i a[N], b[N];
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    a[t] = first ? _mm256_setzero_si256() : load_bytes(sums + t * static_cast<int>(tile_rows));
    b[t] = first ? _mm256_setzero_si256() : load_bytes(sums + t * static_cast<int>(tile_rows) + 8);
  }
  for (std::size_t c = 0; c < depth; c += 2) {
    const __m256i w0 = load_bytes(panels + c * 16), w1 = load_bytes(panels + panel_bytes + c * 16);
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      const __m256i q = broadcast(tile + c * 2 * whole_lanes + 4 * static_cast<std::size_t>(t));
      a[t] = _mm256_add_epi32(a[t], _mm256_madd_epi16(w0, q));
      b[t] = _mm256_add_epi32(b[t], _mm256_madd_epi16(w1, q));
    }
  }
#pragma GCC unroll 6
  for (int t = 0; t < N; ++t) {
    store_bytes(sums + t * static_cast<int>(tile_rows), a[t]);
    store_bytes(sums + t * static_cast<int>(tile_rows) + 8, b[t]);
  }
}

/// N tokens' low plane by two panels, as multiply_whole().
template <int N>
LSAQ_AVX2 void multiply_planes(const std::byte* panels, std::size_t depth, const std::byte* tile, bool first, std::int32_t* sums) noexcept {
  const __m256i ones = _mm256_set1_epi16(1);
  for (std::size_t c = 0; c < depth; c += 4 * steps_in_16_bits) {
    __m256i a[N], b[N];
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) a[t] = b[t] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (std::size_t i = c; i < c + 4 * steps_in_16_bits; i += 4) {
      const __m256i w0 = load_bytes(panels + i * 8), w1 = load_bytes(panels + panel_bytes + i * 8);
#pragma GCC unroll 4
      for (int t = 0; t < N; ++t) {
        const __m256i q = broadcast(tile + i * plane_lanes + 4 * static_cast<std::size_t>(t));
        a[t] = _mm256_add_epi16(a[t], _mm256_maddubs_epi16(w0, q));
        b[t] = _mm256_add_epi16(b[t], _mm256_maddubs_epi16(w1, q));
      }
    }
#pragma GCC unroll 4
    for (int t = 0; t < N; ++t) {
      std::int32_t* const out = sums + t * static_cast<int>(tile_rows);
      const __m256i a32 = _mm256_madd_epi16(a[t], ones), b32 = _mm256_madd_epi16(b[t], ones);
      const bool begins = first && c == 0;
      store_bytes(out, begins ? a32 : _mm256_add_epi32(load_bytes(out), a32));
      store_bytes(out + 8, begins ? b32 : _mm256_add_epi32(load_bytes(out + 8), b32));
    }
  }
}

/// sums[r] += 128 * the product of a block's high plane with two panels, from its first column on.
LSAQ_AVX2_HELPER void multiply_high(const std::byte* panels, std::size_t column, const std::int8_t* high, std::int32_t* sums) noexcept {
  __m256i a = _mm256_setzero_si256(), b = a;
#pragma GCC unroll 8
  for (std::size_t c = 0; c < code_block; c += 4) {
    const std::byte* w = panels + (column + c) * 8;
    const __m256i q = broadcast(reinterpret_cast<const std::byte*>(high + c));
    a = _mm256_add_epi16(a, _mm256_maddubs_epi16(load_bytes(w), q));
    b = _mm256_add_epi16(b, _mm256_maddubs_epi16(load_bytes(w + panel_bytes), q));
  }
  const __m256i scale = _mm256_set1_epi16(128);
  store_bytes(sums, _mm256_add_epi32(load_bytes(sums), _mm256_madd_epi16(a, scale)));
  store_bytes(sums + 8, _mm256_add_epi32(load_bytes(sums + 8), _mm256_madd_epi16(b, scale)));
}

LSAQ_AVX2_HELPER void multiply_tile(bool planes, std::size_t count, const std::byte* panels, std::size_t depth, const std::byte* tile, bool first,
                                    std::int32_t* sums) noexcept {
  if (planes) // 16 tokens and more make tiles of 3 and 4, or of 4 to 6
    return count == 4 ? multiply_planes<4>(panels, depth, tile, first, sums) : multiply_planes<3>(panels, depth, tile, first, sums);
  switch (count) {
  case 6: return multiply_whole<6>(panels, depth, tile, first, sums);
  case 5: return multiply_whole<5>(panels, depth, tile, first, sums);
  default: return multiply_whole<4>(panels, depth, tile, first, sums);
  }
}

/// Columns that a panel has room for.
constexpr std::size_t panel_depth(unsigned bits) noexcept { return panel_bytes / (in_planes(bits) ? 8 : 16); }

/// dot_tiles() of at most 16 rows.
template <unsigned Bits>
LSAQ_AVX2 void dot_half(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                        std::int32_t* sums) noexcept {
  alignas(64) std::byte panels[2 * panel_bytes];
  constexpr std::size_t lanes = in_planes(Bits) ? plane_lanes : whole_lanes;
  const std::size_t padded = padded_columns(tokens.columns), chunk = even_chunk(padded, panel_depth(Bits));
  const std::size_t first_token = tokens.first_of(first_tile);
  std::uint32_t high_done[largest_pass_of_tokens] = {};
  for (std::size_t column = 0; column < padded; column += chunk) {
    const std::size_t depth = padded - column < chunk ? padded - column : chunk;
    fill_panel<Bits>(weights, 0, rows, column, depth, panels);
    fill_panel<Bits>(weights, 8, rows, column, depth, panels + panel_bytes);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), count = tokens.first_of(tile + 1) - token;
      std::int32_t* out = sums + (token - first_token) * tile_rows;
      multiply_tile(in_planes(Bits), count, panels, depth, tokens.tile(tile) + column * lanes * tokens.layout.width, column == 0, out);
      for (std::size_t t = token; t < token + count; ++t, out += tile_rows) {
        if constexpr (in_planes(Bits)) {
          std::uint32_t& done = high_done[t - first_token];
          for (; done < tokens.high_counts[t]; ++done) {
            const std::size_t slot = t * tokens.high_limit + done, at = std::size_t{tokens.high_blocks[slot]} * code_block;
            if (at >= column + depth) break;
            multiply_high(panels, at - column, tokens.high + slot * code_block, out);
          }
        }
        if (column + depth < padded) continue;
        const __m256i offset = _mm256_set1_epi32(tokens.sums[t] << (Bits - 1));
        store_bytes(out, _mm256_sub_epi32(load_bytes(out), offset));
        store_bytes(out + 8, _mm256_sub_epi32(load_bytes(out + 8), offset));
      }
    }
  }
}

template <unsigned Bits>
LSAQ_AVX2 void dot_tiles_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                            std::int32_t* sums) noexcept {
  dot_half<Bits>(weights, rows < 16 ? rows : 16, tokens, first_tile, end_tile, sums);
  if (rows > 16) dot_half<Bits>(weights.from(16), rows - 16, tokens, first_tile, end_tile, sums + 16);
}

LSAQ_AVX2 void dot_rows_codes(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::int32_t* sums, std::size_t stride) noexcept {
  switch (weights.format.bits) {
  case 2: return dot_rows_of<2>(weights, rows, tokens, sums, stride);
  case 3: return dot_rows_of<3>(weights, rows, tokens, sums, stride);
  case 4: return dot_rows_of<4>(weights, rows, tokens, sums, stride);
  case 5: return dot_rows_of<5>(weights, rows, tokens, sums, stride);
  case 6: return dot_rows_of<6>(weights, rows, tokens, sums, stride);
  case 7: return dot_rows_of<7>(weights, rows, tokens, sums, stride);
  default: return dot_rows_of<8>(weights, rows, tokens, sums, stride);
  }
}

LSAQ_AVX2 void dot_tiles(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile,
                         std::int32_t* sums) noexcept {
  switch (weights.format.bits) {
  case 2: return dot_tiles_of<2>(weights, rows, tokens, first_tile, end_tile, sums);
  case 3: return dot_tiles_of<3>(weights, rows, tokens, first_tile, end_tile, sums);
  case 4: return dot_tiles_of<4>(weights, rows, tokens, first_tile, end_tile, sums);
  case 5: return dot_tiles_of<5>(weights, rows, tokens, first_tile, end_tile, sums);
  case 6: return dot_tiles_of<6>(weights, rows, tokens, first_tile, end_tile, sums);
  case 7: return dot_tiles_of<7>(weights, rows, tokens, first_tile, end_tile, sums);
  default: return dot_tiles_of<8>(weights, rows, tokens, first_tile, end_tile, sums);
  }
}

/// N tokens of a tile by two panels of `depth` columns from `column` on, block by block: sums[t * 32 + r], added to unless column is 0.
template <unsigned Bits, int N>
LSAQ_AVX2 void multiply_blocks(const std::byte* panels, std::size_t column, std::size_t depth, const std::byte* tile, std::size_t lanes, const float* token_scales,
                               const std::int32_t* start, std::size_t scales_per_token, const PanelScales& scales, float* sums) noexcept {
  constexpr std::size_t step = in_planes(Bits) ? 4 : 2; // columns in four bytes
  const __m256i ones = _mm256_set1_epi16(1);
  for (std::size_t first = 0; first < depth; first += code_block) {
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
        if constexpr (in_planes(Bits)) {
          a[t] = _mm256_add_epi16(a[t], _mm256_maddubs_epi16(w0, q));
          b[t] = _mm256_add_epi16(b[t], _mm256_maddubs_epi16(w1, q));
        } else {
          a[t] = _mm256_add_epi32(a[t], _mm256_madd_epi16(w0, q));
          b[t] = _mm256_add_epi32(b[t], _mm256_madd_epi16(w1, q));
        }
      }
    }
    const float* const row_scales = scales.at(column + first);
    const __m256 s0 = _mm256_loadu_ps(row_scales), s1 = _mm256_loadu_ps(row_scales + 8);
#pragma GCC unroll 6
    for (int t = 0; t < N; ++t) {
      if constexpr (in_planes(Bits)) {
        a[t] = _mm256_madd_epi16(a[t], ones);
        b[t] = _mm256_madd_epi16(b[t], ones);
      }
      const std::size_t at = static_cast<std::size_t>(t) * scales_per_token + block;
      const __m256i offset = _mm256_set1_epi32(start[at] << (Bits - 1));
      const __m256 scale = _mm256_set1_ps(token_scales[at]);
      const __m256 p = _mm256_cvtepi32_ps(_mm256_sub_epi32(a[t], offset)), q = _mm256_cvtepi32_ps(_mm256_sub_epi32(b[t], offset));
      float* const out = sums + t * static_cast<int>(tile_rows);
      const bool begins = column + first == 0;
      _mm256_storeu_ps(out, _mm256_fmadd_ps(p, _mm256_mul_ps(s0, scale), begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out)));
      _mm256_storeu_ps(out + 8, _mm256_fmadd_ps(q, _mm256_mul_ps(s1, scale), begins ? _mm256_setzero_ps() : _mm256_loadu_ps(out + 8)));
    }
  }
}

/// dot_blocks() of at most 16 rows.
template <unsigned Bits>
LSAQ_AVX2 void dot_half_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column, std::size_t end,
                               const PanelScales& scales, float* sums) noexcept {
  alignas(64) std::byte panels[2 * panel_bytes];
  const std::size_t lanes = tokens.layout.lanes, chunk = even_chunk(end - column, panel_depth(Bits)), first_token = tokens.first_of(first_tile);
  for (; column < end; column += chunk) {
    const std::size_t depth = end - column < chunk ? end - column : chunk;
    fill_panel<Bits>(weights, 0, rows, column, depth, panels);
    fill_panel<Bits>(weights, 8, rows, column, depth, panels + panel_bytes);
    for (std::size_t tile = first_tile; tile < end_tile; ++tile) {
      const std::size_t token = tokens.first_of(tile), per_token = tokens.scales_per_token;
      const std::byte* q = tokens.tile(tile) + column * lanes * tokens.layout.width;
      const float* token_scales = tokens.scales + token * per_token;
      const std::int32_t* start = tokens.sums + token * per_token;
      float* out = sums + (token - first_token) * tile_rows;
      switch (tokens.first_of(tile + 1) - token) {
      case 6: multiply_blocks<Bits, 6>(panels, column, depth, q, lanes, token_scales, start, per_token, scales, out); break;
      case 5: multiply_blocks<Bits, 5>(panels, column, depth, q, lanes, token_scales, start, per_token, scales, out); break;
      case 4: multiply_blocks<Bits, 4>(panels, column, depth, q, lanes, token_scales, start, per_token, scales, out); break;
      case 3: multiply_blocks<Bits, 3>(panels, column, depth, q, lanes, token_scales, start, per_token, scales, out); break;
      case 2: multiply_blocks<Bits, 2>(panels, column, depth, q, lanes, token_scales, start, per_token, scales, out); break;
      default: multiply_blocks<Bits, 1>(panels, column, depth, q, lanes, token_scales, start, per_token, scales, out); break;
      }
    }
  }
}

template <unsigned Bits>
LSAQ_AVX2 void dot_blocks_of(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column, std::size_t end,
                               const PanelScales& scales, float* sums) noexcept {
  dot_half_blocks<Bits>(weights, rows < 16 ? rows : 16, tokens, first_tile, end_tile, column, end, scales, sums);
  if (rows > 16)
    dot_half_blocks<Bits>(weights.from(16), rows - 16, tokens, first_tile, end_tile, column, end, scales.upper(), sums + 16);
}

LSAQ_AVX2 void dot_blocks(const WeightRows& weights, std::size_t rows, const TokenCodes& tokens, std::size_t first_tile, std::size_t end_tile, std::size_t column, std::size_t end,
                               const PanelScales& scales, float* sums) noexcept {
  switch (weights.format.bits) {
  case 2: return dot_blocks_of<2>(weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
  case 3: return dot_blocks_of<3>(weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
  case 4: return dot_blocks_of<4>(weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
  case 5: return dot_blocks_of<5>(weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
  case 6: return dot_blocks_of<6>(weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
  case 7: return dot_blocks_of<7>(weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
  default: return dot_blocks_of<8>(weights, rows, tokens, first_tile, end_tile, column, end, scales, sums);
  }
}

LSAQ_AVX2 void finish(const std::int32_t* sums, std::size_t stride, std::size_t rows, std::size_t tokens, const float* token_scales, const float* row_scales,
                      float* y, std::size_t y_stride) noexcept {
  const std::size_t whole = rows / 8 * 8;
  for (std::size_t t = 0; t < tokens; ++t) {
    const __m256 token_scale = _mm256_set1_ps(token_scales[t]);
    for (std::size_t r = 0; r < whole; r += 8) {
      const __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(load_bytes(sums + t * stride + r)), token_scale);
      _mm256_storeu_ps(y + t * y_stride + r, _mm256_mul_ps(sum, _mm256_loadu_ps(row_scales + r)));
    }
    scalar::finish(sums + t * stride + whole, stride, rows - whole, 1, token_scales + t, row_scales + whole, y + t * y_stride + whole, y_stride);
  }
}

inline constexpr IntegerKernels integer_kernels{layout, block_maxima, place, dot_rows_codes, dot_tiles, dot_blocks, finish};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
