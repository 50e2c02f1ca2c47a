// The order that scores give: least important first, ties to the lower layer. Means and standard errors of windows.
#include <lsaq/importance/layer_importance.hpp>

#include <gmock/gmock.h>

namespace layer_importance_test {

using lsaq::Importance;
using testing::DoubleEq;
using testing::ElementsAre;

TEST(LayerImportance, OrdersFromLeastToMostImportant) {
  const Importance importance{.scores = {0.4, 0.1, 0.9, 0.2}};
  EXPECT_THAT(importance.order(), ElementsAre(1, 3, 0, 2));
}

TEST(LayerImportance, TiesGoToTheLowerLayer) {
  const Importance importance{.scores = {0.5, 0.2, 0.5, 0.2, 0.2}};
  EXPECT_THAT(importance.order(), ElementsAre(1, 3, 4, 0, 2));
  EXPECT_THAT((Importance{.scores = std::vector<double>(5, 0.25)}.order()), ElementsAre(0, 1, 2, 3, 4));
}

TEST(LayerImportance, TiesKeepTheirOrderAmongManyLayers) {
  std::vector<double> scores(200);
  for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<double>(i * 7 % 5);
  const std::vector<std::size_t> order = Importance{.scores = scores}.order();
  ASSERT_EQ(order.size(), scores.size());
  for (std::size_t i = 1; i < order.size(); ++i) {
    EXPECT_LE(scores[order[i - 1]], scores[order[i]]);
    if (scores[order[i - 1]] == scores[order[i]]) {
      EXPECT_LT(order[i - 1], order[i]);
    }
  }
}

TEST(LayerImportance, NegativeScoresAndZeros) {
  EXPECT_THAT((Importance{.scores = {0.0, -1.0, -0.0, -2.0}}.order()), ElementsAre(3, 1, 0, 2)); // the two zeros tie
  EXPECT_TRUE(Importance{}.order().empty());
}

TEST(ImportanceOfWindows, MeanAndStandardError) {
  const Importance found = lsaq::importance_of_windows("mine", {1, -4, 0.5, /**/ 2, -4, 0.25, /**/ 6, -4, 0.75}, 3); // windows x layers
  EXPECT_EQ(found.metric, "mine");
  EXPECT_EQ(found.windows, 3u);
  EXPECT_THAT(found.scores, ElementsAre(3.0, -4.0, 0.5));
  EXPECT_THAT(found.spread, ElementsAre(DoubleEq(std::sqrt((4.0 + 1 + 9) / 2 / 3)), 0.0, DoubleEq(0.25 / std::sqrt(3.0))));
  EXPECT_THAT(found.window_scores, ElementsAre(1, -4, 0.5, 2, -4, 0.25, 6, -4, 0.75));
}

TEST(ImportanceOfWindows, OneWindowHasNoSpread) {
  const Importance found = lsaq::importance_of_windows("mine", {3, 1}, 2);
  EXPECT_EQ(found.windows, 1u);
  EXPECT_THAT(found.scores, ElementsAre(3.0, 1.0));
  EXPECT_THAT(found.spread, ElementsAre(0.0, 0.0));
  EXPECT_THAT(found.order(), ElementsAre(1, 0));
}

} // namespace layer_importance_test
