#include <lsaq/models/kv_cache.hpp>

#include <lsaq/kernels/cpu/select.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

namespace kv_cache_test {

using lsaq::ElementType;
using lsaq::llama::Config;
using lsaq::llama::KvCache;

TEST(KvCache, TakesTheBytesOfTheMemoryModel) {
  const Config config{.heads = 6, .kv_heads = 3, .head_size = 10};
  const KvCache halves(config, 4, 17);
  EXPECT_EQ(halves.bytes(), 4u * 2 * 3 * 10 * 17 * 2);
  EXPECT_EQ(halves.bytes(), lsaq::kv_cache_bytes(4, 3, 10, 17));
  EXPECT_EQ(halves.type(), ElementType::f16);
  EXPECT_EQ(halves.context(), 17u);
  EXPECT_EQ(halves.row_bytes(), 20u);

  const KvCache floats(config, 4, 17, ElementType::f32);
  EXPECT_EQ(floats.bytes(), 4u * 2 * 3 * 10 * 17 * 4);
  EXPECT_EQ(floats.bytes(), lsaq::kv_cache_bytes(4, 3, 10, 17, 32));
  EXPECT_EQ(floats.row_bytes(), 40u);
  EXPECT_EQ(KvCache(config, 4, 0).bytes(), 0u);

  const Config long_heads{.heads = 6, .kv_heads = 3, .head_size = 96};
  const KvCache blocks(long_heads, 4, 17, ElementType::q8_0);
  EXPECT_EQ(blocks.bytes(), 4u * 2 * 3 * 17 * 3 * 34);
  EXPECT_EQ(blocks.bytes(), lsaq::kv_cache_bytes(4, 3, 96, 17, ElementType::q8_0));
  EXPECT_EQ(blocks.row_bytes(), 3u * 34);
}

TEST(KvCache, RefusesHeadsThatAreNoWholeBlocks) {
  const auto refusal = [](ElementType type, std::size_t head_size) -> std::string {
    try {
      KvCache(Config{.heads = 1, .kv_heads = 1, .head_size = head_size}, 1, 1, type);
    } catch (const lsaq::InvalidArgument& error) {
      return error.what();
    }
    return "accepted";
  };
  EXPECT_EQ(refusal(ElementType::q8_0, 64), "accepted");
  for (const std::size_t head_size : {2u, 16u, 48u, 80u, 250u})
    EXPECT_THAT(refusal(ElementType::q8_0, head_size), AllOf(testing::HasSubstr("heads of " + std::to_string(head_size)), testing::HasSubstr("F16")));
  EXPECT_THAT(refusal(ElementType::bf16, 64), testing::HasSubstr("not BF16"));
}

/// Every head's rows can be written whole without touching another's, and together they are the whole block.
TEST(KvCache, GivesEveryHeadRowsOfItsOwn) {
  for (const ElementType type : {ElementType::f16, ElementType::f32, ElementType::q8_0}) {
    const Config config{.heads = 2, .kv_heads = 2, .head_size = type == ElementType::q8_0 ? 64u : 6u};
    KvCache cache(config, 3, 5, type);
    const std::size_t bytes = cache.context() * cache.row_bytes();
    unsigned mark = 0;
    const auto each = [&](auto&& act) {
      mark = 0;
      for (std::size_t layer = 0; layer < 3; ++layer)
        for (std::size_t head = 0; head < 2; ++head) {
          act(cache.keys(layer, head), ++mark);
          act(cache.values(layer, head), ++mark);
        }
    };
    each([&](std::byte* rows, unsigned m) { std::memset(rows, static_cast<int>(m), bytes); });
    each([&](const std::byte* rows, unsigned m) {
      for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(std::to_integer<unsigned>(rows[i]), m);
    });
    EXPECT_EQ(mark * bytes, cache.bytes());
  }
}

/// A block by the rule: the scale is F16 of the largest magnitude / 127, codes are the nearest for the scale as it is stored.
void expect_block(const lsaq::CpuKernels& kernels, const std::vector<float>& values) {
  std::byte block[34];
  lsaq::llama::narrow_q8_0(kernels, values.data(), 32, block);
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  const double scale = lsaq::load_element(block, ElementType::f16, 0);
  EXPECT_NEAR(scale, std::min(double{largest} / 127, 65504.0), std::max(0x1p-11 * double{largest} / 127 * 1.001, 0x1p-25));
  for (std::size_t i = 0; i < 32; ++i) {
    const int code = static_cast<std::int8_t>(block[2 + i]);
    EXPECT_LE(std::abs(code), 127);
    if (scale == 0) {
      EXPECT_EQ(code, 0);
    } else {
      EXPECT_EQ(code, static_cast<int>(std::clamp(std::nearbyint(static_cast<double>(values[i] / static_cast<float>(scale))), -127.0, 127.0))) << values[i];
    }
  }
}

TEST(NarrowQ80, RoundsToTheNearestCodes) {
  std::mt19937 random(5);
  for (const lsaq::Isa isa : lsaq::all_isas) {
    if (!lsaq::cpu_runs(isa)) continue;
    for (const float size : {0.0f, 1e-9f, 1e-6f, 0.3f, 50.0f, 60000.0f, 8e6f, 1e30f})
      for (int round = 0; round < 50; ++round) {
        std::vector<float> values(32);
        for (float& value : values) value = size * std::uniform_real_distribution<float>(-1, 1)(random);
        expect_block(lsaq::kernels_of(isa), values);
        if (HasFailure()) FAIL() << name_of(isa) << ", " << size;
      }
  }
}

TEST(NarrowQ80, BlocksAreTheSameOnEveryPathAndApart) {
  std::mt19937 random(6);
  std::vector<float> values(96);
  for (float& value : values) value = std::normal_distribution<float>()(random);
  std::vector<std::byte> oracle(3 * 34), found(3 * 34);
  lsaq::llama::narrow_q8_0(lsaq::kernels_of(lsaq::Isa::scalar), values.data(), 96, oracle.data());
  for (const lsaq::Isa isa : lsaq::all_isas) {
    if (!lsaq::cpu_runs(isa)) continue;
    lsaq::llama::narrow_q8_0(lsaq::kernels_of(isa), values.data(), 96, found.data());
    EXPECT_EQ(found, oracle) << name_of(isa);
  }
  values[40] = 1000;
  lsaq::llama::narrow_q8_0(lsaq::kernels_of(lsaq::Isa::scalar), values.data(), 96, found.data());
  EXPECT_TRUE(std::equal(found.begin(), found.begin() + 34, oracle.begin())) << "an outlier spoils its own block only";
  EXPECT_TRUE(std::equal(found.begin() + 68, found.end(), oracle.begin() + 68));
}

TEST(NarrowQ80, WhatIsNotFiniteMakesItsBlockNan) {
  for (const float bad : {INFINITY, -INFINITY, NAN}) {
    std::vector<float> values(64, 1.0f);
    values[50] = bad;
    std::byte blocks[68];
    lsaq::llama::narrow_q8_0(lsaq::kernels_of(lsaq::best_isa()), values.data(), 64, blocks);
    for (std::size_t i = 0; i < 32; ++i) {
      EXPECT_NEAR(lsaq::load_element(blocks, ElementType::q8_0, i), 1, 1e-3);
      EXPECT_TRUE(std::isnan(lsaq::load_element(blocks, ElementType::q8_0, 32 + i)));
    }
  }
}

} // namespace kv_cache_test
