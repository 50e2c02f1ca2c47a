// The paper's rule on small models whose bytes are added up by hand.
#include <lsaq/planning/planner.hpp>

#include "shapes.hpp"

#include <formats/make_files.hpp>

#include <limits>

namespace planner_test {

using lsaq::Bytes;
using lsaq::Importance;
using lsaq::Infeasible;
using lsaq::InvalidArgument;
using lsaq::MemoryBudget;
using lsaq::ModelShape;
using lsaq::Plan;
using make_files::expect_mentions;
using make_files::message_of;
using shapes::small;
using shapes::small_16;
using shapes::small_4;
using shapes::small_8;
using shapes::small_beside;
using testing::ElementsAre;
using Planner = lsaq::Planner<lsaq::Budget>;

Importance scored(std::vector<double> scores) { return {.metric = "test", .scores = std::move(scores)}; }

const Importance four = scored({0.3, 0.1, 0.4, 0.2}); // least important first: 1, 3, 0, 2

/// A budget without a reserve, which leaves `bytes` to the layers of small().
MemoryBudget exactly(Bytes bytes) { return {.memory = bytes + small_beside, .reserve = 0}; }

TEST(PapersRule, SixteenBitsIfAllLayersFit) {
  EXPECT_THAT(Planner(exactly(4 * small_16))(four, small(4)).bits, ElementsAre(16, 16, 16, 16));
  EXPECT_THAT(Planner(exactly(4 * small_16 - 1))(four, small(4)).bits, ElementsAre(8, 8, 8, 8)) << "all or none";
}

TEST(PapersRule, EightBitsIfAllLayersFit) {
  EXPECT_THAT(Planner(exactly(4 * small_8))(four, small(4)).bits, ElementsAre(8, 8, 8, 8));
  EXPECT_THAT(Planner(exactly(4 * small_8 - 1))(four, small(4)).bits, ElementsAre(8, 4, 8, 8));
}

TEST(PapersRule, FourBitsFromTheLeastImportantLayerOn) {
  EXPECT_THAT(Planner(exactly(3 * small_8 + small_4))(four, small(4)).bits, ElementsAre(8, 4, 8, 8));
  EXPECT_THAT(Planner(exactly(3 * small_8 + small_4 - 1))(four, small(4)).bits, ElementsAre(8, 4, 8, 4));
  EXPECT_THAT(Planner(exactly(2 * small_8 + 2 * small_4 - 1))(four, small(4)).bits, ElementsAre(4, 4, 8, 4));
  EXPECT_THAT(Planner(exactly(small_8 + 3 * small_4 - 1))(four, small(4)).bits, ElementsAre(4, 4, 4, 4));
  EXPECT_THAT(Planner(exactly(4 * small_4))(four, small(4)).bits, ElementsAre(4, 4, 4, 4));
}

TEST(PapersRule, TiesLowerTheLowerLayerFirst) {
  const Importance equal = scored({0.5, 0.5, 0.5, 0.5}), pair = scored({0.7, 0.2, 0.7, 0.2});
  EXPECT_THAT(Planner(exactly(3 * small_8 + small_4))(equal, small(4)).bits, ElementsAre(4, 8, 8, 8));
  EXPECT_THAT(Planner(exactly(2 * small_8 + 2 * small_4))(equal, small(4)).bits, ElementsAre(4, 4, 8, 8));
  EXPECT_THAT(Planner(exactly(small_8 + 3 * small_4))(pair, small(4)).bits, ElementsAre(4, 4, 8, 4));
}

TEST(PapersRule, LayersOfDifferentSizeAreLoweredInOrderUntilItFits) {
  ModelShape shape = small(3);
  shape.layers[1].linears[0].rows = 200; // 13200 bytes at 8 bits, 6800 at 4
  const Bytes at_8 = 2 * small_8 + 13210;
  // Layer 0 goes first although layer 1 alone would have saved enough.
  EXPECT_THAT(Planner(exactly(at_8 - 6400))(scored({0.1, 0.2, 0.3}), shape).bits, ElementsAre(4, 4, 8));
  EXPECT_THAT(Planner(exactly(at_8 - 3200))(scored({0.1, 0.2, 0.3}), shape).bits, ElementsAre(4, 8, 8));
  EXPECT_THAT(Planner(exactly(at_8 - 6400))(scored({0.2, 0.1, 0.3}), shape).bits, ElementsAre(8, 4, 8));
}

TEST(PlanBytes, AddUpToTheTotal) {
  const MemoryBudget budget{.memory = 40000, .releasable = 5000, .kv_cache = 1100, .activations = 220, .reserve = 33};
  const Plan plan = Planner(budget)(four, small(4));
  EXPECT_THAT(plan.bits, ElementsAre(8, 8, 8, 8));
  EXPECT_EQ(plan.bytes.weights, 4 * small_8 + 6);
  EXPECT_EQ(plan.bytes.embedding, 1000u);
  EXPECT_EQ(plan.bytes.kv_cache, 1100u);
  EXPECT_EQ(plan.bytes.activations, 220u);
  EXPECT_EQ(plan.bytes.reserve, 33u);
  EXPECT_EQ(plan.bytes.total, 4 * small_8 + 6 + 1000 + 1100 + 220 + 33);
  EXPECT_EQ(plan.bytes.memory, 45000u);
  EXPECT_DOUBLE_EQ(plan.average_bits, 8);
}

TEST(PlanBytes, EveryPartTakesFromTheLayers) {
  const Bytes enough = 4 * small_8 + small_beside;
  EXPECT_EQ(Planner({.memory = enough, .reserve = 0})(four, small(4)).layers_at(8), 4u);
  EXPECT_EQ(Planner({.memory = enough, .kv_cache = 1, .reserve = 0})(four, small(4)).layers_at(8), 3u);
  EXPECT_EQ(Planner({.memory = enough, .activations = 1, .reserve = 0})(four, small(4)).layers_at(8), 3u);
  EXPECT_EQ(Planner({.memory = enough, .reserve = 1})(four, small(4)).layers_at(8), 3u);
  EXPECT_EQ(Planner({.memory = enough - 1, .reserve = 0})(four, small(4)).layers_at(8), 3u);
  EXPECT_EQ(Planner({.memory = enough - 1, .releasable = 1, .reserve = 0})(four, small(4)).layers_at(8), 4u) << "memory of the old weights counts as free";
  EXPECT_EQ(Planner({.memory = 0, .releasable = enough, .reserve = 0})(four, small(4)).layers_at(8), 4u);
}

TEST(PlanBytes, ReserveIsThreePercentUnlessGiven) {
  const Plan by_default = Planner({.memory = 60000})(four, small(4));
  EXPECT_EQ(by_default.bytes.reserve, lsaq::default_reserve(small(4)));
  EXPECT_NEAR(static_cast<double>(by_default.bytes.reserve), 0.03 * (4 * small_16 + small_beside), 1);
  EXPECT_EQ(Planner({.memory = 60000, .reserve = 0})(four, small(4)).bytes.reserve, 0u);
  EXPECT_EQ(Planner({.memory = 60000, .reserve = 77})(four, small(4)).bytes.reserve, 77u);
}

TEST(Pins, OfLayersHoldAtEveryStep) {
  MemoryBudget budget = exactly(4 * small_16);
  budget.pins = {{1, 4}};
  EXPECT_THAT(Planner(budget)(four, small(4)).bits, ElementsAre(16, 4, 16, 16));
  budget.pins = {{1, 16}, {3, 16}}; // the two least important
  budget.memory = 2 * small_16 + 2 * small_8 + small_beside;
  EXPECT_THAT(Planner(budget)(four, small(4)).bits, ElementsAre(8, 16, 8, 16));
  budget.memory -= 1;
  EXPECT_THAT(Planner(budget)(four, small(4)).bits, ElementsAre(4, 16, 8, 16));
  budget.memory = 2 * small_16 + 2 * small_4 + small_beside;
  EXPECT_THAT(Planner(budget)(four, small(4)).bits, ElementsAre(4, 16, 4, 16));
  budget.memory -= 1;
  EXPECT_EQ(Planner(budget).try_plan(four, small(4)).error().missing, 1u) << "the smallest plan keeps the pins too";
}

TEST(Pins, OfAllLayers) {
  MemoryBudget budget = exactly(2 * small_16 + 2 * small_4);
  budget.pins = {{0, 16}, {1, 4}, {2, 4}, {3, 16}};
  EXPECT_THAT(Planner(budget)(four, small(4)).bits, ElementsAre(16, 4, 4, 16));
  budget.memory -= 1;
  EXPECT_FALSE(Planner(budget).try_plan(four, small(4)));
}

TEST(Pins, TheLaterOneOfALayerCounts) {
  MemoryBudget budget = exactly(4 * small_16);
  budget.pins = {{2, 4}, {2, 8}};
  EXPECT_THAT(Planner(budget)(four, small(4)).bits, ElementsAre(16, 16, 8, 16));
}

TEST(Pins, ThatMakeNoSenseAreRefused) {
  MemoryBudget budget = exactly(4 * small_16);
  budget.pins = {{4, 8}};
  expect_mentions(message_of<InvalidArgument>([&] { Planner{budget}(four, small(4)); }), {"layer 4", "last layer is 3"});
  for (const unsigned width : {0u, 2u, 5u, 32u}) {
    budget.pins = {{2, width}};
    expect_mentions(message_of<InvalidArgument>([&] { Planner{budget}(four, small(4)); }), {"layer 2", std::to_string(width) + " bits", "16, 8 and 4"});
  }
}

TEST(PinnedLinears, KeepTheirBitsAndAreCountedSo) {
  ModelShape shape = small(2);
  for (lsaq::LayerShape& layer : shape.layers) layer.linears.push_back({.name = "router", .rows = 4, .columns = 64, .pinned = 16}); // 512 bytes
  const Importance two = scored({0.2, 0.1});
  const Plan plan = Planner(exactly(small_8 + small_4 + 2 * 512))(two, shape);
  EXPECT_THAT(plan.bits, ElementsAre(8, 4));
  EXPECT_EQ(plan.bytes.weights, small_8 + small_4 + 2 * 512 + 6);
  EXPECT_DOUBLE_EQ(plan.average_bits, (6400 * 8 + 6400 * 4 + 2 * 256 * 16) / (2 * 6656.0));
  // An engine deploys what bits_of says: it must be what was counted.
  EXPECT_EQ(plan.bits_of(0, "linear"), 8u);
  EXPECT_EQ(plan.bits_of(1, "linear"), 4u);
  EXPECT_EQ(plan.bits_of(0, "router"), 16u);
  EXPECT_EQ(plan.bits_of(1, "router"), 16u);
  EXPECT_EQ(lsaq::weight_bytes(shape, plan), plan.bytes.weights);
  EXPECT_EQ(Planner(exactly(2 * small_4 + 2 * 512 - 1)).try_plan(two, shape).error().missing, 1u);
}

TEST(PinnedLinears, PlansWithoutThemNameNoTensors) { EXPECT_TRUE(Planner(exactly(4 * small_4))(four, small(4)).tensors.empty()); }

TEST(InfeasibleBudget, CarriesExactlyTheMissingBytes) {
  for (const Bytes missing : {Bytes{1}, Bytes{1000}, 4 * small_4, 4 * small_4 + small_beside}) {
    const MemoryBudget budget = {.memory = 4 * small_4 + small_beside - missing, .reserve = 0};
    try {
      Planner{budget}(four, small(4));
      FAIL() << "fits with " << missing << " bytes less than the smallest plan";
    } catch (const Infeasible& error) {
      EXPECT_EQ(error.missing, missing);
      expect_mentions(error.what(),
                      {std::to_string(4 * small_4 + small_beside), std::to_string(budget.memory), std::to_string(missing) + " bytes are missing"});
      EXPECT_NO_THROW(Planner({.memory = budget.memory + error.missing, .reserve = 0})(four, small(4)));
      EXPECT_THROW(Planner({.memory = budget.memory + error.missing - 1, .reserve = 0})(four, small(4)), Infeasible);
    }
  }
}

TEST(InfeasibleBudget, CountsWhatStandsBesideTheWeights) {
  MemoryBudget budget{.memory = 100, .releasable = 10, .kv_cache = 50000, .activations = 600};
  const Bytes missing = 4 * small_4 + small_beside + 50600 + lsaq::default_reserve(small(4)) - 110;
  EXPECT_EQ(Planner(budget).try_plan(four, small(4)).error().missing, missing);
  budget.memory += missing;
  const lsaq::Expected<Plan> plan = Planner(budget).try_plan(four, small(4));
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->bytes.total, plan->bytes.memory);
}

TEST(InfeasibleBudget, AlsoForAModelWithoutWeightsInItsLayers) {
  ModelShape shape{.name = "empty", .layers = std::vector<lsaq::LayerShape>(2), .embedding_bytes = 100};
  const Importance two = scored({1, 2});
  const lsaq::Expected<Plan> none = Planner({.memory = 99, .reserve = 0}).try_plan(two, shape);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().missing, 1u);
  EXPECT_THAT(Planner({.memory = 100, .reserve = 0})(two, shape).bits, ElementsAre(16, 16));
}

TEST(TryPlan, GivesThePlanOrTheReason) {
  const Planner planner(exactly(4 * small_8));
  const lsaq::Expected<Plan> plan = planner.try_plan(four, small(4));
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->bits, planner(four, small(4)).bits);
  const lsaq::Expected<Plan> none = Planner(exactly(0)).try_plan(four, small(4));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().missing, 4 * small_4);
  expect_mentions(none.error().message, {"the smallest plan needs"});
}

TEST(TryPlan, ScoresOfAnotherModelAreNotInfeasible) {
  const lsaq::Expected<Plan> plan = Planner(exactly(4 * small_8)).try_plan(four, small(5));
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().missing, 0u);
  expect_mentions(plan.error().message, {"scores for 4 layers", "the model has 5"});
  EXPECT_THROW(Planner(exactly(4 * small_8))(four, small(5)), InvalidArgument);
  EXPECT_THROW(Planner(exactly(0))(scored({}), small(1)), InvalidArgument);
}

TEST(TryPlan, ScoresThatAreNoNumbersHaveNoOrder) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();
  const lsaq::Expected<Plan> plan = Planner(exactly(4 * small_8)).try_plan(scored({0, 0, nan, 0}), small(4));
  ASSERT_FALSE(plan);
  EXPECT_EQ(plan.error().missing, 0u);
  expect_mentions(plan.error().message, {"layer 2", "not a number"});
  EXPECT_TRUE(Planner(exactly(4 * small_8)).try_plan(scored({0, infinity, 0, -infinity}), small(4))) << "these do";
}

TEST(PlannerValue, CanBeUsedAgain) {
  const Planner planner(exactly(2 * small_8 + small_4));
  const Plan first = planner(scored({0.3, 0.1, 0.2}), small(3)), second = planner(scored({0.1, 0.2, 0.3}), small(3));
  EXPECT_THAT(first.bits, ElementsAre(8, 4, 8));
  EXPECT_THAT(second.bits, ElementsAre(4, 8, 8));
  EXPECT_EQ(planner(scored({0.3, 0.1, 0.2}), small(3)).bits, first.bits);
}

/// A strategy as an engine's author would write it: every second layer at 4 bits, the others at 16.
struct EverySecond {
  using Options = MemoryBudget;
  static std::optional<std::vector<unsigned>> choose(const Importance&, const ModelShape& shape, const Options& options, Bytes available) {
    if (smallest(shape, options) > available) return std::nullopt;
    return widths(shape);
  }
  static Bytes smallest(const ModelShape& shape, const Options&) { return lsaq::weight_bytes(shape, widths(shape)); }

private:
  static std::vector<unsigned> widths(const ModelShape& shape) {
    std::vector<unsigned> bits(shape.layers.size(), 16);
    for (std::size_t l = 1; l < bits.size(); l += 2) bits[l] = 4;
    return bits;
  }
};

static_assert(lsaq::planning_strategy<EverySecond> && !lsaq::planning_strategy<lsaq::Plan>);

TEST(OwnStrategy, IsPlannedWithLikeThePapers) {
  using Own = lsaq::Planner<EverySecond>;
  const Bytes needed = 2 * small_16 + 2 * small_4;
  const Plan plan = Own(exactly(needed))(four, small(4));
  EXPECT_THAT(plan.bits, ElementsAre(16, 4, 16, 4));
  EXPECT_EQ(plan.bytes.total, needed + small_beside);
  EXPECT_DOUBLE_EQ(plan.average_bits, 10);
  EXPECT_EQ(Own(exactly(needed - 7)).try_plan(four, small(4)).error().missing, 7u);
}

/// A strategy that forgets the last layer.
struct OneTooFew {
  using Options = MemoryBudget;
  static std::optional<std::vector<unsigned>> choose(const Importance&, const ModelShape& shape, const Options&, Bytes) {
    return std::vector<unsigned>(shape.layers.size() - 1, 8);
  }
  static Bytes smallest(const ModelShape&, const Options&) { return 0; }
};

TEST(OwnStrategy, OfTheWrongLengthIsRefused) {
  expect_mentions(message_of<InvalidArgument>([] { lsaq::Planner<OneTooFew>{exactly(1)}(four, small(4)); }), {"3 layers", "a model of 4"});
}

} // namespace planner_test
