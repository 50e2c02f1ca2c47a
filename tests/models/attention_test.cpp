#include <lsaq/models/attention.hpp>

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/select.hpp>
#include <lsaq/thread_pool.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace attention_test {

using lsaq::ElementType;
using lsaq::llama::Config;
using lsaq::llama::KvCache;

/// Heads, head size, positions before the queries, queries.
struct Case {
  std::size_t heads, kv_heads, head_size, first, tokens;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.heads << " heads of " << c.head_size << " on " << c.kv_heads << ", " << c.tokens << " queries after " << c.first;
}

/// Queries and a filled cache of two layers; the second one is used.
struct Scene {
  Config config;
  KvCache cache;
  std::vector<float> q;
  std::vector<float> keys, values; // as the cache holds them: head, position, element

  Scene(const Case& c, ElementType type, float size)
      : config{.heads = c.heads, .kv_heads = c.kv_heads, .head_size = c.head_size}, cache(config, 2, c.first + c.tokens, type) {
    std::mt19937 random(3);
    const auto draw = [&] { return size * (static_cast<float>(random() >> 8) * 0x1p-23f - 1); };
    std::memset(cache.keys(0, 0), 0x7f, cache.bytes() / 2); // NaN: nothing of the first layer may be read
    const auto fill = [&](std::vector<float>& kept, bool is_key) {
      for (std::size_t head = 0; head < c.kv_heads; ++head) {
        std::byte* const rows = is_key ? cache.keys(1, head) : cache.values(1, head);
        if (type == ElementType::q8_0) {
          fill_blocks(rows, size, kept, random);
          continue;
        }
        for (std::size_t i = 0; i < cache.context() * c.head_size; ++i) {
          const lsaq::f16 half = lsaq::to_f16(draw());
          const float value = lsaq::to_float(half);
          kept.push_back(value);
          if (type == ElementType::f16)
            std::memcpy(rows + 2 * i, &half, 2);
          else
            std::memcpy(rows + 4 * i, &value, 4);
        }
      }
    };
    fill(keys, true);
    fill(values, false);
    q.resize(c.tokens * c.heads * c.head_size);
    for (float& value : q) value = draw();
  }

  /// Random blocks of Q8_0, no two scales alike.
  void fill_blocks(std::byte* rows, float size, std::vector<float>& kept, std::mt19937& random) const {
    for (std::size_t block = 0; block < cache.context() * config.head_size / 32; ++block, rows += 34) {
      const lsaq::f16 scale = lsaq::to_f16(size / 127 * (1 - 0.001f * static_cast<float>(block % 100)));
      std::memcpy(rows, &scale, 2);
      for (std::size_t i = 0; i < 32; ++i) {
        const int code = static_cast<int>(random() % 255) - 127;
        rows[2 + i] = static_cast<std::byte>(code);
        kept.push_back(lsaq::to_float(scale) * static_cast<float>(code));
      }
    }
  }
};

/// The types a cache for such heads may have.
std::vector<ElementType> types_for(const Case& c) {
  std::vector<ElementType> types = {ElementType::f16, ElementType::f32};
  if (c.head_size % 32 == 0) types.push_back(ElementType::q8_0);
  return types;
}

/// softmax(q k^T / sqrt(d)) v over the keys up to the query's own position.
std::vector<double> expected(const Case& c, const Scene& scene) {
  std::vector<double> out(scene.q.size());
  const std::size_t context = c.first + c.tokens;
  for (std::size_t t = 0; t < c.tokens; ++t)
    for (std::size_t h = 0; h < c.heads; ++h) {
      const std::size_t rows = h * c.kv_heads / c.heads * context * c.head_size;
      const std::size_t at = (t * c.heads + h) * c.head_size;
      std::vector<double> scores(c.first + t + 1);
      double highest = -INFINITY, total = 0;
      for (std::size_t s = 0; s < scores.size(); ++s) {
        for (std::size_t i = 0; i < c.head_size; ++i) scores[s] += double{scene.q[at + i]} * double{scene.keys[rows + s * c.head_size + i]};
        scores[s] /= std::sqrt(static_cast<double>(c.head_size));
        highest = std::max(highest, scores[s]);
      }
      for (double& score : scores) total += score = std::exp(score - highest);
      for (std::size_t s = 0; s < scores.size(); ++s)
        for (std::size_t i = 0; i < c.head_size; ++i) out[at + i] += scores[s] / total * double{scene.values[rows + s * c.head_size + i]};
    }
  return out;
}

std::vector<float> attended(const Case& c, Scene& scene, lsaq::ExecutorRef executor = {}, lsaq::Isa isa = lsaq::best_isa()) {
  std::vector<float> out(scene.q.size(), NAN);
  lsaq::llama::attend(scene.config, lsaq::kernels_of(isa), executor, scene.cache, 1, c.first, c.tokens, scene.q.data(), out.data());
  return out;
}

class Attention : public testing::TestWithParam<Case> {};

TEST_P(Attention, IsSoftmaxOverVisibleKeys) {
  const Case& c = GetParam();
  for (const ElementType type : types_for(c))
    for (const float size : {1.0f, 20.0f}) { // 20: scores in the hundreds, nearly all weight on one key
      Scene scene(c, type, size);
      const std::vector<double> wanted = expected(c, scene);
      for (const lsaq::Isa isa : lsaq::all_isas) {
        if (!lsaq::cpu_runs(isa)) continue;
        const std::vector<float> found = attended(c, scene, {}, isa);
        double worst = 0;
        for (std::size_t i = 0; i < wanted.size(); ++i) {
          ASSERT_TRUE(std::isfinite(found[i])) << i;
          worst = std::max(worst, std::abs(double{found[i]} - wanted[i]));
        }
        // The error of a score is some 1e-7 of the sum of its terms, and that of a weight as much as its score's.
        EXPECT_LT(worst, size == 1 ? 2e-6 : 20 * 1e-7 * size * size * static_cast<double>(c.head_size)) << name_of(isa) << ", " << name_of(type);
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Attention,
                         testing::Values(Case{1, 1, 2, 0, 1}, Case{2, 1, 2, 0, 5}, Case{4, 4, 6, 3, 1}, Case{4, 2, 8, 0, 40}, Case{3, 3, 10, 7, 17},
                                         Case{6, 2, 12, 63, 1}, Case{6, 3, 14, 64, 1}, Case{8, 1, 16, 62, 3}, Case{2, 2, 18, 0, 64}, Case{2, 1, 20, 0, 65},
                                         Case{9, 3, 64, 100, 30}, Case{4, 1, 34, 200, 4}, Case{2, 2, 80, 127, 2}, Case{2, 1, 128, 50, 20},
                                         Case{1, 1, 250, 10, 70}, Case{1, 1, 256, 64, 16}, Case{4, 4, 32, 0, 7}, Case{3, 1, 32, 61, 8}, Case{12, 3, 64, 511, 1},
                                         Case{9, 3, 64, 130, 2}, Case{4, 1, 96, 31, 130}, Case{9, 1, 64, 33, 80}, Case{17, 1, 16, 5, 3}, Case{3, 1, 160, 70, 1},
                                         Case{4, 1, 256, 20, 67}, Case{4, 4, 20, 90, 7}, Case{3, 1, 80, 64, 9}, Case{8, 2, 24, 127, 33}));

/// Tasks are divided by the number of threads, results are not.
TEST_P(Attention, DoesNotDependOnThreads) {
  const Case& c = GetParam();
  for (const ElementType type : types_for(c)) {
    Scene scene(c, type, 1);
    const std::vector<float> alone = attended(c, scene);
    for (const std::size_t threads : {1, 2, 3, 4}) {
      lsaq::ThreadPool pool(threads);
      for (int repeat = 0; repeat < 2; ++repeat) ASSERT_EQ(attended(c, scene, pool), alone) << threads << " threads, " << name_of(type);
    }
  }
}

/// Queries read at once get what they get in smaller groups, as long as there are many in each.
TEST(Attention, AQueryDoesNotDependOnTheOthers) {
  const Case whole{6, 2, 32, 70, 90};
  for (const ElementType type : types_for(whole)) {
    Scene scene(whole, type, 1);
    const std::vector<float> together = attended(whole, scene);
    std::vector<float> apart(together.size(), NAN);
    const std::size_t width = whole.heads * whole.head_size;
    for (const auto& [first, count] : {std::pair<std::size_t, std::size_t>(0, 9), {9, 23}, {32, 58}})
      lsaq::llama::attend(scene.config, lsaq::kernels_of(lsaq::best_isa()), {}, scene.cache, 1, whole.first + first, count, scene.q.data() + first * width,
                          apart.data() + first * width);
    EXPECT_EQ(apart, together) << name_of(type);
  }
}

TEST(Attention, SeesNothingOfTheFuture) {
  for (const std::size_t tokens : {4, 10, 40}) {
    const Case c{2, 1, 16, 5, tokens};
    Scene scene(c, ElementType::f32, 1);
    const std::vector<float> before = attended(c, scene);
    const std::size_t row = scene.cache.row_bytes(), last = c.first + c.tokens - 1;
    std::memset(scene.cache.keys(1, 0) + last * row, 0x41, row); // 12.1 each
    std::memset(scene.cache.values(1, 0) + last * row, 0x41, row);
    const std::vector<float> after = attended(c, scene);
    const auto own = static_cast<std::ptrdiff_t>((c.tokens - 1) * c.heads * c.head_size);
    EXPECT_TRUE(std::equal(before.begin(), before.begin() + own, after.begin())) << "all queries but the last";
    EXPECT_FALSE(std::equal(before.begin() + own, before.end(), after.begin() + own));
  }
}

} // namespace attention_test
