// What x86-64 with AVX2, FMA and F16C does element by element: loads of every format, conversions, magnitudes. See avx2.hpp.
#pragma once

#include <lsaq/kernels/cpu/scalar.hpp>

#if LSAQ_X86
#include <immintrin.h>

#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

/// Formats with vector loads; other bit widths go through the scalar unpacking.
enum class Load : std::uint8_t { f32, f16, bf16, i8, i4 };

/// Weights of columns [column, column + 8) as FP32. i4 wants column % 8 == 0 and reads the row's padding; the others read exactly eight elements.
template <Load L> LSAQ_AVX2_HELPER __m256 load8(const std::byte* row, std::size_t column) noexcept {
  if constexpr (L == Load::f32) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + column);
  } else if constexpr (L == Load::f16) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * column)));
  } else if constexpr (L == Load::bf16) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * column)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  } else if constexpr (L == Load::i8) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(row + column)));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, _mm256_set1_epi32(128)));
  } else {
    int word; // eight codes, the first column in the lowest four bits
    std::memcpy(&word, row + column / 2, sizeof word);
    const __m256i shifted = _mm256_srlv_epi32(_mm256_set1_epi32(word), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_and_si256(shifted, _mm256_set1_epi32(15)), _mm256_set1_epi32(8)));
  }
}

LSAQ_AVX2_HELPER float sum_lanes(__m256 v) noexcept {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

LSAQ_AVX2 void widen(const void* in, ElementType type, std::size_t n, float* out) noexcept {
  const auto* bytes = static_cast<const std::byte*>(in);
  std::size_t i = 0;
  switch (type) {
  case ElementType::f32: std::memcpy(out, in, n * sizeof(float)); return;
  case ElementType::f16:
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, load8<Load::f16>(bytes, i));
    break;
  case ElementType::bf16:
    for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, load8<Load::bf16>(bytes, i));
    break;
  case ElementType::q8_0:
    for (; i + q8_0_block <= n; i += q8_0_block) {
      const std::byte* block = bytes + bytes_of(type, i);
      const __m256 scale = _mm256_set1_ps(load_element(block, ElementType::f16, 0));
#pragma GCC unroll 4
      for (std::size_t j = 0; j < q8_0_block; j += 8) {
        const __m256i codes = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(block + 2 + j)));
        _mm256_storeu_ps(out + i + j, _mm256_mul_ps(scale, _mm256_cvtepi32_ps(codes)));
      }
    }
    break;
  }
  for (; i < n; ++i) out[i] = load_element(in, type, i);
}

template <Load L> LSAQ_AVX2 void widen_codes_of(const std::byte* row, unsigned bits, std::size_t first_column, std::size_t n, float* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) _mm256_storeu_ps(out + i, load8<L>(row, first_column + i));
  scalar::widen_codes(row, bits, first_column + i, n - i, out + i);
}

LSAQ_AVX2 void widen_codes(const std::byte* row, unsigned bits, std::size_t first_column, std::size_t n, float* out) noexcept {
  if (bits == 8) return widen_codes_of<Load::i8>(row, bits, first_column, n, out);
  if (bits == 4) return widen_codes_of<Load::i4>(row, bits, first_column, n, out);
  scalar::widen_codes(row, bits, first_column, n, out);
}

LSAQ_AVX2 void narrow_f16(const float* in, std::size_t n, f16* out) noexcept {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  for (; i < n; ++i) out[i] = to_f16(in[i]);
}

LSAQ_AVX2 std::uint32_t magnitude_bits(const float* in, std::size_t n) noexcept {
  const __m256i no_sign = _mm256_set1_epi32(0x7fffffff);
  __m256i largest = _mm256_setzero_si256(); // as integers: monotonic for non-negative floats, and NaN is above infinity
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) largest = _mm256_max_epi32(largest, _mm256_and_si256(no_sign, _mm256_castps_si256(_mm256_loadu_ps(in + i))));
  alignas(32) std::uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  std::uint32_t result = scalar::magnitude_bits(in + i, n - i);
  for (std::uint32_t lane : lanes) result = lane > result ? lane : result;
  return result;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
