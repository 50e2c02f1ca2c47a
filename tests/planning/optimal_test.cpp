// The optimal strategy: against all plans of small models, against uniform plans and the paper's rule, fused groups, pins, caches, costs, frontier.
#include <lsaq/planning/optimal.hpp>

#include "shapes.hpp"

#include <formats/make_files.hpp>

#include <random>
#include <set>

namespace optimal_test {

using lsaq::Bytes;
using lsaq::CostTable;
using lsaq::FrontierPoint;
using lsaq::Importance;
using lsaq::ModelShape;
using lsaq::Optimal;
using lsaq::OptimalBudget;
using lsaq::Plan;
using make_files::expect_mentions;
using make_files::message_of;
using shapes::small;
using shapes::small_16;
using shapes::small_4;
using shapes::small_8;
using shapes::small_beside;
using testing::ElementsAre;
using Planner = lsaq::Planner<Optimal>;

struct Random {
  std::mt19937 engine;
  std::size_t between(std::size_t low, std::size_t high) { return std::uniform_int_distribution<std::size_t>(low, high)(engine); }
  bool once_in(std::size_t n) { return between(1, n) == 1; }
  double share() { return std::uniform_real_distribution<double>(0, 1)(engine); }
};

/// A small model in which linears may be fused or pinned.
ModelShape random_shape(Random& random, std::size_t most_layers, std::size_t most_linears) {
  ModelShape shape{.name = "random", .embedding_bytes = random.between(0, 2000), .fixed_bytes = random.between(0, 50)};
  for (std::size_t l = random.between(1, most_layers); l > 0; --l) {
    lsaq::LayerShape layer{.fixed_bytes = random.between(0, 100)};
    for (std::size_t i = random.between(1, most_linears); i > 0; --i)
      layer.linears.push_back({.name = "linear" + std::to_string(i),
                               .rows = random.between(1, 40),
                               .columns = random.between(1, 70),
                               .count = random.once_in(5) ? 3u : 1u,
                               .group = random.once_in(2) ? "fused" : "",
                               .pinned = random.once_in(8) ? 16u : 0u});
    shape.layers.push_back(std::move(layer));
  }
  return shape;
}

/// Damages that mostly fall with the width; measured ones are noisy.
CostTable random_costs(Random& random, const ModelShape& shape, const std::vector<unsigned>& widths, bool by_linear) {
  CostTable costs{.widths = widths};
  const auto row = [&] {
    std::vector<double> damages;
    const double weight = random.share();
    for (const unsigned bits : widths) damages.push_back(weight * lsaq::rounding_error(bits) * (0.5 + random.share()) - (random.once_in(10) ? 0.01 : 0));
    return damages;
  };
  for (const lsaq::LayerShape& layer : shape.layers) {
    if (!by_linear) {
      costs.layers.push_back(row());
      continue;
    }
    costs.linears.emplace_back();
    for (std::size_t i = 0; i < layer.linears.size(); ++i) costs.linears.back().push_back(row());
  }
  return costs;
}

/// Every plan of a shape over some widths that keeps pins and fused groups, by linear or by layer.
std::vector<Plan> all_plans(const ModelShape& shape, const OptimalBudget& budget, bool by_linear) {
  std::vector<std::vector<std::pair<std::size_t, std::string>>> classes; // (layer, linear)
  for (std::size_t l = 0; l < shape.layers.size(); ++l) {
    std::map<std::string, std::size_t> known;
    for (const lsaq::LinearShape& linear : shape.layers[l].linears) {
      if (linear.pinned != 0) continue;
      const std::string key = !by_linear ? "layer" : budget.fused && !linear.group.empty() ? linear.group : "only " + linear.name;
      if (known.emplace(key, classes.size()).second) classes.emplace_back();
      classes[known.at(key)].emplace_back(l, linear.name);
    }
  }
  std::vector<Plan> plans;
  std::vector<std::size_t> at(classes.size(), 0);
  while (true) {
    Plan plan{.bits = std::vector<unsigned>(shape.layers.size(), 16)};
    for (std::size_t k = 0; k < classes.size(); ++k)
      for (const auto& [layer, linear] : classes[k]) plan.tensors[Plan::tensor_key(layer, linear)] = budget.widths[at[k]];
    bool kept = true;
    for (const auto& [layer, width] : budget.pins)
      for (const auto& [key, bits] : plan.tensors)
        if (key.starts_with(std::to_string(layer) + ".") && bits != width) kept = false;
    if (kept) plans.push_back(std::move(plan));
    std::size_t k = 0;
    while (k < classes.size() && ++at[k] == budget.widths.size()) at[k++] = 0;
    if (k == classes.size()) return plans;
  }
}

/// A plan's cost with all of its widths named in `tensors`.
double damage_of(const CostTable& costs, const ModelShape& shape, Plan plan) {
  if (costs.linears.empty())
    for (std::size_t l = 0; l < shape.layers.size(); ++l)
      for (const lsaq::LinearShape& linear : shape.layers[l].linears)
        if (linear.pinned == 0) plan.bits[l] = plan.bits_of(l, linear.name);
  return lsaq::cost_of(costs, shape, plan);
}

class SmallModels : public testing::TestWithParam<unsigned> {};

TEST_P(SmallModels, ArePlannedAsWellAsByTryingEverything) {
  Random random{std::mt19937(GetParam())};
  const bool by_linear = GetParam() % 2 == 0;
  ModelShape shape = random_shape(random, by_linear ? 2 : 5, 3);
  for (lsaq::LayerShape& layer : shape.layers)
    if (!by_linear) layer.linears[0].pinned = 0; // a layer with nothing to decide has no cost in a plan
  OptimalBudget budget{{.memory = 0, .kv_cache = random.between(0, 99), .reserve = random.between(0, 99)}};
  budget.widths = random.once_in(2) ? std::vector<unsigned>{4, 8, 16} : std::vector<unsigned>{2, 3, 5, 8};
  budget.fused = !random.once_in(3);
  budget.destination = random.once_in(3) ? lsaq::Destination::compressed_tensors : lsaq::Destination::packed;
  if (budget.destination != lsaq::Destination::packed) budget.widths = {4, 8, 16};
  budget.costs = random_costs(random, shape, budget.widths, by_linear);
  if (random.once_in(3)) budget.pins = {{random.between(0, shape.layers.size() - 1), budget.widths[1]}};
  const std::vector<Plan> plans = all_plans(shape, budget, by_linear);
  std::vector<std::pair<Bytes, double>> known; // bytes and cost of each
  for (const Plan& plan : plans)
    known.emplace_back(lsaq::weight_bytes(shape, plan, lsaq::ScaleType::f16, {}, budget.destination), damage_of(budget.costs, shape, plan));
  const Bytes beside = shape.embedding_bytes + budget.kv_cache + *budget.reserve;
  const auto [least, most] = std::minmax_element(known.begin(), known.end());
  double last = std::numeric_limits<double>::infinity();
  for (unsigned step = 0; step <= 20; ++step) {
    budget.memory = beside + least->first - 5 + (most->first - least->first + 10) * step / 20;
    double best = std::numeric_limits<double>::infinity();
    for (const auto& [bytes, cost] : known)
      if (beside + bytes <= budget.memory) best = std::min(best, cost);
    const lsaq::Expected<Plan> plan = Planner(budget).try_plan({}, shape);
    ASSERT_EQ(plan.has_value(), std::isfinite(best));
    if (!plan) {
      EXPECT_EQ(plan.error().missing, beside + least->first - budget.memory);
      continue;
    }
    ASSERT_NEAR(plan->cost, best, 1e-12);
    ASSERT_NEAR(damage_of(budget.costs, shape, *plan), best, 1e-12);
    ASSERT_LE(plan->bytes.total, plan->bytes.memory);
    ASSERT_EQ(plan->bytes.weights, lsaq::weight_bytes(shape, *plan, lsaq::ScaleType::f16, {}, budget.destination));
    ASSERT_LE(plan->cost, last + 1e-12) << "more memory never gives a worse plan";
    last = plan->cost;
    for (const auto& [layer, width] : budget.pins)
      for (const lsaq::LinearShape& linear : shape.layers[layer].linears)
        ASSERT_EQ(plan->bits_of(layer, linear.name), linear.pinned != 0 ? linear.pinned : width);
    for (std::size_t l = 0; budget.fused && l < shape.layers.size(); ++l) {
      std::set<unsigned> widths;
      for (const lsaq::LinearShape& linear : shape.layers[l].linears)
        if (linear.group == "fused" && linear.pinned == 0) widths.insert(plan->bits_of(l, linear.name));
      ASSERT_LE(widths.size(), 1u);
    }
  }
}

TEST_P(SmallModels, AreNeverPlannedWorseThanUniformlyOrByThePapersRule) {
  Random random{std::mt19937(500 + GetParam())};
  const ModelShape shape = random_shape(random, 20, 5);
  Importance importance;
  for (std::size_t l = 0; l < shape.layers.size(); ++l) importance.scores.push_back(random.share());
  OptimalBudget budget;
  budget.widths = random.once_in(2) ? std::vector<unsigned>{2, 3, 4, 5, 6, 7, 8, 16} : std::vector<unsigned>{16, 4, 8};
  budget.by_linear = random.once_in(2);
  const CostTable costs = lsaq::costs_of_importance(importance, shape, budget.widths, budget.by_linear);
  const Bytes beside = shape.embedding_bytes + lsaq::default_reserve(shape);
  for (unsigned step = 0; step <= 20; ++step) {
    budget.memory = beside + lsaq::model_bytes(shape, 16) * step / 20;
    const lsaq::Expected<Plan> plan = Planner(budget).try_plan(importance, shape);
    const auto expect_as_good_as = [&](Plan other) {
      // Linears pinned by the shape are no decision of either.
      ASSERT_TRUE(plan);
      double cost = 0;
      for (std::size_t l = 0; l < shape.layers.size(); ++l) {
        const bool decided = std::any_of(shape.layers[l].linears.begin(), shape.layers[l].linears.end(), [](const auto& linear) { return linear.pinned == 0; });
        if (!decided) other.bits[l] = 16;
      }
      cost = lsaq::cost_of(costs, shape, {.bits = other.bits});
      ASSERT_LE(plan->cost, cost * (1 + 1e-12) + 1e-15);
    };
    const lsaq::Expected<Plan> paper = lsaq::Planner<lsaq::Budget>(budget).try_plan(importance, shape);
    if (paper) expect_as_good_as(*paper);
    for (const unsigned width : budget.widths) {
      const std::vector<unsigned> uniform(shape.layers.size(), width);
      if (beside + lsaq::weight_bytes(shape, uniform) <= budget.memory) expect_as_good_as({.bits = uniform});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SmallModels, testing::Range(0u, 60u));

const Importance four{.metric = "test", .scores = {0.3, 0.1, 0.4, 0.2}};

OptimalBudget exactly(Bytes bytes) { return {{.memory = bytes + small_beside, .reserve = 0}}; }

TEST(OptimalPlan, LowersWhatCostsLeast) {
  OptimalBudget budget = exactly(3 * small_8 + small_4);
  budget.widths = {4, 8, 16};
  EXPECT_THAT(Planner(budget)(four, small(4)).bits, ElementsAre(8, 4, 8, 8));
  budget.memory += 10;
  const Plan plan = Planner(budget)(four, small(4));
  EXPECT_THAT(plan.bits, ElementsAre(8, 4, 8, 8)) << "ten bytes more buy nothing";
  EXPECT_EQ(plan.bytes.total, plan.bytes.memory - 10);
  EXPECT_NEAR(plan.cost, 0.1 + 0.9 * lsaq::rounding_error(8), 1e-15);
  EXPECT_DOUBLE_EQ(plan.average_bits, 7);
}

TEST(OptimalPlan, UsesEveryWidthWhereItPays) {
  const Plan plan = Planner(exactly(2 * small_8 + 2 * small_4))(four, small(4));
  EXPECT_LE(plan.bytes.weights, 2 * small_8 + 2 * small_4 + 6);
  EXPECT_GE(*std::min_element(plan.bits.begin(), plan.bits.end()), 5u) << "6 bits for all cost less than 4 for half of them";
}

TEST(OptimalPlan, AllAtSixteenBitsCostsNothing) {
  const Plan plan = Planner(exactly(4 * small_16))(four, small(4));
  EXPECT_THAT(plan.bits, ElementsAre(16, 16, 16, 16));
  EXPECT_EQ(plan.cost, 0);
}

TEST(OptimalPlan, PinsMayBeOfAnyWidth) {
  OptimalBudget budget = exactly(4 * small_8);
  budget.widths = {4, 8};
  budget.pins = {{2, 16}, {0, 5}};
  const Plan plan = Planner(budget)(four, small(4));
  EXPECT_EQ(plan.bits[2], 16u);
  EXPECT_EQ(plan.bits[0], 5u);
  budget.pins = {{2, 9}};
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { Planner{budget}(four, small(4)); }), {"9 bits", "2 to 8"});
  budget.pins = {{4, 8}};
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { Planner{budget}(four, small(4)); }), {"layer 4", "last layer is 3"});
  budget.pins = {{1, 5}};
  budget.destination = lsaq::Destination::gguf;
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { Planner{budget}(four, small(4)); }), {"layer 1", "5 bits", "gguf"});
}

TEST(OptimalPlan, CachesAreChosenTogetherWithTheWeights) {
  OptimalBudget budget = exactly(4 * small_8 + 3000);
  budget.widths = {4, 8};
  budget.caches = {{.kv_cache = 3000, .activations = 200, .cost = 0}, {.kv_cache = 1600, .activations = 200, .cost = 0.02}};
  // The weights at 8 bits leave 3000 bytes: the small cache fits beside them, the large one takes a layer's precision, which costs more than 0.02.
  const Plan plan = Planner(budget)(four, small(4));
  EXPECT_THAT(plan.bits, ElementsAre(8, 8, 8, 8));
  EXPECT_EQ(plan.cache, 1u);
  EXPECT_EQ(plan.bytes.kv_cache, 1600u);
  EXPECT_EQ(plan.bytes.activations, 200u);
  EXPECT_EQ(plan.bytes.total, 4 * small_8 + small_beside + 1800);
  budget.caches[1].cost = 0.2;
  const Plan other = Planner(budget)(four, small(4));
  EXPECT_THAT(other.bits, ElementsAre(8, 4, 8, 8));
  EXPECT_EQ(other.cache, 0u);
  budget.memory = small_beside + 4 * small_4 + 1799;
  EXPECT_EQ(Planner(budget).try_plan(four, small(4)).error().missing, 1u) << "the smallest plan has the smaller cache";
}

TEST(OptimalPlan, UnusableCostsAreRefused) {
  const auto refusal = [&](const OptimalBudget& budget, const Importance& importance = {}) {
    const lsaq::Expected<Plan> plan = Planner(budget).try_plan(importance, small(2));
    EXPECT_FALSE(plan);
    EXPECT_EQ(plan.error().missing, 0u);
    return plan.error().message;
  };
  OptimalBudget budget = exactly(4 * small_8);
  const double infinity = std::numeric_limits<double>::infinity();
  budget.costs = {.widths = {4, 8}, .layers = {{1, 0}}};
  expect_mentions(refusal(budget), {"costs for 1 layers", "the model has 2"});
  budget.costs.layers = {{1, 0}, {1}};
  expect_mentions(refusal(budget), {"layer 1 has 1 costs for 2 widths"});
  budget.costs.layers = {{1, 0}, {std::nan(""), 1}};
  expect_mentions(refusal(budget), {"layer 1 at 4 bits", "not a number"});
  budget.costs.layers = {{infinity, infinity}, {1, 0}};
  expect_mentions(refusal(budget), {"layer 0 has no width"});
  budget.costs = {.widths = {4, 8}, .linears = {{{1, 0}}, {{1, 0}, {1, 0}}}};
  expect_mentions(refusal(budget), {"layer 1 has costs for 2 linears", "the model has 1"});
  budget.costs.layers = {{1, 0}, {1, 0}};
  expect_mentions(refusal(budget), {"either by layer or by linear"});
  budget.costs = {};
  expect_mentions(refusal(budget, {.scores = {1, infinity}}), {"layer 1", "infinite"});
  expect_mentions(refusal(budget, {.scores = {1}}), {"scores for 1 layers"});
  budget.widths = {1, 4};
  expect_mentions(refusal(budget, {.scores = {1, 1}}), {"1 bits"});
  budget.widths = {2, 3};
  budget.destination = lsaq::Destination::gguf;
  expect_mentions(refusal(budget, {.scores = {1, 1}}), {"none of the widths", "gguf"});
}

TEST(OptimalPlan, InfiniteCostsForbidAWidth) {
  OptimalBudget budget = exactly(2 * small_16);
  budget.costs = {.widths = {4, 8, 16}, .layers = {{3, std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()}, {3, 2, 1}}};
  EXPECT_THAT(Planner(budget)({}, small(2)).bits, ElementsAre(4, 16));
}

TEST(OptimalFrontier, GoesFromTheSmallestPlanToTheBest) {
  OptimalBudget budget = exactly(0);
  const std::vector<FrontierPoint> points = Optimal::frontier(four, small(4), budget);
  EXPECT_EQ(points.front().total, Optimal::smallest(small(4), budget) + 1000);
  EXPECT_DOUBLE_EQ(points.front().average_bits, 2);
  EXPECT_EQ(points.back().total, 4 * small_16 + small_beside);
  EXPECT_DOUBLE_EQ(points.back().average_bits, 16);
  EXPECT_NEAR(points.back().cost, 0, 1e-15);
  for (const FrontierPoint& point : points) {
    budget.memory = point.total;
    const Plan plan = Planner(budget)(four, small(4));
    EXPECT_NEAR(plan.cost, point.cost, 1e-12);
    EXPECT_EQ(plan.bytes.total, point.total);
    EXPECT_NEAR(plan.average_bits, point.average_bits, 1e-12);
  }
  EXPECT_GT(points.size(), 20u) << "four layers of eight widths";
}

TEST(Costs, FollowTheSquareOfTheStep) {
  EXPECT_EQ(lsaq::rounding_error(16), 0);
  EXPECT_EQ(lsaq::rounding_error(4), 1);
  EXPECT_DOUBLE_EQ(lsaq::rounding_error(2), 49);
  EXPECT_DOUBLE_EQ(lsaq::rounding_error(8), 49.0 / (127 * 127));
}

TEST(Costs, OfImportanceLeaveNoLayerFree) {
  const CostTable costs = lsaq::costs_of_importance({.scores = {2, 0, -5}}, small(3), {4, 8});
  EXPECT_THAT(costs.layers[0], ElementsAre(2, 2 * lsaq::rounding_error(8)));
  EXPECT_THAT(costs.layers[1], ElementsAre(0.02, 0.02 * lsaq::rounding_error(8)));
  EXPECT_EQ(costs.layers[2], costs.layers[1]);
  EXPECT_THAT(lsaq::costs_of_importance({.scores = {0, 0}}, small(2), {4}).layers, ElementsAre(ElementsAre(1), ElementsAre(1)));
}

TEST(Costs, ByLinearAddUpToTheLayers) {
  const ModelShape shape = shapes::llama("tiny", 2, 48, 80, 16, 10);
  const Importance two{.scores = {0.5, 0.25}};
  const CostTable layers = lsaq::costs_of_importance(two, shape, {3, 4, 8}), linears = lsaq::costs_of_importance(two, shape, {3, 4, 8}, true);
  for (const unsigned width : {3u, 4u, 8u})
    EXPECT_NEAR(lsaq::cost_of(layers, shape, {.bits = {width, 8}}), lsaq::cost_of(linears, shape, {.bits = {width, 8}}), 1e-13);
  EXPECT_TRUE(std::isinf(lsaq::cost_of(layers, shape, {.bits = {5, 8}})));
}

} // namespace optimal_test
