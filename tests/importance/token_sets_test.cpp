// Top-k token sets against full dot products in double and a full sort, and the Jaccard index by hand.
//
// Where exact values and order are compared, states and embeddings hold small integers: every sum is exact in FP32, whatever its order, and ties abound.
#include <lsaq/importance/token_sets.hpp>

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/select.hpp>
#include <lsaq/thread_pool.hpp>

#include <formats/make_files.hpp>

#include <limits>
#include <random>

namespace {

using lsaq::MatrixView;
using lsaq::ScoredToken;
using lsaq::TokenId;
using make_files::expect_mentions;
using make_files::message_of;

std::vector<float> random_integers(std::size_t count, int limit, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<int> pick(-limit, limit);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(pick(random));
  return values;
}

std::vector<float> random_reals(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> pick;
  std::vector<float> values(count);
  for (float& value : values) value = pick(random);
  return values;
}

double exact_projection(MatrixView states, std::size_t s, MatrixView embedding, std::size_t token) {
  double sum = 0;
  for (std::size_t i = 0; i < states.columns; ++i)
    sum += double{lsaq::load_element(states.row(s), states.type, i)} * lsaq::load_element(embedding.row(token), embedding.type, i);
  return sum;
}

/// Ids of the k highest projections by a full sort, ties to the lower id.
std::vector<TokenId> full_sort(MatrixView states, std::size_t s, MatrixView embedding, std::size_t k) {
  std::vector<std::pair<double, TokenId>> all;
  for (std::size_t t = 0; t < embedding.rows; ++t) all.emplace_back(-exact_projection(states, s, embedding, t), static_cast<TokenId>(t));
  std::sort(all.begin(), all.end());
  std::vector<TokenId> ids;
  for (std::size_t i = 0; i < k; ++i) ids.push_back(all[i].second);
  return ids;
}

std::vector<ScoredToken> tokens_of(MatrixView states, MatrixView embedding, std::size_t k, const lsaq::CpuKernels& kernels = lsaq::select_kernels(),
                                   lsaq::ExecutorRef executor = {}) {
  std::vector<ScoredToken> out(states.rows * k);
  lsaq::top_tokens(states, embedding, k, out, kernels, executor);
  return out;
}

void expect_full_sort(MatrixView states, MatrixView embedding, std::size_t k, const lsaq::CpuKernels& kernels = lsaq::select_kernels(),
                      lsaq::ExecutorRef executor = {}) {
  const std::vector<ScoredToken> tokens = tokens_of(states, embedding, k, kernels, executor);
  for (std::size_t s = 0; s < states.rows; ++s) {
    const std::vector<TokenId> expected = full_sort(states, s, embedding, k);
    for (std::size_t i = 0; i < k; ++i) {
      ASSERT_EQ(tokens[s * k + i].id, expected[i]) << "state " << s << ", place " << i;
      ASSERT_EQ(double{tokens[s * k + i].value}, exact_projection(states, s, embedding, expected[i]));
    }
  }
}

bool same(const std::vector<ScoredToken>& a, const std::vector<ScoredToken>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const ScoredToken& x, const ScoredToken& y) { return x.id == y.id && x.value == y.value; });
}

/// Claims `threads` threads and runs the tasks on the caller's, last one first.
struct Backwards {
  std::size_t threads;
  std::size_t concurrency() const { return threads; }
  void parallel_for(std::size_t count, lsaq::TaskRef task) const {
    while (count-- > 0) task(count);
  }
};

struct Case {
  std::size_t vocabulary, hidden, states, k;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.vocabulary << " tokens x " << c.hidden << ", " << c.states << " states, k = " << c.k; }

class TopTokens : public testing::TestWithParam<Case> {};

TEST_P(TopTokens, EqualTheFullSortOnEveryCodePath) {
  const auto [vocabulary, hidden, count, k] = GetParam();
  const std::vector<float> x = random_integers(count * hidden, 4, 1), w = random_integers(vocabulary * hidden, 3, 2);
  for (const lsaq::Isa isa : {lsaq::Isa::scalar, lsaq::Isa::eigen, lsaq::Isa::avx2}) {
    if (!lsaq::cpu_runs(isa)) continue;
    SCOPED_TRACE(name_of(isa));
    expect_full_sort({x.data(), count, hidden}, {w.data(), vocabulary, hidden}, k, lsaq::kernels_of(isa));
  }
}

// Vocabularies around the panel of 16 rows, k from 1 to all; 1 to 3 states take another product than 4 and more; 300 columns take more than one panel.
INSTANTIATE_TEST_SUITE_P(Shapes, TopTokens,
                         testing::Values(Case{1, 8, 1, 1}, Case{15, 8, 1, 1}, Case{16, 8, 2, 16}, Case{17, 3, 3, 17}, Case{33, 1, 4, 5}, Case{100, 7, 5, 100},
                                         Case{257, 64, 9, 50}, Case{1000, 300, 4, 50}, Case{1003, 32, 1, 50}, Case{515, 256, 17, 1}));

TEST(TopTokensTies, GoToTheLowerId) {
  // Tokens 0..39 repeat four embeddings: each value appears ten times.
  std::vector<float> w;
  for (std::size_t t = 0; t < 40; ++t) w.push_back(static_cast<float>(t % 4));
  const float one = 1;
  const std::vector<ScoredToken> tokens = tokens_of({&one, 1, 1}, {w.data(), 40, 1}, 13);
  std::vector<TokenId> ids;
  for (const ScoredToken& token : tokens) ids.push_back(token.id);
  EXPECT_THAT(ids, testing::ElementsAre(3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 2, 6, 10));
}

TEST(TopTokensTies, AllEqualGivesTheFirstIds) {
  const std::vector<float> w(100 * 4, 1.0f), zero(4, 0.0f);
  for (const std::size_t threads : {1u, 3u}) {
    Backwards backwards{threads};
    const std::vector<ScoredToken> tokens = tokens_of({zero.data(), 1, 4}, {w.data(), 100, 4}, 20, lsaq::select_kernels(), backwards);
    for (std::size_t i = 0; i < tokens.size(); ++i) EXPECT_EQ(tokens[i].id, i);
  }
}

TEST(TopTokensTies, PositiveAndNegativeZeroTie) {
  const std::vector<float> w{0.0f, -1.0f, 1.0f, -0.0f};
  const float minus = -1; // values -0, 1, -1, 0
  const std::vector<ScoredToken> tokens = tokens_of({&minus, 1, 1}, {w.data(), 4, 1}, 3);
  EXPECT_EQ(tokens[0].id, 1u);
  EXPECT_EQ(tokens[1].id, 0u);
  EXPECT_EQ(tokens[2].id, 3u);
}

TEST(TopTokensTypes, HalfEmbeddingsWithStrideEqualTheirWidenedValues) {
  constexpr std::size_t vocabulary = 203, hidden = 24, stride = 31, count = 5, k = 20;
  const std::vector<float> x = random_integers(count * hidden, 4, 3), w = random_integers(vocabulary * stride, 3, 4);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> f32(w.size(), nan); // what lies between the rows must not count
  std::vector<lsaq::f16> f16(w.size(), lsaq::to_f16(nan));
  std::vector<lsaq::bf16> bf16(w.size(), lsaq::to_bf16(nan));
  for (std::size_t t = 0; t < vocabulary; ++t)
    for (std::size_t i = 0; i < hidden; ++i) {
      const std::size_t at = t * stride + i;
      f32[at] = w[at];
      f16[at] = lsaq::to_f16(w[at]);
      bf16[at] = lsaq::to_bf16(w[at]);
    }
  const MatrixView states(x.data(), count, hidden);
  expect_full_sort(states, {f32.data(), vocabulary, hidden, stride}, k);
  expect_full_sort(states, {f16.data(), vocabulary, hidden, stride}, k);
  expect_full_sort(states, {bf16.data(), vocabulary, hidden, stride}, k);
}

TEST(TopTokensTypes, StatesMayHaveAStride) {
  constexpr std::size_t hidden = 10, stride = 13, count = 6, vocabulary = 50;
  const std::vector<float> w = random_integers(vocabulary * hidden, 3, 5), values = random_integers(count * hidden, 4, 6);
  std::vector<float> x(count * stride, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t s = 0; s < count; ++s) std::copy_n(values.data() + s * hidden, hidden, x.data() + s * stride);
  expect_full_sort({x.data(), count, hidden, stride}, {w.data(), vocabulary, hidden}, 7);
  expect_full_sort({x.data(), 2, hidden, stride}, {w.data(), vocabulary, hidden}, 7);
}

TEST(TopTokensThreads, AnyNumberGivesTheSameResult) {
  constexpr std::size_t vocabulary = 777, hidden = 40, count = 6, k = 50;
  // Reals: equal bits also where the sums are rounded. Integers: ties across the borders between threads.
  for (const auto& [x, w] : {std::pair(random_reals(count * hidden, 7), random_reals(vocabulary * hidden, 8)),
                             std::pair(random_integers(count * hidden, 1, 9), random_integers(vocabulary * hidden, 1, 10))}) {
    const MatrixView states(x.data(), count, hidden), embedding(w.data(), vocabulary, hidden);
    const std::vector<ScoredToken> serial = tokens_of(states, embedding, k);
    for (const std::size_t threads : {2u, 3u, 7u, 49u, 1000u}) {
      Backwards backwards{threads};
      EXPECT_TRUE(same(tokens_of(states, embedding, k, lsaq::select_kernels(), backwards), serial)) << threads;
    }
    lsaq::ThreadPool pool(3);
    for (int repeat = 0; repeat < 20; ++repeat) ASSERT_TRUE(same(tokens_of(states, embedding, k, lsaq::select_kernels(), pool), serial));
  }
}

TEST(TopTokensRounding, RealValuesAreTheHighestWithinRounding) {
  constexpr std::size_t vocabulary = 900, hidden = 576, count = 5, k = 50;
  const std::vector<float> x = random_reals(count * hidden, 11), w = random_reals(vocabulary * hidden, 12);
  const MatrixView states(x.data(), count, hidden), embedding(w.data(), vocabulary, hidden);
  const double tolerance = 1e-3; // sums of 576 products of size 1
  const std::vector<ScoredToken> tokens = tokens_of(states, embedding, k);
  for (std::size_t s = 0; s < count; ++s) {
    std::vector<bool> chosen(vocabulary, false);
    double lowest = std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < k; ++i) {
      const ScoredToken token = tokens[s * k + i];
      const double exact = exact_projection(states, s, embedding, token.id);
      EXPECT_NEAR(token.value, exact, tolerance);
      EXPECT_TRUE(i == 0 || tokens[s * k + i - 1] < token) << "sorted";
      EXPECT_FALSE(chosen[token.id]) << "twice";
      chosen[token.id] = true;
      lowest = std::min(lowest, exact);
    }
    for (std::size_t t = 0; t < vocabulary; ++t) EXPECT_TRUE(chosen[t] || exact_projection(states, s, embedding, t) <= lowest + tolerance) << t;
  }
}

class TopTokensRefuse : public testing::Test {
protected:
  template <class... Arguments> std::string refusal(Arguments&&... arguments) {
    return message_of<lsaq::InvalidArgument>([&] { lsaq::top_tokens(arguments..., lsaq::select_kernels()); });
  }
  std::vector<float> x = std::vector<float>(2 * 4, 1.0f);
  std::vector<float> w = std::vector<float>(10 * 4, 1.0f);
  std::vector<ScoredToken> out = std::vector<ScoredToken>(2 * 3);
  MatrixView states{x.data(), 2, 4}, embedding{w.data(), 10, 4};
};

TEST_F(TopTokensRefuse, KOfZeroOrBeyondTheVocabulary) {
  expect_mentions(refusal(states, embedding, 0, out), {"top_k is 0", "1 to 10"});
  expect_mentions(refusal(states, embedding, 11, out), {"top_k is 11", "1 to 10"});
  expect_mentions(refusal(states, MatrixView(w.data(), 0, 4), 1, out), {"top_k is 1", "1 to 0"});
}

TEST_F(TopTokensRefuse, ShapesThatDoNotMatch) {
  expect_mentions(refusal(states, MatrixView(w.data(), 8, 5), 3, out), {"size 4", "size 5"});
  expect_mentions(refusal(states, embedding, 4, out), {"room for k tokens"});
  const std::vector<lsaq::f16> halves(8);
  expect_mentions(refusal(MatrixView(halves.data(), 2, 4), embedding, 3, out), {"FP32 states"});
}

TEST_F(TopTokensRefuse, StatesThatAreNotFinite) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    x.assign(x.size(), 1.0f);
    x[7] = bad; // the last element of state 1
    expect_mentions(refusal(states, embedding, 3, out), {"hidden state 1 is not finite"});
    EXPECT_NO_THROW(lsaq::top_tokens(states.slice(0, 1), embedding, 3, std::span(out).first(3), lsaq::select_kernels()));
  }
}

std::vector<ScoredToken> set(std::initializer_list<TokenId> ids) {
  std::vector<ScoredToken> tokens;
  for (const TokenId id : ids) tokens.push_back({static_cast<float>(tokens.size()), id});
  return tokens;
}

TEST(JaccardIndex, ByHand) {
  EXPECT_EQ(lsaq::jaccard(set({1, 2, 3}), set({1, 2, 3})), 1.0);
  EXPECT_EQ(lsaq::jaccard(set({1, 2, 3}), set({4, 5, 6})), 0.0);
  EXPECT_EQ(lsaq::jaccard(set({1, 2, 3}), set({2, 3, 4})), 0.5);
  EXPECT_EQ(lsaq::jaccard(set({7}), set({7, 8, 9, 10})), 0.25);
  EXPECT_DOUBLE_EQ(lsaq::jaccard(set({0, 1, 2, 3, 4}), set({9, 8, 4, 3, 2})), 3.0 / 7.0);
}

TEST(JaccardIndex, OrderAndValuesDoNotMatter) {
  EXPECT_EQ(lsaq::jaccard(set({9, 1, 5}), set({5, 9, 1})), 1.0);
  EXPECT_EQ(lsaq::jaccard(set({9, 1, 5, 4294967295u}), set({4294967295u, 2, 1, 3})), 2.0 / 6.0);
}

TEST(JaccardIndex, EmptySets) {
  EXPECT_EQ(lsaq::jaccard({}, {}), 1.0);
  EXPECT_EQ(lsaq::jaccard(set({1}), {}), 0.0);
  EXPECT_EQ(lsaq::jaccard({}, set({1, 2})), 0.0);
}

} // namespace
