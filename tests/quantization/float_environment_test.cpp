#include <lsaq/quantization/float_environment.hpp>

#include <gtest/gtest.h>

#include <cfenv>

namespace float_environment_test {

// Through volatile, so that the operations happen at run time and in place.
float sum_of(float a, float b) {
  const volatile float left = a, right = b;
  const volatile float sum = left + right;
  return sum;
}

TEST(DefaultFloatEnvironment, RoundsToNearestAndRestores) {
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO, FE_TONEAREST}) {
    ASSERT_EQ(std::fesetround(mode), 0);
    const float before = sum_of(1, 0x1p-25f);
    float inside = 0;
    {
      const lsaq::DefaultFloatEnvironment environment;
      inside = sum_of(sum_of(1, 0x1p-25f), sum_of(-1, -0x1.8p-24f)); // 1 - (1 + 2^-23)
    }
    const int after_mode = std::fegetround();
    const float after = sum_of(1, 0x1p-25f);
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(inside, -0x1p-23f);
    EXPECT_EQ(after_mode, mode);
    EXPECT_EQ(before, after);
    EXPECT_EQ(before > 1.0f, mode == FE_UPWARD) << "the mode was in force outside";
  }
}

#if LSAQ_X86 || LSAQ_ARM64
float product_of(float a, float b) {
  const volatile float left = a, right = b;
  const volatile float product = left * right;
  return product;
}

#if LSAQ_X86
std::uint64_t modes() { return _mm_getcsr() & ~0x3fu; } // without the sticky exception flags
void set_modes(std::uint64_t bits) { _mm_setcsr(static_cast<unsigned>(bits)); }
constexpr std::uint64_t flush = 0x8040; // FTZ, DAZ
#else
std::uint64_t modes() {
  std::uint64_t bits;
  asm volatile("mrs %0, fpcr" : "=r"(bits));
  return bits;
}
void set_modes(std::uint64_t bits) { asm volatile("msr fpcr, %0" ::"r"(bits)); }
constexpr std::uint64_t flush = 1u << 24; // FZ
#endif

TEST(DefaultFloatEnvironment, KeepsSubnormalsAndRestoresTheWholeRegister) {
  const std::uint64_t saved = modes();
  set_modes(saved | flush);
  const std::uint64_t set = modes();
  const float flushed = product_of(0x1p-126f, 0.5f);
  float kept = 0;
  {
    const lsaq::DefaultFloatEnvironment environment;
    kept = product_of(0x1p-126f, 0.5f);
  }
  const std::uint64_t after = modes();
  set_modes(saved);
  EXPECT_EQ(flushed, 0.0f);
  EXPECT_EQ(kept, 0x1p-127f);
  EXPECT_EQ(after, set);
}
#endif

#if LSAQ_X86
TEST(DefaultFloatEnvironment, MasksExceptions) {
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved & ~0x1f80u); // every exception would stop the program
  float inexact = 0;
  {
    const lsaq::DefaultFloatEnvironment environment;
    inexact = product_of(sum_of(1, 0x1p-40f), 1.0f / 3.0f);
  }
  _mm_setcsr(saved);
  EXPECT_EQ(inexact, 1.0f / 3.0f);
}
#endif

} // namespace float_environment_test
