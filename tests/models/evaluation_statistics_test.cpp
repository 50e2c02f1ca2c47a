#include <lsaq/models/evaluation_statistics.hpp>

#include <gtest/gtest.h>

#include <random>

namespace evaluation_statistics_test {

namespace llama = lsaq::llama;
using Scores = std::vector<llama::WindowScore>;

TEST(EvaluationStatistics, EqualWindowsGiveTheTextbookError) {
  const Scores run{{.nll = 30, .kl = 1, .agreements = 5, .tokens = 10},
                   {.nll = 50, .kl = 3, .agreements = 8, .tokens = 10},
                   {.nll = 40, .kl = 2, .agreements = 8, .tokens = 10},
                   {.nll = 60, .kl = 2, .agreements = 9, .tokens = 10}};
  // Means of the windows: 3, 5, 4, 6; sample variance 5/3.
  const llama::Estimate nll = llama::nll_of(run);
  EXPECT_DOUBLE_EQ(nll.mean, 4.5);
  EXPECT_DOUBLE_EQ(nll.error, std::sqrt(5.0 / 3 / 4));
  EXPECT_DOUBLE_EQ(llama::kl_of(run).mean, 0.2);
  EXPECT_DOUBLE_EQ(llama::kl_of(run).error, std::sqrt(0.02 / 3 / 4));
  EXPECT_DOUBLE_EQ(llama::agreement_of(run).mean, 0.75);
  EXPECT_NEAR(llama::agreement_of(run).error, std::sqrt(0.09 / 3 / 4), 1e-15);
}

TEST(EvaluationStatistics, UnequalWindowsGiveTheRatioEstimator) {
  const Scores run{{.nll = 30, .tokens = 10}, {.nll = 100, .tokens = 20}, {.nll = 5, .tokens = 2}};
  const double mean = 135.0 / 32;
  const double squares = std::pow(30 - 10 * mean, 2) + std::pow(100 - 20 * mean, 2) + std::pow(5 - 2 * mean, 2);
  EXPECT_DOUBLE_EQ(llama::nll_of(run).mean, mean);
  EXPECT_DOUBLE_EQ(llama::nll_of(run).error, std::sqrt(squares / 2 * 3) / 32);
}

TEST(EvaluationStatistics, PairsRemoveWhatRunsShare) {
  const Scores run{{.nll = 31, .kl = 2, .tokens = 10}, {.nll = 952, .kl = 4, .tokens = 10}, {.nll = 43, .kl = 6, .tokens = 10}};
  const Scores other{{.nll = 30, .kl = 1, .tokens = 10}, {.nll = 950, .kl = 1, .tokens = 10}, {.nll = 40, .kl = 1, .tokens = 10}};
  const llama::Estimate difference = llama::nll_difference(run, other); // 0.1, 0.2, 0.3 a token
  EXPECT_NEAR(difference.mean, 0.2, 1e-12);
  EXPECT_NEAR(difference.error, 0.1 / std::sqrt(3.0), 1e-12);
  EXPECT_GT(llama::nll_of(run).error, 10);
  EXPECT_NEAR(llama::kl_difference(run, other).mean, 0.3, 1e-12);
  EXPECT_EQ(llama::nll_difference(run, run).mean, 0);
  EXPECT_EQ(llama::nll_difference(run, run).error, 0);
}

TEST(EvaluationStatistics, OnlyTheSameWindowsArePaired) {
  const Scores run{{.tokens = 10}, {.tokens = 10}}, shorter{{.tokens = 10}}, others{{.tokens = 10}, {.tokens = 9}};
  EXPECT_THROW(llama::nll_difference(run, shorter), lsaq::InvalidArgument);
  EXPECT_THROW(llama::kl_difference(run, others), lsaq::InvalidArgument);
}

TEST(EvaluationStatistics, FewWindowsHaveNoError) {
  EXPECT_DOUBLE_EQ(llama::nll_of(Scores{{.nll = 6, .tokens = 3}}).mean, 2);
  EXPECT_TRUE(std::isnan(llama::nll_of(Scores{{.nll = 6, .tokens = 3}}).error));
  EXPECT_TRUE(std::isnan(llama::nll_of(Scores{}).mean));
  const Scores with_empty{{.nll = 6, .tokens = 3}, {}, {.nll = 9, .tokens = 3}}, without{{.nll = 6, .tokens = 3}, {.nll = 9, .tokens = 3}};
  EXPECT_EQ(llama::nll_of(with_empty).error, llama::nll_of(without).error) << "a window that scores nothing says nothing";
}

/// Over many redraws, the reported error is the spread of the means really found.
TEST(EvaluationStatistics, ErrorIsTheSpreadOfRepeatedMeasurements) {
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  double mean = 0, squares = 0, errors = 0;
  constexpr int repeats = 2000;
  for (int r = 0; r < repeats; ++r) {
    Scores run(30);
    for (llama::WindowScore& window : run) {
      window.tokens = 50 + random() % 100;
      window.nll = static_cast<double>(window.tokens) * (3 + 0.5 * normal(random));
    }
    const llama::Estimate estimate = llama::nll_of(run);
    mean += estimate.mean / repeats;
    squares += estimate.mean * estimate.mean / repeats;
    errors += estimate.error / repeats;
  }
  EXPECT_NEAR(mean, 3, 0.01);
  EXPECT_NEAR(errors / std::sqrt(squares - mean * mean), 1, 0.06);
}

} // namespace evaluation_statistics_test
