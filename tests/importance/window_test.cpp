// Windows take states as engines have them: any type and stride, in parts, from several threads, in memory that is overwritten at once.
#include <lsaq/importance/window.hpp>

#include "importance/calibration_states.hpp"

#include <deployment/count_allocations.hpp>
#include <formats/make_files.hpp>

#include <thread>

namespace window_test {

using calibration_states::CountingDevice;
using calibration_states::observe;
using calibration_states::random_integers;
using calibration_states::random_text;
using calibration_states::Text;
using lsaq::bf16;
using lsaq::Cosine;
using lsaq::f16;
using lsaq::ImportanceMetric;
using lsaq::ImportanceWindow;
using lsaq::InvalidArgument;
using lsaq::Jaccard;
using lsaq::MatrixView;
using lsaq::WindowShape;
using make_files::expect_mentions;
using make_files::message_of;
using testing::ElementsAre;

const lsaq::Backend<lsaq::Cpu> cpu;

constexpr std::size_t layers = 4, hidden = 6, vocabulary = 50;
const std::vector<float> embedding = random_integers(vocabulary * hidden, 77);
const Jaccard::Options options{.embedding = MatrixView(embedding.data(), vocabulary, hidden), .top_k = {3, 12}};

template <class Policy> ImportanceMetric<Policy> make_metric() {
  if constexpr (std::is_same_v<Policy, Jaccard>)
    return ImportanceMetric<Policy>(layers, options);
  else
    return ImportanceMetric<Policy>(layers);
}

/// The scores of each text observed boundary by boundary, one window each.
template <class Policy> std::vector<std::vector<double>> expected_scores(const std::vector<Text>& texts) {
  ImportanceMetric<Policy> metric = make_metric<Policy>();
  for (const Text& text : texts) observe(metric, text);
  std::vector<std::vector<double>> scores;
  for (std::size_t r = 0; r < metric.results(); ++r) scores.push_back(metric.importance(r).window_scores);
  return scores;
}

template <class Policy> void expect_scores(const ImportanceMetric<Policy>& metric, const std::vector<Text>& texts) {
  const std::vector<std::vector<double>> expected = expected_scores<Policy>(texts);
  for (std::size_t r = 0; r < metric.results(); ++r) {
    EXPECT_EQ(metric.importance(r).windows, texts.size());
    EXPECT_EQ(metric.importance(r).window_scores, expected[r]) << "result " << r;
  }
}

/// One text.
template <class Policy> void expect_equals(ImportanceWindow& window, const Text& text) {
  ImportanceMetric<Policy> metric = make_metric<Policy>();
  metric.end_window(window, cpu);
  expect_scores(metric, {text});
}

TEST(Window, CopiesStatesThatAreOverwrittenInPlace) {
  const Text text = random_text(layers, 3, hidden, 1);
  for (const bool with_shape : {false, true}) {
    ImportanceWindow window = with_shape ? make_metric<Jaccard>().begin_window({1, 3, hidden}) : make_metric<Jaccard>().begin_window();
    std::vector<float> residual;
    for (std::size_t b = 0; b <= layers; ++b) {
      residual = text.boundaries[b];
      window.observe(b, MatrixView(residual.data(), 3, hidden));
      std::fill(residual.begin(), residual.end(), 1e30f);
    }
    expect_equals<Jaccard>(window, text);
  }
}

TEST(Window, BoundariesMayComeInAnyOrder) {
  const Text text = random_text(layers, 2, hidden, 2);
  ImportanceWindow window = make_metric<Jaccard>().begin_window();
  for (const std::size_t b : {4u, 0u, 3u, 1u, 2u}) window.observe(b, text.at(b));
  expect_equals<Jaccard>(window, text);
}

TEST(Window, TakesTheShapeOfItsFirstStates) {
  ImportanceWindow window = make_metric<Cosine>().begin_window();
  EXPECT_EQ(window.layers(), layers);
  window.observe(0, random_text(layers, 5, hidden, 1).at(0));
  EXPECT_EQ(window.shape().sequences, 1u);
  EXPECT_EQ(window.shape().positions, 5u);
  EXPECT_EQ(window.shape().hidden, hidden);
}

TEST(Window, SeveralOpenAtOnceDoNotMix) {
  const Text a = random_text(layers, 2, hidden, 3), b = random_text(layers, 1, hidden, 4);
  ImportanceMetric<Jaccard> metric = make_metric<Jaccard>();
  ImportanceWindow first = metric.begin_window(), second = metric.begin_window();
  for (std::size_t boundary = 0; boundary <= layers; ++boundary) {
    first.observe(boundary, a.at(boundary));
    second.observe(layers - boundary, b.at(layers - boundary));
  }
  metric.end_window(second, cpu);
  metric.end_window(first, cpu);
  expect_scores(metric, {b, a});
}

TEST(Window, IsAValue) {
  const Text a = random_text(layers, 2, hidden, 3), b = random_text(layers, 2, hidden, 4);
  ImportanceWindow window = make_metric<Jaccard>().begin_window();
  window.observe(0, a.at(0));
  ImportanceWindow copy = window, assigned = make_metric<Jaccard>().begin_window({2, 9, 3});
  assigned = window;
  for (std::size_t boundary = 1; boundary <= layers; ++boundary) {
    window.observe(boundary, a.at(boundary));
    copy.observe(boundary, b.at(boundary));
    assigned.observe(boundary, a.at(boundary));
  }
  expect_equals<Jaccard>(window, a);
  expect_equals<Jaccard>(assigned, a);
  Text mixed = b;
  mixed.boundaries[0] = a.boundaries[0];
  expect_equals<Jaccard>(copy, mixed);
}

TEST(Window, AFaultIsCopiedWithItsWindow) {
  ImportanceMetric<Cosine> metric = make_metric<Cosine>();
  ImportanceWindow window = metric.begin_window();
  window.observe(99, random_text(layers, 1, hidden, 1).at(0));
  ImportanceWindow copy = window;
  expect_mentions(message_of<InvalidArgument>([&] { metric.end_window(copy, cpu); }), {"beyond the last layer"});
}

TEST(Window, IsEmptyAgainAfterItsEnd) {
  const std::vector<Text> texts{random_text(layers, 2, hidden, 5), random_text(layers, 7, hidden, 6), random_text(layers, 1, hidden, 7)};
  ImportanceMetric<Jaccard> metric = make_metric<Jaccard>();
  ImportanceWindow window = metric.begin_window();
  for (const Text& text : texts) { // other numbers of positions each time: the memory is used again
    for (std::size_t b = 0; b <= layers; ++b) window.observe(b, text.at(b));
    metric.end_window(window, cpu);
    expect_mentions(message_of<InvalidArgument>([&] { metric.end_window(window, cpu); }), {"boundary 0 of 4 was not observed"});
  }
  expect_scores(metric, texts);
}

TEST(Window, KeepsItsShapeForTheNextBatch) {
  const std::vector<Text> texts{random_text(layers, 3, hidden, 5), random_text(layers, 3, hidden, 6)};
  ImportanceMetric<Jaccard> metric = make_metric<Jaccard>();
  ImportanceWindow window = metric.begin_window({1, 3, hidden});
  for (const Text& text : texts) {
    for (std::size_t b = 0; b <= layers; ++b) window.observe(b, text.at(b));
    metric.end_window(window, cpu);
    EXPECT_EQ(window.shape().positions, 3u);
  }
  expect_scores(metric, texts);
}

template <class T> T narrowed(float value) {
  if constexpr (std::is_same_v<T, f16>)
    return lsaq::to_f16(value);
  else if constexpr (std::is_same_v<T, bf16>)
    return lsaq::to_bf16(value);
  else
    return value;
}

template <class T> class WindowTypes : public testing::Test {};
using StateTypes = testing::Types<float, f16, bf16>;
TYPED_TEST_SUITE(WindowTypes, StateTypes);

TYPED_TEST(WindowTypes, AreWidenedRowByRowWithTheirStride) {
  const Text text = random_text(layers, 3, hidden, 8); // integers: exact in every type
  for (const std::size_t stride : {hidden, hidden + 1, 4 * hidden})
    for (const bool with_shape : {false, true}) {
      ImportanceWindow window = with_shape ? make_metric<Jaccard>().begin_window({1, 3, hidden}) : make_metric<Jaccard>().begin_window();
      for (std::size_t b = 0; b <= layers; ++b) {
        std::vector<TypeParam> states(2 * stride + hidden, narrowed<TypeParam>(-77)); // nothing behind the last row
        for (std::size_t i = 0; i < text.boundaries[b].size(); ++i) states[i / hidden * stride + i % hidden] = narrowed<TypeParam>(text.boundaries[b][i]);
        window.observe(b, MatrixView(states.data(), 3, hidden, stride));
      }
      expect_equals<Jaccard>(window, text);
    }
}

TEST(Window, BoundariesMayHaveDifferentTypes) {
  const Text text = random_text(layers, 2, hidden, 9);
  ImportanceWindow window = make_metric<Cosine>().begin_window();
  for (std::size_t b = 0; b <= layers; ++b) {
    std::vector<f16> halves(2 * hidden);
    for (std::size_t i = 0; i < halves.size(); ++i) halves[i] = lsaq::to_f16(text.boundaries[b][i]);
    window.observe(b, b % 2 == 0 ? text.at(b) : MatrixView(halves.data(), 2, hidden));
  }
  expect_equals<Cosine>(window, text);
}

/// Rows [first, end) of a prefill.
struct Part {
  std::size_t first, end;
};

class SplitPrefill : public testing::TestWithParam<std::vector<Part>> {};

TEST_P(SplitPrefill, EqualsTheWholeOne) {
  const Text text = random_text(layers, 8, hidden, 10);
  for (const bool part_by_part : {true, false}) { // all boundaries of a part, or all parts of a boundary
    ImportanceWindow window = make_metric<Jaccard>().begin_window({1, 8, hidden});
    const auto show = [&](std::size_t b, const Part& part) { window.observe(b, text.at(b).slice(part.first, part.end - part.first), part.first); };
    if (part_by_part)
      for (const Part& part : GetParam())
        for (std::size_t b = 0; b <= layers; ++b) show(b, part);
    else
      for (std::size_t b = 0; b <= layers; ++b)
        for (const Part& part : GetParam()) show(b, part);
    expect_equals<Jaccard>(window, text);
  }
}

INSTANTIATE_TEST_SUITE_P(Parts, SplitPrefill,
                         testing::Values(std::vector<Part>{{0, 8}}, std::vector<Part>{{0, 5}, {5, 8}}, std::vector<Part>{{5, 8}, {0, 5}},
                                         std::vector<Part>{{3, 4}, {0, 1}, {7, 8}, {4, 7}, {1, 3}},
                                         std::vector<Part>{{7, 8}, {6, 7}, {5, 6}, {4, 5}, {3, 4}, {2, 3}, {1, 2}, {0, 1}}));

TEST(SplitPrefillOrder, MayDifferFromBoundaryToBoundary) {
  const Text text = random_text(layers, 4, hidden, 10);
  ImportanceWindow window = make_metric<Jaccard>().begin_window({1, 4, hidden});
  for (std::size_t b = 0; b <= layers; ++b)
    for (std::size_t p = 0; p < 4; ++p) {
      const std::size_t row = (p * 3 + b) % 4;
      window.observe(b, text.at(b).slice(row, 1), row);
    }
  expect_equals<Jaccard>(window, text);
}

std::vector<Text> some_texts(std::size_t count, std::size_t positions) {
  std::vector<Text> texts;
  for (std::size_t i = 0; i < count; ++i) texts.push_back(random_text(layers, positions, hidden, 20 + static_cast<unsigned>(i)));
  return texts;
}

template <class Policy> class Batch : public testing::Test {};
using StatePolicies = testing::Types<Jaccard, Cosine>;
TYPED_TEST_SUITE(Batch, StatePolicies);

TYPED_TEST(Batch, EachSequenceIsAWindowOfItsOwn) {
  const std::vector<Text> texts = some_texts(5, 3);
  ImportanceMetric<TypeParam> metric = make_metric<TypeParam>();
  ImportanceWindow window = metric.begin_window({.sequences = 5, .positions = 3, .hidden = hidden});
  for (std::size_t b = 0; b <= layers; ++b) {
    std::vector<float> batch;
    for (const Text& text : texts) batch.insert(batch.end(), text.boundaries[b].begin(), text.boundaries[b].end());
    window.observe(b, MatrixView(batch.data(), 15, hidden));
  }
  metric.end_window(window, cpu);
  expect_scores(metric, texts);
}

TYPED_TEST(Batch, SequencesMayComeOneByOneAndInParts) {
  const std::vector<Text> texts = some_texts(3, 4);
  ImportanceMetric<TypeParam> metric = make_metric<TypeParam>();
  ImportanceWindow window = metric.begin_window({.sequences = 3, .positions = 4, .hidden = hidden});
  for (const std::size_t s : {2u, 0u, 1u})
    for (const Part part : {Part{1, 4}, Part{0, 1}})
      for (std::size_t b = 0; b <= layers; ++b) window.observe(b, texts[s].at(b).slice(part.first, part.end - part.first), s * 4 + part.first);
  metric.end_window(window, cpu);
  expect_scores(metric, texts);
}

TYPED_TEST(Batch, SeveralBatchesThroughOneWindow) {
  const std::vector<Text> texts = some_texts(6, 2);
  ImportanceMetric<TypeParam> metric = make_metric<TypeParam>();
  ImportanceWindow window = metric.begin_window({.sequences = 2, .positions = 2, .hidden = hidden});
  for (std::size_t first = 0; first < texts.size(); first += 2) {
    for (std::size_t b = 0; b <= layers; ++b)
      for (std::size_t s = 0; s < 2; ++s) window.observe(b, texts[first + s].at(b), s * 2);
    metric.end_window(window, cpu);
  }
  expect_scores(metric, texts);
}

TEST(WindowThreads, DifferentBoundariesAtOnce) {
  const Text text = random_text(layers, 64, hidden, 11);
  for (int round = 0; round < 5; ++round) {
    ImportanceWindow window = make_metric<Jaccard>().begin_window({1, 64, hidden});
    std::vector<std::thread> threads;
    for (std::size_t b = 0; b <= layers; ++b) threads.emplace_back([&, b] { window.observe(b, text.at(b)); });
    for (std::thread& thread : threads) thread.join();
    expect_equals<Jaccard>(window, text);
  }
}

TEST(WindowThreads, PartsOfOneBoundaryAtOnce) {
  const Text text = random_text(layers, 64, hidden, 12);
  ImportanceWindow window = make_metric<Jaccard>().begin_window({1, 64, hidden});
  std::vector<std::thread> threads;
  for (std::size_t first = 0; first < 64; first += 16)
    threads.emplace_back([&, first] {
      for (std::size_t b = 0; b <= layers; ++b)
        for (std::size_t row = first; row < first + 16; ++row) window.observe(b, text.at(b).slice(row, 1), row);
    });
  for (std::thread& thread : threads) thread.join();
  expect_equals<Jaccard>(window, text);
}

TEST(WindowThreads, AWindowForEachThread) {
  const std::vector<Text> texts = some_texts(4, 3);
  ImportanceMetric<Jaccard> metric = make_metric<Jaccard>();
  std::vector<ImportanceWindow> windows(texts.size(), metric.begin_window()); // as engines without known shapes have them
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < texts.size(); ++i)
    threads.emplace_back([&, i] {
      for (std::size_t b = 0; b <= layers; ++b) windows[i].observe(b, texts[i].at(b));
    });
  for (std::thread& thread : threads) thread.join();
  for (ImportanceWindow& window : windows) metric.end_window(window, cpu);
  expect_scores(metric, texts);
}

TEST(WindowThreads, FaultsOfSeveralThreadsLeaveOne) {
  const Text text = random_text(layers, 2, hidden, 13);
  ImportanceMetric<Cosine> metric = make_metric<Cosine>();
  ImportanceWindow window = metric.begin_window({1, 2, hidden});
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i) threads.emplace_back([&] { window.observe(1, text.at(1)); });
  for (std::thread& thread : threads) thread.join();
  expect_mentions(message_of<InvalidArgument>([&] { metric.end_window(window, cpu); }), {"observed twice"});
}

class WindowAllocations : public testing::Test {
protected:
  void SetUp() override {
    if (count_allocations() == 0) GTEST_SKIP() << "operator new can't be counted in this build";
  }

  static std::size_t allocations_of(ImportanceWindow& window, const Text& text) {
    const std::size_t before = count_allocations();
    for (std::size_t b = 0; b <= layers; ++b) window.observe(b, text.at(b));
    return count_allocations() - before;
  }

  ImportanceMetric<Cosine> metric = make_metric<Cosine>();
};

TEST_F(WindowAllocations, NoneInAWindowWithAShape) {
  const Text text = random_text(layers, 4, hidden, 14);
  ImportanceWindow window = metric.begin_window({1, 4, hidden});
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(allocations_of(window, text), 0u) << "window " << round;
    metric.end_window(window, cpu);
  }
}

TEST_F(WindowAllocations, NoneFromTheSecondWindowOnWithoutOne) {
  ImportanceWindow window = metric.begin_window();
  EXPECT_EQ(allocations_of(window, random_text(layers, 4, hidden, 14)), 1u);
  metric.end_window(window, cpu);
  for (const std::size_t positions : {4u, 1u, 3u, 4u}) {
    EXPECT_EQ(allocations_of(window, random_text(layers, positions, hidden, 15)), 0u) << positions << " positions";
    metric.end_window(window, cpu);
  }
  EXPECT_EQ(metric.importance().windows, 5u);
}

TEST_F(WindowAllocations, NoneForOtherTypesAndForFaults) {
  const std::vector<f16> halves(4 * hidden, lsaq::to_f16(1));
  const std::vector<float> none;
  ImportanceWindow window = metric.begin_window({1, 4, hidden});
  const std::size_t before = count_allocations();
  window.observe(0, MatrixView(halves.data(), 4, hidden));
  window.observe(0, MatrixView(halves.data(), 4, hidden));
  window.observe(99, MatrixView(halves.data(), 4, hidden));
  window.observe(0, MatrixView(none.data(), 0, 0));
  EXPECT_EQ(count_allocations(), before);
}

TEST(Projection, EveryBoundaryOnceAllOfThemTogether) {
  std::vector<std::size_t> calls;
  const CountingDevice device(calls);
  ImportanceMetric<Jaccard> metric = make_metric<Jaccard>(); // two set sizes, one projection
  observe(metric, random_text(layers, 3, hidden, 16), device);
  EXPECT_THAT(calls, ElementsAre((layers + 1) * 3));
  calls.clear();
  ImportanceWindow window = metric.begin_window({2, 3, hidden});
  const Text both = random_text(layers, 6, hidden, 17);
  for (std::size_t b = 0; b <= layers; ++b) window.observe(b, both.at(b));
  metric.end_window(window, device);
  EXPECT_THAT(calls, ElementsAre((layers + 1) * 6));
  EXPECT_EQ(metric.importance().windows, 3u);
}

} // namespace window_test
