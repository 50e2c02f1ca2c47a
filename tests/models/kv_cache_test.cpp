#include <lsaq/models/kv_cache.hpp>

#include <gtest/gtest.h>

#include <cstring>

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
}

/// Every head's rows can be written whole without touching another's, and together they are the whole block.
TEST(KvCache, GivesEveryHeadRowsOfItsOwn) {
  const Config config{.heads = 2, .kv_heads = 2, .head_size = 6};
  for (const ElementType type : {ElementType::f16, ElementType::f32}) {
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

} // namespace kv_cache_test
