// What goes wrong while states are observed is kept, and said at the end of the window; the detector stays as it was.
#include <lsaq/importance/metric.hpp>

#include "importance/calibration_states.hpp"

#include <formats/make_files.hpp>

#include <limits>

namespace metric_errors_test {

using calibration_states::observe;
using calibration_states::random_text;
using lsaq::Cosine;
using lsaq::Importance;
using lsaq::ImportanceMetric;
using lsaq::ImportanceWindow;
using lsaq::InvalidArgument;
using lsaq::Jaccard;
using lsaq::MatrixView;
using lsaq::WeightOutliers;
using make_files::expect_mentions;
using make_files::message_of;

const lsaq::Backend<lsaq::Cpu> cpu;
const std::vector<float> values{1, 2, 3, 4, 5, 6, 7, 8};
const MatrixView state(values.data(), 1, 2);

/// Rows of two columns.
MatrixView rows(std::size_t count) { return {values.data(), count, 2}; }

class WindowFaults : public testing::Test {
protected:
  WindowFaults() { observe(metric, random_text(2, 1, 2, 1)); }

  /// What end_window says, twice, and after more states were observed; the detector has the one window it began with.
  std::string refusal() {
    const Importance before = metric.importance();
    const auto end = [&] { return message_of<InvalidArgument>([&] { metric.end_window(window, cpu); }); };
    const std::string message = end();
    EXPECT_EQ(end(), message);
    EXPECT_EQ(metric.importance().windows, 1u);
    EXPECT_EQ(metric.importance().window_scores, before.window_scores);
    EXPECT_EQ(metric.importance().scores, before.scores);
    EXPECT_EQ(metric.importance().spread, before.spread);
    return message;
  }

  /// A fault stays, whatever is observed after it.
  std::string lasting_refusal() {
    const std::string message = refusal();
    for (std::size_t b = 0; b < 3; ++b) window.observe(b, rows(window.shape().rows()));
    EXPECT_EQ(refusal(), message);
    return message;
  }

  ImportanceMetric<Cosine> metric{2};
  ImportanceWindow window = metric.begin_window();
};

TEST_F(WindowFaults, MissingBoundary) {
  expect_mentions(refusal(), {"boundary 0 of 2 was not observed in this window"});
  window.observe(0, state);
  window.observe(2, state);
  expect_mentions(refusal(), {"boundary 1 of 2 was not observed in this window"});
  window.observe(1, state); // the window is still open
  EXPECT_NO_THROW(metric.end_window(window, cpu));
  EXPECT_EQ(metric.importance().windows, 2u);
}

TEST_F(WindowFaults, PartlyObservedBoundary) {
  window = metric.begin_window({.sequences = 2, .positions = 2, .hidden = 2});
  expect_mentions(refusal(), {"boundary 0 of 2 was not observed in this window"});
  for (std::size_t b = 0; b < 3; ++b) window.observe(b, rows(b == 2 ? 3 : 4));
  expect_mentions(refusal(), {"boundary 2 of 2 was not completely observed in this window"});
  window.observe(2, state, 3);
  EXPECT_NO_THROW(metric.end_window(window, cpu));
  EXPECT_EQ(metric.importance().windows, 3u);
}

TEST_F(WindowFaults, BoundaryBeyondTheLastLayer) {
  window.observe(3, state);
  expect_mentions(lasting_refusal(), {"importance: ", "a boundary beyond the last layer was observed"});
  window = metric.begin_window({1, 1, 2});
  window.observe(std::numeric_limits<std::size_t>::max(), state);
  expect_mentions(lasting_refusal(), {"a boundary beyond the last layer was observed"});
}

TEST_F(WindowFaults, BoundarySeenTwice) {
  window.observe(1, state);
  window.observe(1, state);
  expect_mentions(lasting_refusal(), {"a boundary was observed twice in one window"});
  window = metric.begin_window({1, 3, 2});
  window.observe(1, rows(2));
  window.observe(1, rows(2), 1);
  expect_mentions(lasting_refusal(), {"a boundary was observed twice in one window"});
}

TEST_F(WindowFaults, ShapeThatChanges) {
  const std::string sentence = "the shape of the hidden states changed within the window";
  window.observe(0, state);
  window.observe(1, MatrixView(values.data(), 1, 3));
  expect_mentions(lasting_refusal(), {sentence});
  window = metric.begin_window();
  window.observe(0, state);
  window.observe(1, rows(2));
  expect_mentions(lasting_refusal(), {sentence});
  window = metric.begin_window();
  window.observe(0, state, 1); // a part, where the whole is not known
  expect_mentions(lasting_refusal(), {sentence});
  window = metric.begin_window({1, 2, 2});
  window.observe(0, MatrixView(values.data(), 2, 3));
  expect_mentions(lasting_refusal(), {sentence});
}

TEST_F(WindowFaults, FewerRowsThanTheFirstBoundaryHad) {
  window.observe(0, rows(2));
  window.observe(1, rows(2));
  window.observe(2, rows(1));
  expect_mentions(refusal(), {"boundary 2 of 2 was not completely observed"});
}

TEST_F(WindowFaults, RowsBeyondTheShape) {
  const std::string sentence = "more rows were observed than the window's shape has";
  const auto observe_rows = [&](std::size_t count, std::size_t first) {
    window = metric.begin_window({.sequences = 1, .positions = 3, .hidden = 2});
    window.observe(0, rows(count), first);
    return lasting_refusal();
  };
  expect_mentions(observe_rows(4, 0), {sentence});
  expect_mentions(observe_rows(2, 2), {sentence});
  expect_mentions(observe_rows(1, 3), {sentence});
  expect_mentions(observe_rows(1, 4), {sentence});
  expect_mentions(observe_rows(1, std::numeric_limits<std::size_t>::max()), {sentence});
}

TEST_F(WindowFaults, TheFirstFaultIsTheOneReported) {
  window.observe(0, state);
  window.observe(0, state);
  window.observe(9, state);
  expect_mentions(lasting_refusal(), {"twice"});
}

TEST_F(WindowFaults, StatesWithoutElements) {
  window.observe(0, MatrixView(values.data(), 0, 2));
  expect_mentions(lasting_refusal(), {"the hidden states have no rows or no columns"});
  window = metric.begin_window();
  window.observe(0, state);
  window.observe(1, MatrixView(values.data(), 1, 0));
  expect_mentions(lasting_refusal(), {"the hidden states have no rows or no columns"});
}

bool memory_can_be_refused() {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return false; // the sanitizer ends the program
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
  return false;
#endif
#endif
  return true;
}

TEST_F(WindowFaults, MoreStatesThanMemoryHolds) {
  if (!memory_can_be_refused()) GTEST_SKIP() << "the sanitizer ends the program where memory is refused";
  for (const std::size_t columns : {std::size_t{1} << 29, std::size_t{1} << 31, std::size_t{1} << 33}) { // refused; beyond any vector; beyond any number
    window = metric.begin_window();
    window.observe(0, MatrixView(values.data(), std::size_t{1} << 30, columns)); // not one element of it is read
    expect_mentions(refusal(), {"no memory for the window's hidden states"});
  }
  window.observe(0, state);
  expect_mentions(refusal(), {"no memory for the window's hidden states"});
}

TEST_F(WindowFaults, ScoresThatAreNotFinite) {
  const std::vector<float> broken{1, std::numeric_limits<float>::quiet_NaN()};
  window.observe(0, state);
  window.observe(1, state);
  window.observe(2, MatrixView(broken.data(), 1, 2));
  expect_mentions(refusal(), {"the score of layer 1 is not finite"});
}

TEST_F(WindowFaults, InOneSequenceOfABatch) {
  std::vector<float> batch = values;
  batch[7] = std::numeric_limits<float>::infinity();
  window = metric.begin_window({.sequences = 4, .positions = 1, .hidden = 2});
  for (std::size_t b = 0; b < 3; ++b) window.observe(b, b == 0 ? MatrixView(batch.data(), 4, 2) : rows(4));
  expect_mentions(refusal(), {"the score of layer 0 is not finite"}); // and none of the other three counts
}

TEST(MetricFaults, ObserveIsNoexcept) { static_assert(noexcept(std::declval<ImportanceWindow&>().observe(0, state))); }

TEST(MetricFaults, WindowsOfAnImpossibleShape) {
  const ImportanceMetric<Cosine> metric(2);
  for (const lsaq::WindowShape& shape : {lsaq::WindowShape{0, 1, 2}, {1, 0, 2}, {1, 1, 0}})
    expect_mentions(message_of<InvalidArgument>([&] { (void)metric.begin_window(shape); }), {"sequences, positions and a hidden size"});
  if (!memory_can_be_refused()) GTEST_SKIP() << "the sanitizer ends the program where memory is refused";
  EXPECT_THROW((void)metric.begin_window({1, std::size_t{1} << 60, 64}), std::length_error) << "3 x 2^66 must not pass as 0";
  EXPECT_THROW((void)metric.begin_window({1, std::size_t{1} << 30, std::size_t{1} << 29}), std::bad_alloc);
}

TEST(MetricFaults, AModelWithoutLayers) {
  expect_mentions(message_of<InvalidArgument>([] { ImportanceMetric<Cosine> metric(0); }), {"at least one layer"});
}

TEST(MetricFaults, NothingObserved) {
  expect_mentions(message_of<InvalidArgument>([] { (void)ImportanceMetric<Cosine>(3).importance(); }), {"no window was observed"});
  expect_mentions(message_of<InvalidArgument>([] { (void)ImportanceMetric<Cosine>(3).importance(1); }), {"result 1 of 1"});
}

TEST(MetricFaults, WindowOfAnotherModel) {
  ImportanceMetric<Cosine> two(2), three(3);
  const auto refusal = [](ImportanceMetric<Cosine>& opened, ImportanceMetric<Cosine>& closed) {
    ImportanceWindow window = opened.begin_window();
    for (std::size_t b = 0; b <= opened.layers(); ++b) window.observe(b, state);
    return message_of<InvalidArgument>([&] { closed.end_window(window, cpu); });
  };
  expect_mentions(refusal(two, three), {"a model with 2 layers, not 3"});
  expect_mentions(refusal(three, two), {"a model with 3 layers, not 2"});
}

TEST(MetricFaults, MergeOfDetectorsThatDiffer) {
  ImportanceMetric<Cosine> two(2);
  const ImportanceMetric<Cosine> three(3);
  expect_mentions(message_of<InvalidArgument>([&] { two.merge(three); }), {"can't merge", "different layer counts"});
  ImportanceMetric<Jaccard> one_size(2, {.top_k = 1});
  const ImportanceMetric<Jaccard> two_sizes(2, {.top_k = {1, 2}});
  expect_mentions(message_of<InvalidArgument>([&] { one_size.merge(two_sizes); }), {"can't merge", "different numbers of results"});
  ImportanceMetric<WeightOutliers> outliers(2);
  expect_mentions(message_of<InvalidArgument>([&] { outliers.merge(ImportanceMetric<WeightOutliers>(3)); }), {"can't merge", "different layer counts"});
}

TEST(MetricFaults, WindowScoresThatDoNotFit) {
  ImportanceMetric<Jaccard> metric(3, {.top_k = {1, 2}}); // six scores a window
  metric.add_window_scores(std::vector<double>{1, 2, 3, 4, 5, 6});
  const auto refusal = [&](const std::vector<double>& scores) {
    const std::string message = message_of<InvalidArgument>([&] { metric.add_window_scores(scores); });
    EXPECT_EQ(metric.importance().windows, 1u);
    EXPECT_EQ(metric.importance(1).window_scores, (std::vector<double>{2, 4, 6}));
    return message;
  };
  for (const std::size_t count : {1u, 3u, 5u, 7u, 9u}) expect_mentions(refusal(std::vector<double>(count)), {"another number of layers"});
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()}) {
    std::vector<double> scores(12, 0.5);
    scores[9] = bad; // window 1, layer 1, result 1
    expect_mentions(refusal(scores), {"the score of layer 1 is not finite"});
  }
}

} // namespace metric_errors_test
