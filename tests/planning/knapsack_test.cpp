// The multiple-choice knapsack against trying everything.
#include <lsaq/planning/knapsack.hpp>

#include <gmock/gmock.h>

#include <random>

namespace knapsack_test {

using lsaq::Bytes;
using lsaq::KnapsackChoice;
using lsaq::KnapsackClass;
using lsaq::KnapsackPoint;

struct Random {
  std::mt19937 engine;
  std::size_t between(std::size_t low, std::size_t high) { return std::uniform_int_distribution<std::size_t>(low, high)(engine); }
  double share() { return std::uniform_real_distribution<double>(0, 1)(engine); }
};

/// Calls act(items, bytes, cost) for every choice.
template <class Act> void for_each_choice(const std::vector<KnapsackClass>& classes, Act&& act) {
  std::vector<std::size_t> items(classes.size(), 0);
  while (true) {
    Bytes bytes = 0;
    double cost = 0;
    for (std::size_t k = 0; k < classes.size(); ++k) {
      bytes += classes[k][items[k]].bytes;
      cost += classes[k][items[k]].cost;
    }
    act(items, bytes, cost);
    std::size_t k = 0;
    while (k < classes.size() && ++items[k] == classes[k].size()) items[k++] = 0;
    if (k == classes.size()) return;
  }
}

/// Classes of a kind: small numbers with many ties, any numbers, costs that hang on bytes, items of equal worth in few sizes.
std::vector<KnapsackClass> random_classes(Random& random, unsigned kind, std::size_t count) {
  std::vector<KnapsackClass> classes(count);
  for (KnapsackClass& items : classes) {
    const double weight = random.share();
    const std::size_t unit = std::vector<std::size_t>{10, 40, 130}[random.between(0, 2)];
    items.resize(random.between(1, 5));
    for (lsaq::KnapsackItem& item : items) {
      const std::size_t steps = random.between(0, 4);
      item.bytes = kind == 3 ? unit * steps + (steps == 4 ? 3 : 0) : random.between(0, kind == 0 ? 6 : 1000);
      item.cost = kind == 0   ? static_cast<double>(random.between(0, 5)) - 1
                  : kind == 1 ? random.share()
                  : kind == 2 ? weight * (1200 - static_cast<double>(item.bytes))
                              : static_cast<double>(unit * (4 - steps));
    }
  }
  return classes;
}

class AnyClasses : public testing::TestWithParam<unsigned> {};

TEST_P(AnyClasses, GiveTheBestOfAllChoices) {
  Random random{std::mt19937(GetParam())};
  for (unsigned round = 0; round < 200; ++round) {
    const std::vector<KnapsackClass> classes = random_classes(random, round % 4, random.between(1, 6));
    const Bytes capacity = random.between(0, round % 4 == 0 ? 30 : 4000);
    double best = std::numeric_limits<double>::infinity();
    for_each_choice(classes, [&](const auto&, Bytes bytes, double cost) {
      if (bytes <= capacity) best = std::min(best, cost);
    });
    const std::optional<KnapsackChoice> found = lsaq::solve_knapsack(classes, capacity);
    ASSERT_EQ(found.has_value(), std::isfinite(best));
    if (!found) continue;
    ASSERT_NEAR(found->cost, best, 1e-10);
    ASSERT_LE(found->bytes, capacity);
    Bytes bytes = 0;
    for (std::size_t k = 0; k < classes.size(); ++k) bytes += classes[k].at(found->items.at(k)).bytes;
    ASSERT_EQ(bytes, found->bytes);
    ASSERT_EQ(lsaq::solve_knapsack(classes, capacity)->items, found->items);
  }
}

TEST_P(AnyClasses, HaveAFrontierThatNoChoiceIsBelow) {
  Random random{std::mt19937(1000 + GetParam())};
  for (unsigned round = 0; round < 50; ++round) {
    const std::vector<KnapsackClass> classes = random_classes(random, round % 4, random.between(1, 6));
    const std::vector<KnapsackPoint> points = lsaq::knapsack_frontier(classes);
    for (std::size_t p = 1; p < points.size(); ++p) {
      ASSERT_GT(points[p].bytes, points[p - 1].bytes);
      ASSERT_LT(points[p].cost, points[p - 1].cost);
    }
    for (const KnapsackPoint& point : points) {
      const std::optional<KnapsackChoice> best = lsaq::solve_knapsack(classes, point.bytes);
      ASSERT_TRUE(best);
      ASSERT_NEAR(best->cost, point.cost, 1e-9) << "a point is the best choice for its bytes";
    }
    for_each_choice(classes, [&](const auto&, Bytes bytes, double cost) {
      ASSERT_GE(bytes, points.front().bytes);
      ASSERT_GE(cost, points.back().cost - 1e-9);
      for (std::size_t p = 1; p < points.size(); ++p) {
        if (bytes < points[p - 1].bytes || bytes > points[p].bytes) continue;
        const double share = static_cast<double>(bytes - points[p - 1].bytes) / static_cast<double>(points[p].bytes - points[p - 1].bytes);
        ASSERT_GE(cost, points[p - 1].cost + share * (points[p].cost - points[p - 1].cost) - 1e-9);
      }
    });
  }
}

TEST_P(AnyClasses, AgreeWithATableOverBytes) {
  // Many classes: more states than the search keeps at first.
  Random random{std::mt19937(2000 + GetParam())};
  const std::vector<KnapsackClass> classes = random_classes(random, 1 + GetParam() % 3, 30);
  const Bytes capacity = random.between(2000, 8000);
  std::vector<double> least(capacity + 1, 0);
  for (const KnapsackClass& items : classes) {
    std::vector<double> with(capacity + 1, std::numeric_limits<double>::infinity());
    for (const lsaq::KnapsackItem& item : items)
      for (Bytes room = item.bytes; room <= capacity; ++room) with[room] = std::min(with[room], least[room - item.bytes] + item.cost);
    least = std::move(with);
  }
  const std::optional<KnapsackChoice> found = lsaq::solve_knapsack(classes, capacity);
  ASSERT_EQ(found.has_value(), std::isfinite(least[capacity]));
  if (found) {
    EXPECT_NEAR(found->cost, least[capacity], 1e-9);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AnyClasses, testing::Range(0u, 20u));

TEST(Knapsack, WithoutClassesTakesNothing) {
  const std::optional<KnapsackChoice> found = lsaq::solve_knapsack({}, 0);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->bytes, 0u);
  EXPECT_TRUE(found->items.empty());
}

TEST(Knapsack, FillsAPerfectlyFittingRoom) {
  // Of equal worth a byte: every choice is on one line, and only the sum of the bytes decides.
  std::vector<KnapsackClass> classes;
  for (Bytes bytes = 1; bytes <= 64; ++bytes) classes.push_back({{0, static_cast<double>(bytes)}, {bytes, 0}});
  for (Bytes room = 0; room <= 64 * 65 / 2; room += 13) EXPECT_EQ(lsaq::solve_knapsack(classes, room)->bytes, room);
}

TEST(Knapsack, BytesBeyondFourGigabytes) {
  const std::vector<KnapsackClass> classes(3, KnapsackClass{{Bytes{1} << 40, 5}, {Bytes{3} << 40, 1}});
  EXPECT_EQ(lsaq::solve_knapsack(classes, (Bytes{5} << 40) - 1)->cost, 15);
  EXPECT_EQ(lsaq::solve_knapsack(classes, Bytes{5} << 40)->cost, 11);
  EXPECT_FALSE(lsaq::solve_knapsack(classes, (Bytes{3} << 40) - 1));
}

} // namespace knapsack_test
