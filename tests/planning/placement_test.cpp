// Layers over several devices, against all divisions and plans of small models.
#include <lsaq/planning/placement.hpp>

#include "shapes.hpp"

#include <formats/make_files.hpp>

#include <random>

namespace placement_test {

using lsaq::Bytes;
using lsaq::DeviceBudget;
using lsaq::Importance;
using lsaq::ModelShape;
using lsaq::OptimalBudget;
using lsaq::PlacedPlan;
using make_files::expect_mentions;
using shapes::small;
using shapes::small_16;
using shapes::small_4;
using shapes::small_8;
using testing::ElementsAre;

const Importance four{.metric = "test", .scores = {0.3, 0.1, 0.4, 0.2}};

std::vector<std::size_t> counts(const PlacedPlan& placed) {
  std::vector<std::size_t> found;
  std::size_t next = 0;
  for (const lsaq::DeviceShare& range : placed.devices) {
    EXPECT_TRUE(range.layers == 0 || range.first_layer == next) << "contiguous, in order";
    next += range.layers;
    found.push_back(range.layers);
  }
  EXPECT_EQ(next, placed.plan.bits.size());
  return found;
}

TEST(Placement, EachDeviceKeepsToItsOwnBudget) {
  OptimalBudget options;
  options.widths = {4, 8};
  const std::vector<DeviceBudget> devices{{"a", 2 * small_8 + 100, 100}, {"b", small_8 + small_4 + 55, 55}};
  const lsaq::Expected<PlacedPlan> placed = lsaq::place(four, small(4), options, devices);
  ASSERT_TRUE(placed) << placed.error().message;
  EXPECT_THAT(counts(*placed), ElementsAre(2, 2));
  EXPECT_THAT(placed->plan.bits, ElementsAre(8, 8, 8, 4)) << "together there would be room to lower layer 1 instead; it is on the other device";
  EXPECT_EQ(placed->devices[0].bytes, devices[0].memory);
  EXPECT_EQ(placed->devices[1].bytes, devices[1].memory);
  EXPECT_EQ(placed->devices[1].name, "b");
}

TEST(Placement, KeysAndValuesGoWithTheirLayers) {
  OptimalBudget options;
  options.widths = {8};
  const std::vector<DeviceBudget> devices{{"a", small_8 + 1000, 0}, {"b", 3 * (small_8 + 1000), 0}};
  const lsaq::Expected<PlacedPlan> placed = lsaq::place(four, small(4), options, devices, {.each_layer = 1000});
  ASSERT_TRUE(placed);
  EXPECT_THAT(counts(*placed), ElementsAre(1, 3));
  EXPECT_EQ(placed->plan.bytes.kv_cache, 4000u);
  EXPECT_FALSE(lsaq::place(four, small(4), options, devices, {.each_layer = 1001}));
}

TEST(Placement, TheEndsOfTheModelGoWithTheirLayers) {
  OptimalBudget options;
  options.widths = {8};
  const lsaq::PlacedBytes bytes{.first_layer = 500, .last_layer = 520, .in_common = 500};
  const std::vector<DeviceBudget> two{{"a", 2 * small_8 + 500, 0}, {"b", 2 * small_8 + 520, 0}};
  const lsaq::Expected<PlacedPlan> divided = lsaq::place(four, small(4), options, two, bytes);
  ASSERT_TRUE(divided);
  EXPECT_EQ(divided->devices[0].bytes, two[0].memory);
  EXPECT_EQ(divided->devices[1].bytes, two[1].memory) << "a copy of what both ends need";
  const std::vector<DeviceBudget> one{{"a", 4 * small_8 + 520, 0}, {"b", 1, 0}};
  const lsaq::Expected<PlacedPlan> alone = lsaq::place(four, small(4), options, one, bytes);
  ASSERT_TRUE(alone) << "one copy";
  EXPECT_THAT(counts(*alone), ElementsAre(4, 0));
  EXPECT_EQ(alone->devices[0].bytes, one[0].memory);
}

TEST(Placement, UsesNoMoreDevicesThanHelp) {
  OptimalBudget options;
  const std::vector<DeviceBudget> devices{{"weak", 2 * small_4, 0}, {"strong", 4 * small_16, 0}, {"other", 4 * small_16, 0}};
  const lsaq::Expected<PlacedPlan> placed = lsaq::place(four, small(4), options, devices);
  ASSERT_TRUE(placed);
  EXPECT_EQ(placed->plan.cost, 0);
  std::size_t used = 0;
  for (const std::size_t count : counts(*placed)) used += count != 0;
  EXPECT_EQ(used, 1u);
  EXPECT_EQ(placed->devices[0].layers, 0u);
}

TEST(Placement, PinsAndTheirLayersStayTogether) {
  OptimalBudget options;
  options.widths = {4};
  options.pins = {{3, 16}};
  const std::vector<DeviceBudget> devices{{"a", 3 * small_4, 0}, {"b", small_16, 0}};
  const lsaq::Expected<PlacedPlan> placed = lsaq::place(four, small(4), options, devices);
  ASSERT_TRUE(placed);
  EXPECT_THAT(placed->plan.bits, ElementsAre(4, 4, 4, 16));
}

TEST(Placement, SaysWhyNothingFits) {
  OptimalBudget options;
  options.widths = {4, 8};
  const std::vector<DeviceBudget> devices{{"a", 2 * small_4 - 1, 0}, {"b", 2 * small_4, 0}};
  const lsaq::Expected<PlacedPlan> none = lsaq::place(four, small(4), options, devices);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().missing, 1u);
  expect_mentions(none.error().message, {"no division of 4 layers fits", std::to_string(4 * small_4)});
  expect_mentions(lsaq::place(four, small(4), options, {}).error().message, {"no devices"});
  expect_mentions(lsaq::place(four, small(5), options, devices).error().message, {"scores for 4 layers"});
}

TEST(Placement, IsTheBestOfAllDivisions) {
  std::mt19937 random(11);
  const auto between = [&](std::size_t low, std::size_t high) { return std::uniform_int_distribution<std::size_t>(low, high)(random); };
  const unsigned widths[] = {2, 4, 8};
  for (int round = 0; round < 60; ++round) {
    const std::size_t layers = between(1, 5);
    ModelShape shape = small(layers);
    OptimalBudget options;
    options.widths = {2, 4, 8};
    options.costs.widths = {2, 4, 8};
    for (lsaq::LayerShape& layer : shape.layers) {
      layer.linears[0].rows = between(10, 100);
      options.costs.layers.push_back({static_cast<double>(between(5, 90)), static_cast<double>(between(2, 20)), static_cast<double>(between(0, 3))});
    }
    std::vector<DeviceBudget> devices(between(1, 3));
    for (DeviceBudget& device : devices) device = {"d", between(500, 9000), between(0, 200)};
    double best = std::numeric_limits<double>::infinity();
    // Every width of every layer, and every way to divide them.
    std::vector<std::size_t> at(layers, 0), cut(devices.size() - 1, 0);
    for (std::size_t plan = 0, plans = static_cast<std::size_t>(std::pow(3, layers)); plan < plans; ++plan) {
      double cost = 0;
      for (std::size_t l = 0, rest = plan; l < layers; ++l, rest /= 3) cost += options.costs.layers[l][at[l] = rest % 3];
      for (std::size_t division = 0, divisions = static_cast<std::size_t>(std::pow(layers + 1, cut.size())); division < divisions; ++division) {
        for (std::size_t c = 0, rest = division; c < cut.size(); ++c, rest /= layers + 1) cut[c] = rest % (layers + 1);
        if (!std::is_sorted(cut.begin(), cut.end())) continue;
        bool fits = true;
        for (std::size_t d = 0; d < devices.size() && fits; ++d) {
          const std::size_t first = d == 0 ? 0 : cut[d - 1], end = d + 1 == devices.size() ? layers : cut[d];
          Bytes bytes = devices[d].beside;
          for (std::size_t l = first; l < end; ++l) bytes += lsaq::layer_bytes(shape.layers[l], widths[at[l]]);
          fits = first == end || bytes <= devices[d].memory;
        }
        if (fits) best = std::min(best, cost);
      }
    }
    const lsaq::Expected<PlacedPlan> placed = lsaq::place({}, shape, options, devices);
    ASSERT_EQ(placed.has_value(), std::isfinite(best));
    if (!placed) continue;
    ASSERT_NEAR(placed->plan.cost, best, 1e-9);
    for (std::size_t d = 0; d < devices.size(); ++d) ASSERT_LE(placed->devices[d].bytes, devices[d].memory);
  }
}

} // namespace placement_test
