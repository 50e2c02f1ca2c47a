// Codes of FP32 weights with AVX-512 (F, BW, DQ, VL): what avx2_quantize.hpp does, and why it may, with half the instructions. 16-bit weights are AVX2's.
#pragma once

#include <lsaq/kernels/cpu/avx2_quantize.hpp>

#if LSAQ_X86
#define LSAQ_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]] inline
#define LSAQ_AVX512_HELPER [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512 {

/// 32 FP32 weights to signed codes, what is beyond -128 .. 127 clamped to that.
LSAQ_AVX512_HELPER __m256i codes_of(const std::byte* in, const avx2::Divisor& divisor) noexcept {
  constexpr __mmask16 every = 0xffff; // GCC 12 warns of its own unmasked intrinsics: they read a register nobody set (GCC bug 105593)
  constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC; // explicit: -ffast-math changes none of these
  const __m512 reciprocal = _mm512_set1_ps(divisor.reciprocal), tolerance = _mm512_set1_ps(avx2::tolerance_of(divisor));
  const __m512 first = _mm512_loadu_ps(in), second = _mm512_loadu_ps(in + 64);
  __m512 left = _mm512_maskz_mul_round_ps(every, first, reciprocal, nearest), right = _mm512_maskz_mul_round_ps(every, second, reciprocal, nearest);
  constexpr int from_integer = 8, larger_magnitude = 11;
  const __m512 furthest =
      _mm512_maskz_range_ps(every, _mm512_maskz_reduce_ps(every, left, from_integer), _mm512_maskz_reduce_ps(every, right, from_integer), larger_magnitude);
  if (_mm512_cmp_ps_mask(furthest, tolerance, _CMP_GT_OQ) != 0) [[unlikely]] {
    left = _mm512_maskz_div_round_ps(every, first, _mm512_set1_ps(divisor.scale), nearest);
    right = _mm512_maskz_div_round_ps(every, second, _mm512_set1_ps(divisor.scale), nearest);
  }
  const __m512i pairs = _mm512_packs_epi32(_mm512_maskz_cvt_roundps_epi32(every, left, nearest), _mm512_maskz_cvt_roundps_epi32(every, right, nearest));
  const __m256i in_order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); // undoes the lane-wise packing
  return _mm256_permutevar8x32_epi32(_mm512_maskz_cvtsepi16_epi8(0xffffffffu, pairs), in_order);
}

/// Quantizes n elements by one scale into whole words, and fetches as many bytes from `ahead` on.
template <unsigned Bits>
LSAQ_AVX512_HELPER void quantize_group(avx2::Cursor& at, std::size_t n, const avx2::Divisor& divisor, const avx2::ByteBounds& bounds, unsigned bits) noexcept {
  for (std::size_t left = n / 32; left != 0; --left, at.in += 128, at.ahead += 128, at.out += 4 * bits) {
    _mm_prefetch(reinterpret_cast<const char*>(at.ahead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(at.ahead + 64), _MM_HINT_T0);
    avx2::store_codes<Bits>(bounds.apply(codes_of(at.in, divisor)), bits, at.out);
  }
  n %= 32;
  if (n == 0) return;
  std::byte rest[128] = {}; // zeros become the codes of the padding
  std::byte packed[32];
  std::memcpy(rest, at.in, n * 4);
  avx2::store_codes<Bits>(bounds.apply(codes_of(rest, divisor)), bits, packed);
  std::memcpy(at.out, packed, (n * bits + 31) / 32 * 4);
}

template <unsigned Bits>
LSAQ_AVX512 void quantize_groups(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void* ahead) noexcept {
  avx2::Cursor at{static_cast<const std::byte*>(in.data), static_cast<const std::byte*>(ahead == nullptr ? in.data : ahead), out};
  const avx2::ByteBounds limits = avx2::ByteBounds::of(bounds);
  const unsigned bits = Bits == 0 ? bounds.bits() : Bits;
  for (std::size_t left = in.count; left != 0; scales += 8) {
    const avx2::Divisors divisors = avx2::Divisors::of(scales, (left + group - 1) / group);
    if (group == 32 && left >= 8 * 32) { // no loop for a block
      for (std::size_t i = 0; i < 8; ++i) avx512::quantize_group<Bits>(at, 32, {divisors.scale[i], divisors.reciprocal[i]}, limits, bits);
      left -= 8 * 32;
      continue;
    }
    for (std::size_t i = 0; i < 8 && left != 0; ++i) {
      const std::size_t count = std::min(group, left);
      avx512::quantize_group<Bits>(at, count, {divisors.scale[i], divisors.reciprocal[i]}, limits, bits);
      left -= count;
    }
  }
}

LSAQ_AVX512 void quantize_packed(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void* ahead) noexcept {
  if (in.type != ElementType::f32) return avx2::quantize_packed(in, group, scales, bounds, out, ahead);
  switch (bounds.bits()) {
  case 8: return quantize_groups<8>(in, group, scales, bounds, out, ahead);
  case 4: return quantize_groups<4>(in, group, scales, bounds, out, ahead);
  default: return quantize_groups<0>(in, group, scales, bounds, out, ahead);
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx512

#undef LSAQ_AVX512
#undef LSAQ_AVX512_HELPER
#endif
