// The limit products of integers are measured against: multiply-adds a second of one core in the instruction sequence that the kernels of a path use, from
// registers only.
//
//   AMX:               tdpbsud, 16384 multiply-adds
//   AVX-512 VNNI:      vpdpbusd, 64
//   AVX2:              vpmaddubsw, 32, then vpmaddwd and vpaddd that take the sums to 32 bits; with codes of 2 to 4 bits, vpaddw and after every eighth those
#pragma once

#include <lsaq/kernels/cpu/amx.hpp>

#include <chrono>

#if LSAQ_X86
#include <immintrin.h>
#endif

namespace bench {

#if LSAQ_X86

/// Each makes 12 sums (as many as hide the latencies) `rounds` times. The empty assembly keeps the compiler from making equal sums once.
[[gnu::target("avx512f,avx512bw,avx512vnni"), gnu::noinline]] inline double multiply_add_vnni(long rounds) {
  __m512i sum[12] = {};
  const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(-5);
  for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 12
    for (__m512i& s : sum) {
      s = _mm512_dpbusd_epi32(s, a, b);
      asm volatile("" : "+v"(s));
    }
  }
  return 12.0 * 64 * static_cast<double>(rounds);
}

/// Four tile registers of sums, as many as two of tokens and two of codes make.
[[gnu::noinline]] inline double multiply_add_tiles(long rounds) {
  lsaq::amx::shape_registers({16, 16});
  asm volatile(
      "tilezero %%tmm0\n tilezero %%tmm1\n tilezero %%tmm2\n tilezero %%tmm3\n tilezero %%tmm4\n tilezero %%tmm5\n tilezero %%tmm6\n tilezero %%tmm7" ::);
  for (long n = 0; n < rounds; ++n)
    asm volatile("tdpbsud %%tmm6, %%tmm4, %%tmm0\n tdpbsud %%tmm7, %%tmm4, %%tmm1\n tdpbsud %%tmm6, %%tmm5, %%tmm2\n tdpbsud %%tmm7, %%tmm5, %%tmm3" ::);
  asm volatile("tilerelease" ::);
  return 4.0 * 16 * 16 * 64 * static_cast<double>(rounds);
}

[[gnu::target("avx2"), gnu::noinline]] inline double multiply_add_wide_codes(long rounds) {
  __m256i sum[10] = {};
  __m256i a = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
  const __m256i b = _mm256_set1_epi8(-5);
  asm volatile("" : "+x"(ones));
  for (long n = 0; n < rounds; ++n) {
#pragma GCC unroll 10
    for (__m256i& s : sum) {
      asm volatile("" : "+x"(a));
      s = _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), ones));
      asm volatile("" : "+x"(s));
    }
  }
  return 10.0 * 32 * static_cast<double>(rounds);
}

[[gnu::target("avx2"), gnu::noinline]] inline double multiply_add_narrow_codes(long rounds) {
  __m256i sum[4] = {};
  __m256i a = _mm256_set1_epi8(3);
  const __m256i b = _mm256_set1_epi8(-5), ones = _mm256_set1_epi16(1);
  for (long n = 0; n < rounds; ++n) {
    __m256i some[4] = {};
#pragma GCC unroll 8
    for (int step = 0; step < 8; ++step)
#pragma GCC unroll 4
      for (__m256i& s : some) {
        asm volatile("" : "+x"(a));
        s = _mm256_add_epi16(s, _mm256_maddubs_epi16(a, b));
        asm volatile("" : "+x"(s));
      }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(some[i], ones));
      asm volatile("" : "+x"(sum[i]));
    }
  }
  return 8.0 * 4 * 32 * static_cast<double>(rounds);
}

#endif

/// Operations a second (two for a multiply-add) of this core now, over some milliseconds, in the sequence of a path and a width of codes; 0 where none is
/// known.
inline double integer_peak([[maybe_unused]] lsaq::Isa isa, [[maybe_unused]] unsigned bits) {
  using Clock = std::chrono::steady_clock;
  [[maybe_unused]] constexpr long rounds = 300'000;
  const auto start = Clock::now();
  double multiply_adds = 0;
#if LSAQ_X86
  if (isa == lsaq::Isa::amx) multiply_adds = multiply_add_tiles(rounds / 3);
  if (isa == lsaq::Isa::avx512vnni) multiply_adds = multiply_add_vnni(rounds * 3);
  if (isa == lsaq::Isa::avx2 || isa == lsaq::Isa::avx512) multiply_adds = bits <= 4 ? multiply_add_narrow_codes(rounds) : multiply_add_wide_codes(rounds * 3);
#endif
  return 2 * multiply_adds / std::chrono::duration<double>(Clock::now() - start).count();
}

} // namespace bench
