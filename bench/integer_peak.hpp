// The limit products of integers are measured against: 8-bit multiply-adds a second of one core, from registers only. With AVX512-VNNI one instruction does
// 64 of them; with AVX2 the shortest exact sequence (signs moved from one factor to the other, then pairs, then pairs of pairs) takes four for 32.
#pragma once

#include <lsaq/kernels/cpu/cpu_features.hpp>

#include <chrono>

#if LSAQ_X86
#include <immintrin.h>
#endif

namespace bench {

#if LSAQ_X86

/// The empty assembly keeps the compiler from making twelve equal sums once.
[[gnu::target("avx512f,avx512bw,avx512vnni"), gnu::noinline]] inline void multiply_add_int8_vnni(long rounds) {
  __m512i sum[12] = {};
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
  for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (__m512i& s : sum) {
      s = _mm512_dpbusd_epi32(s, a, b);
      asm volatile("" : "+v"(s));
    }
  }
}

/// The magnitudes of one factor serve all eight products, as those of a register of weights do in a product of matrices.
[[gnu::target("avx2"), gnu::noinline]] inline void multiply_add_int8_avx2(long rounds) {
  __m256i sum[8] = {};
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i a = _mm256_set1_epi8(-3), b = _mm256_set1_epi8(5);
  for (long n = 0; n < rounds; ++n) {
    asm volatile("" : "+x"(a));
    const __m256i magnitude = _mm256_abs_epi8(a);
#pragma GCC unroll 8
    for (__m256i& s : sum) {
      asm volatile("" : "+x"(b)); // as above: these products are all equal
      s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(b, a)), ones));
      asm volatile("" : "+x"(s));
    }
  }
}

#endif

/// Operations a second (two for a multiply-add) of this core now, over about 10 ms; 0 where there is no such measurement.
inline double integer_peak() {
  using Clock = std::chrono::steady_clock;
  constexpr long rounds = 1'000'000;
  const auto start = Clock::now();
  double operations = 0;
#if LSAQ_X86
  if (lsaq::cpu_runs(lsaq::Isa::avx512) && __builtin_cpu_supports("avx512vnni")) {
    multiply_add_int8_vnni(rounds);
    operations = 2.0 * 12 * 64 * rounds;
  } else if (lsaq::cpu_runs(lsaq::Isa::avx2)) {
    multiply_add_int8_avx2(rounds);
    operations = 2.0 * 8 * 32 * rounds;
  }
#endif
  return operations / std::chrono::duration<double>(Clock::now() - start).count();
}

} // namespace bench
