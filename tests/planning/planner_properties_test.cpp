// What must hold for every model and budget: plans fit, more memory never hurts, and as few layers as possible are lowered, in the paper's order.
#include <lsaq/planning/planner.hpp>

#include <gmock/gmock.h>

#include <random>

namespace planner_properties_test {

using lsaq::Bytes;
using lsaq::Importance;
using lsaq::MemoryBudget;
using lsaq::ModelShape;
using lsaq::Plan;
using Planner = lsaq::Planner<lsaq::Budget>;

struct Random {
  std::mt19937 engine;
  std::size_t between(std::size_t low, std::size_t high) { return std::uniform_int_distribution<std::size_t>(low, high)(engine); }
  bool once_in(std::size_t n) { return between(1, n) == 1; }
};

ModelShape random_shape(Random& random) {
  ModelShape shape{.name = "random", .embedding_bytes = random.between(0, 5000), .fixed_bytes = random.between(0, 50)};
  for (std::size_t l = random.between(1, 12); l > 0; --l) {
    lsaq::LayerShape layer{.fixed_bytes = random.between(0, 100)};
    for (std::size_t i = random.between(1, 4); i > 0; --i)
      layer.linears.push_back({.name = "linear" + std::to_string(i),
                               .rows = random.between(1, 40),
                               .columns = random.between(1, 70),
                               .count = random.once_in(5) ? 3u : 1u,
                               .pinned = random.once_in(8) ? 16u : 0u});
    shape.layers.push_back(std::move(layer));
  }
  return shape;
}

Importance random_importance(Random& random, std::size_t layers) {
  Importance importance;
  for (std::size_t l = 0; l < layers; ++l) importance.scores.push_back(static_cast<double>(random.between(0, 6)) / 6); // with ties
  return importance;
}

MemoryBudget random_budget(Random& random, std::size_t layers) {
  MemoryBudget budget{.releasable = random.between(0, 300), .kv_cache = random.between(0, 500), .activations = random.between(0, 500)};
  if (random.once_in(2)) budget.reserve = random.between(0, 400);
  while (random.once_in(3)) budget.pins.emplace_back(random.between(0, layers - 1), random.once_in(2) ? 16u : random.once_in(2) ? 8u : 4u);
  return budget;
}

/// Bytes of everything but the layers and the final norm.
Bytes beside(const ModelShape& shape, const MemoryBudget& budget) {
  return shape.embedding_bytes + budget.kv_cache + budget.activations + budget.reserve.value_or(lsaq::default_reserve(shape));
}

Bytes layers_at(const ModelShape& shape, const std::vector<unsigned>& bits) {
  Bytes sum = shape.fixed_bytes;
  for (std::size_t l = 0; l < bits.size(); ++l) {
    sum += shape.layers[l].fixed_bytes;
    for (const lsaq::LinearShape& linear : shape.layers[l].linears) {
      const unsigned width = linear.pinned != 0 ? linear.pinned : bits[l];
      const Bytes row = width == 16 ? 2 * linear.columns : (linear.columns * width + 31) / 32 * 4 + 2;
      sum += row * linear.rows * linear.count;
    }
  }
  return sum;
}

/// The paper's ladder: all 16, all 8, then one layer more at 4 each; pinned layers aside. Written apart from the planner.
std::vector<std::vector<unsigned>> ladder(const Importance& importance, const MemoryBudget& budget) {
  const std::size_t layers = importance.scores.size();
  std::vector<unsigned> pinned(layers, 0);
  for (const auto& [layer, width] : budget.pins) pinned[layer] = width;
  std::vector<std::vector<unsigned>> steps;
  for (const unsigned width : {16u, 8u}) {
    std::vector<unsigned> bits(pinned);
    for (unsigned& b : bits)
      if (b == 0) b = width;
    steps.push_back(bits);
  }
  std::vector<bool> lowered(layers, false);
  for (std::size_t n = 0; n < layers; ++n) {
    std::size_t least = layers;
    for (std::size_t l = 0; l < layers; ++l)
      if (pinned[l] == 0 && !lowered[l] && (least == layers || importance.scores[l] < importance.scores[least])) least = l;
    if (least == layers) break;
    lowered[least] = true;
    steps.push_back(steps.back());
    steps.back()[least] = 4;
  }
  return steps;
}

class AnyModel : public testing::TestWithParam<unsigned> {
protected:
  Random random{std::mt19937(GetParam())};
  ModelShape shape = random_shape(random);
  Importance importance = random_importance(random, shape.layers.size());
  MemoryBudget budget = random_budget(random, shape.layers.size());
  Bytes most = beside(shape, budget) + layers_at(shape, std::vector<unsigned>(shape.layers.size(), 16));

  /// Budgets from nothing to more than all: even steps, and the borders where a plan just fits.
  std::vector<Bytes> memories() {
    std::vector<Bytes> all;
    for (Bytes i = 0; i <= 20; ++i) all.push_back(most * i / 18);
    for (const std::vector<unsigned>& bits : ladder(importance, budget)) {
      const Bytes border = beside(shape, budget) + layers_at(shape, bits);
      for (const Bytes memory : {border - 1, border, border + 1}) all.push_back(memory - std::min(memory, budget.releasable));
    }
    std::sort(all.begin(), all.end());
    return all;
  }
};

TEST_P(AnyModel, PlansFitAndAddUp) {
  for (const Bytes memory : memories()) {
    budget.memory = memory;
    const lsaq::Expected<Plan> plan = Planner(budget).try_plan(importance, shape);
    if (!plan) continue;
    const lsaq::PlanBytes& b = plan->bytes;
    ASSERT_LE(b.total, b.memory);
    ASSERT_EQ(b.memory, memory + budget.releasable);
    ASSERT_EQ(b.total, b.weights + b.embedding + b.kv_cache + b.activations + b.reserve);
    ASSERT_EQ(b.total, beside(shape, budget) + layers_at(shape, plan->bits));
    ASSERT_EQ(b.weights, lsaq::weight_bytes(shape, *plan));
    for (std::size_t l = 0; l < shape.layers.size(); ++l)
      for (const lsaq::LinearShape& linear : shape.layers[l].linears)
        ASSERT_EQ(plan->bits_of(l, linear.name), linear.pinned != 0 ? linear.pinned : plan->bits[l]);
  }
}

TEST_P(AnyModel, MoreMemoryNeverGivesFewerBits) {
  double average = 0;
  bool fitted = false;
  for (const Bytes memory : memories()) {
    budget.memory = memory;
    const lsaq::Expected<Plan> plan = Planner(budget).try_plan(importance, shape);
    ASSERT_TRUE(plan || !fitted) << "did fit with less";
    if (!plan) continue;
    fitted = true;
    ASSERT_GE(plan->average_bits, average) << memory;
    average = plan->average_bits;
  }
  EXPECT_TRUE(fitted);
}

TEST_P(AnyModel, IsTheHighestStepOfThePapersLadderThatFits) {
  const std::vector<std::vector<unsigned>> steps = ladder(importance, budget);
  for (const Bytes memory : memories()) {
    budget.memory = memory;
    const lsaq::Expected<Plan> plan = Planner(budget).try_plan(importance, shape);
    const Bytes available = memory + budget.releasable, other = beside(shape, budget);
    const auto best = std::find_if(steps.begin(), steps.end(), [&](const auto& bits) { return other + layers_at(shape, bits) <= available; });
    ASSERT_EQ(plan.has_value(), best != steps.end());
    if (plan) {
      ASSERT_EQ(plan->bits, *best);
    } else {
      ASSERT_EQ(plan.error().missing, other + layers_at(shape, steps.back()) - available);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AnyModel, testing::Range(0u, 100u));

} // namespace planner_properties_test
