// What a decoder computes between its products, element by element, on x86-64 with AVX2, FMA and F16C. See avx2.hpp.
#pragma once

#include <lsaq/kernels/cpu/avx2_elementwise.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

/// The bits of a vector's first n lanes, n <= 8, for masked loads and stores.
LSAQ_AVX2_HELPER __m256i first_lanes(std::size_t n) noexcept {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

LSAQ_AVX2_HELPER float highest_of_lanes(__m256 v) noexcept {
  __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_max_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}

/// e^r for |r| <= ln(2) / 2, relative error of the polynomial 2^-28.2: 1 + r + r^2 p(r), p a minimax polynomial.
LSAQ_AVX2_HELPER __m256 exp_near_zero(__m256 r) noexcept {
  __m256 p = _mm256_set1_ps(0x1.6a23c8p-10f);
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.123a2p-7f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.5558f4p-5f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.555492p-3f));
  p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(0x1.fffffcp-2f));
  return _mm256_add_ps(_mm256_set1_ps(1), _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r));
}

/// 2^n for whole -126 <= n <= 127.
LSAQ_AVX2_HELPER __m256 power_of_two(__m256i n) noexcept { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }

/// e^x for x <= 88, within 2 units in the last place, subnormal results too.
LSAQ_AVX2_HELPER __m256 exp_of(__m256 x) noexcept {
  x = _mm256_max_ps(_mm256_set1_ps(-104), x); // e^-104 is 0, and so is what is below; NaN is the second operand and stays
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e43p-1f), x); // ln(2) in two parts
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-0x1.05c61p-29f), r);
  const __m256i exponent = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(exponent, 1); // in two steps: 2^-150 has no float of its own
  return _mm256_mul_ps(_mm256_mul_ps(exp_near_zero(r), power_of_two(half)), power_of_two(_mm256_sub_epi32(exponent, half)));
}

LSAQ_AVX2 float softmax_step(float* scores, std::size_t n, float scale, RunningSoftmax& softmax) noexcept {
  const std::size_t whole = n / 8 * 8;
  const __m256i rest = first_lanes(n - whole);
  __m256 most = _mm256_set1_ps(std::numeric_limits<float>::lowest());
  for (std::size_t i = 0; i < whole; i += 8) most = _mm256_max_ps(most, _mm256_loadu_ps(scores + i));
  if (whole != n) most = _mm256_max_ps(most, _mm256_blendv_ps(most, _mm256_maskload_ps(scores + whole, rest), _mm256_castsi256_ps(rest)));
  const float before = softmax.highest, piece = highest_of_lanes(most) * scale;
  const float highest = piece > before ? piece : before;
  const __m256 factor = _mm256_set1_ps(scale), shift = _mm256_set1_ps(highest);
  __m256 sum = _mm256_setzero_ps();
  for (std::size_t i = 0; i < whole; i += 8) {
    const __m256 e = exp_of(_mm256_fmsub_ps(_mm256_loadu_ps(scores + i), factor, shift));
    _mm256_storeu_ps(scores + i, e);
    sum = _mm256_add_ps(sum, e);
  }
  if (whole != n) {
    const __m256 e = exp_of(_mm256_fmsub_ps(_mm256_maskload_ps(scores + whole, rest), factor, shift));
    _mm256_maskstore_ps(scores + whole, rest, e);
    sum = _mm256_add_ps(sum, _mm256_and_ps(e, _mm256_castsi256_ps(rest)));
  }
  const float shrink = highest == before ? 1.0f : _mm256_cvtss_f32(exp_of(_mm256_set1_ps(before - highest)));
  softmax.highest = highest;
  softmax.total = softmax.total * shrink + sum_lanes(sum);
  return shrink;
}

/// silu(x) * up. The exponential is that of -|x|: the divisor is between 1 and 2, whatever the compiler makes of the division.
LSAQ_AVX2_HELPER __m256 gated8(__m256 x, __m256 up) noexcept {
  const __m256 one = _mm256_set1_ps(1), e = exp_of(_mm256_or_ps(x, _mm256_set1_ps(-0.0f)));
  return _mm256_mul_ps(_mm256_div_ps(_mm256_mul_ps(x, _mm256_blendv_ps(one, e, x)), _mm256_add_ps(one, e)), up);
}

LSAQ_AVX2 void gate(float* gate, const float* up, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(gate + i, gated8(_mm256_loadu_ps(gate + i), _mm256_loadu_ps(up + i)));
  if (i == n) return;
  const __m256i rest = first_lanes(n - i);
  _mm256_maskstore_ps(gate + i, rest, gated8(_mm256_maskload_ps(gate + i, rest), _mm256_maskload_ps(up + i, rest)));
}

template <Load L> LSAQ_AVX2 void norm_with_gain(const float* x, const Gain& gain, std::size_t n, float scale, float* out) noexcept {
  const __m256 factor = _mm256_set1_ps(scale);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(x + i), factor), load8<L>(gain.data, i)));
  for (; i < n; ++i) out[i] = x[i] * scale * load_element(gain.data, gain.type, i);
}

LSAQ_AVX2 void rms_norm(const float* x, const Gain& gain, std::size_t n, float epsilon, float* out) noexcept {
  __m256 sum[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) sum[j] = _mm256_setzero_ps();
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) {
      const __m256 v = _mm256_loadu_ps(x + i + 8 * j);
      sum[j] = _mm256_fmadd_ps(v, v, sum[j]);
    }
  }
  for (; i < n; i += 8) {
    const __m256 v = n - i >= 8 ? _mm256_loadu_ps(x + i) : _mm256_maskload_ps(x + i, first_lanes(n - i));
    sum[0] = _mm256_fmadd_ps(v, v, sum[0]);
  }
  const float mean = sum_lanes(_mm256_add_ps(_mm256_add_ps(sum[0], sum[1]), _mm256_add_ps(sum[2], sum[3]))) / static_cast<float>(n);
  const float scale = 1.0f / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(mean + epsilon)));
  switch (gain.type) {
  case ElementType::f32: return norm_with_gain<Load::f32>(x, gain, n, scale, out);
  case ElementType::f16: return norm_with_gain<Load::f16>(x, gain, n, scale, out);
  case ElementType::bf16: return norm_with_gain<Load::bf16>(x, gain, n, scale, out);
  case ElementType::q8_0:
    for (i = 0; i < n; ++i) out[i] = x[i] * scale * load_element(gain.data, gain.type, i);
  }
}

/// Pairs that are neighbours: four of them a vector, with a cosine and a sine for both of a pair.
LSAQ_AVX2_HELPER void rotate_neighbours(float* head, std::size_t half, const float* cosines, const float* sines) noexcept {
  const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
  std::size_t i = 0;
  for (; i + 4 <= half; i += 4) {
    const __m256 pairs = _mm256_loadu_ps(head + 2 * i);
    const __m256 cosine = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cosines + i)), twice);
    const __m256 sine = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sines + i)), twice);
    _mm256_storeu_ps(head + 2 * i, _mm256_fmaddsub_ps(pairs, cosine, _mm256_mul_ps(_mm256_permute_ps(pairs, 0xb1), sine)));
  }
  for (; i < half; ++i) scalar::rotate_pair(head[2 * i], head[2 * i + 1], cosines[i], sines[i]);
}

/// Pairs half a head apart.
LSAQ_AVX2_HELPER void rotate_halves(float* head, std::size_t half, const float* cosines, const float* sines) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= half; i += 8) {
    const __m256 a = _mm256_loadu_ps(head + i), b = _mm256_loadu_ps(head + half + i);
    const __m256 cosine = _mm256_loadu_ps(cosines + i), sine = _mm256_loadu_ps(sines + i);
    _mm256_storeu_ps(head + i, _mm256_fmsub_ps(a, cosine, _mm256_mul_ps(b, sine)));
    _mm256_storeu_ps(head + half + i, _mm256_fmadd_ps(b, cosine, _mm256_mul_ps(a, sine)));
  }
  for (; i < half; ++i) scalar::rotate_pair(head[i], head[half + i], cosines[i], sines[i]);
}

LSAQ_AVX2 void rotate(float* x, std::size_t heads, std::size_t half, const float* cosines, const float* sines, bool interleaved) noexcept {
  for (std::size_t h = 0; h < heads; ++h, x += 2 * half) {
    if (interleaved)
      rotate_neighbours(x, half, cosines, sines);
    else
      rotate_halves(x, half, cosines, sines);
  }
}

LSAQ_AVX2 void add(float* x, const float* y, std::size_t n) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_add_ps(_mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
  for (; i < n; ++i) x[i] += y[i];
}

LSAQ_AVX2 void scale(float* x, std::size_t n, float factor) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(x + i, _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor)));
  for (; i < n; ++i) x[i] *= factor;
}

LSAQ_AVX2 void narrow_finite_f16(const float* in, std::size_t n, f16* out) noexcept {
  const __m256 top = _mm256_set1_ps(scalar::largest_f16), bottom = _mm256_set1_ps(-scalar::largest_f16);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 finite = _mm256_max_ps(bottom, _mm256_min_ps(top, _mm256_loadu_ps(in + i))); // NaN is the second operand and stays
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(finite, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  scalar::narrow_finite_f16(in + i, n - i, out + i);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
