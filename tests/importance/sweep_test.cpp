// A sweep over all windows at once gives what the windows give one by one, also when it is interrupted and resumed.
#include <lsaq/importance/sweep.hpp>

#include "importance/calibration_states.hpp"

#include <formats/make_files.hpp>

namespace sweep_test {

using calibration_states::CountingDevice;
using calibration_states::observe;
using calibration_states::random_integers;
using calibration_states::random_text;
using calibration_states::Text;
using lsaq::Cosine;
using lsaq::ImportanceMetric;
using lsaq::ImportanceSweep;
using lsaq::InvalidArgument;
using lsaq::Jaccard;
using lsaq::MatrixView;
using lsaq::RankedJaccard;
using make_files::expect_mentions;
using make_files::message_of;
using testing::Each;
using testing::ElementsAre;
using testing::ElementsAreArray;

const lsaq::Backend<lsaq::Cpu> cpu;

constexpr std::size_t layers = 4, hidden = 6, vocabulary = 50;
const std::vector<float> embedding = random_integers(vocabulary * hidden, 77);
const std::vector<std::size_t> positions{3, 1, 5, 2};

template <class Policy> typename Policy::Options options_of() {
  if constexpr (std::is_same_v<Policy, Cosine>)
    return {};
  else
    return {.embedding = MatrixView(embedding.data(), vocabulary, hidden), .top_k = {12, 3}};
}

std::vector<Text> texts() {
  std::vector<Text> all;
  for (std::size_t w = 0; w < positions.size(); ++w) all.push_back(random_text(layers, positions[w], hidden, 40 + static_cast<unsigned>(w)));
  return all;
}

/// The states of all windows at a boundary, one after another.
std::vector<float> joined(const std::vector<Text>& all, std::size_t boundary) {
  std::vector<float> states;
  for (const Text& text : all) states.insert(states.end(), text.boundaries[boundary].begin(), text.boundaries[boundary].end());
  return states;
}

template <class Policy, class Device = lsaq::Backend<lsaq::Cpu>>
void pass(ImportanceSweep<Policy>& sweep, std::size_t first, std::size_t last, const Device& device = Device()) {
  for (std::size_t b = first; b <= last; ++b) {
    std::vector<float> states = joined(texts(), b);
    sweep.observe(MatrixView(states.data(), states.size() / hidden, hidden), device);
    std::fill(states.begin(), states.end(), 1e30f); // not kept
  }
}

template <class Policy> ImportanceSweep<Policy> make_sweep() { return {layers, options_of<Policy>(), positions}; }

template <class Policy> class Sweep : public testing::Test {
protected:
  static void expect_window_by_window(const ImportanceSweep<Policy>& sweep) {
    ImportanceMetric<Policy> swept(layers, options_of<Policy>()), one_by_one(layers, options_of<Policy>());
    swept.add(sweep);
    for (const Text& text : texts()) observe(one_by_one, text);
    for (std::size_t r = 0; r < one_by_one.results(); ++r) {
      EXPECT_EQ(swept.importance(r).windows, positions.size());
      EXPECT_EQ(swept.importance(r).window_scores, one_by_one.importance(r).window_scores) << "result " << r;
      EXPECT_EQ(swept.importance(r).scores, one_by_one.importance(r).scores) << "result " << r;
      EXPECT_EQ(swept.importance(r).spread, one_by_one.importance(r).spread) << "result " << r;
    }
  }
};
using Policies = testing::Types<Jaccard, RankedJaccard, Cosine>;
TYPED_TEST_SUITE(Sweep, Policies);

TYPED_TEST(Sweep, EqualsWindowByWindow) {
  ImportanceSweep<TypeParam> sweep = make_sweep<TypeParam>();
  EXPECT_EQ(sweep.layers(), layers);
  EXPECT_EQ(sweep.results(), (std::is_same_v<TypeParam, Cosine> ? 1u : 2u));
  EXPECT_EQ(sweep.scores().size(), positions.size() * layers * sweep.results());
  for (std::size_t b = 0; b <= layers; ++b) {
    EXPECT_FALSE(sweep.complete()) << "before boundary " << b;
    pass(sweep, b, b);
  }
  EXPECT_TRUE(sweep.complete());
  this->expect_window_by_window(sweep);
}

TYPED_TEST(Sweep, ResumedAtAnyBoundaryEqualsOneInOneGo) {
  for (std::size_t stop = 0; stop <= layers; ++stop) {
    ImportanceSweep<TypeParam> killed = make_sweep<TypeParam>(), resumed = make_sweep<TypeParam>();
    pass(killed, 0, stop);
    const std::vector<double> saved(killed.scores().begin(), killed.scores().end());
    resumed.resume_at(stop, saved);
    EXPECT_THAT(resumed.scores(), ElementsAreArray(saved));
    EXPECT_FALSE(resumed.complete());
    pass(resumed, stop, layers);
    EXPECT_TRUE(resumed.complete());
    this->expect_window_by_window(resumed);
  }
}

TYPED_TEST(Sweep, MayBeSentBack) { // states of an older boundary than the scores
  ImportanceSweep<TypeParam> sweep = make_sweep<TypeParam>();
  pass(sweep, 0, 3);
  const std::vector<double> saved(sweep.scores().begin(), sweep.scores().end()); // of layers that will be scored again, too
  sweep.resume_at(1, saved);
  pass(sweep, 1, layers);
  this->expect_window_by_window(sweep);
}

TYPED_TEST(Sweep, ScoresAreZeroWhereNoLayerWasPassed) {
  ImportanceSweep<TypeParam> sweep = make_sweep<TypeParam>();
  pass(sweep, 0, 0);
  EXPECT_THAT(sweep.scores(), Each(0.0));
  pass(sweep, 1, 2);
  const std::size_t results = sweep.results();
  std::size_t scored = 0;
  for (std::size_t i = 0; i < sweep.scores().size(); ++i) {
    if (i / results % layers >= 2) {
      EXPECT_EQ(sweep.scores()[i], 0.0) << i;
    } else {
      scored += sweep.scores()[i] != 0;
    }
  }
  EXPECT_GT(scored, positions.size() * results);
}

TYPED_TEST(Sweep, ReadsRowsWithTheirStride) {
  ImportanceSweep<TypeParam> sweep = make_sweep<TypeParam>();
  for (std::size_t b = 0; b <= layers; ++b) {
    const std::vector<float> states = joined(texts(), b);
    std::vector<float> padded(states.size() / hidden * 10, -77.0f);
    for (std::size_t i = 0; i < states.size(); ++i) padded[i / hidden * 10 + i % hidden] = states[i];
    sweep.observe(MatrixView(padded.data(), states.size() / hidden, hidden, 10), cpu);
  }
  this->expect_window_by_window(sweep);
}

TYPED_TEST(Sweep, IsAValue) {
  ImportanceSweep<TypeParam> sweep = make_sweep<TypeParam>();
  pass(sweep, 0, 2);
  ImportanceSweep<TypeParam> copy = sweep;
  pass(copy, 3, layers);
  EXPECT_FALSE(sweep.complete());
  pass(sweep, 3, layers);
  this->expect_window_by_window(sweep);
  this->expect_window_by_window(copy);
}

TEST(SweepProjection, EveryBoundaryOnce) {
  std::vector<std::size_t> calls;
  ImportanceSweep<Jaccard> sweep = make_sweep<Jaccard>();
  pass(sweep, 0, layers, CountingDevice(calls));
  EXPECT_THAT(calls, ElementsAre(11, 11, 11, 11, 11));
}

TEST(SweepFaults, OtherStatesThanPromised) {
  const std::vector<float> states(12 * 7, 1.0f);
  const std::vector<lsaq::f16> halves(11 * hidden);
  ImportanceSweep<Cosine> sweep = make_sweep<Cosine>();
  const auto refusal = [&](MatrixView view) { return message_of<InvalidArgument>([&] { sweep.observe(view, cpu); }); };
  expect_mentions(refusal(MatrixView(states.data(), 10, hidden)), {"FP32 states of all its windows"});
  expect_mentions(refusal(MatrixView(states.data(), 12, hidden)), {"FP32 states of all its windows"});
  expect_mentions(refusal(MatrixView(halves.data(), 11, hidden)), {"FP32 states of all its windows"});
  pass(sweep, 0, 1);
  expect_mentions(refusal(MatrixView(states.data(), 11, hidden + 1)), {"shape of the hidden states changed"});
  pass(sweep, 2, layers); // a refusal changes nothing
  expect_mentions(refusal(MatrixView(states.data(), 11, hidden)), {"beyond the last layer"});
  EXPECT_TRUE(sweep.complete());
  ImportanceMetric<Cosine> metric(layers), expected(layers);
  metric.add(sweep);
  for (const Text& text : texts()) observe(expected, text);
  EXPECT_EQ(metric.importance().window_scores, expected.importance().window_scores);
}

TEST(SweepFaults, WindowsWithoutPositionsAndPoliciesWithoutScores) {
  expect_mentions(message_of<InvalidArgument>([] { ImportanceSweep<Cosine>(layers, {}, {3, 0}); }), {"no positions"});
  Jaccard::Options none = options_of<Jaccard>();
  none.top_k.sizes.clear();
  expect_mentions(message_of<InvalidArgument>([&] { ImportanceSweep<Jaccard>(layers, none, positions); }), {"ask for no score"});
}

TEST(SweepFaults, ScoresThatAreNotFinite) {
  std::vector<float> states = joined(texts(), 2);
  states[7 * hidden + 2] = std::numeric_limits<float>::quiet_NaN(); // in the third window
  const MatrixView broken(states.data(), 11, hidden);
  ImportanceSweep<Cosine> cosine = make_sweep<Cosine>();
  pass(cosine, 0, 1);
  expect_mentions(message_of<InvalidArgument>([&] { cosine.observe(broken, cpu); }), {"the score of layer 1 is not finite"});
  ImportanceSweep<Jaccard> jaccard = make_sweep<Jaccard>();
  pass(jaccard, 0, 1);
  expect_mentions(message_of<InvalidArgument>([&] { jaccard.observe(broken, cpu); }), {"hidden state 7 is not finite"});
}

TEST(SweepFaults, ResumedWithTheScoresOfAnother) {
  ImportanceSweep<Jaccard> sweep = make_sweep<Jaccard>();
  const std::vector<double> scores(sweep.scores().size()), fewer(sweep.scores().size() - 1);
  const auto refusal = [&](std::size_t boundary, std::span<const double> saved) {
    return message_of<InvalidArgument>([&] { sweep.resume_at(boundary, saved); });
  };
  expect_mentions(refusal(layers + 1, scores), {"not the scores of this sweep"});
  expect_mentions(refusal(1, fewer), {"not the scores of this sweep"});
  expect_mentions(refusal(1, {}), {"not the scores of this sweep"});
}

TEST(SweepFaults, AddedToADetectorItDoesNotFit) {
  ImportanceSweep<Jaccard> sweep = make_sweep<Jaccard>();
  ImportanceMetric<Jaccard> metric(layers, options_of<Jaccard>());
  const auto refusal = [&](ImportanceMetric<Jaccard>& detector) {
    const std::string message = message_of<InvalidArgument>([&] { detector.add(sweep); });
    EXPECT_THROW(detector.importance(), InvalidArgument) << "no window was counted";
    return message;
  };
  pass(sweep, 0, layers - 1);
  expect_mentions(refusal(metric), {"has not reached the last layer"});
  pass(sweep, layers, layers);
  ImportanceMetric<Jaccard> half(layers / 2, options_of<Jaccard>()); // its scores would divide evenly
  expect_mentions(refusal(half), {"another model or other options"});
  Jaccard::Options one = options_of<Jaccard>();
  one.top_k = 3;
  ImportanceMetric<Jaccard> other(layers, one);
  expect_mentions(refusal(other), {"another model or other options"});
  EXPECT_NO_THROW(metric.add(sweep));
}

} // namespace sweep_test
