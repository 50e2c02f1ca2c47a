// Scores of weights by hand: outliers against the mean of a whole layer.
#include <lsaq/importance/weight_outliers.hpp>

#include <lsaq/importance/metric.hpp>

#include <formats/make_files.hpp>

#include <random>

namespace weight_outliers_test {

using lsaq::Importance;
using lsaq::ImportanceMetric;
using lsaq::InvalidArgument;
using lsaq::MatrixView;
using lsaq::WeightOutliers;
using make_files::expect_mentions;
using make_files::message_of;
using testing::DoubleEq;
using testing::ElementsAre;

/// 100 weights: 99 zeros and a 10. Mean 0.1, deviation 0.995: three deviations end below 3.1.
std::vector<float> with_one_outlier() {
  std::vector<float> weights(100, 0.0f);
  weights[37] = 10;
  return weights;
}

TEST(WeightOutliersPolicy, ShareOfWeightsFarFromTheMean) {
  const std::vector<float> weights = with_one_outlier();
  const MatrixView matrix(weights.data(), 10, 10);
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({}, {&matrix, 1}), 0.01);
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({.sigmas = 9.94}, {&matrix, 1}), 0.01);
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({.sigmas = 9.96}, {&matrix, 1}), 0); // (10 - 0.1) / 0.99499 is 9.9499
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({.sigmas = 0.1}, {&matrix, 1}), 1) << "the zeros are 0.1005 deviations away";
}

TEST(WeightOutliersPolicy, FarBelowTheMeanCountsToo) {
  std::vector<float> weights = with_one_outlier();
  weights[5] = -10;
  const MatrixView matrix(weights.data(), 10, 10);
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({}, {&matrix, 1}), 0.02);
}

TEST(WeightOutliersPolicy, MeanAndDeviationAreThoseOfTheWholeLayer) {
  const std::vector<float> fives(6, 5.0f), zeros(6, 0.0f); // alone neither has outliers; together: mean 2.5, deviation 2.5
  const MatrixView linears[] = {{fives.data(), 2, 3}, {zeros.data(), 3, 2}};
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({.sigmas = 0.9}, linears), 1);
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({.sigmas = 1.1}, linears), 0);
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({.sigmas = 0.9}, {linears, 1}), 0);
}

TEST(WeightOutliersPolicy, MatricesCountByTheirSize) {
  const std::vector<float> outlier{10}, zeros(99, 0.0f);
  const MatrixView linears[] = {{outlier.data(), 1, 1}, {zeros.data(), 9, 11}};
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({}, linears), 0.01);
}

TEST(WeightOutliersPolicy, TypesAndStrides) {
  constexpr std::size_t stride = 13;
  const std::vector<float> weights = with_one_outlier();
  std::vector<lsaq::f16> f16(10 * stride, lsaq::to_f16(1000));
  std::vector<lsaq::bf16> bf16(10 * stride, lsaq::to_bf16(1000));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    f16[i / 10 * stride + i % 10] = lsaq::to_f16(weights[i]);
    bf16[i / 10 * stride + i % 10] = lsaq::to_bf16(weights[i]);
  }
  const MatrixView linears[] = {{f16.data(), 10, 10, stride}, {bf16.data(), 10, 10, stride}, {weights.data(), 10, 10}};
  EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({}, linears), 0.01);
}

TEST(WeightOutliersPolicy, EqualWeightsHaveNoOutliers) {
  const std::vector<float> tenths(1000, 0.1f);
  const MatrixView matrix(tenths.data(), 10, 100);
  EXPECT_EQ(WeightOutliers::score_layer({.sigmas = 0}, {&matrix, 1}), 0);
  EXPECT_EQ(WeightOutliers::score_layer({}, {}), 0);
}

TEST(WeightOutliersMetric, DirectionIsTheCallersChoice) {
  const std::vector<float> calm(100, 0.0f), wild = with_one_outlier();
  for (const bool more_is_important : {true, false}) {
    ImportanceMetric<WeightOutliers> metric(2, {.more_is_important = more_is_important});
    metric.observe_weights(0, MatrixView(wild.data(), 10, 10));
    metric.observe_weights(1, MatrixView(calm.data(), 10, 10));
    const Importance importance = metric.importance();
    EXPECT_DOUBLE_EQ(importance.scores[0], more_is_important ? 0.01 : -0.01);
    EXPECT_EQ(importance.order().front(), more_is_important ? 1u : 0u);
  }
}

TEST(WeightOutliersMetric, ResultHasNoWindowsAndNoSpread) {
  const std::vector<float> weights = with_one_outlier();
  ImportanceMetric<WeightOutliers> metric(1);
  metric.observe_weights(0, MatrixView(weights.data(), 10, 10));
  const Importance importance = metric.importance();
  EXPECT_EQ(importance.metric, "outlier");
  EXPECT_EQ(importance.windows, 0u);
  EXPECT_THAT(importance.scores, ElementsAre(DoubleEq(0.01)));
  EXPECT_THAT(importance.spread, ElementsAre(0.0));
}

TEST(WeightOutliersMetric, ALayerSeenTwiceKeepsTheLaterScore) {
  const std::vector<float> calm(100, 0.0f), wild = with_one_outlier();
  ImportanceMetric<WeightOutliers> metric(1);
  metric.observe_weights(0, MatrixView(calm.data(), 10, 10));
  metric.observe_weights(0, MatrixView(wild.data(), 10, 10));
  EXPECT_THAT(metric.importance().scores, ElementsAre(DoubleEq(0.01)));
}

TEST(WeightOutliersMetric, MergeFillsTheLayersTheOtherSaw) {
  const std::vector<float> calm(100, 0.0f), wild = with_one_outlier();
  ImportanceMetric<WeightOutliers> first(3), second(3);
  first.observe_weights(0, MatrixView(wild.data(), 10, 10));
  second.observe_weights(1, MatrixView(wild.data(), 10, 10));
  second.observe_weights(2, MatrixView(calm.data(), 10, 10));
  first.merge(second);
  EXPECT_THAT(first.importance().scores, ElementsAre(DoubleEq(0.01), DoubleEq(0.01), 0.0));
}

TEST(WeightOutliersMetric, SaysWhichLayerIsMissingOrOutOfRange) {
  const std::vector<float> weights = with_one_outlier();
  const MatrixView matrix(weights.data(), 10, 10);
  ImportanceMetric<WeightOutliers> metric(3);
  metric.observe_weights(0, matrix);
  metric.observe_weights(2, matrix);
  expect_mentions(message_of<InvalidArgument>([&] { metric.importance(); }), {"weights of layer 1 were not observed"});
  expect_mentions(message_of<InvalidArgument>([&] { metric.observe_weights(3, matrix); }), {"layer 3 of 3"});
}

TEST(WeightOutliersMetric, WeightsThatAreNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> good{1, 2, 3, 40};
  for (const std::vector<float>& weights : {std::vector<float>{1, nan, 2, 3}, {1, infinity, 2, 3}, {-infinity, 1, 2, infinity}}) {
    ImportanceMetric<WeightOutliers> metric(2);
    metric.observe_weights(1, MatrixView(good.data(), 2, 2));
    // A NaN is no outlier of anything: without a refusal the broken layer would look calm.
    for (const std::size_t layer : {0u, 1u})
      expect_mentions(message_of<InvalidArgument>([&] { metric.observe_weights(layer, MatrixView(weights.data(), 2, 2)); }),
                      {"layer " + std::to_string(layer), "not finite"});
    metric.observe_weights(0, MatrixView(good.data(), 2, 2));
    EXPECT_EQ(metric.importance().scores[0], metric.importance().scores[1]) << "what was seen before stays";
  }
}

TEST(WeightOutliersMetric, OfManyRandomWeights) {
  std::mt19937 random(1);
  std::normal_distribution<float> pick(0.25f, 2);
  std::vector<float> weights(5000);
  for (float& weight : weights) weight = pick(random);
  double sum = 0, squares = 0;
  for (const float weight : weights) sum += weight;
  const double mean = sum / 5000;
  for (const float weight : weights) squares += (weight - mean) * (weight - mean);
  for (const double sigmas : {0.5, 1.0, 2.0, 3.0}) {
    std::size_t far = 0;
    for (const float weight : weights) far += std::abs(weight - mean) > sigmas * std::sqrt(squares / 5000);
    EXPECT_GT(far, 0u);
    const MatrixView linears[] = {{weights.data(), 10, 100}, {weights.data() + 1000, 40, 100}};
    EXPECT_DOUBLE_EQ(WeightOutliers::score_layer({.sigmas = sigmas}, linears), static_cast<double>(far) / 5000);
  }
}

} // namespace weight_outliers_test
