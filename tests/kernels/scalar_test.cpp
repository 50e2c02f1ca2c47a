#include <lsaq/kernels/cpu/scalar.hpp>

#include "kernels/quantization_contract.hpp"

namespace scalar_test {

LSAQ_KERNEL_CONTRACT(Scalar, lsaq::Isa::scalar)
LSAQ_QUANTIZATION_CONTRACT(Scalar, lsaq::Isa::scalar)

TEST(Scalar, RoundsHalfToEven) {
  EXPECT_EQ(lsaq::scalar::round_half_even(0.5f), 0);
  EXPECT_EQ(lsaq::scalar::round_half_even(1.5f), 2);
  EXPECT_EQ(lsaq::scalar::round_half_even(-2.5f), -2);
  EXPECT_EQ(lsaq::scalar::round_half_even(0x1.fffffep-2f), 0); // adding 0.5 first would give 1
  EXPECT_EQ(lsaq::scalar::round_half_even(-0x1.fffffep-2f), 0);
  EXPECT_EQ(lsaq::scalar::round_half_even(-3.7f), -4);
  EXPECT_EQ(lsaq::scalar::round_half_even(8388609.0f), 8388609);
}

TEST(Scalar, UnpacksCodesAcrossBytes) {
  // Codes 1, 2, 3, 4, 5, 6, 7, 0 of three bits: 0b000'111'110'101'100'011'010'001.
  const std::byte three[] = {std::byte{0xd1}, std::byte{0x58}, std::byte{0x1f}};
  for (unsigned c = 0; c < 8; ++c) EXPECT_EQ(lsaq::scalar::unpack_code(three, 3, c), (c + 1) % 8);
  const std::byte four[] = {std::byte{0x21}, std::byte{0x43}};
  for (unsigned c = 0; c < 4; ++c) EXPECT_EQ(lsaq::scalar::unpack_code(four, 4, c), c + 1);
  const std::byte eight[] = {std::byte{0}, std::byte{0x80}, std::byte{0xff}};
  EXPECT_EQ(lsaq::scalar::unpack_code(eight, 8, 1), 0x80u);
  EXPECT_EQ(lsaq::scalar::unpack_code(eight, 8, 2), 0xffu);
}

TEST(Scalar, CodesAreOffsetByHalfTheirRange) {
  const std::byte eight[] = {std::byte{1}, std::byte{128}, std::byte{255}};
  EXPECT_EQ(lsaq::scalar::weight_at(eight, {.element = lsaq::ElementType::f32, .bits = 8}, 0), -127.0f);
  EXPECT_EQ(lsaq::scalar::weight_at(eight, {.element = lsaq::ElementType::f32, .bits = 8}, 1), 0.0f);
  EXPECT_EQ(lsaq::scalar::weight_at(eight, {.element = lsaq::ElementType::f32, .bits = 8}, 2), 127.0f);
  const std::byte four[] = {std::byte{0xf1}};
  EXPECT_EQ(lsaq::scalar::weight_at(four, {.element = lsaq::ElementType::f32, .bits = 4}, 0), -7.0f);
  EXPECT_EQ(lsaq::scalar::weight_at(four, {.element = lsaq::ElementType::f32, .bits = 4}, 1), 7.0f);
}

} // namespace scalar_test
