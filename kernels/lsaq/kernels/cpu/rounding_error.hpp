// How well a scale suits some weights: the inner loop of scale searches.
#pragma once

#include <lsaq/kernels/cpu/scalar.hpp>

#if LSAQ_X86
#include <immintrin.h>
#endif

namespace lsaq::inline v0 {

/// What rounding weights w to codes q with a scale s leaves and says, each term weighted by m.
struct RoundingSums {
  float error = 0;        ///< sum of m (w - s q)^2
  float weight_code = 0;  ///< sum of m w q
  float code_squared = 0; ///< sum of m q^2
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace scalar {

/// Sums over n weights and their m; q = clamp(round(w / s)), by a reciprocal: for choosing scales, not codes. s > 0.
inline RoundingSums rounding_sums(const float* weights, const float* m, std::size_t n, float scale, CodeBounds bounds) noexcept {
  RoundingSums sums;
  const float reciprocal = 1 / scale;
  for (std::size_t i = 0; i < n; ++i) {
    const float wanted = std::clamp(weights[i] * reciprocal, static_cast<float>(bounds.lowest), static_cast<float>(bounds.highest));
    const auto code = static_cast<float>(round_half_even(wanted));
    const float left = weights[i] - scale * code, weighted = m[i] * code;
    sums.error += m[i] * left * left;
    sums.weight_code += weighted * weights[i];
    sums.code_squared += weighted * code;
  }
  return sums;
}

} // namespace scalar

#if LSAQ_X86
namespace avx2 {

__attribute__((target("avx2,fma"))) inline float sum_of_lanes(__m256 v) noexcept {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

__attribute__((target("avx2,fma"))) inline RoundingSums rounding_sums(const float* weights, const float* m, std::size_t n, float scale,
                                                                      CodeBounds bounds) noexcept {
  const __m256 step = _mm256_set1_ps(scale), reciprocal = _mm256_set1_ps(1 / scale);
  const __m256 lowest = _mm256_set1_ps(static_cast<float>(bounds.lowest)), highest = _mm256_set1_ps(static_cast<float>(bounds.highest));
  __m256 error = _mm256_setzero_ps(), weight_code = error, code_squared = error;
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 w = _mm256_loadu_ps(weights + i), share = _mm256_loadu_ps(m + i);
    const __m256 wanted = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(w, reciprocal), lowest), highest);
    const __m256 code = _mm256_round_ps(wanted, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 left = _mm256_fnmadd_ps(step, code, w), weighted = _mm256_mul_ps(share, code);
    error = _mm256_fmadd_ps(_mm256_mul_ps(share, left), left, error);
    weight_code = _mm256_fmadd_ps(weighted, w, weight_code);
    code_squared = _mm256_fmadd_ps(weighted, code, code_squared);
  }
  RoundingSums sums = scalar::rounding_sums(weights + i, m + i, n - i, scale, bounds);
  sums.error += sum_of_lanes(error);
  sums.weight_code += sum_of_lanes(weight_code);
  sums.code_squared += sum_of_lanes(code_squared);
  return sums;
}

} // namespace avx2
#endif

/// The sums by the instruction set of a table of kernels. They differ between instruction sets in their last bits.
inline RoundingSums rounding_sums(Isa isa, const float* weights, const float* m, std::size_t n, float scale, CodeBounds bounds) noexcept {
#if LSAQ_X86
  if (isa == Isa::avx2 || isa == Isa::avx512) return avx2::rounding_sums(weights, m, n, scale, bounds);
#endif
  (void)isa;
  return scalar::rounding_sums(weights, m, n, scale, bounds);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
