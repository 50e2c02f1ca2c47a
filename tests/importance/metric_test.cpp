// What a detector makes of windows: means, standard errors, several results; merging; policies of one's own.
#include <lsaq/importance/metric.hpp>

#include "importance/calibration_states.hpp"

#include <formats/make_files.hpp>

namespace metric_test {

using calibration_states::observe;
using calibration_states::random_integers;
using calibration_states::random_text;
using calibration_states::Text;
using lsaq::Cosine;
using lsaq::Importance;
using lsaq::ImportanceMetric;
using lsaq::ImportanceSweep;
using lsaq::InvalidArgument;
using lsaq::Jaccard;
using lsaq::MatrixView;
using lsaq::TraceRows;
using make_files::expect_mentions;
using make_files::message_of;
using testing::DoubleNear;
using testing::ElementsAre;
using testing::IsEmpty;

const lsaq::Backend<lsaq::Cpu> cpu;

constexpr std::size_t hidden = 6, vocabulary = 50;
const std::vector<float> embedding = random_integers(vocabulary * hidden, 77);
const Jaccard::Options three_sizes{.embedding = MatrixView(embedding.data(), vocabulary, hidden), .top_k = {3, 12, 30}};

/// One layer with a state of two numbers: its score is 1 - cos of the angle.
void observe_turn(ImportanceMetric<Cosine>& metric, std::vector<float> leaving) { observe(metric, {1, 2, {{1, 0}, std::move(leaving)}}); }

TEST(ImportanceResult, MeanAndStandardErrorOverWindows) {
  ImportanceMetric<Cosine> metric(1);
  observe_turn(metric, {0, 1}); // 1
  EXPECT_THAT(metric.importance().spread, ElementsAre(0.0)) << "a single window has no spread";
  observe_turn(metric, {-1, 0}); // 2
  const Importance two = metric.importance();
  EXPECT_THAT(two.scores, ElementsAre(1.5));
  EXPECT_THAT(two.spread, ElementsAre(0.5)); // deviation sqrt(1/2), over sqrt(2)
  observe_turn(metric, {1, 0});              // 0
  observe_turn(metric, {0, -1});             // 1
  const Importance four = metric.importance();
  EXPECT_EQ(four.windows, 4u);
  EXPECT_THAT(four.scores, ElementsAre(1.0));
  EXPECT_THAT(four.spread, ElementsAre(DoubleNear(std::sqrt(2.0 / 3 / 4), 1e-15)));
  EXPECT_THAT(four.window_scores, ElementsAre(1.0, 2.0, 0.0, 1.0));
}

TEST(ImportanceResult, EachResultHasItsOwnScoresAndSpread) {
  ImportanceMetric<Jaccard> metric(2, three_sizes);
  const std::vector<double> windows{/* window, layer, result */ .1, .2, .3, .4, .5, .6, .7, .8, .9, .2, .3, .4};
  metric.add_window_scores(windows);
  EXPECT_EQ(metric.results(), 3u);
  for (std::size_t r = 0; r < 3; ++r) {
    const Importance found = metric.importance(r);
    const double a = windows[r], b = windows[3 + r], c = windows[6 + r], d = windows[9 + r];
    EXPECT_EQ(found.windows, 2u);
    EXPECT_THAT(found.window_scores, ElementsAre(a, b, c, d));
    EXPECT_THAT(found.scores, ElementsAre(DoubleNear((a + c) / 2, 1e-15), DoubleNear((b + d) / 2, 1e-15)));
    EXPECT_THAT(found.spread, ElementsAre(DoubleNear(std::abs(a - c) / 2, 1e-15), DoubleNear(std::abs(b - d) / 2, 1e-15)));
  }
  expect_mentions(message_of<InvalidArgument>([&] { (void)metric.importance(3); }), {"result 3 of 3"});
}

TEST(ImportanceResult, SaysWhatItIsOf) {
  ImportanceMetric<Jaccard> metric(4, three_sizes);
  EXPECT_EQ(metric.layers(), 4u);
  EXPECT_EQ(metric.options().top_k.sizes, three_sizes.top_k.sizes);
  observe(metric, random_text(4, 1, hidden, 1));
  EXPECT_EQ(metric.importance().metric, "jaccard");
  EXPECT_EQ(metric.importance().scores.size(), 4u);
}

TEST(ImportanceResult, DetectorsAreValues) {
  ImportanceMetric<Cosine> metric(1);
  observe_turn(metric, {0, 1});
  ImportanceMetric<Cosine> copy = metric;
  observe_turn(copy, {-1, 0});
  EXPECT_EQ(metric.importance().windows, 1u);
  EXPECT_THAT(copy.importance().scores, ElementsAre(1.5));
}

TEST(Merge, EqualsOneDetectorThatSawEverything) {
  ImportanceMetric<Jaccard> one(4, three_sizes), first(4, three_sizes), second(4, three_sizes), third(4, three_sizes);
  for (unsigned i = 0; i < 6; ++i) {
    const Text text = random_text(4, 1 + i % 3, hidden, 50 + i);
    observe(one, text);
    observe(i < 1 ? first : i < 4 ? second : third, text);
  }
  first.merge(second);
  first.merge(third);
  for (std::size_t r = 0; r < 3; ++r) {
    const Importance merged = first.importance(r), expected = one.importance(r);
    EXPECT_EQ(merged.windows, 6u);
    EXPECT_EQ(merged.window_scores, expected.window_scores);
    EXPECT_EQ(merged.scores, expected.scores);
    EXPECT_EQ(merged.spread, expected.spread);
  }
  EXPECT_EQ(second.importance().windows, 3u) << "the other detector is as it was";
}

TEST(Merge, WithADetectorThatSawNothing) {
  ImportanceMetric<Jaccard> empty(4, three_sizes), full(4, three_sizes);
  observe(full, random_text(4, 2, hidden, 1));
  full.merge(empty);
  EXPECT_EQ(full.importance().windows, 1u);
  empty.merge(full);
  EXPECT_EQ(empty.importance().scores, full.importance().scores);
}

TEST(WindowScores, GiveTheDetectorTheyCameFrom) {
  ImportanceMetric<Cosine> seen(4), told(4);
  for (unsigned i = 0; i < 3; ++i) observe(seen, random_text(4, 2, hidden, i));
  told.add_window_scores(seen.importance().window_scores);
  EXPECT_EQ(told.importance().windows, 3u);
  EXPECT_EQ(told.importance().scores, seen.importance().scores);
  EXPECT_EQ(told.importance().spread, seen.importance().spread);
  told.add_window_scores({});
  EXPECT_EQ(told.importance().windows, 3u);
}

/// A policy as an engine's author would write it: how much longer a state gets. Needs nothing of the device.
struct Growth {
  static constexpr std::string_view name = "growth";
  struct Options {
    double factor = 1;
  };
  static float score(const Options& options, MatrixView entering, MatrixView leaving) {
    double sum = 0;
    for (std::size_t p = 0; p < entering.rows; ++p)
      sum += lsaq::load_element(leaving.row(p), leaving.type, 0) - lsaq::load_element(entering.row(p), entering.type, 0);
    return static_cast<float>(options.factor * sum);
  }
};

static_assert(lsaq::has_metric_name<Growth> && lsaq::scores_hidden_states<Growth> && lsaq::observes_states<Growth>);
static_assert(!lsaq::scores_traces<Growth> && !lsaq::scores_weights<Growth> && !lsaq::measures_layers<Growth>);

struct NoDevice {};

TEST(OwnPolicy, ComparesHiddenStates) {
  ImportanceMetric<Growth> metric(2, {.factor = 10});
  observe(metric, {2, 1, {{1, 2}, {4, 8}, {5, 5}}}, NoDevice{});
  EXPECT_EQ(metric.importance().metric, "growth");
  EXPECT_EQ(metric.results(), 1u);
  EXPECT_THAT(metric.importance().scores, ElementsAre(90.0, -20.0));
  EXPECT_THAT(metric.importance().order(), ElementsAre(1, 0));
  ImportanceSweep<Growth> sweep(1, {}, {1, 2});
  const std::vector<float> entering{1, 2, 3}, leaving{2, 4, 7};
  sweep.observe(MatrixView(entering.data(), 3, 1), NoDevice{});
  sweep.observe(MatrixView(leaving.data(), 3, 1), NoDevice{});
  EXPECT_THAT(sweep.scores(), ElementsAre(1.0, 6.0));
}

/// A policy that turns each state into its length once, and says for several limits how many positions changed theirs by more.
struct LengthSteps {
  static constexpr std::string_view name = "length_steps";
  struct Options {
    std::vector<double> limits;
    std::vector<std::size_t>* traced = nullptr; ///< rows of each trace
  };
  using Trace = std::vector<double>;

  static std::size_t results(const Options& options) { return options.limits.size(); }
  static Trace trace(const Options& options, MatrixView states, const auto&) {
    if (options.traced != nullptr) options.traced->push_back(states.rows);
    Trace lengths;
    for (std::size_t r = 0; r < states.rows; ++r) {
      double sum = 0;
      for (std::size_t i = 0; i < states.columns; ++i) sum += std::pow(double{lsaq::load_element(states.row(r), states.type, i)}, 2);
      lengths.push_back(std::sqrt(sum));
    }
    return lengths;
  }
  static void score(const Options& options, TraceRows<Trace> entering, TraceRows<Trace> leaving, std::span<double> scores) {
    for (std::size_t i = 0; i < scores.size(); ++i)
      for (std::size_t p = 0; p < entering.count; ++p)
        scores[i] += std::abs((*leaving.trace)[leaving.first + p] - (*entering.trace)[entering.first + p]) > options.limits[i];
  }
};

static_assert(lsaq::scores_traces<LengthSteps> && lsaq::observes_states<LengthSteps> && !lsaq::scores_hidden_states<LengthSteps>);

TEST(OwnPolicy, ComparesTracesWithSeveralResults) {
  std::vector<std::size_t> traced;
  ImportanceMetric<LengthSteps> metric(2, {.limits = {0.5, 4}, .traced = &traced});
  auto window = metric.begin_window({.sequences = 2, .positions = 2, .hidden = 2});
  //                                        text 0         text 1
  const std::vector<float> boundaries[] = {{3, 4, 0, 1, /**/ 0, 0, 6, 8},  // lengths 5, 1; 0, 10
                                           {4, 3, 0, 9, /**/ 0, 2, 8, 6},  // lengths 5, 9; 2, 10
                                           {0, 6, 0, 9, /**/ 0, 2, 0, 0}}; // lengths 6, 9; 2, 0
  for (std::size_t b = 0; b < 3; ++b) window.observe(b, MatrixView(boundaries[b].data(), 4, 2));
  metric.end_window(window, NoDevice{});
  EXPECT_THAT(traced, ElementsAre(12)) << "every boundary once, all together";
  EXPECT_THAT(metric.importance(0).window_scores, ElementsAre(1, 1, 1, 1)); // windows x layers: more than 0.5
  EXPECT_THAT(metric.importance(1).window_scores, ElementsAre(1, 0, 0, 1)); // more than 4
  traced.clear();
  ImportanceSweep<LengthSteps> sweep(2, metric.options(), {2, 2});
  for (const std::vector<float>& states : boundaries) sweep.observe(MatrixView(states.data(), 4, 2), NoDevice{});
  EXPECT_THAT(traced, ElementsAre(4, 4, 4));
  EXPECT_THAT(sweep.scores(), ElementsAre(1, 1, 1, 0, 1, 0, 1, 1));
  metric.add(sweep);
  EXPECT_THAT(metric.importance(1).window_scores, ElementsAre(1, 0, 0, 1, 1, 0, 0, 1));
}

/// A policy that looks at weights.
struct LargestWeight {
  static constexpr std::string_view name = "largest";
  struct Options {
    float at_least = 0;
  };
  static float score_layer(const Options& options, std::span<const MatrixView> linears) {
    float largest = options.at_least;
    for (const MatrixView& linear : linears)
      for (std::size_t r = 0; r < linear.rows; ++r)
        for (std::size_t c = 0; c < linear.columns; ++c) largest = std::max(largest, lsaq::load_element(linear.row(r), linear.type, c));
    return largest;
  }
};

static_assert(lsaq::scores_weights<LargestWeight> && !lsaq::observes_states<LargestWeight>);

TEST(OwnPolicy, ScoresWeights) {
  const std::vector<float> a{1, 7, 3, -9}, b{2, 2, 2, 2}, c{5};
  ImportanceMetric<LargestWeight> metric(2, {.at_least = 4});
  metric.observe_weights(0, MatrixView(a.data(), 2, 2));
  const MatrixView linears[] = {{b.data(), 2, 2}, {c.data(), 1, 1}};
  metric.observe_weights(1, linears);
  EXPECT_EQ(metric.importance().metric, "largest");
  EXPECT_THAT(metric.importance().scores, ElementsAre(7.0, 5.0));
  EXPECT_THAT(metric.importance().order(), ElementsAre(1, 0));
  EXPECT_THAT(metric.importance().window_scores, IsEmpty());
}

/// A policy that measures layers by a rule of its own.
struct Depth {
  static constexpr std::string_view name = "depth";
  struct Options {
    double slope = 1;
  };
  static std::vector<double> measure(const Options& options, std::size_t layer) { return {static_cast<double>(layer) * options.slope, 1}; }
};

static_assert(lsaq::measures_layers<Depth> && !lsaq::observes_states<Depth>);

TEST(OwnPolicy, MeasuresLayers) {
  ImportanceMetric<Depth> metric(3, {.slope = -2});
  metric.measure();
  EXPECT_EQ(metric.importance().metric, "depth");
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.5, -0.5, -1.5));
  EXPECT_THAT(metric.importance().order(), ElementsAre(2, 1, 0));
}

} // namespace metric_test
