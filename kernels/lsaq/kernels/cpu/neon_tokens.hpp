// What integer products on AArch64 do with activations before and with sums after (token_codes.hpp): any machine with Advanced SIMD.
#pragma once

#include <lsaq/kernels/cpu/scalar_integer.hpp>

#if LSAQ_ARM64
#include <arm_neon.h>

#define LSAQ_NEON_HELPER [[gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::neon {

inline constexpr std::size_t tile_lanes = 8;

/// Tiles with a scale a block have as many lanes as tokens, or no fewer than 4 tokens.
inline TokenLayout layout(unsigned, std::size_t tokens, Scaling scaling) noexcept {
  if (scaling == Scaling::block) return {.width = 1, .lanes = tokens <= 4 ? std::max<std::size_t>(tokens, 1) : tile_lanes};
  return {.width = 1, .lanes = tokens <= dot_tokens_max ? 1 : tile_lanes};
}

inline void unit_maxima(const float* x, std::size_t columns, std::uint32_t* maxima) noexcept {
  const std::size_t whole = columns / code_unit * code_unit;
  for (std::size_t c = 0; c < whole; c += code_unit) {
    const uint32x4_t sign = vdupq_n_u32(0x80000000u); // as integers: monotonic for non-negative floats, and NaN is above infinity
    const uint32x4_t low = vbicq_u32(vreinterpretq_u32_f32(vld1q_f32(x + c)), sign), high = vbicq_u32(vreinterpretq_u32_f32(vld1q_f32(x + c + 4)), sign);
    *maxima++ = vmaxvq_u32(vmaxq_u32(low, high));
  }
  scalar::unit_maxima(x + whole, columns - whole, maxima);
}

/// 32 numbers as bytes, in order.
LSAQ_NEON_HELPER int8x16x2_t narrow_to_bytes(const int32x4_t (&q)[8]) noexcept {
  int16x8_t half[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) half[i] = vmovn_high_s32(vmovn_s32(q[2 * i]), q[2 * i + 1]);
  return {{vmovn_high_s16(vmovn_s16(half[0]), half[1]), vmovn_high_s16(vmovn_s16(half[2]), half[3])}};
}

/// Splits a block's codes, for which one plane has no room: q becomes the low one.
inline void split_planes(int32x4_t (&q)[8], std::size_t block, std::size_t token, const TokenCodes& codes) noexcept {
  int32x4_t upper[8];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    upper[i] = vrshrq_n_s32(q[i], 7);
    q[i] = vsubq_s32(q[i], vshlq_n_s32(upper[i], 7));
  }
  const int8x16x2_t bytes = narrow_to_bytes(upper);
  std::int8_t* const high = codes.next_high_block(token);
  vst1q_s8(high, bytes.val[0]);
  vst1q_s8(high + 16, bytes.val[1]);
  codes.append_high_block(token, block);
}

inline void place(const float* x, const float* inverse_scales, std::size_t tile, std::size_t lane, const TokenCodes& codes) noexcept {
  const std::size_t token = codes.first_of(tile) + lane, padded = padded_columns(codes.columns), lanes = codes.layout.lanes;
  const bool by_block = codes.scales_per_token != 1, planes = codes.high_limit != 0;
  std::int32_t* const sums = codes.sums + token * codes.scales_per_token;
  int32x4_t sum = vdupq_n_s32(0);
  float last[code_block];
  for (std::size_t first = 0; first < padded; first += code_block) {
    const float* from = x + first;
    if (first + code_block > codes.columns) { // zeros beyond the token's end
      for (std::size_t i = 0; i < code_block; ++i) last[i] = first + i < codes.columns ? x[first + i] : 0.0f;
      from = last;
    }
    const float inverse = inverse_scales[by_block ? first / code_block : 0];
    if (by_block) sum = vdupq_n_s32(0);
    int32x4_t q[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      q[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(from + 4 * i), inverse)); // half to even in any rounding mode
      sum = vaddq_s32(sum, q[i]);
    }
    if (by_block) sums[first / code_block] = vaddvq_s32(sum);
    if (planes) {
      int32x4_t largest = vabsq_s32(q[0]);
#pragma GCC unroll 8
      for (int i = 1; i < 8; ++i) largest = vmaxq_s32(largest, vabsq_s32(q[i]));
      if (vmaxvq_s32(largest) > low_plane_limit) split_planes(q, first / code_block, token, codes);
    }
    const int8x16x2_t bytes = narrow_to_bytes(q);
    std::int8_t run[code_block];
    vst1q_s8(run, bytes.val[0]);
    vst1q_s8(run + 16, bytes.val[1]);
    std::byte* const out = codes.tile(tile) + first * lanes + 4 * lane;
#pragma GCC unroll 8
    for (std::size_t i = 0; i < 8; ++i) std::memcpy(out + i * 4 * lanes, run + 4 * i, 4);
  }
  if (!by_block) *sums = vaddvq_s32(sum);
}

inline void finish(const std::int32_t* sums, std::size_t stride, std::size_t rows, std::size_t tokens, const float* token_scales, const float* row_scales,
                   float* y, std::size_t y_stride) noexcept {
  const std::size_t whole = rows / 4 * 4;
  for (std::size_t t = 0; t < tokens; ++t) {
    for (std::size_t r = 0; r < whole; r += 4) {
      const float32x4_t sum = vmulq_n_f32(vcvtq_f32_s32(vld1q_s32(sums + t * stride + r)), token_scales[t]);
      vst1q_f32(y + t * y_stride + r, vmulq_f32(sum, vld1q_f32(row_scales + r)));
    }
    scalar::finish(sums + t * stride + whole, stride, rows - whole, 1, token_scales + t, row_scales + whole, y + t * y_stride + whole, y_stride);
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::neon

#undef LSAQ_NEON_HELPER
#endif
