// Confidence in an order of layers: exact rank statistics, and reported numbers against what independently drawn windows really show.
#include <lsaq/importance/order_confidence.hpp>

#include "core/refusal.hpp"

#include <gmock/gmock.h>

#include <functional>
#include <limits>

namespace order_confidence_test {

using lsaq::least_important;
using lsaq::order_confidence;
using lsaq::OrderConfidence;
using lsaq::overlap;
using lsaq::ranks;
using lsaq::spearman;
using lsaq::StableOrder;
using test_support::refusal;
using testing::DoubleNear;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pointwise;

using Scores = std::vector<double>;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double nan = std::numeric_limits<double>::quiet_NaN();

TEST(Ranks, EqualScoresShareTheirMean) {
  EXPECT_THAT(ranks(Scores{0.3, 0.1, 0.2}), ElementsAre(3, 1, 2));
  EXPECT_THAT(ranks(Scores{5, 7, 5, 5, 9, 7}), ElementsAre(2, 4.5, 2, 2, 6, 4.5));
  EXPECT_THAT(ranks(Scores{0.0, -0.0, -infinity, infinity}), ElementsAre(2.5, 2.5, 1, 4));
  EXPECT_THAT(ranks(Scores{}), IsEmpty());
  EXPECT_EQ(refusal([] { ranks(Scores{1, nan}); }), "the score of layer 1 is not a number");
}

TEST(Spearman, IsThePearsonCorrelationOfRanks) {
  EXPECT_DOUBLE_EQ(spearman(Scores{1, 2, 3, 4, 5}, Scores{2, 1, 4, 3, 5}), 0.8); // 1 - 6 * 4 / (5 * 24)
  EXPECT_DOUBLE_EQ(spearman(Scores{1, 2, 3}, Scores{-8, 0.5, 1e300}), 1);
  EXPECT_DOUBLE_EQ(spearman(Scores{1, 2, 3, 4}, Scores{4, 3, 2, 1}), -1);
  // Ranks 1, 2.5, 2.5, 4 and 1.5, 1.5, 3, 4: covariance 3.75, variances 4.5 and 4.5.
  EXPECT_DOUBLE_EQ(spearman(Scores{1, 2, 2, 3}, Scores{0, 0, 1, 2}), 3.75 / 4.5);
}

TEST(Spearman, IsNeverNaN) {
  EXPECT_EQ(spearman(Scores{1, 1, 1}, Scores{4, 4, 4}), 1);
  EXPECT_EQ(spearman(Scores{1, 1, 1}, Scores{1, 2, 3}), 0);
  EXPECT_EQ(spearman(Scores{1, 2, 3}, Scores{7, 7, 7}), 0);
  EXPECT_EQ(spearman(Scores{2}, Scores{3}), 1);
  EXPECT_EQ(spearman(Scores{}, Scores{}), 1);
  EXPECT_EQ(refusal([] { spearman(Scores{1}, Scores{1, 2}); }), "rank correlation of scores of 1 and 2 layers");
}

TEST(LeastImportant, IsTheStartOfThePlannersOrder) {
  const lsaq::Importance importance{.scores = {0.5, 0.2, 0.5, 0.2, 0.9, 0.2, 0.1}};
  std::vector<std::size_t> order = importance.order();
  for (std::size_t count = order.size() + 1; count-- > 0;) {
    order.resize(count);
    EXPECT_EQ(least_important(importance.scores, count), order);
  }
  EXPECT_EQ(refusal([] { least_important(Scores{1, 2}, 3); }), "the 3 least important of 2 layers");
}

TEST(Overlap, IsTheSharedPartOfTwoSets) {
  const Scores a{1, 2, 3, 4}, b{4, 2, 1, 3};
  EXPECT_EQ(overlap(a, b, 1), 0);
  EXPECT_EQ(overlap(a, b, 2), 0.5);
  EXPECT_DOUBLE_EQ(overlap(a, b, 3), 2.0 / 3);
  EXPECT_EQ(overlap(a, b, 4), 1);
  EXPECT_EQ(overlap(a, b, 0), 1);
  EXPECT_EQ(overlap(Scores{1, 1, 1}, Scores{0, 1, 2}, 1), 1); // a tie goes to layer 0
  EXPECT_EQ(refusal([&] { overlap(a, b, 5); }), "the 5 least important of 4 layers");
  EXPECT_EQ(refusal([&] { overlap(a, Scores{1}, 1); }), "overlap of orders of 4 and 1 layers");
}

TEST(PlannedSets, AreTheINT4LayersOfSevenSixAndFiveAverageBits) {
  EXPECT_THAT(lsaq::planned_sets(30), ElementsAre(8, 15, 23));
  EXPECT_THAT(lsaq::planned_sets(32), ElementsAre(8, 16, 24));
  EXPECT_THAT(lsaq::planned_sets(5), ElementsAre(2, 3, 4));
  EXPECT_THAT(lsaq::planned_sets(1), ElementsAre(1, 1, 1));
}

TEST(TetrachoricCorrelation, InvertsTheOverlapOfNormalTails) {
  using lsaq::detail::tetrachoric_correlation;
  for (const double rho : {-1.0, -0.6, 0.0, 0.3, 0.9, 0.999}) // halves: overlap = 1 - arccos(rho) / pi, Sheppard 1899
    EXPECT_NEAR(tetrachoric_correlation(1 - std::acos(rho) / std::numbers::pi, 0.5), rho, 1e-5);
  for (const double share : {0.1, 8.0 / 30, 23.0 / 30, 0.95}) {
    EXPECT_NEAR(tetrachoric_correlation(share, share), 0, 1e-4) << share; // independent: the overlap of chance
    EXPECT_EQ(tetrachoric_correlation(1, share), 1) << share;
  }
  // Both below the lower quartile with probability 0.134505 at rho = 0.6 (numerical integration of the bivariate normal density).
  EXPECT_NEAR(tetrachoric_correlation(0.1345048 / 0.25, 0.25), 0.6, 1e-3);
  EXPECT_NEAR(tetrachoric_correlation((0.1345048 + 0.5) / 0.75, 0.75), 0.6, 1e-3); // the same from the other side
}

TEST(SpearmanBrown, LengthensASample) {
  using lsaq::detail::spearman_brown;
  EXPECT_DOUBLE_EQ(spearman_brown(0.5, 2), 2.0 / 3);
  EXPECT_DOUBLE_EQ(spearman_brown(0.25, 4), 4.0 / 7);
  EXPECT_EQ(spearman_brown(1, 2), 1);
  EXPECT_EQ(spearman_brown(0, 2), 0);
  EXPECT_EQ(spearman_brown(-0.5, 2), -spearman_brown(0.5, 2));
}

TEST(OrderConfidence, SaysNothingAboutFewerThanTwoWindows) {
  EXPECT_FALSE(order_confidence(Scores{}, 3));
  EXPECT_FALSE(order_confidence(Scores{0.1, 0.2, 0.3}, 3));
  EXPECT_TRUE(order_confidence(Scores{0.1, 0.2, 0.3, 0.3, 0.2, 0.1}, 3));
}

TEST(OrderConfidence, RefusesWhatAreNotWindows) {
  EXPECT_EQ(refusal([] { order_confidence(Scores(7), 3); }), "order confidence: 7 scores are not whole windows of 3 layers");
  EXPECT_EQ(refusal([] { order_confidence(Scores(7), 0); }), "order confidence: 7 scores are not whole windows of 0 layers");
  for (const double bad : {nan, infinity, -infinity}) {
    Scores scores(6, 0.5);
    scores[4] = bad;
    EXPECT_EQ(refusal([&] { order_confidence(scores, 3); }), "order confidence: the score of layer 1 in window 1 is not finite");
  }
}

TEST(OrderConfidence, WindowsThatAgreeAreCertain) {
  const Scores window{0.4, 0.1, 0.3, 0.2, 0.6, 0.5, 0.8, 0.7};
  for (const std::size_t windows : {2, 3, 8, 9}) {
    Scores scores;
    for (std::size_t w = 0; w < windows; ++w)
      for (const double score : window) scores.push_back(score + static_cast<double>(w)); // what all layers share does not matter
    const OrderConfidence confidence = *order_confidence(scores, window.size());
    EXPECT_EQ(confidence.windows, windows);
    EXPECT_EQ(confidence.trusted(), windows >= 8);
    EXPECT_NEAR(confidence.agreement, 1, 1e-12);
    EXPECT_LE(confidence.agreement, 1);
    EXPECT_EQ(confidence.lowest_overlap(), 1);
    EXPECT_THAT(confidence.sets[0].probabilities, ElementsAre(0, 1, 0, 1, 0, 0, 0, 0));
    EXPECT_THAT(confidence.sets[1].probabilities, ElementsAre(1, 1, 1, 1, 0, 0, 0, 0));
    EXPECT_THAT(confidence.sets[2].probabilities, ElementsAre(1, 1, 1, 1, 1, 1, 0, 0));
  }
}

TEST(OrderConfidence, TiesAreCertainToo) {
  const OrderConfidence confidence = *order_confidence(Scores(5 * 8, 0.25), 5);
  EXPECT_NEAR(confidence.agreement, 1, 1e-12);
  EXPECT_EQ(confidence.lowest_overlap(), 1);
  EXPECT_THAT(confidence.sets[0].probabilities, ElementsAre(1, 1, 0, 0, 0)); // lower layers first
  // Sums that differ only in the order of their terms: in floating point 0.1 + 0.2 + 0.3 is above 0.3 + 0.2 + 0.1.
  const Scores grid = lsaq::detail::on_a_grid(Scores{0.1, 0.3, 0.2, 0.2, 0.3, 0.1}, 3);
  EXPECT_EQ(grid[0] + grid[2] + grid[4], grid[1] + grid[3] + grid[5]);
}

TEST(OrderConfidence, SmallModelsAndExtremeScoresAreFine) {
  const OrderConfidence one = *order_confidence(Scores{0.1, 0.7, 0.4}, 1);
  EXPECT_NEAR(one.agreement, 1, 1e-12);
  EXPECT_EQ(one.lowest_overlap(), 1);
  const double largest = std::numeric_limits<double>::max();
  const OrderConfidence huge = *order_confidence(Scores{-largest, largest, -largest, largest}, 2);
  EXPECT_NEAR(huge.agreement, 1, 1e-12);
  EXPECT_THAT(huge.sets[0].probabilities, ElementsAre(1, 0));
  const OrderConfidence opposite = *order_confidence(Scores{0, 1, 1, 0}, 2);
  EXPECT_NEAR(opposite.agreement, -1, 1e-12);
  EXPECT_THAT(opposite.sets[0].probabilities, Each(DoubleNear(0.5, 1e-9)));
}

/// Scores without a random generator: windows x layers, layers in slowly growing order.
Scores arithmetic_scores(std::size_t windows, std::size_t layers) {
  Scores scores;
  for (std::size_t w = 0; w < windows; ++w)
    for (std::size_t l = 0; l < layers; ++l) scores.push_back(static_cast<double>((w * w * 7 + l * 13 + w * l * 5) % 17) / 16 + static_cast<double>(l) / 8);
  return scores;
}

TEST(OrderConfidence, IsTheSameOnEveryPlatform) {
  const OrderConfidence confidence = *order_confidence(arithmetic_scores(10, 8), 8, 42);
  EXPECT_NEAR(confidence.agreement, 0.919086292200, 1e-9);
  EXPECT_NEAR(confidence.sets[0].overlap, 909.0 / 1024, 1e-9);
  EXPECT_NEAR(confidence.sets[1].overlap, 1684.0 / 2048, 1e-9);
  EXPECT_NEAR(confidence.sets[2].overlap, 909.0 / 1024, 1e-9);
}

TEST(OrderConfidence, DependsOnSeedALittleAndOnUnitsNotAtAll) {
  Scores scores = arithmetic_scores(11, 12);
  const OrderConfidence first = *order_confidence(scores, 12, 1), other = *order_confidence(scores, 12, 2);
  EXPECT_NE(first.agreement, other.agreement);
  EXPECT_NEAR(first.agreement, other.agreement, 0.05);
  for (double& score : scores) score = score * 1024 + 512;
  EXPECT_EQ(order_confidence(scores, 12, 1)->sets[1].probabilities, first.sets[1].probabilities);
}

TEST(OrderConfidence, ProbabilitiesAddUpAndGiveTheOverlap) {
  const std::size_t layers = 12;
  const Scores scores = arithmetic_scores(9, layers);
  Scores mean(layers);
  for (std::size_t i = 0; i < scores.size(); ++i) mean[i % layers] += scores[i] / 9;
  const OrderConfidence confidence = *order_confidence(scores, layers);
  for (const OrderConfidence::Set& set : confidence.sets) {
    ASSERT_EQ(set.probabilities.size(), layers);
    EXPECT_NEAR(std::accumulate(set.probabilities.begin(), set.probabilities.end(), 0.0), static_cast<double>(set.count), 1e-12);
    double chosen = 0;
    for (const std::size_t layer : least_important(mean, set.count)) chosen += set.probabilities[layer];
    EXPECT_NEAR(set.overlap, chosen / static_cast<double>(set.count), 1e-12);
  }
}

// Experiments: layers with known true scores, windows that show them through noise.

/// The same numbers with every standard library.
class Random {
public:
  explicit Random(std::uint64_t seed) : bits_(seed) {}
  double uniform() { return static_cast<double>(bits_.below(std::size_t{1} << 32)) * 0x1p-32; }
  double normal() { // sum of twelve: no logarithms
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

private:
  lsaq::detail::SplitMix64 bits_;
};

/// A model of true scores and what one window shows of a layer.
struct Population {
  const char* name;
  std::size_t layers;
  std::function<double(Random&)> truth;
  std::function<double(Random&, double truth, double shared)> window; // `shared` is normal, the same for all layers of a window
};

auto noisy(double noise) {
  return [noise](Random& random, double truth, double shared) { return truth + noise * (0.9 * random.normal() + 0.4 * shared); };
}

/// Jaccard scores of sets of k tokens that share each token with probability 1 - truth, more or less from window to window.
auto token_sets(int k) {
  return [k](Random& random, double truth, double shared) {
    const double probability = 1 - truth + 0.12 * random.normal() + 0.06 * shared;
    int common = 0;
    for (int i = 0; i < k; ++i) common += random.uniform() < probability;
    return 1 - static_cast<double>(common) / (2 * k - common);
  };
}

double standard(Random& random) { return random.normal(); }
double among_others(Random& random) { return 0.45 + 0.15 * random.normal(); }
/// Most layers crowd below a few that stand out, as in language models.
double crowded(Random& random) { return 0.35 + 0.1 * std::pow(random.normal(), 2); }

const Population populations[] = {
    {"clear", 30, standard, noisy(0.7)},
    {"noisy", 30, standard, noisy(2)},
    {"very noisy", 30, standard, noisy(5)},
    {"no signal", 30, [](Random&) { return 0.0; }, noisy(1)},
    {"token sets of 5", 30, among_others, token_sets(5)},
    {"crowded token sets of 20", 30, crowded, token_sets(20)},
    {"few layers", 12, standard, noisy(2)},
};

class Experiment {
public:
  Experiment(const Population& population, std::uint64_t seed) : population_(population), random_(seed), truth_(population.layers) {
    for (double& score : truth_) score = population.truth(random_);
  }

  std::size_t layers() const { return truth_.size(); }

  Scores windows(std::size_t count) {
    Scores scores;
    for (std::size_t w = 0; w < count; ++w) {
      const double shared = random_.normal();
      for (const double truth : truth_) scores.push_back(population_.window(random_, truth, shared));
    }
    return scores;
  }

  Scores mean(const Scores& scores) const {
    Scores sum(layers());
    for (std::size_t i = 0; i < scores.size(); ++i) sum[i % layers()] += scores[i];
    return sum;
  }

private:
  const Population& population_;
  Random random_;
  Scores truth_;
};

/// Means over experiments: agreement and the overlaps of the three sets.
struct Numbers {
  Scores reported = Scores(4), real = Scores(4);
  double resampled = 0; ///< correlation of bootstrap resamples with the whole: the trap
};

/// Reliability diagram: probabilities reported in ten classes, and how often new windows chose the layer.
struct Diagram {
  Scores cases = Scores(10), reported = Scores(10), real = Scores(10);
};

Numbers compare(const Population& population, std::size_t windows, int experiments, Diagram* diagram = nullptr) {
  constexpr int redraws = 8;
  Numbers numbers;
  Random random(99);
  for (int e = 0; e < experiments; ++e) {
    Experiment experiment(population, static_cast<std::uint64_t>(e) * 1000 + windows);
    const std::size_t layers = experiment.layers();
    const Scores scores = experiment.windows(windows);
    const Scores mean = experiment.mean(scores);
    const OrderConfidence confidence = *order_confidence(scores, layers, static_cast<std::uint64_t>(e));
    numbers.reported[0] += confidence.agreement / experiments;
    for (std::size_t s = 0; s < 3; ++s) numbers.reported[s + 1] += confidence.sets[s].overlap / experiments;
    for (int r = 0; r < redraws; ++r) {
      const Scores redrawn = experiment.mean(experiment.windows(windows));
      numbers.real[0] += spearman(mean, redrawn) / redraws / experiments;
      for (std::size_t s = 0; s < 3; ++s) {
        const OrderConfidence::Set& set = confidence.sets[s];
        numbers.real[s + 1] += overlap(mean, redrawn, set.count) / redraws / experiments;
        if (diagram == nullptr) continue;
        Scores chosen(layers);
        for (const std::size_t layer : least_important(redrawn, set.count)) chosen[layer] = 1;
        for (std::size_t l = 0; l < layers; ++l) {
          const auto cell = std::min<std::size_t>(9, static_cast<std::size_t>(set.probabilities[l] * 10));
          diagram->cases[cell] += 1;
          diagram->reported[cell] += set.probabilities[l];
          diagram->real[cell] += chosen[l];
        }
      }
    }
    Scores resample;
    for (std::size_t w = 0; w < windows; ++w) {
      const auto row = scores.begin() + static_cast<std::ptrdiff_t>(layers * static_cast<std::size_t>(random.uniform() * static_cast<double>(windows)));
      resample.insert(resample.end(), row, row + static_cast<std::ptrdiff_t>(layers));
    }
    numbers.resampled += spearman(mean, experiment.mean(resample)) / experiments;
  }
  return numbers;
}

class Calibration : public testing::TestWithParam<Population> {};

TEST_P(Calibration, ReportedIsWhatNewWindowsShow) {
  constexpr double promised = 0.06, sampling = 0.01; // these are few experiments
  for (const auto& [windows, experiments] : {std::pair<std::size_t, int>{8, 64}, {32, 32}}) {
    const Numbers numbers = compare(GetParam(), windows, experiments);
    EXPECT_THAT(numbers.reported, Pointwise(DoubleNear(promised + sampling), numbers.real)) << windows << " windows";
    EXPECT_GT(numbers.resampled, numbers.real[0]) << windows << " windows";
  }
}

INSTANTIATE_TEST_SUITE_P(OrderConfidence, Calibration, testing::ValuesIn(populations), [](const auto& test) {
  std::string name = test.param.name;
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
});

TEST(OrderConfidence, ProbabilitiesAreFrequencies) {
  Diagram diagram;
  for (const Population& population : {populations[0], populations[1], populations[5]}) compare(population, 16, 16, &diagram);
  for (std::size_t cell = 0; cell < 10; ++cell) {
    ASSERT_GT(diagram.cases[cell], 500);
    EXPECT_NEAR(diagram.reported[cell] / diagram.cases[cell], diagram.real[cell] / diagram.cases[cell], 0.08) << "probabilities from 0." << cell;
  }
}

TEST(OrderConfidence, NoiseIsNotTakenForSignal) {
  const Numbers numbers = compare(populations[3], 8, 64);
  EXPECT_NEAR(numbers.reported[0], 0, 0.05);
  EXPECT_GT(numbers.resampled, 0.6); // what comparing resamples with the whole would report
}

TEST(StableOrder, CertainOrdersNeedTheLeastWindows) {
  const Scores window{0.4, 0.1, 0.3, 0.2};
  StableOrder order(4);
  EXPECT_FALSE(order.confidence());
  for (std::size_t w = 1; w <= 10; ++w) {
    EXPECT_EQ(order.add(window), w >= 8);
    EXPECT_EQ(order.stable(), w >= 8);
    EXPECT_EQ(order.windows(), w);
    EXPECT_EQ(order.confidence().has_value(), w >= 2);
  }
  EXPECT_EQ(order.window_scores().size(), 40);
  StableOrder eager(4, {.minimum_windows = 0});
  EXPECT_FALSE(eager.add(window));
  EXPECT_TRUE(eager.add(window));
}

TEST(StableOrder, NoiseNeverBecomesStable) {
  Experiment experiment(populations[3], 5);
  StableOrder order(experiment.layers());
  for (int batch = 0; batch < 8; ++batch) EXPECT_FALSE(order.add(experiment.windows(16)));
}

TEST(StableOrder, BatchesDoNotMatter) {
  Experiment experiment(populations[0], 3);
  const std::size_t layers = experiment.layers();
  const Scores scores = experiment.windows(40);
  StableOrder one_by_one(layers, {.threshold = 0.85});
  for (std::size_t w = 0; w < 40; ++w) {
    one_by_one.add(std::span(scores).subspan(w * layers, layers));
    StableOrder at_once(layers, {.threshold = 0.85});
    at_once.add(std::span(scores).first((w + 1) * layers));
    ASSERT_EQ(at_once.stable(), one_by_one.stable()) << w;
    ASSERT_EQ(at_once.confidence().has_value(), w > 0);
    if (at_once.confidence()) {
      ASSERT_EQ(at_once.confidence()->agreement, one_by_one.confidence()->agreement) << w;
    }
  }
}

TEST(StableOrder, NeedsToHaveBeenSureBefore) {
  // Nine windows of one order after three that contradict each other: sure of all twelve, but not of the first nine.
  Experiment experiment(populations[1], 8);
  const std::size_t layers = experiment.layers();
  Scores scores = experiment.windows(9);
  Scores certain(layers);
  std::iota(certain.begin(), certain.end(), 0.0);
  StableOrder order(layers);
  EXPECT_FALSE(order.add(scores));
  for (double& score : certain) score *= 1000;
  scores.clear();
  for (int w = 0; w < 3; ++w) scores.insert(scores.end(), certain.begin(), certain.end());
  EXPECT_FALSE(order.add(scores));
  EXPECT_GE(order.confidence()->lowest_overlap(), 0.9);
}

TEST(StableOrder, KeepsItsPromiseWhenItStops) {
  constexpr int experiments = 24;
  double real = 0;
  for (int e = 0; e < experiments; ++e) {
    Experiment experiment(populations[6], static_cast<std::uint64_t>(e) + 70);
    StableOrder order(experiment.layers(), {.threshold = 0.8});
    while (!order.add(experiment.windows(8))) ASSERT_LT(order.windows(), 2000);
    const Scores mean = experiment.mean({order.window_scores().begin(), order.window_scores().end()});
    Scores overlaps(3);
    for (int r = 0; r < 8; ++r) {
      const Scores redrawn = experiment.mean(experiment.windows(order.windows()));
      for (std::size_t s = 0; s < 3; ++s) overlaps[s] += overlap(mean, redrawn, order.confidence()->sets[s].count) / 8;
    }
    real += *std::min_element(overlaps.begin(), overlaps.end()) / experiments;
  }
  EXPECT_GT(real, 0.78);
}

TEST(StableOrder, RefusesWhatMakesNoSense) {
  EXPECT_EQ(refusal([] { StableOrder(0); }), "a stable order needs a model with at least one layer");
  for (const double threshold : {0.0, -1.0, 1.5, nan})
    EXPECT_THAT(refusal([&] { StableOrder(4, {.threshold = threshold}); }), HasSubstr("it must be above 0 and at most 1"));
  StableOrder order(2);
  order.add(Scores{1, 2, 1, 2});
  EXPECT_THAT(refusal([&] { order.add(Scores{1, nan}); }), HasSubstr("layer 1 in window 0 is not finite"));
  EXPECT_THAT(refusal([&] { order.add(Scores{1}); }), HasSubstr("not whole windows"));
  EXPECT_EQ(order.windows(), 2);
  EXPECT_TRUE(order.confidence());
}

} // namespace order_confidence_test
