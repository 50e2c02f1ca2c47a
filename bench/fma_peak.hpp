// The limit products are measured against: FP32 multiply-adds a second of one core, from registers only.
#pragma once

#include <lsaq/kernels/cpu/cpu_features.hpp>

#include <chrono>

#if LSAQ_X86
#include <immintrin.h>
#elif LSAQ_ARM64
#include <arm_neon.h>
#endif

namespace bench {

#if LSAQ_X86

/// Twelve independent accumulators hide the latency of every x86-64 core so far.
[[gnu::target("avx512f"), gnu::noinline]] inline void multiply_add_avx512(long rounds) {
  __m512 sum[12];
  for (__m512& s : sum) s = _mm512_set1_ps(1);
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(0.001f);
  for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (__m512& s : sum) s = _mm512_fmadd_ps(s, a, b);
  }
  for (const __m512& s : sum) asm volatile("" : : "v"(s));
}

[[gnu::target("avx2,fma"), gnu::noinline]] inline void multiply_add_avx2(long rounds) {
  __m256 sum[12];
  for (__m256& s : sum) s = _mm256_set1_ps(1);
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(0.001f);
  for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (__m256& s : sum) s = _mm256_fmadd_ps(s, a, b);
  }
  for (const __m256& s : sum) asm volatile("" : : "x"(s));
}

#elif LSAQ_ARM64

inline void multiply_add_neon(long rounds) {
  float32x4_t sum[16];
  for (float32x4_t& s : sum) s = vdupq_n_f32(1);
  const float32x4_t a = vdupq_n_f32(0.999f);
  for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 16
    for (float32x4_t& s : sum) s = vfmaq_f32(a, s, a);
  }
  for (const float32x4_t& s : sum) asm volatile("" : : "w"(s));
}

#endif

/// Floating-point operations a second (two for a multiply-add) of this core now, over about 20 ms; 0 where there is no such measurement.
inline double fma_peak() {
  using Clock = std::chrono::steady_clock;
  constexpr long rounds = 2'000'000;
  const auto start = Clock::now();
  double operations = 0;
#if LSAQ_X86
  if (lsaq::cpu_runs(lsaq::Isa::avx512)) {
    multiply_add_avx512(rounds);
    operations = 2.0 * 12 * 16 * rounds;
  } else if (lsaq::cpu_runs(lsaq::Isa::avx2)) {
    multiply_add_avx2(rounds);
    operations = 2.0 * 12 * 8 * rounds;
  }
#elif LSAQ_ARM64
  multiply_add_neon(rounds);
  operations = 2.0 * 16 * 4 * rounds;
#endif
  return operations / std::chrono::duration<double>(Clock::now() - start).count();
}

} // namespace bench
