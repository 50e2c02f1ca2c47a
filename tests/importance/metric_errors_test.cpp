// What goes wrong while states are observed is kept, and said at the end of the window.
#include <lsaq/importance/metric.hpp>

#include <lsaq/deployment/cpu.hpp>

#include <formats/make_files.hpp>

#include <limits>

namespace {

using lsaq::Cosine;
using lsaq::ImportanceMetric;
using lsaq::ImportanceWindow;
using lsaq::InvalidArgument;
using lsaq::Jaccard;
using lsaq::MatrixView;
using make_files::expect_mentions;
using make_files::message_of;

const lsaq::Backend<lsaq::Cpu> cpu;
const std::vector<float> values{1, 2, 3, 4, 5, 6};
const MatrixView state(values.data(), 1, 2);

class WindowFaults : public testing::Test {
protected:
  std::string refusal() {
    return message_of<InvalidArgument>([&] { metric.end_window(window, cpu); });
  }
  ImportanceMetric<Cosine> metric{2};
  ImportanceWindow window = metric.begin_window();
};

TEST_F(WindowFaults, MissingBoundary) {
  expect_mentions(refusal(), {"boundary 0 of 2 was not observed"});
  window.observe(0, state);
  window.observe(2, state);
  expect_mentions(refusal(), {"boundary 1 of 2 was not observed"});
  window.observe(1, state); // the window is still open
  EXPECT_NO_THROW(metric.end_window(window, cpu));
  EXPECT_EQ(metric.importance().windows, 1u);
}

TEST_F(WindowFaults, BoundaryBeyondTheLastLayer) {
  window.observe(3, state);
  expect_mentions(refusal(), {"importance: ", "a boundary beyond the last layer was observed"});
}

TEST_F(WindowFaults, BoundarySeenTwice) {
  window.observe(1, state);
  window.observe(1, state);
  expect_mentions(refusal(), {"a boundary was observed twice in one window"});
}

TEST_F(WindowFaults, ShapeThatChanges) {
  window.observe(0, state);
  window.observe(1, MatrixView(values.data(), 1, 3));
  expect_mentions(refusal(), {"the shape of the hidden states changed within the window"});
  window = metric.begin_window();
  window.observe(0, state);
  window.observe(1, MatrixView(values.data(), 2, 2));
  expect_mentions(refusal(), {"the shape of the hidden states changed within the window"});
}

TEST_F(WindowFaults, TheFirstFaultIsTheOneReported) {
  window.observe(0, state);
  window.observe(0, state);
  window.observe(9, state);
  expect_mentions(refusal(), {"twice"});
}

TEST_F(WindowFaults, StatesWithoutElements) {
  window.observe(0, MatrixView(values.data(), 0, 2));
  expect_mentions(refusal(), {"no rows or no columns"});
  window = metric.begin_window();
  window.observe(0, state);
  window.observe(1, MatrixView(values.data(), 1, 0));
  expect_mentions(refusal(), {"no rows or no columns"});
}

TEST_F(WindowFaults, MoreStatesThanMemoryHolds) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer ends the program where memory is refused";
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
  GTEST_SKIP() << "the sanitizer ends the program where memory is refused";
#endif
#endif
  window.observe(0, MatrixView(values.data(), std::size_t{1} << 30, std::size_t{1} << 29)); // 6 EiB; not one element of it is read
  expect_mentions(refusal(), {"no memory for the window's hidden states"});
}

TEST_F(WindowFaults, ScoreNothingAndSpoilNothing) {
  for (std::size_t b = 0; b < 3; ++b) window.observe(b, state);
  metric.end_window(window, cpu);
  const std::vector<double> before = metric.importance().scores;
  ImportanceWindow other = metric.begin_window();
  other.observe(7, state);
  EXPECT_THROW(metric.end_window(other, cpu), InvalidArgument);
  EXPECT_EQ(metric.importance().windows, 1u);
  EXPECT_EQ(metric.importance().scores, before);
}

TEST(MetricFaults, ObserveIsNoexcept) { static_assert(noexcept(std::declval<ImportanceWindow&>().observe(0, state))); }

TEST(MetricFaults, StatesThatAreNotFinite) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> embedding{1, 0, 0, 1}, broken{1, nan};
  const auto refusal = [&](auto metric) {
    ImportanceWindow window = metric.begin_window();
    window.observe(0, state);
    window.observe(1, MatrixView(broken.data(), 1, 2));
    const std::string message = message_of<InvalidArgument>([&] { metric.end_window(window, cpu); });
    EXPECT_THROW(metric.importance(), InvalidArgument) << "no window was counted";
    return message;
  };
  expect_mentions(refusal(ImportanceMetric<Jaccard>(1, {.embedding = MatrixView(embedding.data(), 2, 2), .top_k = 1})), {"not finite"});
  expect_mentions(refusal(ImportanceMetric<Cosine>(1)), {"not finite"}); // scores without an order would make a plan without a meaning
}

TEST(MetricFaults, JaccardNeedsAnEmbeddingThatFits) {
  const auto refusal = [](Jaccard::Options options) {
    ImportanceMetric<Jaccard> metric(1, options);
    ImportanceWindow window = metric.begin_window();
    window.observe(0, state);
    window.observe(1, state);
    return message_of<InvalidArgument>([&] { metric.end_window(window, cpu); });
  };
  expect_mentions(refusal({}), {"size 2", "size 0"});
  expect_mentions(refusal({.embedding = MatrixView(values.data(), 2, 3), .top_k = 1}), {"size 2", "size 3"});
  expect_mentions(refusal({.embedding = MatrixView(values.data(), 3, 2)}), {"top_k is 50", "1 to 3"});
}

TEST(MetricFaults, AModelWithoutLayers) {
  expect_mentions(message_of<InvalidArgument>([] { ImportanceMetric<Cosine> metric(0); }), {"at least one layer"});
}

TEST(MetricFaults, NothingObserved) {
  expect_mentions(message_of<InvalidArgument>([] { ImportanceMetric<Cosine>(3).importance(); }), {"no window was observed"});
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

TEST(MetricFaults, MergeOfModelsWithDifferentLayerCounts) {
  ImportanceMetric<Cosine> two(2);
  const ImportanceMetric<Cosine> three(3);
  expect_mentions(message_of<InvalidArgument>([&] { two.merge(three); }), {"can't merge", "different layer counts"});
}

} // namespace
