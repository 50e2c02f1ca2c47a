// The oracle of what a decoder computes between its products: every kernel as the plainest loop that says what it computes.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/decoder_kernels.hpp>

#include <algorithm>
#include <cmath>

namespace lsaq::inline v0::inline LSAQ_BASELINE::scalar {

inline float softmax_step(float* scores, std::size_t n, float scale, RunningSoftmax& softmax) noexcept {
  float highest = softmax.highest;
  for (std::size_t i = 0; i < n; ++i) highest = std::max(highest, scores[i] * scale);
  const float shrink = std::exp(softmax.highest - highest);
  float sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += scores[i] = std::exp(std::fma(scores[i], scale, -highest));
  softmax = {highest, softmax.total * shrink + sum};
  return shrink;
}

/// silu(gate) * up for one pair. The exponential is that of -|gate|: it can't overflow, whatever the compiler makes of the division.
inline float gated(float gate, float up) noexcept {
  const float e = std::exp(-std::fabs(gate));
  return gate * (gate < 0 ? e : 1.0f) / (1.0f + e) * up;
}

inline void gate(float* gate, const float* up, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) gate[i] = gated(gate[i], up[i]);
}

inline void rms_norm(const float* x, const Gain& gain, std::size_t n, float epsilon, float* out) noexcept {
  float sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += x[i] * x[i];
  const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + epsilon);
  for (std::size_t i = 0; i < n; ++i) out[i] = x[i] * scale * load_element(gain.data, gain.type, i);
}

/// Rotates one pair.
inline void rotate_pair(float& a, float& b, float cosine, float sine) noexcept {
  const float turned = a * cosine - b * sine;
  b = b * cosine + a * sine;
  a = turned;
}

inline void rotate(float* x, std::size_t heads, std::size_t half, const float* cosines, const float* sines, bool interleaved) noexcept {
  const std::size_t step = interleaved ? 2 : 1, partner = interleaved ? 1 : half;
  for (std::size_t h = 0; h < heads; ++h, x += 2 * half)
    for (std::size_t i = 0; i < half; ++i) rotate_pair(x[i * step], x[i * step + partner], cosines[i], sines[i]);
}

inline void add(float* x, const float* y, std::size_t n) noexcept {
  for (std::size_t i = 0; i < n; ++i) x[i] += y[i];
}

inline void scale(float* x, std::size_t n, float factor) noexcept {
  for (std::size_t i = 0; i < n; ++i) x[i] *= factor;
}

inline constexpr float largest_f16 = 65504.0f;

inline void narrow_finite_f16(const float* in, std::size_t n, f16* out) noexcept {
  for (std::size_t i = 0; i < n; ++i) out[i] = to_f16(in[i] > largest_f16 ? largest_f16 : in[i] < -largest_f16 ? -largest_f16 : in[i]);
}

inline void score(const CacheRows& keys, std::size_t count, const float* q, std::size_t heads, float* scores, std::size_t stride) noexcept {
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t k = 0; k < count; ++k) {
      float sum = 0;
      for (std::size_t c = 0; c < keys.columns; ++c) sum += q[h * keys.columns + c] * load_element(keys.row(k), keys.type, c);
      scores[h * stride + k] = sum;
    }
}

inline void weigh(const CacheRows& values, std::size_t count, const float* weights, std::size_t stride, std::size_t heads, float* out) noexcept {
  for (std::size_t h = 0; h < heads; ++h)
    for (std::size_t k = 0; k < count; ++k)
      for (std::size_t c = 0; c < values.columns; ++c) out[h * values.columns + c] += weights[h * stride + k] * load_element(values.row(k), values.type, c);
}

inline constexpr DecoderKernels decoder_kernels{softmax_step, gate, rms_norm, rotate, add, scale, narrow_finite_f16, score, weigh};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::scalar
