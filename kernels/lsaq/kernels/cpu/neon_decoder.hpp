// What a decoder computes between its products on AArch64 with Advanced SIMD. See neon.hpp.
#pragma once

#include <lsaq/kernels/cpu/neon_loads.hpp>

#if LSAQ_ARM64
#define LSAQ_NEON_HELPER [[gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::neon {

/// 2^n for whole -126 <= n <= 127.
LSAQ_NEON_HELPER float32x4_t power_of_two(int32x4_t n) noexcept { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23)); }

/// e^x for x <= 88, within 2 units in the last place, subnormal results too: 2^n e^r with |r| <= ln(2) / 2, e^r = 1 + r + r^2 p(r) by a minimax polynomial of
/// relative error 2^-28.2. NaN stays NaN.
LSAQ_NEON_HELPER float32x4_t exp_of(float32x4_t x) noexcept {
  x = vmaxq_f32(vdupq_n_f32(-104), x); // e^-104 is 0, and so is what is below
  const float32x4_t n = vrndnq_f32(vmulq_n_f32(x, 0x1.715476p+0f));
  float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(0x1.62e43p-1f)); // ln(2) in two parts
  r = vfmsq_f32(r, n, vdupq_n_f32(-0x1.05c61p-29f));
  float32x4_t p = vfmaq_f32(vdupq_n_f32(0x1.123a2p-7f), vdupq_n_f32(0x1.6a23c8p-10f), r);
  p = vfmaq_f32(vdupq_n_f32(0x1.5558f4p-5f), p, r);
  p = vfmaq_f32(vdupq_n_f32(0x1.555492p-3f), p, r);
  p = vfmaq_f32(vdupq_n_f32(0x1.fffffcp-2f), p, r);
  const float32x4_t e = vaddq_f32(vdupq_n_f32(1), vfmaq_f32(r, p, vmulq_f32(r, r)));
  const int32x4_t exponent = vcvtq_s32_f32(n), half = vshrq_n_s32(exponent, 1); // in two steps: 2^-150 has no float of its own
  return vmulq_f32(vmulq_f32(e, power_of_two(half)), power_of_two(vsubq_s32(exponent, half)));
}

/// The first n < 4 floats, then `rest`.
LSAQ_NEON_HELPER float32x4_t load_first(const float* in, std::size_t n, float rest) noexcept {
  float lanes[4] = {rest, rest, rest, rest};
  for (std::size_t i = 0; i < n; ++i) lanes[i] = in[i];
  return vld1q_f32(lanes);
}

LSAQ_NEON_HELPER void store_first(float* out, std::size_t n, float32x4_t v) noexcept {
  float lanes[4];
  vst1q_f32(lanes, v);
  for (std::size_t i = 0; i < n; ++i) out[i] = lanes[i];
}

inline float softmax_step(float* scores, std::size_t n, float scale, RunningSoftmax& softmax) noexcept {
  constexpr float lowest = std::numeric_limits<float>::lowest();
  const std::size_t whole = n / 4 * 4;
  float32x4_t most = vdupq_n_f32(lowest);
  for (std::size_t i = 0; i < whole; i += 4) most = vmaxq_f32(most, vld1q_f32(scores + i));
  most = vmaxq_f32(most, load_first(scores + whole, n - whole, lowest));
  const float before = softmax.highest, piece = vmaxvq_f32(most) * scale;
  const float highest = piece > before ? piece : before;
  const float32x4_t shift = vdupq_n_f32(-highest), factor = vdupq_n_f32(scale);
  float32x4_t sums = vdupq_n_f32(0);
  for (std::size_t i = 0; i < whole; i += 4) {
    const float32x4_t e = exp_of(vfmaq_f32(shift, vld1q_f32(scores + i), factor));
    vst1q_f32(scores + i, e);
    sums = vaddq_f32(sums, e);
  }
  float sum = vaddvq_f32(sums);
  if (whole != n) {
    store_first(scores + whole, n - whole, exp_of(vfmaq_f32(shift, load_first(scores + whole, n - whole, 0), factor)));
    for (std::size_t i = whole; i < n; ++i) sum += scores[i];
  }
  const float shrink = highest == before ? 1.0f : vgetq_lane_f32(exp_of(vdupq_n_f32(before - highest)), 0);
  softmax.highest = highest;
  softmax.total = softmax.total * shrink + sum;
  return shrink;
}

/// silu(x) * up. The exponential is that of -|x|: the divisor is between 1 and 2.
LSAQ_NEON_HELPER float32x4_t gated4(float32x4_t x, float32x4_t up) noexcept {
  const float32x4_t one = vdupq_n_f32(1), e = exp_of(vnegq_f32(vabsq_f32(x)));
  const float32x4_t numerator = vmulq_f32(x, vbslq_f32(vcltq_f32(x, vdupq_n_f32(0)), e, one));
  return vmulq_f32(vdivq_f32(numerator, vaddq_f32(one, e)), up);
}

inline void gate(float* gate, const float* up, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1q_f32(gate + i, gated4(vld1q_f32(gate + i), vld1q_f32(up + i)));
  if (i != n) store_first(gate + i, n - i, gated4(load_first(gate + i, n - i, 0), load_first(up + i, n - i, 0)));
}

template <Load L> inline void norm_with_gain(const float* x, const Gain& gain, std::size_t n, float scale, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const float32x4x2_t g = load8<L>(gain.data, i);
    const float32x4_t low = vmulq_f32(vmulq_n_f32(vld1q_f32(x + i), scale), g.val[0]), high = vmulq_f32(vmulq_n_f32(vld1q_f32(x + i + 4), scale), g.val[1]);
    vst1q_f32(out + i, low);
    vst1q_f32(out + i + 4, high);
  }
  for (; i < n; ++i) out[i] = x[i] * scale * load_element(gain.data, gain.type, i);
}

inline void rms_norm(const float* x, const Gain& gain, std::size_t n, float epsilon, float* out) noexcept {
  float32x4_t low = vdupq_n_f32(0), high = low;
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + i + 4);
    low = vfmaq_f32(low, a, a);
    high = vfmaq_f32(high, b, b);
  }
  float sum = vaddvq_f32(vaddq_f32(low, high));
  for (; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + epsilon);
  switch (gain.type) {
  case ElementType::f32: return norm_with_gain<Load::f32>(x, gain, n, scale, out);
  case ElementType::f16: return norm_with_gain<Load::f16>(x, gain, n, scale, out);
  case ElementType::bf16: return norm_with_gain<Load::bf16>(x, gain, n, scale, out);
  case ElementType::q8_0:
    for (i = 0; i < n; ++i) out[i] = x[i] * scale * load_element(gain.data, gain.type, i);
  }
}

/// Rotates four pairs.
LSAQ_NEON_HELPER void rotate4(float32x4_t& a, float32x4_t& b, float32x4_t cosine, float32x4_t sine) noexcept {
  const float32x4_t turned = vfmsq_f32(vmulq_f32(a, cosine), b, sine);
  b = vfmaq_f32(vmulq_f32(b, cosine), a, sine);
  a = turned;
}

inline void rotate(float* x, std::size_t heads, std::size_t half, const float* cosines, const float* sines, bool interleaved) noexcept {
  const std::size_t whole = half / 4 * 4, step = interleaved ? 2 : 1, partner = interleaved ? 1 : half;
  for (std::size_t h = 0; h < heads; ++h, x += 2 * half) {
    for (std::size_t i = 0; i < whole; i += 4) {
      const float32x4_t cosine = vld1q_f32(cosines + i), sine = vld1q_f32(sines + i);
      if (interleaved) {
        float32x4x2_t pairs = vld2q_f32(x + 2 * i);
        rotate4(pairs.val[0], pairs.val[1], cosine, sine);
        vst2q_f32(x + 2 * i, pairs);
      } else {
        float32x4_t a = vld1q_f32(x + i), b = vld1q_f32(x + half + i);
        rotate4(a, b, cosine, sine);
        vst1q_f32(x + i, a);
        vst1q_f32(x + half + i, b);
      }
    }
    for (std::size_t i = whole; i < half; ++i) scalar::rotate_pair(x[i * step], x[i * step + partner], cosines[i], sines[i]);
  }
}

inline void add(float* x, const float* y, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1q_f32(x + i, vaddq_f32(vld1q_f32(x + i), vld1q_f32(y + i)));
  for (; i < n; ++i) x[i] += y[i];
}

inline void scale(float* x, std::size_t n, float factor) noexcept {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1q_f32(x + i, vmulq_n_f32(vld1q_f32(x + i), factor));
  for (; i < n; ++i) x[i] *= factor;
}

inline void narrow_finite_f16(const float* in, std::size_t n, f16* out) noexcept {
  const float32x4_t top = vdupq_n_f32(scalar::largest_f16), bottom = vdupq_n_f32(-scalar::largest_f16);
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) vst1_u16(&out[i].bits, vreinterpret_u16_f16(vcvt_f16_f32(vmaxq_f32(bottom, vminq_f32(top, vld1q_f32(in + i)))))); // NaN stays NaN
  scalar::narrow_finite_f16(in + i, n - i, out + i);
}

/// K keys by H queries in 2 K x H accumulators.
template <ElementType T, int K, int H> LSAQ_NEON_HELPER void score_tile(const CacheRows& keys, const float* q, float* scores, std::size_t stride) noexcept {
  const std::size_t columns = keys.columns, whole = columns / 8 * 8;
  float32x4_t sum[K][H][2];
#pragma GCC unroll 2
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) sum[k][h][0] = sum[k][h][1] = vdupq_n_f32(0);
  for (std::size_t c = 0; c < whole; c += 8) {
    float32x4x2_t key[K];
#pragma GCC unroll 2
    for (int k = 0; k < K; ++k) key[k] = cached8<T>(keys.row(k), c);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      const float32x4_t low = vld1q_f32(q + h * columns + c), high = vld1q_f32(q + h * columns + c + 4);
#pragma GCC unroll 2
      for (int k = 0; k < K; ++k) {
        sum[k][h][0] = vfmaq_f32(sum[k][h][0], key[k].val[0], low);
        sum[k][h][1] = vfmaq_f32(sum[k][h][1], key[k].val[1], high);
      }
    }
  }
#pragma GCC unroll 2
  for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      float total = vaddvq_f32(vaddq_f32(sum[k][h][0], sum[k][h][1]));
      for (std::size_t c = whole; c < columns; ++c) total += load_element(keys.row(k), T, c) * q[h * columns + c];
      scores[h * stride + k] = total;
    }
}

template <ElementType T, int H> inline void score_heads(const CacheRows& keys, std::size_t count, const float* q, float* scores, std::size_t stride) noexcept {
  std::size_t k = 0;
  for (; k + 2 <= count; k += 2) score_tile<T, 2, H>(keys.from(k), q, scores + k, stride);
  if (k < count) score_tile<T, 1, H>(keys.from(k), q, scores + k, stride);
}

template <ElementType T>
inline void score_of(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept {
  for (std::size_t h = 0, some = 0; h < heads; h += some) {
    const float* queries = q + h * keys.columns;
    float* out = scores + h * stride;
    some = heads - h >= 4 ? 4 : heads - h >= 2 ? 2 : 1;
    if (some == 4)
      score_heads<T, 4>(keys, count, queries, out, stride);
    else if (some == 2)
      score_heads<T, 2>(keys, count, queries, out, stride);
    else
      score_heads<T, 1>(keys, count, queries, out, stride);
  }
}

inline void score(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept {
  switch (keys.type) {
  case ElementType::f32: return score_of<ElementType::f32>(keys, count, q, heads, scores, stride);
  case ElementType::f16: return score_of<ElementType::f16>(keys, count, q, heads, scores, stride);
  case ElementType::bf16: return scalar::score(keys, count, q, heads, scores, stride);
  case ElementType::q8_0: return score_of<ElementType::q8_0>(keys, count, q, heads, scores, stride);
  }
}

/// Columns [column, column + 8) of H outputs.
template <ElementType T, int H>
LSAQ_NEON_HELPER void weigh_tile(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t column,
                                 float* out) noexcept {
  float32x4_t sum[H][2];
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h) {
    sum[h][0] = vld1q_f32(out + h * values.columns + column);
    sum[h][1] = vld1q_f32(out + h * values.columns + column + 4);
  }
  for (std::size_t k = 0; k < count; ++k) {
    const float32x4x2_t value = cached8<T>(values.row(k), column);
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h) {
      const float32x4_t weight = vdupq_n_f32(weights[h * stride + k]);
      sum[h][0] = vfmaq_f32(sum[h][0], value.val[0], weight);
      sum[h][1] = vfmaq_f32(sum[h][1], value.val[1], weight);
    }
  }
#pragma GCC unroll 4
  for (int h = 0; h < H; ++h) {
    vst1q_f32(out + h * values.columns + column, sum[h][0]);
    vst1q_f32(out + h * values.columns + column + 4, sum[h][1]);
  }
}

template <ElementType T, int H>
inline void weigh_heads(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, float* out) noexcept {
  std::size_t c = 0;
  for (; c + 8 <= values.columns; c += 8) weigh_tile<T, H>(values, count, weights, stride, c, out);
  for (; c < values.columns; ++c)
    for (int h = 0; h < H; ++h) {
      float& sum = out[h * values.columns + c];
      for (std::size_t k = 0; k < count; ++k) sum += weights[h * stride + k] * load_element(values.row(k), T, c);
    }
}

template <ElementType T>
inline void weigh_of(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept {
  for (std::size_t h = 0, some = 0; h < heads; h += some) {
    const float* of_head = weights + h * stride;
    float* to = out + h * values.columns;
    some = heads - h >= 4 ? 4 : heads - h >= 2 ? 2 : 1;
    if (some == 4)
      weigh_heads<T, 4>(values, count, of_head, stride, to);
    else if (some == 2)
      weigh_heads<T, 2>(values, count, of_head, stride, to);
    else
      weigh_heads<T, 1>(values, count, of_head, stride, to);
  }
}

inline void weigh(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept {
  switch (values.type) {
  case ElementType::f32: return weigh_of<ElementType::f32>(values, count, weights, stride, heads, out);
  case ElementType::f16: return weigh_of<ElementType::f16>(values, count, weights, stride, heads, out);
  case ElementType::bf16: return scalar::weigh(values, count, weights, stride, heads, out);
  case ElementType::q8_0: return weigh_of<ElementType::q8_0>(values, count, weights, stride, heads, out);
  }
}

inline constexpr DecoderKernels decoder_kernels{softmax_step, gate, rms_norm, rotate, add, scale, narrow_finite_f16, score, weigh};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::neon

#undef LSAQ_NEON_HELPER
#endif
