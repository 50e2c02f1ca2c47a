// Quantization on x86-64 with AVX2, FMA and F16C: extremes of weights, and codes straight into packed rows. See avx2.hpp.
//
// The rule asks for round_half_even(x / s) of the FP32 quotient. Divisions are avoided where a product with y = 1 / s is proven to give the same code:
//
//   16-bit x and a scale s of at most 11 significant bits. Unless x / s is a tie k + 1/2 exactly, it is at least 2^-12 away from every tie: with x = X 2^a and
//   s = S 2^b their distance is a multiple of 2^min(a+1,b) over 2 s. The product is off by less than 2^-15 where |x / s| <= 256, so rounding it to a multiple
//   of 2^-13 lands on a tie exactly where the quotient is one. Adding 1536 does that, adding 1.5 * 2^23 - 1536 then rounds to an integer.
//
//   Anything else. The product is within 2^-14 of the quotient where |x / s| <= 256, so the codes are the same unless it is that close to a tie; 32 elements
//   among which one is that close are divided, as is everything by scales whose reciprocal is not a normal number.
//
// Quotients beyond 256 are off by more, and clamped either way.
#pragma once

#include <lsaq/kernels/cpu/avx2_elementwise.hpp>
#include <lsaq/kernels/cpu/unfused_quantize.hpp>

#if LSAQ_X86
#define LSAQ_AVX2 [[gnu::target("avx2,fma,f16c")]] inline
#define LSAQ_AVX2_HELPER [[gnu::target("avx2,fma,f16c"), gnu::always_inline]] inline

namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

/// a / b as the instruction: under -ffast-math compilers turn the intrinsic into a product with a reciprocal, which is not the nearest quotient.
LSAQ_AVX2_HELPER __m256 divide8(__m256 a, __m256 b) noexcept {
#if defined(__GNUC__)
  __m256 quotient;
  asm("vdivps %2, %1, %0" : "=x"(quotient) : "x"(a), "x"(b));
  return quotient;
#else
  return _mm256_div_ps(a, b);
#endif
}

/// Bytes of an element.
constexpr std::size_t element_bytes(Load load) noexcept { return load == Load::f32 ? 4 : 2; }

/// Keeps -ffast-math from merging what made `value` with what is done to it next.
LSAQ_AVX2_HELPER __m256 rounded(__m256 value) noexcept {
#if defined(__GNUC__)
  asm("" : "+x"(value));
#endif
  return value;
}

/// 32 codes as signed bytes, what is beyond -128 .. 127 clamped to that, from four times eight integers.
LSAQ_AVX2_HELPER __m256i code_bytes(const __m256i (&code)[4]) noexcept {
  const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); // undoes the lane-wise packing
  return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(_mm256_packs_epi32(code[0], code[1]), _mm256_packs_epi32(code[2], code[3])), in_order);
}

/// Bounds in every byte, and what makes signed codes unsigned.
struct ByteBounds {
  __m256i lowest, highest, offset;

  LSAQ_AVX2_HELPER static ByteBounds of(CodeBounds bounds) noexcept {
    return {_mm256_set1_epi8(static_cast<char>(bounds.lowest)), _mm256_set1_epi8(static_cast<char>(bounds.highest)),
            _mm256_set1_epi8(static_cast<char>(bounds.offset))};
  }

  LSAQ_AVX2_HELPER __m256i apply(__m256i codes) const noexcept { return _mm256_add_epi8(_mm256_min_epi8(_mm256_max_epi8(codes, lowest), highest), offset); }
};

LSAQ_AVX2 void quantize(const float* in, std::size_t n, float scale, CodeBounds bounds, std::uint8_t* out) noexcept {
  const __m256 divisor = _mm256_set1_ps(scale);
  const ByteBounds limits = ByteBounds::of(bounds);
  std::size_t i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256i code[4];
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) code[j] = _mm256_cvtps_epi32(divide8(_mm256_loadu_ps(in + i + 8 * j), divisor));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), limits.apply(code_bytes(code)));
  }
  scalar::quantize(in + i, n - i, scale, bounds, out + i);
}

/// A scale and what products with its reciprocal need.
struct Divisor {
  float scale;
  float reciprocal; ///< 0 where it is not a normal number, and of 0
};

/// Products further than this from the nearest integer are divided again; below 0: all of them.
constexpr float tolerance_of(const Divisor& divisor) noexcept { return divisor.reciprocal != 0 || divisor.scale == 0 ? 0.5f - 0x1p-14f : -1.0f; }

/// Eight scales at a time.
struct Divisors {
  alignas(32) float scale[8], reciprocal[8];
  unsigned few_bits; ///< bit i: scale i has at most 11 significant bits and a normal reciprocal, or is 0

  /// The first `count` of the scales, at most eight.
  LSAQ_AVX2_HELPER static Divisors of(const float* scales, std::size_t count) noexcept {
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256 s = _mm256_maskload_ps(scales, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count < 8 ? count : 8)), numbers));
    const __m256 normal = _mm256_and_ps(_mm256_cmp_ps(s, _mm256_set1_ps(0x1p-126f), _CMP_GE_OQ), _mm256_cmp_ps(s, _mm256_set1_ps(0x1p126f), _CMP_LE_OQ));
    const __m256 usable = _mm256_or_ps(normal, _mm256_cmp_ps(s, _mm256_setzero_ps(), _CMP_EQ_OQ));
    const __m256i more_bits = _mm256_and_si256(_mm256_castps_si256(s), _mm256_set1_epi32(0x1fff));
    const __m256 few = _mm256_and_ps(usable, _mm256_castsi256_ps(_mm256_cmpeq_epi32(more_bits, _mm256_setzero_si256())));
    Divisors all;
    _mm256_store_ps(all.scale, s);
    _mm256_store_ps(all.reciprocal, _mm256_and_ps(normal, divide8(_mm256_set1_ps(1.0f), s)));
    all.few_bits = static_cast<unsigned>(_mm256_movemask_ps(few));
    return all;
  }
};

/// 32 weights to signed codes, from 16-bit numbers by a scale of few bits.
template <Load L> LSAQ_AVX2_HELPER __m256i codes_by_snapping(const std::byte* in, const Divisor& divisor) noexcept {
  const __m256 reciprocal = _mm256_set1_ps(divisor.reciprocal), snap = _mm256_set1_ps(1536.0f), to_integer = _mm256_set1_ps(0x1.8p23f - 1536.0f);
  __m256i code[4];
#pragma GCC unroll 4
  for (std::size_t j = 0; j < 4; ++j) {
    const __m256 snapped = rounded(_mm256_fmadd_ps(load8<L>(in, 8 * j), reciprocal, snap));
    const __m256 integer = rounded(_mm256_add_ps(snapped, to_integer)); // 1.5 * 2^23 plus the code: its last bits are the code's
    code[j] = _mm256_sub_epi32(_mm256_castps_si256(integer), _mm256_set1_epi32(0x4b400000));
  }
  return code_bytes(code);
}

/// 32 weights to signed codes, whatever they and the scale are.
template <Load L> LSAQ_AVX2_HELPER __m256i codes_by_checking(const std::byte* in, const Divisor& divisor) noexcept {
  const __m256 reciprocal = _mm256_set1_ps(divisor.reciprocal), no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  const __m256 tolerance = _mm256_set1_ps(tolerance_of(divisor));
  __m256i code[4];
  __m256 furthest = _mm256_setzero_ps();
#pragma GCC unroll 4
  for (std::size_t j = 0; j < 4; ++j) {
    const __m256 product = rounded(_mm256_mul_ps(load8<L>(in, 8 * j), reciprocal));
    code[j] = _mm256_cvtps_epi32(product);
    furthest = _mm256_max_ps(furthest, _mm256_and_ps(no_sign, _mm256_sub_ps(product, _mm256_cvtepi32_ps(code[j]))));
  }
  if (_mm256_movemask_ps(_mm256_cmp_ps(furthest, tolerance, _CMP_GT_OQ)) != 0) [[unlikely]] {
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) code[j] = _mm256_cvtps_epi32(divide8(load8<L>(in, 8 * j), _mm256_set1_ps(divisor.scale)));
  }
  return code_bytes(code);
}

/// Packs 32 unsigned codes into 4 * bits bytes. `Bits` is 8, 4, or 0 for `bits`.
template <unsigned Bits> LSAQ_AVX2_HELPER void store_codes(__m256i codes, unsigned bits, std::byte* out) noexcept {
  if constexpr (Bits == 8) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), codes);
  } else if constexpr (Bits == 4) {
    const __m256i pairs = _mm256_maddubs_epi16(codes, _mm256_set1_epi16(0x1001)); // first + 16 * second, in 16 bits
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), bytes);
  } else {
    alignas(32) std::uint64_t words[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(words), codes);
    std::byte bytes[3 * 7 + sizeof words[0]];
    for (std::size_t j = 0; j < 4; ++j) { // of each word `bits` bytes; the next one is written over the rest
      words[j] = gather_codes(words[j], bits);
      std::memcpy(bytes + j * (bits & 7), &words[j], sizeof words[j]);
    }
    std::memcpy(out, bytes, 4 * bits);
  }
}

/// What is read, what is read next, and what is written: all go on by whole blocks of 32 elements.
struct Cursor {
  const std::byte *in, *ahead;
  std::byte* out;
};

/// Quantizes n elements by one scale into whole words, and fetches as many bytes from `ahead` on.
template <Load L, unsigned Bits, bool Snap>
LSAQ_AVX2_HELPER void quantize_group(Cursor& at, std::size_t n, const Divisor& divisor, const ByteBounds& bounds, unsigned bits) noexcept {
  constexpr std::size_t block = 32 * element_bytes(L);
  for (std::size_t left = n / 32; left != 0; --left, at.in += block, at.ahead += block, at.out += 4 * bits) {
    for (std::size_t line = 0; line < block; line += 64) _mm_prefetch(reinterpret_cast<const char*>(at.ahead + line), _MM_HINT_T0);
    store_codes<Bits>(bounds.apply(Snap ? codes_by_snapping<L>(at.in, divisor) : codes_by_checking<L>(at.in, divisor)), bits, at.out);
  }
  n %= 32;
  if (n == 0) return;
  std::byte rest[block] = {}; // zeros become the codes of the padding
  std::byte packed[32];
  std::memcpy(rest, at.in, n * element_bytes(L));
  store_codes<Bits>(bounds.apply(Snap ? codes_by_snapping<L>(rest, divisor) : codes_by_checking<L>(rest, divisor)), bits, packed);
  std::memcpy(at.out, packed, (n * bits + 31) / 32 * 4);
}

template <Load L, unsigned Bits>
LSAQ_AVX2 void quantize_groups(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void* ahead) noexcept {
  Cursor at{static_cast<const std::byte*>(in.data), static_cast<const std::byte*>(ahead == nullptr ? in.data : ahead), out};
  const ByteBounds limits = ByteBounds::of(bounds);
  const unsigned bits = Bits == 0 ? bounds.bits() : Bits;
  for (std::size_t left = in.count; left != 0; scales += 8) {
    const Divisors divisors = Divisors::of(scales, (left + group - 1) / group);
    if (L != Load::f32 && group == 32 && left >= 8 * 32 && divisors.few_bits == 0xff) { // no loop for a block
      for (std::size_t i = 0; i < 8; ++i) quantize_group<L, Bits, L != Load::f32>(at, 32, {divisors.scale[i], divisors.reciprocal[i]}, limits, bits);
      left -= 8 * 32;
      continue;
    }
    for (std::size_t i = 0; i < 8 && left != 0; ++i) {
      const std::size_t count = std::min(group, left);
      const Divisor divisor{divisors.scale[i], divisors.reciprocal[i]};
      if (L != Load::f32 && (divisors.few_bits >> i & 1u) != 0)
        quantize_group<L, Bits, L != Load::f32>(at, count, divisor, limits, bits);
      else
        quantize_group<L, Bits, false>(at, count, divisor, limits, bits);
      left -= count;
    }
  }
}

template <Load L>
LSAQ_AVX2 void quantize_elements(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void* ahead) noexcept {
  switch (bounds.bits()) {
  case 8: return quantize_groups<L, 8>(in, group, scales, bounds, out, ahead);
  case 4: return quantize_groups<L, 4>(in, group, scales, bounds, out, ahead);
  default: return quantize_groups<L, 0>(in, group, scales, bounds, out, ahead);
  }
}

LSAQ_AVX2 void quantize_packed(const Elements& in, std::size_t group, const float* scales, CodeBounds bounds, std::byte* out, const void* ahead) noexcept {
  if (in.count == 0) return;
  switch (in.type) {
  case ElementType::f32: return quantize_elements<Load::f32>(in, group, scales, bounds, out, ahead);
  case ElementType::f16: return quantize_elements<Load::f16>(in, group, scales, bounds, out, ahead);
  case ElementType::bf16: return quantize_elements<Load::bf16>(in, group, scales, bounds, out, ahead);
  case ElementType::q8_0: return unfused::quantize_packed<widen, quantize>(in, group, scales, bounds, out);
  }
}

/// Element-wise maxima of 16-bit or 32-bit lanes, as signed or unsigned numbers.
template <Load L, bool Signed> LSAQ_AVX2_HELPER __m256i larger(__m256i a, __m256i b) noexcept {
  if constexpr (L == Load::f32) return Signed ? _mm256_max_epi32(a, b) : _mm256_max_epu32(a, b);
  return Signed ? _mm256_max_epi16(a, b) : _mm256_max_epu16(a, b);
}

/// The largest lanes of eight vectors, whose bits are those of magnitudes of the type, as FP32: the vectors are interleaved until each has its own lane.
template <Load L> LSAQ_AVX2_HELPER __m256i largest_of_eight(__m256i (&v)[8]) noexcept {
  if constexpr (L != Load::f32) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 8; i += 2) v[i] = larger<L, false>(_mm256_unpacklo_epi16(v[i], v[i + 1]), _mm256_unpackhi_epi16(v[i], v[i + 1]));
    v[0] = larger<L, false>(_mm256_unpacklo_epi32(v[0], v[2]), _mm256_unpackhi_epi32(v[0], v[2]));
    v[4] = larger<L, false>(_mm256_unpacklo_epi32(v[4], v[6]), _mm256_unpackhi_epi32(v[4], v[6]));
    v[0] = larger<L, false>(_mm256_unpacklo_epi64(v[0], v[4]), _mm256_unpackhi_epi64(v[0], v[4]));
    const __m128i all = _mm_max_epu16(_mm256_castsi256_si128(v[0]), _mm256_extracti128_si256(v[0], 1));
    return L == Load::f16 ? _mm256_castps_si256(_mm256_cvtph_ps(all)) : _mm256_slli_epi32(_mm256_cvtepu16_epi32(all), 16);
  } else {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < 8; i += 2) v[i] = larger<L, false>(_mm256_unpacklo_epi32(v[i], v[i + 1]), _mm256_unpackhi_epi32(v[i], v[i + 1]));
    v[0] = larger<L, false>(_mm256_unpacklo_epi64(v[0], v[2]), _mm256_unpackhi_epi64(v[0], v[2]));
    v[4] = larger<L, false>(_mm256_unpacklo_epi64(v[4], v[6]), _mm256_unpackhi_epi64(v[4], v[6]));
    return larger<L, false>(_mm256_permute2x128_si256(v[0], v[4], 0x20), _mm256_permute2x128_si256(v[0], v[4], 0x31));
  }
}

/// Extremes of n elements, lane by lane: as signed integers the largest is the largest positive number, as unsigned ones the most negative.
template <Load L, bool BySign> LSAQ_AVX2_HELPER void extremes_of_group(const std::byte* in, std::size_t n, __m256i& positive, __m256i& negative) noexcept {
  constexpr std::size_t lanes = 32 / element_bytes(L);
  const __m256i no_sign = L == Load::f32 ? _mm256_set1_epi32(0x7fffffff) : _mm256_set1_epi16(0x7fff);
  __m256i most[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}, least[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  std::size_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
#pragma GCC unroll 2
    for (std::size_t j = 0; j < 2; ++j) {
      __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + (i + j * lanes) * element_bytes(L)));
      if constexpr (BySign) least[j] = larger<L, false>(least[j], bits);
      if constexpr (!BySign) bits = _mm256_and_si256(bits, no_sign);
      most[j] = larger<L, true>(most[j], bits);
    }
  }
  for (; i < n; i += lanes) {
    alignas(32) std::byte rest[32] = {};
    std::memcpy(rest, in + i * element_bytes(L), std::min(lanes, n - i) * element_bytes(L));
    __m256i bits = _mm256_load_si256(reinterpret_cast<const __m256i*>(rest));
    if constexpr (BySign) least[0] = larger<L, false>(least[0], bits);
    if constexpr (!BySign) bits = _mm256_and_si256(bits, no_sign);
    most[0] = larger<L, true>(most[0], bits);
  }
  positive = larger<L, true>(most[0], most[1]);
  if constexpr (!BySign) return;
  const __m256i numbers = larger<L, false>(least[0], least[1]); // 0 and above without a sign bit where there is no negative one
  const __m256i sign = L == Load::f32 ? _mm256_srai_epi32(numbers, 31) : _mm256_srai_epi16(numbers, 15);
  negative = _mm256_and_si256(_mm256_and_si256(numbers, no_sign), sign);
}

/// Writes the extremes of eight groups.
template <Load L, bool BySign> LSAQ_AVX2_HELPER void store_extremes(__m256i (&positive)[8], __m256i (&negative)[8], Extremes* out) noexcept {
  const __m256i most = largest_of_eight<L>(positive), least = BySign ? largest_of_eight<L>(negative) : most;
  const __m256i low = _mm256_unpacklo_epi32(most, least), high = _mm256_unpackhi_epi32(most, least);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(low, high, 0x20));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 4), _mm256_permute2x128_si256(low, high, 0x31));
}

template <Load L, bool BySign> LSAQ_AVX2 void extremes_of(const Elements& in, std::size_t group, Extremes* out) noexcept {
  const auto* from = static_cast<const std::byte*>(in.data);
  std::size_t left = in.count;
  __m256i positive[8], negative[8];
  for (; left / 8 >= group; left -= 8 * group, out += 8) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < 8; ++i, from += group * element_bytes(L)) extremes_of_group<L, BySign>(from, group, positive[i], negative[i]);
    store_extremes<L, BySign>(positive, negative, out);
  }
  if (left == 0) return;
  for (std::size_t i = 0; i < 8; ++i) {
    const std::size_t count = std::min(group, left);
    extremes_of_group<L, BySign>(from, count, positive[i], negative[i]);
    from += count * element_bytes(L);
    left -= count;
  }
  Extremes last[8];
  store_extremes<L, BySign>(positive, negative, last);
  std::memcpy(out, last, ((in.count + group - 1) / group - in.count / group / 8 * 8) * sizeof last[0]);
}

template <Load L> LSAQ_AVX2 void extremes_of(const Elements& in, std::size_t group, bool by_sign, Extremes* out) noexcept {
  return by_sign ? extremes_of<L, true>(in, group, out) : extremes_of<L, false>(in, group, out);
}

LSAQ_AVX2 void extremes(const Elements& in, std::size_t group, bool by_sign, Extremes* out) noexcept {
  if (in.count == 0) return;
  switch (in.type) {
  case ElementType::f32: return extremes_of<Load::f32>(in, group, by_sign, out);
  case ElementType::f16: return extremes_of<Load::f16>(in, group, by_sign, out);
  case ElementType::bf16: return extremes_of<Load::bf16>(in, group, by_sign, out);
  case ElementType::q8_0: return unfused::extremes<widen>(in, group, by_sign, out);
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#undef LSAQ_AVX2
#undef LSAQ_AVX2_HELPER
#endif
