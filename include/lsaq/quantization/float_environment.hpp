// Keeps quantization the same whatever floating-point mode the host application runs in.
#pragma once

#include <lsaq/config.hpp>

#include <cstdint>

#if LSAQ_X86
#include <xmmintrin.h>
#endif

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// For its lifetime: rounding to nearest even, subnormals kept, exceptions masked, on this thread. Restores what was set before.
class DefaultFloatEnvironment {
public:
#if LSAQ_X86
  DefaultFloatEnvironment() noexcept : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloatEnvironment() { _mm_setcsr(saved_); }
#elif LSAQ_ARM64 && defined(__GNUC__)
  DefaultFloatEnvironment() noexcept {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(std::uint64_t{0}));
  }
  ~DefaultFloatEnvironment() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
  DefaultFloatEnvironment() noexcept = default;
#endif
  DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
  DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

private:
#if LSAQ_X86
  unsigned saved_;
#elif LSAQ_ARM64 && defined(__GNUC__)
  std::uint64_t saved_ = 0;
#endif
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
