// What the integer products of avx512vnni.hpp do with activations before and with sums after (token_codes.hpp).
#pragma once

#include <lsaq/kernels/cpu/avx512.hpp>
#include <lsaq/kernels/cpu/avxvnni.hpp>

#if LSAQ_X86
#define LSAQ_VNNI [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c")]] inline
#define LSAQ_VNNI_KERNEL [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"), gnu::noinline]] inline // registers of its own
#define LSAQ_VNNI_HELPER [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512vnni {

inline constexpr std::size_t tile_lanes = 12;
inline constexpr std::size_t block_lanes = 6; ///< tokens of a tile whose blocks have scales: sums of blocks and of rows are both in registers

inline TokenLayout layout(unsigned bits, std::size_t tokens, Scaling scaling) noexcept {
  if (scaling == Scaling::block && tokens == 1) return avxvnni::layout(bits, tokens, scaling); // registers of 32 bytes are blocks
  if (scaling == Scaling::block) return {.width = 1, .lanes = std::clamp<std::size_t>(tokens, 1, block_lanes)};
  if (tokens <= dot_tokens_max) return {.width = 1, .lanes = 1};
  return {.width = 1, .lanes = tile_lanes, .runs = true};
}

/// The sums of four registers' lanes.
LSAQ_VNNI_HELPER __m128i sum_lanes(__m512i a, __m512i b, __m512i c, __m512i d) noexcept {
  const __m512i ab = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(0xffff, a, b), _mm512_maskz_unpackhi_epi32(0xffff, a, b));
  const __m512i cd = _mm512_add_epi32(_mm512_maskz_unpacklo_epi32(0xffff, c, d), _mm512_maskz_unpackhi_epi32(0xffff, c, d));
  const __m512i all = _mm512_add_epi32(_mm512_maskz_unpacklo_epi64(0xff, ab, cd), _mm512_maskz_unpackhi_epi64(0xff, ab, cd));
  const __m256i half = _mm256_add_epi32(_mm512_maskz_extracti64x4_epi64(0xf, all, 0), _mm512_maskz_extracti64x4_epi64(0xf, all, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/// 16 codes of a token, 0 beyond `left` columns.
LSAQ_VNNI_HELPER __m512i round16(const float* x, std::size_t left, __m512 inverse_scale) noexcept {
  const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffffu : (1u << left) - 1u);
  return _mm512_maskz_cvtps_epi32(0xffff, _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x), inverse_scale));
}

LSAQ_VNNI_HELPER __m256i narrow32(__m512i first, __m512i second) noexcept {
  return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm512_maskz_cvtepi32_epi8(0xffff, first)), _mm512_maskz_cvtepi32_epi8(0xffff, second), 1);
}

/// Splits those runs of a block's codes that one plane has no room for, of which `beyond` has a bit of some columns: q becomes the low plane.
LSAQ_VNNI void split_planes(__m512i& q0, __m512i& q1, unsigned beyond, std::size_t block, std::size_t tile, std::size_t lane,
                            const TokenCodes& codes) noexcept {
  const unsigned runs = (beyond | beyond >> 1 | beyond >> 2 | beyond >> 3) & 0x11111111u, columns = runs * 15;
  const __m512i half = _mm512_set1_epi32(64);
  const __m512i upper0 = _mm512_maskz_srai_epi32(static_cast<__mmask16>(columns), _mm512_add_epi32(q0, half), 7);
  const __m512i upper1 = _mm512_maskz_srai_epi32(static_cast<__mmask16>(columns >> 16), _mm512_add_epi32(q1, half), 7);
  q0 = _mm512_sub_epi32(q0, _mm512_maskz_slli_epi32(0xffff, upper0, 7));
  q1 = _mm512_sub_epi32(q1, _mm512_maskz_slli_epi32(0xffff, upper1, 7));
  const __m256i upper = narrow32(upper0, upper1);
  if (!codes.layout.runs) {
    const std::size_t token = codes.first_of(tile) + lane;
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(codes.next_high_block(token)), upper);
    return codes.append_high_block(token, block);
  }
  std::int8_t planes[8][4];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(planes), upper);
  for (unsigned left = runs; left != 0; left &= left - 1) {
    const auto run = static_cast<std::size_t>(__builtin_ctz(left)) / 4;
    codes.append_high_run(tile, lane, block * 8 + run, planes[run]);
  }
}

LSAQ_VNNI void place(const float* x, const float* inverse_scales, std::size_t tile, std::size_t lane, const TokenCodes& codes) noexcept {
  if (codes.layout.step != 1) return avx2::place(x, inverse_scales, tile, lane, codes);
  const std::size_t token = codes.first_of(tile) + lane, lanes = codes.layout.lanes, run = codes.layout.run;
  const std::size_t padded = padded_columns(codes.columns);
  std::byte* out = codes.tile(tile) + run * lane;
  const __m512i zero = _mm512_setzero_si512();
  const bool by_block = codes.scales_per_token != 1, planes = codes.high_limit != 0;
  std::int32_t* const sums = codes.sums + token * codes.scales_per_token;
  __m512i sum = zero;
  for (std::size_t first = 0; first < padded; first += code_block) {
    const std::size_t left = codes.columns > first ? codes.columns - first : 0;
    const __m512 inverse = _mm512_set1_ps(inverse_scales[by_block ? first / code_block : 0]);
    __m512i q0 = round16(x + first, left, inverse), q1 = round16(x + first + 16, left > 16 ? left - 16 : 0, inverse);
    sum = _mm512_add_epi32(by_block ? zero : sum, _mm512_add_epi32(q0, q1));
    if (by_block) sums[first / code_block] = _mm_cvtsi128_si32(sum_lanes(sum, zero, zero, zero));
    if (planes) {
      const __m512i limit = _mm512_set1_epi32(low_plane_limit);
      const unsigned beyond = static_cast<unsigned>(_mm512_cmpgt_epi32_mask(_mm512_maskz_abs_epi32(0xffff, q0), limit)) |
                              static_cast<unsigned>(_mm512_cmpgt_epi32_mask(_mm512_maskz_abs_epi32(0xffff, q1), limit)) << 16;
      if (beyond != 0) split_planes(q0, q1, beyond, first / code_block, tile, lane, codes);
    }
    const __m256i low = narrow32(q0, q1);
    if (lanes == 1 || run >= code_block) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + first / run * run * lanes + first % run), low);
    } else {
      alignas(32) std::uint32_t words[8];
      _mm256_store_si256(reinterpret_cast<__m256i*>(words), low);
      std::byte* to = out + first * lanes;
#pragma GCC unroll 8
      for (std::size_t i = 0; i < 8; ++i) std::memcpy(to + i * 4 * lanes, words + i, 4);
    }
  }
  if (!by_block) *sums = _mm_cvtsi128_si32(sum_lanes(sum, zero, zero, zero));
}

LSAQ_VNNI_KERNEL void finish(const std::int32_t* sums, std::size_t stride, std::size_t rows, std::size_t tokens, const float* token_scales,
                             const float* row_scales, float* y, std::size_t y_stride) noexcept {
  for (std::size_t t = 0; t < tokens; ++t) {
    const __m512 token_scale = _mm512_set1_ps(token_scales[t]);
    for (std::size_t r = 0; r < rows; r += 16) {
      const auto mask = static_cast<__mmask16>(rows - r >= 16 ? 0xffffu : (1u << (rows - r)) - 1u);
      const __m512 sum = _mm512_maskz_cvtepi32_ps(mask, _mm512_maskz_loadu_epi32(mask, sums + t * stride + r));
      _mm512_mask_storeu_ps(y + t * y_stride + r, mask, _mm512_mul_ps(_mm512_mul_ps(sum, token_scale), _mm512_maskz_loadu_ps(mask, row_scales + r)));
    }
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512vnni

#undef LSAQ_VNNI
#undef LSAQ_VNNI_HELPER
#undef LSAQ_VNNI_KERNEL
#endif
