#include <lsaq/formats/stored_tensor.hpp>

#include <gmock/gmock.h>

#include <cmath>
#include <limits>

namespace stored_tensor_test {

using lsaq::dequantize_row;
using lsaq::StoredType;

/// Dequantizes from an odd address.
template <class Block> std::vector<float> unaligned(const std::vector<Block>& blocks, StoredType type, std::size_t columns) {
  std::vector<std::byte> bytes(1 + blocks.size() * sizeof(Block));
  std::memcpy(bytes.data() + 1, blocks.data(), blocks.size() * sizeof(Block));
  std::vector<float> out(columns, -1234.0f);
  dequantize_row(bytes.data() + 1, type, columns, out.data());
  return out;
}

constexpr lsaq::f16 one{0x3c00};
constexpr lsaq::f16 minus_half{0xb800};
constexpr lsaq::f16 smallest_subnormal{0x0001}; // 2^-24
constexpr lsaq::f16 largest{0x7bff};            // 65504

TEST(StoredTensor, RowBytes) {
  EXPECT_EQ(lsaq::row_bytes(StoredType::f32, 5), 20u);
  EXPECT_EQ(lsaq::row_bytes(StoredType::bf16, 5), 10u);
  EXPECT_EQ(lsaq::row_bytes(StoredType::q8_0, 64), 68u);
  EXPECT_EQ(lsaq::row_bytes(StoredType::q4_0, 64), 36u);
  EXPECT_EQ(lsaq::row_bytes(StoredType::q4_1, 64), 40u);
  EXPECT_EQ(lsaq::row_bytes(StoredType::i64, 3), 24u);
  EXPECT_TRUE(lsaq::is_readable(StoredType::q4_1));
  EXPECT_FALSE(lsaq::is_readable(StoredType::f64));
  EXPECT_EQ(lsaq::element_type_of(StoredType::bf16), lsaq::ElementType::bf16);
  EXPECT_FALSE(lsaq::element_type_of(StoredType::q8_0));
  for (std::size_t i = 0; i < lsaq::stored_types.size(); ++i) EXPECT_FALSE(lsaq::stored_types[i].name.empty());
}

TEST(StoredTensor, WidensFloats) {
  EXPECT_THAT(unaligned(std::vector<float>{1.5f, -0.0f, 1e-45f}, StoredType::f32, 3), testing::ElementsAre(1.5f, -0.0f, 1e-45f));
  EXPECT_THAT(unaligned(std::vector<lsaq::f16>{one, minus_half, smallest_subnormal, largest}, StoredType::f16, 4),
              testing::ElementsAre(1.0f, -0.5f, 0x1p-24f, 65504.0f));
  EXPECT_THAT(unaligned(std::vector<lsaq::bf16>{{0x3f80}, {0xc049}, {0x0001}}, StoredType::bf16, 3), testing::ElementsAre(1.0f, -3.140625f, 0x1p-133f));
}

TEST(StoredTensor, Q8_0IsScaleTimesCode) {
  lsaq::Q8_0Block block{minus_half, {}};
  block.q[0] = -128;
  block.q[1] = 127;
  block.q[31] = 3;
  lsaq::Q8_0Block tiny{smallest_subnormal, {}};
  tiny.q[5] = -7;
  lsaq::Q8_0Block huge{largest, {}};
  huge.q[0] = -128;
  const auto out = unaligned(std::vector{block, tiny, huge}, StoredType::q8_0, 96);
  EXPECT_EQ(out[0], 64.0f);
  EXPECT_EQ(out[1], -63.5f);
  EXPECT_EQ(out[31], -1.5f);
  EXPECT_TRUE(std::signbit(out[2])) << "-0.5 * 0 is -0, as in ggml";
  EXPECT_EQ(out[32 + 5], -7 * 0x1p-24f);
  EXPECT_EQ(out[64], -8384512.0f);
}

TEST(StoredTensor, Q4_0TakesLowNibblesFirst) {
  lsaq::Q4_0Block block{one, {}};
  for (int j = 0; j < 16; ++j) block.q[j] = static_cast<std::uint8_t>(j | ((15 - j) << 4));
  lsaq::Q4_0Block tiny{lsaq::f16{0x8003}, {}}; // -3 * 2^-24
  tiny.q[2] = 0xf1;
  const auto out = unaligned(std::vector{block, tiny}, StoredType::q4_0, 64);
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(out[j], static_cast<float>(j - 8));
    EXPECT_EQ(out[j + 16], static_cast<float>(7 - j));
  }
  EXPECT_EQ(out[32 + 2], 21 * 0x1p-24f);
  EXPECT_EQ(out[32 + 18], -21 * 0x1p-24f);
  EXPECT_EQ(out[32], 24 * 0x1p-24f);
}

TEST(StoredTensor, Q4_1AddsTheMinimum) {
  lsaq::Q4_1Block block{lsaq::f16{0x3800}, lsaq::f16{0xc400}, {}}; // 0.5, -4
  for (int j = 0; j < 16; ++j) block.q[j] = static_cast<std::uint8_t>(j | ((15 - j) << 4));
  lsaq::Q4_1Block tiny{smallest_subnormal, lsaq::f16{0x8005}, {}};
  tiny.q[0] = 0x4f;
  const auto out = unaligned(std::vector{block, tiny}, StoredType::q4_1, 64);
  for (int j = 0; j < 16; ++j) {
    EXPECT_EQ(out[j], 0.5f * static_cast<float>(j) - 4.0f);
    EXPECT_EQ(out[j + 16], 0.5f * static_cast<float>(15 - j) - 4.0f);
  }
  EXPECT_EQ(out[32], 10 * 0x1p-24f);
  EXPECT_EQ(out[32 + 16], -1 * 0x1p-24f);
  EXPECT_EQ(out[33], -5 * 0x1p-24f);
}

// What makes the result independent of contraction: rounding once or after each step is the same.
TEST(StoredTensor, FusedAndSeparateRoundingAgreeForEveryScale) {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float d = lsaq::to_float(lsaq::f16{static_cast<std::uint16_t>(bits)});
    const auto m = lsaq::f16{static_cast<std::uint16_t>(0x8000u | ((bits * 2654435761u) >> 7) % 0x7c00u)};
    lsaq::Q4_1Block block{lsaq::f16{static_cast<std::uint16_t>(bits)}, m, {}};
    for (int j = 0; j < 16; ++j) block.q[j] = static_cast<std::uint8_t>(j);
    float out[32];
    dequantize_row(reinterpret_cast<const std::byte*>(&block), StoredType::q4_1, 32, out);
    for (int j = 0; j < 16; ++j) {
      ASSERT_EQ(out[j], std::fma(d, static_cast<float>(j), lsaq::to_float(m))) << bits << " " << j;
      ASSERT_EQ(out[j], static_cast<float>(static_cast<double>(d) * j + static_cast<double>(lsaq::to_float(m)))) << bits << " " << j;
    }
  }
}

TEST(StoredTensor, InfiniteAndNanScalesStayVisible) {
  lsaq::Q8_0Block block{lsaq::f16{0x7c00}, {}};
  block.q[0] = -1;
  const auto out = unaligned(std::vector{block}, StoredType::q8_0, 32);
  EXPECT_EQ(out[0], -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(out[1]));
}

} // namespace stored_tensor_test
