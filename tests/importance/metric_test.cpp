// Scores of hidden states by hand: Jaccard (Eqs. 1-3) on an embedding of four tokens, Cosine, and policies of one's own.
#include <lsaq/importance/metric.hpp>

#include <lsaq/deployment/cpu.hpp>

#include <gmock/gmock.h>

#include <thread>

namespace {

using lsaq::bf16;
using lsaq::Cosine;
using lsaq::f16;
using lsaq::Importance;
using lsaq::ImportanceMetric;
using lsaq::ImportanceWindow;
using lsaq::Jaccard;
using lsaq::MatrixView;
using testing::DoubleEq;
using testing::DoubleNear;
using testing::ElementsAre;

const lsaq::Backend<lsaq::Cpu> cpu;

// Four tokens, one in each direction. The two highest projections of a state are the two axes of its quadrant:
//   (2, 1) -> {0, 1}    (-1, 2) -> {1, 2}    (-2, -1) -> {2, 3}
const std::vector<float> compass{1, 0, 0, 1, -1, 0, 0, -1};
const Jaccard::Options top_two{.embedding = MatrixView(compass.data(), 4, 2), .top_k = 2};
const std::vector<float> north_east{2, 1}, north_west{-1, 2}, south_west{-2, -1};

MatrixView one_state(const std::vector<float>& state) { return {state.data(), 1, state.size()}; }

template <class Metric> void observe_window(Metric& metric, const std::vector<std::vector<float>>& boundaries) {
  ImportanceWindow window = metric.begin_window();
  for (std::size_t b = 0; b < boundaries.size(); ++b) window.observe(b, one_state(boundaries[b]));
  metric.end_window(window, cpu);
}

template <class Policy> std::vector<double> scores_of(const std::vector<std::vector<float>>& boundaries, typename Policy::Options options = {}) {
  ImportanceMetric<Policy> metric(boundaries.size() - 1, options);
  observe_window(metric, boundaries);
  return metric.importance().scores;
}

TEST(JaccardMetric, OneMinusSharedOverAllTokens) {
  EXPECT_THAT(scores_of<Jaccard>({north_east, north_east, north_west, south_west, north_east}, top_two),
              ElementsAre(0.0, DoubleEq(2.0 / 3), DoubleEq(2.0 / 3), 1.0));
}

TEST(JaccardMetric, WholeVocabularyIsNeverChanged) {
  Jaccard::Options all = top_two;
  all.top_k = 4;
  EXPECT_THAT(scores_of<Jaccard>({north_east, south_west}, all), ElementsAre(0.0));
}

TEST(JaccardMetric, DefaultSetSizeIsThePapersChoice) { EXPECT_EQ(Jaccard::Options{}.top_k, 50u); }

TEST(JaccardMetric, ZeroStateTiesToTheLowestIds) {
  EXPECT_THAT(scores_of<Jaccard>({{0, 0}, north_east, {0, 0}, south_west}, top_two), ElementsAre(0.0, 0.0, 1.0)); // zero -> {0, 1}
}

TEST(JaccardMetric, AveragesOverPositions) {
  const std::vector<float> entering{2, 1, -1, 2, -2, -1}, leaving{2, 1, -2, -1, 2, 1}; // index 1, 1/3, 0
  ImportanceMetric<Jaccard> metric(1, top_two);
  ImportanceWindow window = metric.begin_window();
  window.observe(0, {entering.data(), 3, 2});
  window.observe(1, {leaving.data(), 3, 2});
  metric.end_window(window, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(DoubleNear((0 + 2.0 / 3 + 1) / 3, 1e-15)));
}

TEST(JaccardMetric, ThreadsDoNotChangeTheScores) {
  std::vector<float> embedding(90 * 8), states(5 * 3 * 8);
  for (std::size_t i = 0; i < embedding.size(); ++i) embedding[i] = static_cast<float>(static_cast<int>(i * 31 % 17) - 8);
  for (std::size_t i = 0; i < states.size(); ++i) states[i] = static_cast<float>(static_cast<int>(i * 29 % 13) - 6);
  struct Four {
    std::size_t concurrency() const { return 4; }
    void parallel_for(std::size_t count, lsaq::TaskRef task) const {
      while (count-- > 0) task(count);
    }
  } four;
  std::vector<std::vector<double>> scores;
  for (const lsaq::Backend<lsaq::Cpu>& device : {lsaq::Backend<lsaq::Cpu>(), lsaq::Backend<lsaq::Cpu>(four)}) {
    ImportanceMetric<Jaccard> metric(4, {.embedding = MatrixView(embedding.data(), 90, 8), .top_k = 10});
    ImportanceWindow window = metric.begin_window();
    for (std::size_t b = 0; b < 5; ++b) window.observe(b, {states.data() + b * 24, 3, 8});
    metric.end_window(window, device);
    scores.push_back(metric.importance().scores);
  }
  EXPECT_EQ(scores[0], scores[1]);
}

TEST(CosineMetric, ByHand) {
  EXPECT_THAT(scores_of<Cosine>({{3, 4}, {6, 8}, {-8, 6}, {8, -6}, {8, 0}}),
              ElementsAre(DoubleNear(0, 1e-15), DoubleNear(1, 1e-15), DoubleNear(2, 1e-15), DoubleNear(1 - 0.8, 1e-15)));
}

TEST(CosineMetric, StaysWithinZeroAndTwo) {
  const std::vector<float> v{0.1f, 0.7f, -0.3f}, tripled{0.3f, 2.1f, -0.9f}, minus{-0.1f, -0.7f, 0.3f};
  for (const double score : scores_of<Cosine>({v, tripled, v, minus, v})) {
    EXPECT_GE(score, 0.0);
    EXPECT_LE(score, 2.0);
  }
}

TEST(CosineMetric, ZeroVectors) {
  EXPECT_THAT(scores_of<Cosine>({{0, 0}, {0, 0}, {1, 2}, {0, 0}}), ElementsAre(0.0, 1.0, 1.0)); // nothing changed; something out of nothing and back
}

TEST(CosineMetric, LargeAndSmallStatesNeitherOverflowNorVanish) {
  EXPECT_THAT(scores_of<Cosine>({{3e38f, 0}, {3e38f, 3e38f}}), ElementsAre(DoubleNear(1 - std::sqrt(0.5), 1e-7)));
  EXPECT_THAT(scores_of<Cosine>({{1e-30f, 0}, {0, 1e-30f}}), ElementsAre(1.0));
}

TEST(CosineMetric, AveragesOverPositions) {
  const std::vector<float> entering{1, 0, 1, 0}, leaving{1, 0, 0, 1};
  ImportanceMetric<Cosine> metric(1);
  ImportanceWindow window = metric.begin_window();
  window.observe(0, {entering.data(), 2, 2});
  window.observe(1, {leaving.data(), 2, 2});
  metric.end_window(window, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.5));
}

TEST(Window, CopiesStatesThatAreOverwrittenInPlace) {
  std::vector<float> residual = north_east;
  ImportanceMetric<Jaccard> metric(2, top_two);
  ImportanceWindow window = metric.begin_window();
  window.observe(0, one_state(residual));
  residual = north_west;
  window.observe(1, one_state(residual));
  residual = south_west;
  window.observe(2, one_state(residual));
  residual = {1e30f, -1e30f};
  metric.end_window(window, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(DoubleEq(2.0 / 3), DoubleEq(2.0 / 3)));
}

TEST(Window, BoundariesMayComeInAnyOrder) {
  ImportanceMetric<Jaccard> metric(2, top_two);
  ImportanceWindow window = metric.begin_window();
  window.observe(2, one_state(south_west));
  window.observe(0, one_state(north_east));
  window.observe(1, one_state(north_east));
  metric.end_window(window, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.0, 1.0));
}

TEST(Window, SeveralOpenAtOnceDoNotMix) {
  ImportanceMetric<Jaccard> metric(1, top_two);
  ImportanceWindow first = metric.begin_window(), second = metric.begin_window();
  first.observe(0, one_state(north_east));
  second.observe(0, one_state(south_west));
  second.observe(1, one_state(north_east));
  first.observe(1, one_state(north_east));
  metric.end_window(first, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.0));
  metric.end_window(second, cpu);
  EXPECT_EQ(metric.importance().windows, 2u);
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.5));
}

TEST(Window, IsAValue) {
  ImportanceMetric<Jaccard> metric(1, top_two);
  ImportanceWindow window = metric.begin_window();
  window.observe(0, one_state(north_east));
  ImportanceWindow copy = window;
  window.observe(1, one_state(north_east));
  copy.observe(1, one_state(south_west));
  metric.end_window(copy, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(1.0));
  metric.end_window(window, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.5));
}

TEST(Window, CanBeFilledOnAThreadOfItsOwn) {
  ImportanceMetric<Jaccard> metric(1, top_two);
  std::vector<ImportanceWindow> windows(4, metric.begin_window());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < windows.size(); ++i)
    threads.emplace_back([&, i] {
      windows[i].observe(0, one_state(north_east));
      windows[i].observe(1, one_state(i % 2 == 0 ? north_east : south_west));
    });
  for (std::thread& thread : threads) thread.join();
  for (ImportanceWindow& window : windows) metric.end_window(window, cpu);
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.5));
}

TEST(Window, IsEmptyAgainAfterItsEnd) {
  ImportanceMetric<Jaccard> metric(1, top_two);
  ImportanceWindow window = metric.begin_window();
  window.observe(0, one_state(north_east));
  window.observe(1, one_state(south_west));
  metric.end_window(window, cpu);
  const std::vector<float> three{2, 1, 2, 1, 2, 1}; // another number of positions
  window.observe(0, {three.data(), 3, 2});
  window.observe(1, {three.data(), 3, 2});
  metric.end_window(window, cpu);
  EXPECT_EQ(metric.importance().windows, 2u);
  EXPECT_THAT(metric.importance().scores, ElementsAre(0.5));
}

template <class T> std::vector<T> padded(const std::vector<float>& values, std::size_t columns, std::size_t stride) {
  std::vector<T> out(values.size() / columns * stride);
  for (T& element : out) {
    if constexpr (std::is_same_v<T, float>) element = -77.0f;
    if constexpr (std::is_same_v<T, f16>) element = lsaq::to_f16(-77.0f);
    if constexpr (std::is_same_v<T, bf16>) element = lsaq::to_bf16(-77.0f);
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    T& element = out[i / columns * stride + i % columns];
    if constexpr (std::is_same_v<T, float>) element = values[i];
    if constexpr (std::is_same_v<T, f16>) element = lsaq::to_f16(values[i]);
    if constexpr (std::is_same_v<T, bf16>) element = lsaq::to_bf16(values[i]);
  }
  return out;
}

template <class T> class WindowTypes : public testing::Test {};
using StateTypes = testing::Types<float, f16, bf16>;
TYPED_TEST_SUITE(WindowTypes, StateTypes);

TYPED_TEST(WindowTypes, AreWidenedRowByRowWithTheirStride) {
  const std::vector<float> entering{3, 4, 0, 1.5, 0, -2}, leaving{6, 8, 0, 0, 0.25, 0}; // cosines 1 and 0
  ImportanceMetric<Cosine> metric(1);
  for (const std::size_t stride : {3u, 8u}) {
    ImportanceWindow window = metric.begin_window();
    const std::vector<TypeParam> in = padded<TypeParam>(entering, 3, stride), out = padded<TypeParam>(leaving, 3, stride);
    window.observe(0, MatrixView(in.data(), 2, 3, stride));
    window.observe(1, MatrixView(out.data(), 2, 3, stride));
    metric.end_window(window, cpu);
  }
  EXPECT_EQ(metric.importance().windows, 2u);
  EXPECT_THAT(metric.importance().scores, ElementsAre(DoubleNear(0.5, 1e-15)));
  EXPECT_THAT(metric.importance().spread, ElementsAre(0.0));
}

TEST(ImportanceResult, NamesThePolicyAndCountsWindows) {
  ImportanceMetric<Jaccard> jaccard(1, top_two);
  observe_window(jaccard, {north_east, north_east});
  EXPECT_EQ(jaccard.layers(), 1u);
  EXPECT_EQ(jaccard.importance().metric, "jaccard");
  EXPECT_EQ(jaccard.importance().windows, 1u);
  ImportanceMetric<Cosine> cosine(1);
  observe_window(cosine, {north_east, north_east});
  EXPECT_EQ(cosine.importance().metric, "cosine");
}

TEST(ImportanceResult, MeanAndStandardErrorOverWindows) {
  ImportanceMetric<Jaccard> metric(1, top_two);
  observe_window(metric, {north_east, north_west}); // 2/3
  EXPECT_THAT(metric.importance().spread, ElementsAre(0.0)) << "a single window has no spread";
  observe_window(metric, {north_east, south_west}); // 1
  const Importance two = metric.importance();
  EXPECT_THAT(two.scores, ElementsAre(DoubleNear(5.0 / 6, 1e-15)));
  EXPECT_THAT(two.spread, ElementsAre(DoubleNear(1.0 / 6, 1e-15))); // deviation sqrt(1/18), over sqrt(2)
  observe_window(metric, {north_east, north_east});                 // 0
  observe_window(metric, {north_west, south_west});                 // 2/3
  const Importance four = metric.importance();
  const double mean = (2.0 / 3 + 1 + 0 + 2.0 / 3) / 4;
  const double squares = 2 * (2.0 / 3 - mean) * (2.0 / 3 - mean) + (1 - mean) * (1 - mean) + mean * mean;
  EXPECT_EQ(four.windows, 4u);
  EXPECT_THAT(four.scores, ElementsAre(DoubleNear(mean, 1e-15)));
  EXPECT_THAT(four.spread, ElementsAre(DoubleNear(std::sqrt(squares / 3) / std::sqrt(4.0), 1e-15)));
}

TEST(Merge, EqualsTheSequentialResult) {
  const std::vector<std::vector<std::vector<float>>> texts{
      {north_east, north_west, south_west}, {north_east, south_west, south_west}, {south_west, south_west, north_east}, {north_west, north_east, north_east}};
  ImportanceMetric<Jaccard> sequential(2, top_two), first(2, top_two), second(2, top_two);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    observe_window(sequential, texts[i]);
    observe_window(i < 1 ? first : second, texts[i]);
  }
  first.merge(second);
  const Importance merged = first.importance(), expected = sequential.importance();
  EXPECT_EQ(merged.windows, 4u);
  EXPECT_EQ(merged.scores, expected.scores);
  EXPECT_EQ(merged.spread, expected.spread);
  EXPECT_EQ(second.importance().windows, 3u) << "the other detector is as it was";
}

TEST(Merge, WithADetectorThatSawNothing) {
  ImportanceMetric<Jaccard> empty(1, top_two), full(1, top_two);
  observe_window(full, {north_east, south_west});
  full.merge(empty);
  EXPECT_EQ(full.importance().windows, 1u);
  empty.merge(full);
  EXPECT_EQ(empty.importance().scores, full.importance().scores);
}

/// A policy as an engine's author would write it: how much longer the state gets. Needs nothing of the device.
struct Growth {
  static constexpr std::string_view name = "growth";
  struct Options {
    double factor = 1;
  };
  static void score(const Options& options, const lsaq::WindowStates& window, const auto&, std::span<double> scores) {
    for (std::size_t layer = 0; layer < window.layers; ++layer)
      for (std::size_t p = 0; p < window.positions; ++p) scores[layer] += options.factor * double{window.at(layer + 1, p)[0] - window.at(layer, p)[0]};
  }
};

static_assert(lsaq::has_metric_name<Growth> && lsaq::scores_hidden_states<Growth> && !lsaq::scores_weights<Growth>);

TEST(OwnPolicy, ScoresHiddenStates) {
  struct NoDevice {};
  ImportanceMetric<Growth> metric(2, {.factor = 10});
  ImportanceWindow window = metric.begin_window();
  const std::vector<float> states[] = {{1, 2}, {4, 8}, {5, 5}};
  for (std::size_t b = 0; b < 3; ++b) window.observe(b, {states[b].data(), 2, 1});
  metric.end_window(window, NoDevice{});
  EXPECT_EQ(metric.importance().metric, "growth");
  EXPECT_THAT(metric.importance().scores, ElementsAre(90.0, -20.0));
  EXPECT_THAT(metric.importance().order(), ElementsAre(1, 0));
}

} // namespace
