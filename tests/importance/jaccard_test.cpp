// Jaccard and RankedJaccard by hand on an embedding of four tokens, and against sets of all projections sorted.
#include <lsaq/importance/jaccard.hpp>

#include "importance/calibration_states.hpp"

#include <formats/make_files.hpp>

namespace jaccard_test {

using calibration_states::observe;
using calibration_states::random_integers;
using calibration_states::random_text;
using calibration_states::set_distance;
using calibration_states::Text;
using lsaq::ImportanceMetric;
using lsaq::InvalidArgument;
using lsaq::Jaccard;
using lsaq::MatrixView;
using lsaq::RankedJaccard;
using lsaq::TopK;
using make_files::expect_mentions;
using make_files::message_of;
using testing::DoubleEq;
using testing::DoubleNear;
using testing::ElementsAre;

// Four tokens, one in each direction. The two highest projections of a state are the two axes of its quadrant:
//   (2, 1) -> 0, 1    (-1, 2) -> 1, 2    (-2, -1) -> 2, 3
const std::vector<float> compass{1, 0, 0, 1, -1, 0, 0, -1};
const std::vector<float> north_east{2, 1}, north_west{-1, 2}, south_west{-2, -1};

Jaccard::Options compass_top(TopK k) { return {.embedding = MatrixView(compass.data(), 4, 2), .top_k = std::move(k)}; }

template <class Policy = Jaccard> std::vector<double> scores_of(const std::vector<std::vector<float>>& boundaries, const Jaccard::Options& options) {
  ImportanceMetric<Policy> metric(boundaries.size() - 1, options);
  observe(metric, {boundaries[0].size() / 2, 2, boundaries});
  return metric.importance().scores;
}

TEST(TopK, IsASizeOrAList) {
  EXPECT_THAT(TopK().sizes, ElementsAre(50)) << "the paper's choice";
  EXPECT_THAT(Jaccard::Options{}.top_k.sizes, ElementsAre(50));
  EXPECT_THAT(compass_top(7).top_k.sizes, ElementsAre(7));
  EXPECT_THAT(compass_top({7}).top_k.sizes, ElementsAre(7));
  EXPECT_THAT(compass_top({5, 200, 50}).top_k.sizes, ElementsAre(5, 200, 50));
  EXPECT_EQ(TopK({5, 200, 50}).largest(), 200u);
}

TEST(JaccardPolicy, OneMinusSharedOverAllTokens) {
  EXPECT_THAT(scores_of({north_east, north_east, north_west, south_west, north_east}, compass_top(2)),
              ElementsAre(0.0, DoubleEq(2.0 / 3), DoubleEq(2.0 / 3), 1.0));
}

TEST(JaccardPolicy, WholeVocabularyIsNeverChanged) { EXPECT_THAT(scores_of({north_east, south_west}, compass_top(4)), ElementsAre(0.0)); }

TEST(JaccardPolicy, ZeroStateTiesToTheLowestIds) {
  EXPECT_THAT(scores_of({{0, 0}, north_east, {0, 0}, south_west}, compass_top(2)), ElementsAre(0.0, 0.0, 1.0)); // zero -> 0, 1
}

TEST(JaccardPolicy, OrderWithinTheSetsDoesNotMatter) {
  EXPECT_THAT(scores_of({{2, 1}, {1, 2}}, compass_top(2)), ElementsAre(0.0)); // 0, 1 and 1, 0
}

TEST(JaccardPolicy, AveragesOverPositions) {
  EXPECT_THAT(scores_of({{2, 1, -1, 2, -2, -1}, {2, 1, -2, -1, 2, 1}}, compass_top(2)), ElementsAre(DoubleNear((0 + 2.0 / 3 + 1) / 3, 1e-15)));
}

TEST(JaccardPolicy, FirstPositionBesideTheMeanOfTheOthers) {
  const auto score = [](double weight, auto policy, TopK k) {
    Jaccard::Options options = compass_top(std::move(k));
    options.first_position = weight;
    return scores_of<decltype(policy)>({{2, 1, -1, 2, -2, -1}, {-2, -1, -2, -1, -2, -1}}, options)[0]; // with two tokens: 1; 2/3, 0
  };
  EXPECT_DOUBLE_EQ(score(0, Jaccard(), 2), (1 + 2.0 / 3) / 3);
  EXPECT_DOUBLE_EQ(score(0.5, Jaccard(), 2), 1.0 / 3 + 0.5);
  EXPECT_DOUBLE_EQ(score(0.5, Jaccard(), {2, 4}), 1.0 / 3 + 0.5);
  EXPECT_DOUBLE_EQ(score(0.5, RankedJaccard(), 2), (1 + 2.0 / 3) / 2 / 2 + 0.5); // the highest tokens differ at the first two positions
}

TEST(JaccardPolicy, EverySequenceOfABatchHasAFirstPosition) {
  Jaccard::Options options = compass_top({1, 2});
  options.first_position = 0.5;
  ImportanceMetric<Jaccard> batched(1, options), alone(1, options);
  const std::vector<Text> texts{{3, 2, {{2, 1, -1, 2, -2, -1}, {-2, -1, -2, -1, -2, -1}}}, {3, 2, {{2, 1, 2, 1, 2, 1}, {2, 1, 1, 2, -2, -1}}}};
  lsaq::ImportanceWindow window = batched.begin_window({.sequences = 2, .positions = 3, .hidden = 2});
  for (std::size_t s = 0; s < 2; ++s)
    for (std::size_t b = 0; b < 2; ++b) window.observe(b, texts[s].at(b), s * 3);
  batched.end_window(window, lsaq::Backend<lsaq::Cpu>());
  for (const Text& text : texts) observe(alone, text);
  for (std::size_t r = 0; r < 2; ++r) EXPECT_EQ(batched.importance(r).window_scores, alone.importance(r).window_scores);
}

TEST(JaccardPolicy, SeveralSizesInOnePassAreEachSizeAlone) {
  const std::vector<std::size_t> sizes{10, 1, 60, 25, 10}; // in any order, repeated, up to the vocabulary
  const std::vector<float> embedding = random_integers(60 * 6, 3);
  const MatrixView w(embedding.data(), 60, 6);
  Jaccard::Options all{.embedding = w};
  all.top_k.sizes = sizes;
  ImportanceMetric<Jaccard> together(4, all);
  ASSERT_EQ(together.results(), sizes.size());
  const std::vector<Text> texts{random_text(4, 3, 6, 1), random_text(4, 1, 6, 2), random_text(4, 5, 6, 3)};
  for (const Text& text : texts) observe(together, text);
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    ImportanceMetric<Jaccard> alone(4, {.embedding = w, .top_k = sizes[i]});
    for (const Text& text : texts) observe(alone, text);
    EXPECT_EQ(together.importance(i).window_scores, alone.importance().window_scores) << "k = " << sizes[i];
    EXPECT_EQ(together.importance(i).scores, alone.importance().scores) << "k = " << sizes[i];
    EXPECT_EQ(together.importance(i).spread, alone.importance().spread) << "k = " << sizes[i];
    EXPECT_EQ(together.importance(i).metric, "jaccard");
  }
}

/// Embeddings with few different values: many projections tie, also at the edge of the sets.
class AgainstSets : public testing::TestWithParam<unsigned> {};

TEST_P(AgainstSets, JaccardIsOneMinusIntersectionOverUnion) {
  const std::vector<std::size_t> sizes{1, 3, 8, 20, 37};
  const std::vector<float> embedding = random_integers(40 * 4, GetParam());
  const MatrixView w(embedding.data(), 40, 4);
  const Text text = random_text(3, 4, 4, GetParam() + 10);
  Jaccard::Options options{.embedding = w};
  options.top_k.sizes = sizes;
  ImportanceMetric<Jaccard> metric(3, options);
  observe(metric, text);
  for (std::size_t i = 0; i < sizes.size(); ++i)
    for (std::size_t l = 0; l < 3; ++l) {
      double sum = 0;
      for (std::size_t p = 0; p < 4; ++p) sum += set_distance(text.at(l), text.at(l + 1), p, w, sizes[i]);
      EXPECT_NEAR(metric.importance(i).scores[l], sum / 4, 1e-15) << "k = " << sizes[i] << ", layer " << l;
    }
}

TEST_P(AgainstSets, RankedIsTheMeanOverAllDepths) {
  const std::vector<std::size_t> sizes{1, 6, 37};
  const std::vector<float> embedding = random_integers(40 * 4, GetParam() + 20);
  const MatrixView w(embedding.data(), 40, 4);
  const Text text = random_text(2, 3, 4, GetParam() + 30);
  Jaccard::Options options{.embedding = w};
  options.top_k.sizes = sizes;
  ImportanceMetric<RankedJaccard> metric(2, options);
  observe(metric, text);
  for (std::size_t i = 0; i < sizes.size(); ++i)
    for (std::size_t l = 0; l < 2; ++l) {
      double sum = 0;
      for (std::size_t p = 0; p < 3; ++p)
        for (std::size_t d = 1; d <= sizes[i]; ++d) sum += set_distance(text.at(l), text.at(l + 1), p, w, d) / static_cast<double>(sizes[i]);
      EXPECT_NEAR(metric.importance(i).scores[l], sum / 3, 1e-14) << "k = " << sizes[i] << ", layer " << l;
    }
}

INSTANTIATE_TEST_SUITE_P(Seeds, AgainstSets, testing::Range(1u, 6u));

TEST(JaccardPolicy, ReadsTheEmbeddingInItsOwnTypeAndStride) {
  const std::vector<float> embedding = random_integers(30 * 6, 8);
  std::vector<lsaq::f16> halves(30 * 9, lsaq::to_f16(1000));
  for (std::size_t i = 0; i < embedding.size(); ++i) halves[i / 6 * 9 + i % 6] = lsaq::to_f16(embedding[i]);
  const Text text = random_text(3, 2, 6, 8);
  ImportanceMetric<Jaccard> floats(3, {.embedding = MatrixView(embedding.data(), 30, 6), .top_k = 5});
  ImportanceMetric<Jaccard> other(3, {.embedding = MatrixView(halves.data(), 30, 6, 9), .top_k = 5});
  observe(floats, text);
  observe(other, text);
  EXPECT_EQ(floats.importance().scores, other.importance().scores);
  EXPECT_GT(floats.importance().scores[0], 0.0);
}

TEST(JaccardPolicy, ThreadsDoNotChangeTheScores) {
  struct Four {
    std::size_t concurrency() const { return 4; }
    void parallel_for(std::size_t count, lsaq::TaskRef task) const {
      while (count-- > 0) task(count);
    }
  } four;
  const std::vector<float> embedding = random_integers(700 * 8, 1);
  const Text text = random_text(4, 3, 8, 1);
  std::vector<std::vector<double>> scores;
  for (const lsaq::Backend<lsaq::Cpu>& device : {lsaq::Backend<lsaq::Cpu>(), lsaq::Backend<lsaq::Cpu>(four)}) {
    ImportanceMetric<Jaccard> metric(4, {.embedding = MatrixView(embedding.data(), 700, 8), .top_k = 10});
    observe(metric, text, device);
    scores.push_back(metric.importance().scores);
  }
  EXPECT_EQ(scores[0], scores[1]);
}

TEST(RankedJaccardPolicy, TheHighestTokensCountMost) {
  // 0, 1 -> 1, 0: the sets of one differ, those of two do not. 0, 1 -> 0, 3: those of one are equal, those of two share one of three.
  EXPECT_THAT(scores_of<RankedJaccard>({{2, 1}, {1, 2}, {2, 1}, {2, -1}}, compass_top(2)),
              ElementsAre(DoubleEq((1.0 + 0) / 2), DoubleEq((1.0 + 0) / 2), DoubleEq((0 + 2.0 / 3) / 2)));
  EXPECT_THAT(scores_of<RankedJaccard>({north_east, north_east, south_west}, compass_top(2)), ElementsAre(0.0, 1.0));
}

TEST(RankedJaccardPolicy, OfOneTokenIsJaccardOfOne) {
  const std::vector<std::vector<float>> boundaries{{2, 1, 1, 2}, {2, -1, 2, 1}, {-2, 1, 1, 2}};
  EXPECT_EQ(scores_of<RankedJaccard>(boundaries, compass_top(1)), scores_of<Jaccard>(boundaries, compass_top(1)));
  EXPECT_THAT(scores_of<Jaccard>(boundaries, compass_top(1)), ElementsAre(0.5, 1.0));
}

TEST(RankedJaccardPolicy, HasANameOfItsOwn) {
  ImportanceMetric<RankedJaccard> metric(1, compass_top(1));
  observe(metric, {1, 2, {north_east, north_east}});
  EXPECT_EQ(metric.importance().metric, "ranked");
}

template <class Policy> std::string refusal(const Jaccard::Options& options) {
  return message_of<InvalidArgument>([&] {
    ImportanceMetric<Policy> metric(1, options);
    observe(metric, {1, 2, {north_east, north_east}});
  });
}

TEST(JaccardRefusals, EmbeddingOrSizesThatDoNotFit) {
  const std::vector<float> wide(6, 1.0f);
  expect_mentions(refusal<Jaccard>({}), {"size 2", "size 0"});
  expect_mentions(refusal<Jaccard>({.embedding = MatrixView(wide.data(), 2, 3), .top_k = 1}), {"size 2", "size 3"});
  expect_mentions(refusal<Jaccard>({.embedding = MatrixView(compass.data(), 4, 2)}), {"top_k is 50", "1 to 4"});
  expect_mentions(refusal<Jaccard>(compass_top({2, 5, 1})), {"top_k is 5", "1 to 4"});
}

TEST(JaccardRefusals, SetsWithoutTokens) {
  for (const TopK& k : {TopK(0), TopK({2, 0}), TopK({0, 2})}) {
    expect_mentions(refusal<Jaccard>(compass_top(k)), {"top_k is 0"});
    expect_mentions(refusal<RankedJaccard>(compass_top(k)), {"top_k is 0"});
  }
  Jaccard::Options none = compass_top(1);
  none.top_k.sizes.clear();
  expect_mentions(refusal<Jaccard>(none), {"ask for no score"});
}

TEST(JaccardRefusals, StatesThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    ImportanceMetric<Jaccard> metric(1, compass_top(1));
    expect_mentions(message_of<InvalidArgument>([&] { observe(metric, {1, 2, {north_east, {1, bad}}}); }), {"hidden state 1 is not finite"});
    EXPECT_THROW(metric.importance(), InvalidArgument) << "no window was counted";
  }
}

} // namespace jaccard_test
