// The limit products of few tokens are measured against: bytes a second the threads of an executor read from memory, with nothing done to them.
#pragma once

#include "huge_block.hpp"

#include <lsaq/executor.hpp>
#include <lsaq/kernels/cpu/cpu_features.hpp>

#include <algorithm>
#include <chrono>

#if LSAQ_X86
#include <immintrin.h>
#elif LSAQ_ARM64
#include <arm_neon.h>
#endif

namespace bench {

/// Bytes a loop step reads from each stream.
inline constexpr std::size_t read_step = 256;

#if LSAQ_X86

/// The streams are the equal parts of `bytes`; the next 4 KiB are asked for in time, since the machine's own prefetch ends at a page of 4 KiB.
template <std::size_t streams> [[gnu::target("avx512f"), gnu::noinline]] void read_avx512(const std::byte* from, std::size_t bytes) {
  const std::size_t part = bytes / streams;
  __m512i seen[4] = {};
  for (std::size_t i = 0; i < part; i += read_step)
#pragma GCC unroll 4
    for (std::size_t s = 0; s < streams; ++s)
#pragma GCC unroll 4
      for (std::size_t line = 0; line < 4; ++line) {
        const std::byte* at = from + s * part + i + 64 * line;
        _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T0);
        seen[line] = _mm512_or_si512(seen[line], _mm512_loadu_si512(at));
      }
  for (const __m512i& s : seen) asm volatile("" : : "v"(s));
}

template <std::size_t streams> [[gnu::target("avx2"), gnu::noinline]] void read_avx2(const std::byte* from, std::size_t bytes) {
  const std::size_t part = bytes / streams;
  __m256i seen[8] = {};
  for (std::size_t i = 0; i < part; i += read_step)
#pragma GCC unroll 4
    for (std::size_t s = 0; s < streams; ++s)
#pragma GCC unroll 8
      for (std::size_t half = 0; half < 8; ++half) {
        const std::byte* at = from + s * part + i + 32 * half;
        if (half % 2 == 0) _mm_prefetch(reinterpret_cast<const char*>(at) + 4096, _MM_HINT_T0);
        seen[half] = _mm256_or_si256(seen[half], _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
      }
  for (const __m256i& s : seen) asm volatile("" : : "x"(s));
}

#elif LSAQ_ARM64

template <std::size_t streams> void read_neon(const std::byte* from, std::size_t bytes) {
  const std::size_t part = bytes / streams;
  uint8x16_t seen[16] = {};
  for (std::size_t i = 0; i < part; i += read_step)
    for (std::size_t s = 0; s < streams; ++s)
#pragma GCC unroll 16
      for (std::size_t quarter = 0; quarter < 16; ++quarter)
        seen[quarter] = vorrq_u8(seen[quarter], vld1q_u8(reinterpret_cast<const std::uint8_t*>(from + s * part + i + 16 * quarter)));
  for (const uint8x16_t& s : seen) asm volatile("" : : "w"(s));
}

#endif

/// Reads `bytes` (a multiple of 1024) in one stream or four; false where there is no such measurement.
template <std::size_t streams> bool read_memory(const std::byte* from, std::size_t bytes) {
#if LSAQ_X86
  if (lsaq::cpu_runs(lsaq::Isa::avx512))
    read_avx512<streams>(from, bytes);
  else if (lsaq::cpu_runs(lsaq::Isa::avx2))
    read_avx2<streams>(from, bytes);
  else
    return false;
  return true;
#elif LSAQ_ARM64
  read_neon<streams>(from, bytes);
  return true;
#else
  return false;
#endif
}

/// Bytes a second that the executor's threads read now, the better of one stream and four a thread; 0 where there is no such measurement. Afterwards the caches
/// hold nothing of the caller's.
inline double read_bandwidth(lsaq::ExecutorRef executor) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t slice = std::size_t{8} << 20; // several a thread even out their speeds
  static const std::size_t size = beyond_caches() / slice * slice;
  static const HugeBlock block(size + slice); // the last slice is only asked for, never read
  const auto bytes_a_second = [&](auto&& read) {
    const auto start = Clock::now();
    executor.parallel_for(size / slice, [&](std::size_t i) { read(block.data() + i * slice, slice); });
    return static_cast<double>(size) / std::chrono::duration<double>(Clock::now() - start).count();
  };
  if (!read_memory<1>(block.data(), 1024)) return 0;
  return std::max(bytes_a_second(read_memory<1>), bytes_a_second(read_memory<4>));
}

} // namespace bench
