// Cosine by hand: angles, vectors without a direction, residuals of any size.
#include <lsaq/importance/cosine.hpp>

#include "importance/calibration_states.hpp"

#include <formats/make_files.hpp>

namespace cosine_test {

using calibration_states::observe;
using calibration_states::random_text;
using calibration_states::Text;
using lsaq::Cosine;
using lsaq::ImportanceMetric;
using lsaq::InvalidArgument;
using lsaq::MatrixView;
using make_files::expect_mentions;
using make_files::message_of;
using testing::DoubleNear;
using testing::ElementsAre;

/// Boundaries of one position each.
std::vector<double> scores_of(const std::vector<std::vector<float>>& boundaries) {
  ImportanceMetric<Cosine> metric(boundaries.size() - 1);
  observe(metric, {1, boundaries[0].size(), boundaries});
  return metric.importance().scores;
}

TEST(CosinePolicy, ByHand) {
  EXPECT_THAT(scores_of({{3, 4}, {6, 8}, {-8, 6}, {8, -6}, {8, 0}}),
              ElementsAre(DoubleNear(0, 1e-15), DoubleNear(1, 1e-15), DoubleNear(2, 1e-15), DoubleNear(1 - 0.8, 1e-15)));
}

TEST(CosinePolicy, StaysWithinZeroAndTwo) { // rounded square roots may make the length of a vector shorter than it is
  for (int i = 1; i <= 50; ++i) {
    const float x = static_cast<float>(i) * 0.1f;
    const std::vector<double> scores = scores_of({{x, 0.7f, -0.3f}, {x, 0.7f, -0.3f}, {-x, -0.7f, 0.3f}});
    EXPECT_GE(scores[0], 0.0);
    EXPECT_LE(scores[1], 2.0);
    EXPECT_THAT(scores, ElementsAre(DoubleNear(0, 1e-15), DoubleNear(2, 1e-15)));
  }
}

TEST(CosinePolicy, ZeroVectors) {
  EXPECT_THAT(scores_of({{0, 0}, {0, 0}, {1, 2}, {0, 0}}), ElementsAre(0.0, 1.0, 1.0)); // nothing changed; something out of nothing and back
  EXPECT_THAT(scores_of({{0, 0}, {-0.0f, 0}}), ElementsAre(0.0));
}

TEST(CosinePolicy, LargeAndSmallStatesNeitherOverflowNorVanish) {
  EXPECT_THAT(scores_of({{3e38f, 0}, {3e38f, 3e38f}}), ElementsAre(DoubleNear(1 - std::sqrt(0.5), 1e-7)));
  EXPECT_THAT(scores_of({{1e-30f, 0}, {0, 1e-30f}}), ElementsAre(1.0));
  EXPECT_THAT(scores_of({{1e-45f, 0}, {1e-45f, 0}, {3e38f, 0}}), ElementsAre(DoubleNear(0, 1e-15), DoubleNear(0, 1e-15)));
}

TEST(CosinePolicy, OneHugeChannelDoesNotDrownTheOthers) {
  // As in real models: one channel of 26,000 among channels near 1. FP32 sums would lose the small ones, whose change is all there is.
  std::vector<float> entering(2000, 1.0f), leaving(2000, 1.0f);
  entering[0] = leaving[0] = 26000;
  for (std::size_t i = 1; i < leaving.size(); i += 2) leaving[i] = -1;
  const double length = 26000.0 * 26000 + 1999; // of both, squared; the product has 1000 minus ones and 999 ones
  EXPECT_THAT(scores_of({entering, leaving}), ElementsAre(DoubleNear(1 - (26000.0 * 26000 - 1) / length, 1e-15)));
}

TEST(CosinePolicy, AveragesOverPositions) {
  ImportanceMetric<Cosine> metric(1);
  observe(metric, {2, 2, {{1, 0, 1, 0}, {1, 0, 0, 1}}});
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.5));
}

TEST(CosinePolicy, FirstPositionBesideTheMeanOfTheOthers) {
  const auto score = [](double weight, std::size_t positions) {
    const std::vector<float> entering{1, 0, 1, 0, 1, 0}, leaving{-1, 0, 0, 1, 1, 0}; // 2; 1, 0
    ImportanceMetric<Cosine> metric(1, {.first_position = weight});
    observe(metric, {positions,
                     2,
                     {{entering.begin(), entering.begin() + 2 * static_cast<std::ptrdiff_t>(positions)},
                      {leaving.begin(), leaving.begin() + 2 * static_cast<std::ptrdiff_t>(positions)}}});
    return metric.importance().scores[0];
  };
  EXPECT_EQ(score(0, 3), 1.0) << "one like the others";
  EXPECT_EQ(score(0.25, 3), 0.5 + 0.25 * 2);
  EXPECT_EQ(score(3, 3), 0.5 + 3 * 2);
  EXPECT_EQ(score(3, 1), 2.0) << "there are no others";
}

TEST(CosinePolicy, OfManyStates) {
  const Text text = random_text(5, 7, 33, 4);
  ImportanceMetric<Cosine> metric(5);
  observe(metric, text);
  for (std::size_t l = 0; l < 5; ++l) {
    double sum = 0;
    for (std::size_t p = 0; p < 7; ++p) {
      long double products[3] = {};
      for (std::size_t i = 0; i < 33; ++i) {
        const long double a = text.boundaries[l][p * 33 + i], b = text.boundaries[l + 1][p * 33 + i];
        products[0] += a * b, products[1] += a * a, products[2] += b * b;
      }
      sum += static_cast<double>(1 - products[0] / std::sqrt(products[1] * products[2]));
    }
    EXPECT_NEAR(metric.importance().scores[l], sum / 7, 1e-14) << "layer " << l;
  }
  EXPECT_EQ(metric.importance().metric, "cosine");
  EXPECT_EQ(metric.results(), 1u);
}

TEST(CosinePolicy, ReadsRowsWithTheirStride) {
  const std::vector<float> entering{1, 0, 99, 0, 1, 99}, leaving{1, 0, -7, -7, -7, 1, 0};
  EXPECT_DOUBLE_EQ(Cosine::score({}, MatrixView(entering.data(), 2, 2, 3), MatrixView(leaving.data(), 2, 2, 5)), 0.5);
}

TEST(CosinePolicy, StatesThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    ImportanceMetric<Cosine> metric(2);
    for (const std::vector<float>& other : {std::vector<float>{1, 2}, {0, 0}, {bad, bad}})
      expect_mentions(message_of<InvalidArgument>([&] { observe(metric, {1, 2, {{1, 2}, other, {1, bad}}}); }), {"score of layer", "not finite"});
    EXPECT_THROW(metric.importance(), InvalidArgument) << "no window was counted";
  }
}

} // namespace cosine_test
