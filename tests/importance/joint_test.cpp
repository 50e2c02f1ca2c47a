// The joint order: the geometric mean of two measurements of the same windows.
#include <lsaq/importance/joint.hpp>

#include <formats/make_files.hpp>

#include <limits>

namespace joint_test {

using lsaq::Importance;
using lsaq::importance_of_windows;
using lsaq::InvalidArgument;
using lsaq::joint_importance;
using make_files::expect_mentions;
using make_files::message_of;
using testing::DoubleEq;
using testing::ElementsAre;

TEST(JointImportance, IsTheGeometricMeanWindowByWindow) {
  const Importance joint = joint_importance(importance_of_windows("jaccard", {0.25, 0.5, /**/ 1, 0}, 2), importance_of_windows("output", {4, 8, /**/ 9, 7}, 2));
  EXPECT_EQ(joint.metric, "joint");
  EXPECT_EQ(joint.windows, 2u);
  EXPECT_THAT(joint.window_scores, ElementsAre(1.0, 2.0, 3.0, 0.0));
  EXPECT_THAT(joint.scores, ElementsAre(2.0, 1.0));
  EXPECT_THAT(joint.spread, ElementsAre(DoubleEq(1), DoubleEq(1))); // deviation sqrt(2), over sqrt(2)
}

TEST(JointImportance, BothPartsCountAlike) {
  const Importance a = importance_of_windows("jaccard", {0.3, 0.9, 0.1}, 3), b = importance_of_windows("output", {2, 0.1, 5}, 3);
  EXPECT_EQ(joint_importance(a, b).scores, joint_importance(b, a).scores);
}

TEST(JointImportance, UnitsDoNotChangeTheOrder) {
  const Importance a = importance_of_windows("jaccard", {0.3, 0.9, 0.1}, 3);
  EXPECT_EQ(joint_importance(a, importance_of_windows("output", {2, 0.1, 5}, 3)).order(),
            joint_importance(a, importance_of_windows("output", {2e9, 1e8, 5e9}, 3)).order());
}

TEST(JointImportance, PartsThatDoNotFitAreRefused) {
  const auto refusal = [](const Importance& change, const Importance& error) {
    return message_of<InvalidArgument>([&] { (void)joint_importance(change, error); });
  };
  const Importance one = importance_of_windows("jaccard", {1, 2}, 2), two = importance_of_windows("output", {1, 2, 3, 4}, 2);
  expect_mentions(refusal(one, two), {"the same windows and layers"});
  expect_mentions(refusal(importance_of_windows("jaccard", {1, 2, 3, 4}, 4), two), {"the same windows and layers"}); // as many numbers
  Importance means_only = one;
  means_only.window_scores.clear();
  expect_mentions(refusal(means_only, means_only), {"the same windows and layers"});
  for (const double bad : {-1e-9, std::numeric_limits<double>::quiet_NaN()}) {
    expect_mentions(refusal(one, importance_of_windows("output", {1, bad}, 2)), {"scores that are not negative"});
    expect_mentions(refusal(importance_of_windows("jaccard", {bad, 1}, 2), one), {"scores that are not negative"});
  }
}

} // namespace joint_test
