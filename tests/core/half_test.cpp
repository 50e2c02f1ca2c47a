#include <lsaq/half.hpp>

#include "core/float_oracle.hpp"

#include <gtest/gtest.h>

#include <array>
#include <limits>
#include <memory>
#include <random>

#if LSAQ_X86
#include <xmmintrin.h>
#endif

namespace half_test {

using float_oracle::bfloat16;
using float_oracle::binary16;
using lsaq::bf16;
using lsaq::f16;

constexpr float infinity = std::numeric_limits<float>::infinity();

std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// The library's two conversions beside the format they implement.
struct Half {
  using Type = f16;
  static constexpr float_oracle::Format format = binary16;
  static Type narrow(float value) { return lsaq::to_f16(value); }
};
struct Brain {
  using Type = bf16;
  static constexpr float_oracle::Format format = bfloat16;
  static Type narrow(float value) { return lsaq::to_bf16(value); }
};

template <class H> class Conversions : public testing::Test {
public:
  static typename H::Type pattern(unsigned bits) { return {static_cast<std::uint16_t>(bits)}; }
  static void expect_nearest(float value) {
    ASSERT_EQ(H::narrow(value).bits, float_oracle::nearest(H::format, value)) << "from " << std::hexfloat << value;
    ASSERT_EQ(H::narrow(-value).bits, float_oracle::nearest(H::format, -value)) << "from " << std::hexfloat << -value;
  }
};

using Formats = testing::Types<Half, Brain>;
TYPED_TEST_SUITE(Conversions, Formats);

TYPED_TEST(Conversions, WidensEveryPatternExactly) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const float value = lsaq::to_float(this->pattern(bits));
    const unsigned magnitude = bits & 0x7fffu;
    ASSERT_EQ(std::signbit(value), bits > 0x7fff) << bits;
    if (magnitude > TypeParam::format.infinity) {
      ASSERT_EQ(bits_of(value) & 0x7fffffffu, 0x7f800000u | magnitude << (23 - TypeParam::format.fraction_bits)) << "NaN keeps its payload: " << bits;
    } else if (magnitude == TypeParam::format.infinity) {
      ASSERT_EQ(std::fabs(value), infinity);
    } else {
      ASSERT_EQ(static_cast<double>(value), float_oracle::value_of(TypeParam::format, static_cast<std::uint16_t>(bits))) << bits;
    }
  }
}

TYPED_TEST(Conversions, EveryPatternReturns) {
  for (unsigned bits = 0; bits < 0x10000; ++bits) {
    const auto back = TypeParam::narrow(lsaq::to_float(this->pattern(bits)));
    if ((bits & 0x7fffu) <= TypeParam::format.infinity) {
      ASSERT_EQ(back.bits, bits);
    } else {
      ASSERT_GT(back.bits & 0x7fff, TypeParam::format.infinity) << "NaN became a number: " << bits;
      ASSERT_EQ(back.bits & 0x8000u, bits & 0x8000u);
    }
  }
}

TYPED_TEST(Conversions, EveryIntervalRoundsToItsNearerEndAndTiesToEven) {
  for (unsigned bits = 0; bits < TypeParam::format.infinity; ++bits) {
    const double low = float_oracle::magnitude_of(TypeParam::format, bits), high = float_oracle::magnitude_of(TypeParam::format, bits + 1);
    const double middle = (low + high) / 2;
    const auto tie = static_cast<float>(middle);
    ASSERT_EQ(static_cast<double>(tie), middle) << "every tie is a float";
    ASSERT_EQ(TypeParam::narrow(tie).bits, bits + bits % 2);
    ASSERT_EQ(TypeParam::narrow(std::nextafter(tie, 0.0f)).bits, bits);
    ASSERT_EQ(TypeParam::narrow(std::nextafter(tie, infinity)).bits, bits + 1);
    this->expect_nearest(tie);
    const auto exact = static_cast<float>(low);
    this->expect_nearest(std::nextafter(exact, infinity));
    this->expect_nearest(std::nextafter(exact, 0.0f));
  }
}

TYPED_TEST(Conversions, EveryExponentAndRandomPatterns) {
  std::mt19937 random(7);
  for (std::uint32_t exponent = 0; exponent < 255; ++exponent)
    for (int i = 0; i < 400; ++i) this->expect_nearest(std::bit_cast<float>(exponent << 23 | static_cast<std::uint32_t>(random() & 0x7fffffu)));
  this->expect_nearest(std::numeric_limits<float>::max());
  this->expect_nearest(std::numeric_limits<float>::denorm_min());
  this->expect_nearest(infinity);
  this->expect_nearest(0.0f);
}

TYPED_TEST(Conversions, NanStaysNanWithItsSign) {
  for (const std::uint32_t payload : {1u, 0x1fffu, 0xffffu, 0x2000u, 0x400000u, 0x7fffffu})
    for (const std::uint32_t sign : {0u, 0x80000000u}) {
      const auto narrow = TypeParam::narrow(std::bit_cast<float>(sign | 0x7f800000u | payload));
      EXPECT_GT(narrow.bits & 0x7fff, TypeParam::format.infinity) << payload;
      EXPECT_EQ(narrow.bits >> 15, sign >> 31);
    }
}

#if LSAQ_X86
TYPED_TEST(Conversions, FlushToZeroModesChangeNothing) {
  const unsigned saved = _mm_getcsr();
  for (unsigned bits = 1; bits < 0x7f; ++bits) { // subnormal in either format
    const float value = lsaq::to_float(this->pattern(bits));
    _mm_setcsr(saved | 0x8040); // FTZ, DAZ
    const auto narrow = TypeParam::narrow(value);
    const float widened = lsaq::to_float(this->pattern(bits));
    _mm_setcsr(saved);
    ASSERT_EQ(narrow.bits, bits);
    ASSERT_EQ(bits_of(widened), bits_of(value));
  }
}
#endif

TEST(Half, BoundariesOfBinary16) {
  EXPECT_EQ(lsaq::to_f16(65504.0f).bits, 0x7bff);
  EXPECT_EQ(lsaq::to_f16(std::nextafter(65520.0f, 0.0f)).bits, 0x7bff); // 65519.99...
  EXPECT_EQ(lsaq::to_f16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(lsaq::to_f16(-65520.0f).bits, 0xfc00);
  EXPECT_EQ(lsaq::to_f16(1e30f).bits, 0x7c00);
  EXPECT_EQ(lsaq::to_f16(0x1p-14f).bits, 0x0400);
  EXPECT_EQ(lsaq::to_f16(std::nextafter(0x1p-14f, 0.0f)).bits, 0x0400); // rounds up into the normal range
  EXPECT_EQ(lsaq::to_f16(0x1p-24f).bits, 1);
  EXPECT_EQ(lsaq::to_f16(0x1p-25f).bits, 0); // a tie: to even
  EXPECT_EQ(lsaq::to_f16(std::nextafter(0x1p-25f, 1.0f)).bits, 1);
  EXPECT_EQ(lsaq::to_f16(0x1.8p-24f).bits, 2); // a tie: to even
  EXPECT_EQ(lsaq::to_f16(-0.0f).bits, 0x8000);
  EXPECT_EQ(lsaq::to_f16(-1e-40f).bits, 0x8000);
}

TEST(Half, BoundariesOfBfloat16) {
  EXPECT_EQ(lsaq::to_bf16(0x1.fep127f).bits, 0x7f7f);
  EXPECT_EQ(lsaq::to_bf16(std::nextafter(0x1.ffp127f, 0.0f)).bits, 0x7f7f);
  EXPECT_EQ(lsaq::to_bf16(0x1.ffp127f).bits, 0x7f80);
  EXPECT_EQ(lsaq::to_bf16(0x1p-133f).bits, 1);
  EXPECT_EQ(lsaq::to_bf16(0x1p-134f).bits, 0);
  EXPECT_EQ(lsaq::to_bf16(1.00390625f).bits, 0x3f80); // a tie: to even
  EXPECT_EQ(lsaq::to_bf16(1.01171875f).bits, 0x3f82);
}

TEST(Half, ConversionsAreConstantExpressions) {
  static_assert(lsaq::to_float(f16{0x3c00}) == 1.0f);
  static_assert(lsaq::to_float(f16{0x0001}) == 0x1p-24f);
  static_assert(lsaq::to_float(bf16{0x3f80}) == 1.0f);
  static_assert(lsaq::to_f16(0.333333333f).bits == 0x3555);
  static_assert(lsaq::to_bf16(0.333333333f).bits == 0x3eab);
  static_assert(lsaq::to_float(2.5f) == 2.5f);
}

TEST(Half, LoadElementReadsAnyAlignmentAndNothingMore) {
  const float floats[] = {1.5f, -2.0f, 1e-40f};
  const std::uint16_t halves[] = {0x3c00, 0xc000, 0x0001}, brains[] = {0x3f80, 0xc000, 0x0001};
  for (std::size_t skew = 0; skew < 4; ++skew) {
    const auto load = [&](const auto& values, lsaq::ElementType type, std::size_t index) {
      const auto block = std::make_unique<std::byte[]>(sizeof values + skew); // ends with the last element
      std::memcpy(block.get() + skew, values, sizeof values);
      return lsaq::load_element(block.get() + skew, type, index);
    };
    EXPECT_EQ(load(floats, lsaq::ElementType::f32, 0), 1.5f);
    EXPECT_EQ(load(floats, lsaq::ElementType::f32, 2), 1e-40f);
    EXPECT_EQ(load(halves, lsaq::ElementType::f16, 1), -2.0f);
    EXPECT_EQ(load(halves, lsaq::ElementType::f16, 2), 0x1p-24f);
    EXPECT_EQ(load(brains, lsaq::ElementType::bf16, 1), -2.0f);
    EXPECT_EQ(load(brains, lsaq::ElementType::bf16, 2), 0x1p-133f);
  }
}

/// Two blocks, the second one cut off behind the element that is read.
TEST(Half, LoadElementFindsItsQ80Block) {
  for (std::size_t skew = 0; skew < 4; ++skew)
    for (std::size_t index = 0; index < 64; ++index) {
      const std::size_t bytes = index / 32 * 34 + 2 + index % 32 + 1;
      const auto memory = std::make_unique<std::byte[]>(bytes + skew);
      std::byte* const blocks = memory.get() + skew;
      const std::uint16_t scales[] = {0x3800, 0x8001}; // 0.5, the smallest negative subnormal
      for (std::size_t b = 0; b * 34 < bytes; ++b) std::memcpy(blocks + b * 34, &scales[b], 2);
      for (const int code : {0, 1, 127, -1, -128}) {
        blocks[bytes - 1] = static_cast<std::byte>(code);
        ASSERT_EQ(lsaq::load_element(blocks, lsaq::ElementType::q8_0, index), (index < 32 ? 0.5f : -0x1p-24f) * static_cast<float>(code)) << index;
      }
    }
}

} // namespace half_test
