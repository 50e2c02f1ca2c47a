// The plan as data: bits of a linear, exceptions, counts.
#include <lsaq/planning/plan.hpp>

#include <gmock/gmock.h>

namespace plan_test {

using lsaq::Plan;

TEST(PlanData, BitsOfALinearAreThoseOfItsLayer) {
  const Plan plan{.bits = {16, 8, 4}};
  EXPECT_EQ(plan.bits_of(0, "mlp.up_proj"), 16u);
  EXPECT_EQ(plan.bits_of(2, "anything"), 4u);
  EXPECT_THROW(static_cast<void>(plan.bits_of(3, "mlp.up_proj")), std::out_of_range);
}

TEST(PlanData, ExceptionsForSingleTensors) {
  const Plan plan{.bits = {8, 4}, .tensors = {{"0.mlp.down_proj", 16}, {"1.self_attn.q_proj", 8}}};
  EXPECT_EQ(plan.bits_of(0, "mlp.down_proj"), 16u);
  EXPECT_EQ(plan.bits_of(1, "mlp.down_proj"), 4u) << "of that layer only";
  EXPECT_EQ(plan.bits_of(1, "self_attn.q_proj"), 8u);
  EXPECT_EQ(plan.bits_of(0, "self_attn.q_proj"), 8u);
  EXPECT_EQ(plan.bits_of(0, "down_proj"), 8u) << "no part of a name";
}

TEST(PlanData, KeysOfTensors) {
  EXPECT_EQ(Plan::tensor_key(3, "mlp.down_proj"), "3.mlp.down_proj");
  EXPECT_EQ(Plan::tensor_key(11, "a"), "11.a");
}

TEST(PlanData, CountsLayersByWidth) {
  const Plan plan{.bits = {8, 4, 8, 16, 4, 4}};
  EXPECT_EQ(plan.layers_at(16), 1u);
  EXPECT_EQ(plan.layers_at(8), 2u);
  EXPECT_EQ(plan.layers_at(4), 3u);
  EXPECT_EQ(plan.layers_at(2), 0u);
}

} // namespace plan_test
