// PTX arithmetic: what the ISA says of edges, and 16-bit floats against the library's own conversions.
#include "cuda_device/arithmetic.hpp"

#include "cuda_device/ptx_programs.hpp"

#include <lsaq/half.hpp>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace arithmetic_test {

using namespace ptx_programs;

std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }

TEST(PtxArithmetic, Integers) {
  EXPECT_EQ(result("add.s32 %r5, %r2, %r3;", 0xffffffffu, 2), 1u);
  EXPECT_EQ(result("mul.lo.u32 %r5, %r2, %r3;", 0x10001u, 0x10001u), 0x20001u);
  EXPECT_EQ(result("mul.hi.u32 %r5, %r2, %r3;", 0x80000000u, 6), 3u);
  EXPECT_EQ(result("mul.hi.s32 %r5, %r2, %r3;", 0x80000000u, 6), 0xfffffffdu);
  EXPECT_EQ(result("mad.lo.s32 %r5, %r2, %r3, %r4;", 7, 0xffffffffu, 10), 3u);
  EXPECT_EQ(result("div.s32 %r5, %r2, %r3;", static_cast<std::uint32_t>(-7), 2), static_cast<std::uint32_t>(-3));
  EXPECT_EQ(result("rem.s32 %r5, %r2, %r3;", static_cast<std::uint32_t>(-7), 2), static_cast<std::uint32_t>(-1));
  EXPECT_EQ(result("min.s32 %r5, %r2, %r3;", 0xffffffffu, 1), 0xffffffffu);
  EXPECT_EQ(result("max.u32 %r5, %r2, %r3;", 0xffffffffu, 1), 0xffffffffu);
  EXPECT_EQ(result("shl.b32 %r5, %r2, %r3;", 1, 32), 0u);
  EXPECT_EQ(result("shr.u32 %r5, %r2, %r3;", 0x80000000u, 40), 0u);
  EXPECT_EQ(result("shr.s32 %r5, %r2, %r3;", 0x80000000u, 40), 0xffffffffu);
  EXPECT_NE(fault_of(kernel("mov.u32 %r2, 0; div.u32 %r5, %r1, %r2;")).find("division by zero"), std::string::npos);
}

TEST(PtxArithmetic, Bits) {
  EXPECT_EQ(result("bfe.u32 %r5, %r2, 4, 8;", 0x12345678u), 0x67u);
  EXPECT_EQ(result("bfe.s32 %r5, %r2, 4, 4;", 0xf0u), 0xffffffffu);
  EXPECT_EQ(result("bfi.b32 %r5, %r2, %r3, 8, 8;", 0xabu, 0x11111111u), 0x1111ab11u);
  EXPECT_EQ(result("prmt.b32 %r5, %r2, %r3, 0x7610;", 0x33221100u, 0x77665544u), 0x77661100u);
  EXPECT_EQ(result("prmt.b32 %r5, %r2, %r3, 0x888b;", 0x80000000u, 0), 0x000000ffu); // bytes of signs
  EXPECT_EQ(result("lop3.b32 %r5, %r2, %r3, %r4, 0x96;", 0xccu, 0xaau, 0xf0u), 0xccu ^ 0xaau ^ 0xf0u);
  EXPECT_EQ(result("shf.l.wrap.b32 %r5, %r2, %r3, 40;", 0x80000001u, 0x12345678u), 0x34567880u);
  EXPECT_EQ(result("shf.r.clamp.b32 %r5, %r2, %r3, 40;", 0x80000001u, 0x12345678u), 0x12345678u);
  EXPECT_EQ(result("popc.b32 %r5, %r2;", 0xf0f0u), 8u);
  EXPECT_EQ(result("clz.b32 %r5, %r2;", 0), 32u);
  EXPECT_EQ(result("brev.b32 %r5, %r2;", 1), 0x80000000u);
  EXPECT_EQ(result("bfind.u32 %r5, %r2;", 0), 0xffffffffu);
  EXPECT_EQ(result("bfind.shiftamt.u32 %r5, %r2;", 0x100), 23u);
  EXPECT_EQ(result("dp4a.s32.s32 %r5, %r2, %r3, %r4;", 0x01ff8002u, 0x04030201u, 100), 100u + 2 - 256 - 3 + 4);
}

TEST(PtxArithmetic, FloatsRoundOnce) {
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) {
    const float a = std::bit_cast<float>(static_cast<std::uint32_t>(random() % 0x7f000000u)), b = static_cast<float>(random() % 1000 + 1) / 7, c = -a * b;
    EXPECT_EQ(result("fma.rn.f32 %r5, %r2, %r3, %r4;", bits(a), bits(b), bits(c)), bits(std::fma(a, b, c)));
    EXPECT_EQ(result("div.rn.f32 %r5, %r2, %r3;", bits(a), bits(b)), bits(a / b));
  }
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(result("min.f32 %r5, %r2, %r3;", bits(nan), bits(2.0f)), bits(2.0f));
  EXPECT_EQ(result("max.f32 %r5, %r2, %r3;", bits(-0.0f), bits(0.0f)), bits(0.0f));
  EXPECT_EQ(result("add.rn.f32 %r5, %r2, %r3;", bits(1e-45f), bits(1e-45f)), bits(2.8e-45f)); // subnormal
}

TEST(PtxArithmetic, Conversions) {
  EXPECT_EQ(result("cvt.rni.s32.f32 %r5, %r2;", bits(2.5f)), 2u);
  EXPECT_EQ(result("cvt.rni.s32.f32 %r5, %r2;", bits(-3.5f)), static_cast<std::uint32_t>(-4));
  EXPECT_EQ(result("cvt.rzi.s32.f32 %r5, %r2;", bits(3e9f)), 0x7fffffffu);
  EXPECT_EQ(result("cvt.rzi.u32.f32 %r5, %r2;", bits(-3.0f)), 0u);
  EXPECT_EQ(result("cvt.rzi.s32.f32 %r5, %r2;", bits(std::numeric_limits<float>::quiet_NaN())), 0u);
  EXPECT_EQ(result("cvt.rn.f32.u32 %r5, %r2;", 0xffffffffu), bits(4294967296.0f));
  EXPECT_EQ(result("cvt.s32.s8 %r5, %r2;", 0x80), 0xffffff80u);
  EXPECT_EQ(result("cvt.sat.u8.s32 %r5, %r2;", 300), 255u);
}

TEST(PtxArithmetic, SixteenBitFloatsAreTheLibrarys) {
  const Type half{Kind::real, 16}, brain{Kind::brain, 16};
  for (unsigned i = 0; i < 0x10000; ++i) {
    const auto pattern = static_cast<std::uint16_t>(i);
    const float f = lsaq::to_float(lsaq::f16{pattern}), b = lsaq::to_float(lsaq::bf16{pattern});
    if (std::isnan(f) || std::isnan(b)) continue;
    ASSERT_EQ(real_of(i, half), double{f}) << i;
    ASSERT_EQ(real_of(i, brain), double{b}) << i;
  }
  std::mt19937 random(2);
  for (int i = 0; i < 200000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::isnan(value)) continue;
    ASSERT_EQ(bits_of_real(value, half), lsaq::to_f16(value).bits) << value;
    ASSERT_EQ(bits_of_real(value, brain), lsaq::to_bf16(value).bits) << value;
  }
  EXPECT_EQ(result("add.rn.f16x2 %r5, %r2, %r3;", 0x3c003c00u, 0x40003800u), 0x42003e00u); // 1 + 2 and 1 + 0.5
  EXPECT_EQ(result("fma.rn.bf16x2 %r5, %r2, %r3, %r4;", 0x3f804000u, 0x40403f80u, 0x3f803f80u), 0x40804040u);
}

TEST(PtxArithmetic, Comparisons) {
  const auto holds = [](const std::string& test, std::uint32_t a, std::uint32_t b) {
    return result("setp." + test + " %p1, %r2, %r3; selp.u32 %r5, 1, 0, %p1;", a, b) == 1;
  };
  const std::uint32_t nan = bits(std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(holds("lt.s32", 0xffffffffu, 0));
  EXPECT_FALSE(holds("lt.u32", 0xffffffffu, 0));
  EXPECT_TRUE(holds("lo.u32", 0, 1));
  EXPECT_FALSE(holds("lt.f32", nan, bits(1)));
  EXPECT_TRUE(holds("geu.f32", nan, bits(1)));
  EXPECT_FALSE(holds("ne.f32", nan, nan));
  EXPECT_TRUE(holds("neu.f32", nan, nan));
  EXPECT_TRUE(holds("num.f32", bits(1), bits(2)));
}

} // namespace arithmetic_test
