// What integer products with AVX2 do with activations before and with sums after (token_codes.hpp).
#pragma once

#include <lsaq/kernels/cpu/avx2_quantize.hpp>
#include <lsaq/kernels/cpu/scalar_integer.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline
#define LSAQ_AVX2_KERNEL [[gnu::target("avx2,fma,f16c"), gnu::noinline]] inline // its registers are its own

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

inline constexpr std::size_t whole_lanes = 6;

/// Codes that are bytes beside rows of tokens and blocks that have scales; wider ones become 16 bits there. Beside tiles, all are bytes.
constexpr bool in_planes(unsigned bits) noexcept { return bits <= 4; }

/// How many sums of two products of codes with 127, or of pairs with their limit, 16 bits have room for: at most 2^15 / (2 x (2^bits - 1) x 127), in steps.
constexpr std::size_t steps_in_16_bits(unsigned bits) noexcept { return bits <= 4 ? 8 : bits == 5 ? 4 : bits == 6 ? 2 : 1; }

/// Tokens of a tile: where 16 bits are summed, those sums and those of 32 bits are both in registers, which leaves room for fewer.
constexpr std::size_t lanes_beside(std::size_t steps) noexcept { return steps > 1 ? 3 : 5; }
constexpr std::size_t tile_lanes(unsigned bits) noexcept { return lanes_beside(steps_in_16_bits(bits)); }

/// Codes of a byte, where shifts alone take them out.
constexpr std::size_t step_of(unsigned bits) noexcept { return bits == 4 ? 2 : bits == 2 ? 4 : 1; }

inline TokenLayout layout(unsigned bits, std::size_t tokens, Scaling scaling) noexcept {
  if (scaling == Scaling::token && tokens > dot_tokens_max)
    return {.width = 1, .lanes = tile_lanes(bits), .step = step_of(bits), .runs = true, .pairs = bits == 8};
  const std::size_t most = scaling == Scaling::token ? 1 : in_planes(bits) ? tile_lanes(bits) : whole_lanes;
  return {.width = in_planes(bits) ? 1u : 2u, .lanes = std::clamp<std::size_t>(tokens, 1, most), .step = step_of(bits)};
}

LSAQ_AVX2_HELPER __m256i load_bytes(const void* in) noexcept { return _mm256_loadu_si256(static_cast<const __m256i*>(in)); }
LSAQ_AVX2_HELPER void store_bytes(void* out, __m256i v) noexcept { _mm256_storeu_si256(static_cast<__m256i*>(out), v); }

LSAQ_AVX2 void unit_maxima(const float* x, std::size_t columns, std::uint32_t* maxima) noexcept {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  const std::size_t whole = columns / 32 * 32;
  for (std::size_t c = 0; c < whole; c += 32, maxima += 4) {
    __m256i unit[4];
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) unit[u] = _mm256_and_si256(no_sign, load_bytes(x + c + 8 * static_cast<std::size_t>(u)));
    const __m256i ab = _mm256_max_epi32(_mm256_unpacklo_epi32(unit[0], unit[1]), _mm256_unpackhi_epi32(unit[0], unit[1]));
    const __m256i cd = _mm256_max_epi32(_mm256_unpacklo_epi32(unit[2], unit[3]), _mm256_unpackhi_epi32(unit[2], unit[3]));
    const __m256i four = _mm256_max_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(maxima), _mm_max_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1)));
  }
  scalar::unit_maxima(x + whole, columns - whole, maxima);
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

/// The bytes of a block, sorted as TokenLayout::step says.
LSAQ_AVX2_HELPER __m256i sort_columns(__m256i bytes, std::size_t step) noexcept {
  if (step == 1) return bytes;
  const __m128i by2 = _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15),
                by4 = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  const __m256i order = step == 2 ? _mm256_setr_epi32(0, 1, 4, 5, 2, 3, 6, 7) : _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  return _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(bytes, _mm256_broadcastsi128_si256(step == 2 ? by2 : by4)), order);
}

/// Stores eight runs of four bytes, `step` bytes apart.
LSAQ_AVX2_HELPER void scatter(__m256i runs, std::byte* out, std::size_t step) noexcept {
  if (step == 4) return store_bytes(out, runs);
  alignas(32) std::uint32_t words[8];
  store_bytes(words, runs);
#pragma GCC unroll 8
  for (std::size_t i = 0; i < 8; ++i) std::memcpy(out + i * step, words + i, 4);
}

/// 16 bits of ones where the sum of either side of a pair of columns exceeds its limit.
LSAQ_AVX2_HELPER __m256i pairs_beyond_limit(__m256i q) noexcept {
  const __m256i ones = _mm256_set1_epi16(1), zero = _mm256_setzero_si256(), limit = _mm256_set1_epi32(pair_limit);
  const __m256i above = _mm256_madd_epi16(_mm256_max_epi16(q, zero), ones), below = _mm256_madd_epi16(_mm256_min_epi16(q, zero), ones);
  return _mm256_or_si256(_mm256_cmpgt_epi32(above, limit), _mm256_cmpgt_epi32(_mm256_sub_epi32(zero, limit), below));
}

/// Splits those runs of a block's codes, sorted, that one plane has no room for, which `beyond` marks in some of their columns; returns the low plane.
LSAQ_AVX2 __m256i split_planes(__m256i q0, __m256i q1, __m256i beyond0, __m256i beyond1, __m256i one_plane, std::size_t block, std::size_t tile,
                               std::size_t lane, const TokenCodes& codes) noexcept {
  const __m256i half = _mm256_set1_epi16(64), zero = _mm256_setzero_si256();
  const __m256i upper0 = _mm256_srai_epi16(_mm256_add_epi16(q0, half), 7), upper1 = _mm256_srai_epi16(_mm256_add_epi16(q1, half), 7);
  const __m256i unsplit = _mm256_cmpeq_epi32(sort_columns(narrow8(beyond0, beyond1), codes.layout.step), zero);
  const __m256i upper = _mm256_andnot_si256(unsplit, sort_columns(narrow8(upper0, upper1), codes.layout.step));
  const __m256i lower0 = _mm256_sub_epi16(q0, _mm256_slli_epi16(upper0, 7)), lower1 = _mm256_sub_epi16(q1, _mm256_slli_epi16(upper1, 7));
  const __m256i lower = sort_columns(narrow8(lower0, lower1), codes.layout.step);
  if (!codes.layout.runs) {
    const std::size_t token = codes.first_of(tile) + lane;
    store_bytes(codes.next_high_block(token), upper);
    codes.append_high_block(token, block);
  } else {
    std::int8_t runs[8][4];
    store_bytes(runs, upper);
    for (auto left = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(unsplit))) ^ 0xffu; left != 0; left &= left - 1) {
      const auto run = static_cast<std::size_t>(__builtin_ctz(left));
      codes.append_high_run(tile, lane, block * 8 + run, runs[run]);
    }
  }
  return _mm256_blendv_epi8(lower, one_plane, unsplit);
}

LSAQ_AVX2 void place(const float* x, const float* inverse_scales, std::size_t tile, std::size_t lane, const TokenCodes& codes) noexcept {
  const std::size_t token = codes.first_of(tile) + lane, padded = padded_columns(codes.columns), step = 4 * codes.layout.lanes;
  std::byte* out = codes.tile(tile) + 4 * lane;
  const bool by_block = codes.scales_per_token != 1, planes = codes.high_limit != 0;
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
    const __m256i q0 = narrow16(q[0], q[1]), q1 = narrow16(q[2], q[3]);
    if (codes.layout.width == 2) {
      scatter(q0, out + 2 * first / 4 * step, step);
      scatter(q1, out + 2 * (first + 16) / 4 * step, step);
      continue;
    }
    __m256i low = sort_columns(narrow8(q0, q1), codes.layout.step);
    if (planes) {
      const __m256i limit = _mm256_set1_epi16(low_plane_limit);
      __m256i beyond0 = _mm256_cmpgt_epi16(_mm256_abs_epi16(q0), limit), beyond1 = _mm256_cmpgt_epi16(_mm256_abs_epi16(q1), limit);
      if (codes.layout.pairs) {
        beyond0 = _mm256_or_si256(beyond0, pairs_beyond_limit(q0));
        beyond1 = _mm256_or_si256(beyond1, pairs_beyond_limit(q1));
      }
      const __m256i beyond = _mm256_or_si256(beyond0, beyond1);
      if (_mm256_testz_si256(beyond, beyond) == 0) low = split_planes(q0, q1, beyond0, beyond1, low, first / code_block, tile, lane, codes);
    }
    scatter(low, out + first / 4 * step, step);
  }
  if (!by_block) *sums = sum_lanes(sum);
}

LSAQ_AVX2_KERNEL void finish(const std::int32_t* sums, std::size_t stride, std::size_t rows, std::size_t tokens, const float* token_scales,
                             const float* row_scales, float* y, std::size_t y_stride) noexcept {
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

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#undef LSAQ_AVX2_KERNEL
#endif
