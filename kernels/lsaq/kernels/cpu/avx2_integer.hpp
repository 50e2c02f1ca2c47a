// Integer products for x86-64 with AVX2. There is no product of bytes that can't overflow 16 bits with 8-bit codes, so the width of the codes decides:
//
//   2 to 4 bits: codes stay bytes, vpmaddubsw multiplies them with the tokens' planes, and sums of pairs run in 16 bits for eight steps: 8 x 2 x 15 x 127 <
//   2^15 5 to 8 bits: codes become 16 bits, vpmaddwd multiplies them with the tokens' q, whole: no planes
//
// Few tokens: rows of weights by rows of tokens (avx2_integer_rows.hpp). Many tokens: panels by tiles (avx2_integer_tiles.hpp).
#pragma once

#include <lsaq/kernels/cpu/avx2_integer_tiles.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

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

inline constexpr IntegerKernels integer_kernels{layout, unit_maxima, place, dot_rows_by<StepOf>, dot_tiles, dot_blocks, finish};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
