// What changes from one plan to another.
#include <lsaq/planning/plan_difference.hpp>

#include <formats/make_files.hpp>

namespace plan_difference_test {

using lsaq::changes;
using lsaq::Plan;
using lsaq::PlanChange;
using testing::ElementsAre;
using testing::IsEmpty;

TEST(PlanChanges, OfLayers) {
  EXPECT_THAT(changes({.bits = {8, 4, 16}}, {.bits = {8, 8, 4}}), ElementsAre(PlanChange{1, "", 4, 8}, PlanChange{2, "", 16, 4}));
  EXPECT_THAT(changes({.bits = {8, 4}}, {.bits = {8, 4}}), IsEmpty());
}

TEST(PlanChanges, OfLinearsThatAreExceptionsInEither) {
  const Plan from{.bits = {8, 8}, .tensors = {{"0.up", 4}, {"1.q", 3}}}, to{.bits = {8, 4}, .tensors = {{"0.down", 16}, {"1.q", 3}}};
  EXPECT_THAT(changes(from, to), ElementsAre(PlanChange{0, "down", 8, 16}, PlanChange{0, "up", 4, 8}, PlanChange{1, "", 8, 4}));
}

TEST(PlanChanges, OfOtherModelsAreRefused) {
  make_files::expect_mentions(make_files::message_of<lsaq::InvalidArgument>([] { changes({.bits = {8}}, {.bits = {8, 8}}); }), {"1 layers", "for 2"});
}

} // namespace plan_difference_test
