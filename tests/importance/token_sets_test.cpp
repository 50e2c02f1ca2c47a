// Top-k token sets against full dot products in double and a full sort, and the Jaccard index by hand.
//
// Where exact values and order are compared, states and embeddings hold small integers: every sum is exact in FP32, whatever its order, and ties abound.
#include <lsaq/importance/token_sets.hpp>

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/select.hpp>
#include <lsaq/thread_pool.hpp>

#include <core/float_oracle.hpp>
#include <deployment/count_allocations.hpp>
#include <formats/make_files.hpp>

#include <array>
#include <limits>
#include <random>

namespace token_sets_test {

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

std::vector<lsaq::Isa> runnable_paths() {
  std::vector<lsaq::Isa> paths;
  for (const lsaq::Isa isa : lsaq::all_isas)
    if (lsaq::cpu_runs(isa)) paths.push_back(isa);
  return paths;
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
  for (const lsaq::Isa isa : runnable_paths()) {
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

/// An embedding in any type and its values; between the rows and behind the last one is nothing but NaN, or nothing at all.
class Embedding {
public:
  /// Whole numbers of -3 .. 3; those of Q8_0 are multiplied by a power of two that is the block's.
  Embedding(lsaq::ElementType type, std::size_t vocabulary, std::size_t hidden, std::size_t gap, unsigned seed)
      : hidden_(hidden), values_(vocabulary * hidden) {
    using lsaq::ElementType;
    std::mt19937 random(seed);
    const std::size_t stride = hidden + gap;
    bytes_.resize(bytes_of(type, (vocabulary - 1) * stride + hidden), std::byte{0xff}); // NaN in every type
    for (std::size_t t = 0; t < vocabulary; ++t) {
      std::byte* const row = bytes_.data() + bytes_of(type, t * stride);
      float scale = 1;
      for (std::size_t i = 0; i < hidden; ++i) {
        const int code = static_cast<int>(random() % 7) - 3;
        if (type == ElementType::q8_0) {
          std::byte* const block = row + i / 32 * 34;
          if (i % 32 == 0) scale = std::ldexp(1.0f, static_cast<int>(random() % 5) - 2);
          store16(block, float_oracle::nearest(float_oracle::binary16, scale));
          block[2 + i % 32] = static_cast<std::byte>(code);
        } else if (type == ElementType::f32) {
          const auto value = static_cast<float>(code);
          std::memcpy(row + 4 * i, &value, 4);
        } else {
          store16(row + 2 * i, float_oracle::nearest(type == ElementType::f16 ? float_oracle::binary16 : float_oracle::bfloat16, static_cast<float>(code)));
        }
        values_[t * hidden + i] = double{scale} * code;
      }
    }
    view_ = MatrixView::q8_0(bytes_.data(), vocabulary, hidden, stride);
    view_.type = type;
  }

  MatrixView view() const { return view_; }
  double projection(const float* state, std::size_t token) const {
    double sum = 0;
    for (std::size_t i = 0; i < hidden_; ++i) sum += state[i] * values_[token * hidden_ + i];
    return sum;
  }

private:
  static void store16(std::byte* at, std::uint16_t bits) { std::memcpy(at, &bits, 2); }

  std::size_t hidden_;
  std::vector<double> values_;
  std::vector<std::byte> bytes_;
  MatrixView view_;
};

TEST(TopTokensTypes, EveryTypeGivesTheValuesItStores) {
  using lsaq::ElementType;
  for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0})
    for (const std::size_t hidden : {1, 31, 96, 576, 700})
      for (const bool strided : {false, true}) {
        const bool blocks = type == ElementType::q8_0;
        if (blocks && hidden % 32 != 0) continue;
        constexpr std::size_t vocabulary = 203, count = 17, k = 20;
        const Embedding embedding(type, vocabulary, hidden, !strided ? 0 : blocks ? 64 : 7, 4);
        const std::vector<float> x = random_integers(count * hidden, 4, 3);
        std::vector<std::vector<ScoredToken>> found;
        for (const lsaq::Isa isa : runnable_paths()) found.push_back(tokens_of({x.data(), count, hidden}, embedding.view(), k, lsaq::kernels_of(isa)));
        std::vector<std::pair<double, TokenId>> expected(vocabulary);
        for (std::size_t s = 0; s < count; ++s) {
          for (std::size_t t = 0; t < vocabulary; ++t) expected[t] = {-embedding.projection(&x[s * hidden], t), static_cast<TokenId>(t)};
          std::partial_sort(expected.begin(), expected.begin() + k, expected.end());
          for (std::size_t path = 0; path < found.size(); ++path)
            for (std::size_t i = 0; i < k; ++i) {
              const ScoredToken token = found[path][s * k + i];
              ASSERT_EQ(token.id, expected[i].second) << name_of(runnable_paths()[path]) << ", " << name_of(type) << ", hidden " << hidden << ", state " << s;
              ASSERT_EQ(double{token.value}, -expected[i].first);
            }
        }
      }
}

TEST(TopTokensTypes, StatesMayHaveAStride) {
  constexpr std::size_t hidden = 10, stride = 13, count = 6, vocabulary = 50;
  const std::vector<float> w = random_integers(vocabulary * hidden, 3, 5), values = random_integers(count * hidden, 4, 6);
  std::vector<float> x(count * stride, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t s = 0; s < count; ++s) std::copy_n(values.data() + s * hidden, hidden, x.data() + s * stride);
  expect_full_sort({x.data(), count, hidden, stride}, {w.data(), vocabulary, hidden}, 7);
  expect_full_sort({x.data(), 2, hidden, stride}, {w.data(), vocabulary, hidden}, 7);
}

/// Few distinct values: equal ones lie on both sides of every border between blocks of 192 rows and between threads.
TEST(TopTokensTies, GoToTheLowerIdAcrossBlocksAndThreads) {
  constexpr std::size_t vocabulary = 192 * 5 + 7;
  std::mt19937 random(20);
  std::vector<float> periodic(vocabulary), scattered(vocabulary), ascending(vocabulary), constant(vocabulary, 2.0f);
  for (std::size_t t = 0; t < vocabulary; ++t) {
    periodic[t] = static_cast<float>(t % 4);
    scattered[t] = static_cast<float>(random() % 3);
    ascending[t] = static_cast<float>(t / 150); // the highest come last
  }
  const std::vector<float> states{1, -1, 0};
  for (const auto& w : {periodic, scattered, ascending, constant})
    for (const std::size_t k : {std::size_t{1}, std::size_t{2}, std::size_t{191}, std::size_t{192}, std::size_t{193}, std::size_t{500}, vocabulary})
      for (std::size_t threads = 1; threads <= 5; ++threads) {
        Backwards backwards{threads};
        expect_full_sort({states.data(), 3, 1}, {w.data(), vocabulary, 1}, k, lsaq::select_kernels(), backwards);
        ASSERT_FALSE(HasFatalFailure()) << "k = " << k << ", " << threads << " threads";
      }
}

TEST(TopTokensShapes, VocabulariesAroundABlockOfRows) {
  for (const std::size_t vocabulary : {1, 2, 191, 192, 193, 383, 385, 1009}) {
    const std::vector<float> x = random_integers(3 * 5, 4, 21), w = random_integers(vocabulary * 5, 3, 22);
    for (const std::size_t k : {std::size_t{1}, (vocabulary + 1) / 2, vocabulary})
      for (std::size_t threads = 1; threads <= 5; ++threads) {
        Backwards backwards{threads};
        expect_full_sort({x.data(), 3, 5}, {w.data(), vocabulary, 5}, k, lsaq::select_kernels(), backwards);
        ASSERT_FALSE(HasFatalFailure()) << vocabulary << " tokens, k = " << k << ", " << threads << " threads";
      }
  }
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

/// Rounded sums: the same bits whichever states are projected together, on every path.
TEST(TopTokensBatches, EachStateAloneGivesTheSameAsAllTogether) {
  for (const std::array<std::size_t, 3> shape : {std::array<std::size_t, 3>{70, 201, 300}, {130, 100, 577}, {1030, 193, 24}}) {
    const std::size_t count = shape[0], vocabulary = shape[1], hidden = shape[2], k = 12;
    const std::vector<float> x = random_reals(count * hidden, 15), w = random_reals(vocabulary * hidden, 16);
    const MatrixView states(x.data(), count, hidden), embedding(w.data(), vocabulary, hidden);
    for (const lsaq::Isa isa : runnable_paths()) {
      const lsaq::CpuKernels& kernels = lsaq::kernels_of(isa);
      const std::vector<ScoredToken> all = tokens_of(states, embedding, k, kernels);
      const auto expect_same = [&](std::size_t first, std::size_t some) {
        const std::vector<ScoredToken> part = tokens_of(states.slice(first, some), embedding, k, kernels);
        const auto of_all = std::span(all).subspan(first * k, some * k);
        ASSERT_TRUE(same(part, {of_all.begin(), of_all.end()})) << name_of(isa) << ", states " << first << " + " << some << " of " << count;
      };
      for (std::size_t s = 0; s<count; s += count> 1000 ? 41 : 1) expect_same(s, 1);
      for (std::size_t first = 0, some = 2; first < count; first += some, some = some * 2 + 1) expect_same(first, std::min(some, count - first));
    }
  }
}

TEST(TopTokensBatches, StatesBeyondAThousandAndThreadsAtOnce) {
  constexpr std::size_t vocabulary = 210, hidden = 33, count = 2100, k = 5;
  const std::vector<float> x = random_reals(count * hidden, 17), w = random_reals(vocabulary * hidden, 18);
  const MatrixView states(x.data(), count, hidden), embedding(w.data(), vocabulary, hidden);
  const std::vector<ScoredToken> serial = tokens_of(states, embedding, k);
  for (const std::size_t s : {0, 1023, 1024, 1025, 2047, 2048, 2099})
    EXPECT_TRUE(same(tokens_of(states.slice(s, 1), embedding, k),
                     {serial.begin() + static_cast<std::ptrdiff_t>(s * k), serial.begin() + static_cast<std::ptrdiff_t>(s * k + k)}));
  for (std::size_t threads = 2; threads <= 5; ++threads) {
    lsaq::ThreadPool pool(threads);
    EXPECT_TRUE(same(tokens_of(states, embedding, k, lsaq::select_kernels(), pool), serial)) << threads << " threads";
  }
}

/// The bound of the docstring: (256 + hidden / 256) 2^-24 times the sum of magnitudes, on well-behaved numbers and on ones that cancel.
TEST(TopTokensRounding, StaysWithinThePromisedBound) {
  constexpr std::size_t vocabulary = 97, count = 3;
  for (const std::size_t hidden : {1, 31, 256, 257, 576, 700, 4096})
    for (const bool cancelling : {false, true}) {
      std::vector<float> x = random_reals(count * hidden, 23), w = random_reals(vocabulary * hidden, 24);
      if (cancelling)
        for (std::size_t i = 0; i < w.size(); ++i) w[i] = std::ldexp(w[i], static_cast<int>(i * 7 % 30));
      for (const lsaq::Isa isa : runnable_paths()) {
        const std::vector<ScoredToken> tokens = tokens_of({x.data(), count, hidden}, {w.data(), vocabulary, hidden}, vocabulary, lsaq::kernels_of(isa));
        for (std::size_t i = 0; i < tokens.size(); ++i) {
          long double exact = 0, magnitude = 0;
          for (std::size_t c = 0; c < hidden; ++c) {
            const long double product = static_cast<long double>(x[i / vocabulary * hidden + c]) * w[tokens[i].id * hidden + c];
            exact += product;
            magnitude += std::fabs(product);
          }
          const long double bound = (256 + static_cast<long double>(hidden) / 256) * 0x1p-24L * magnitude;
          ASSERT_LE(std::fabs(tokens[i].value - exact), bound) << name_of(isa) << ", hidden " << hidden;
        }
      }
    }
}

/// Logits are never stored: what is needed besides the result depends neither on the vocabulary nor on the hidden size.
TEST(TopTokensMemory, StaysBelowAMebibyteAThread) {
  constexpr std::size_t count = 64, hidden = 4096, k = 50;
  const std::vector<float> x = random_reals(count * hidden, 25);
  std::vector<lsaq::bf16> w(2500 * hidden);
  std::mt19937 random(26);
  for (lsaq::bf16& value : w) value = {static_cast<std::uint16_t>((random() & 0x80ffu) | 0x3f00u)}; // 0.5 to 2
  std::vector<ScoredToken> out(count * k);
  for (const std::size_t threads : {1, 3}) {
    Backwards backwards{threads};
    for (const std::size_t vocabulary : {700, 2500}) {
      take_peak_allocated_bytes();
      const std::size_t before = allocated_bytes();
      if (count_allocations() == 0) GTEST_SKIP() << "operator new: can't be counted in this build";
      lsaq::top_tokens({x.data(), count, hidden}, {w.data(), vocabulary, hidden}, k, out, lsaq::select_kernels(), backwards);
      const std::size_t peak = take_peak_allocated_bytes() - before;
      EXPECT_GT(peak, threads * (112 << 10)) << "measures something";
      EXPECT_LT(peak, threads << 20) << vocabulary << " tokens, " << threads << " threads";
      EXPECT_LT(peak, (threads + 1) * ((112 << 10) + count * k * sizeof(ScoredToken) + (4 << 10))) << vocabulary << " tokens, " << threads << " threads";
      EXPECT_EQ(allocated_bytes(), before);
    }
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

TEST_F(TopTokensRefuse, ProjectionsThatAreNotFinite) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  for (const lsaq::Isa isa : runnable_paths())
    for (const std::size_t threads : {1, 3})
      for (const std::size_t token : {0, 191, 192, 399}) {
        std::vector<float> ones(70 * 4, 1.0f), many(400 * 4, 1.0f);
        std::vector<ScoredToken> room(70 * 3);
        Backwards backwards{threads};
        const auto refused = [&] {
          return message_of<lsaq::InvalidArgument>(
              [&] { lsaq::top_tokens(MatrixView(ones.data(), 70, 4), MatrixView(many.data(), 400, 4), 3, room, lsaq::kernels_of(isa), backwards); });
        };
        for (const float bad : {infinity, nan}) {
          many[token * 4 + 2] = bad;
          expect_mentions(refused(), {"hidden state 0 is not finite", "embedding"});
        }
        many[token * 4 + 2] = -3e38f; // finite; with the last state the sum overflows
        ones[67 * 4 + 2] = -2.0f;
        expect_mentions(refused(), {"hidden state 67 is not finite", "embedding"});
      }
  w[3] = -infinity; // lower than all others: nothing to refuse until it is needed
  EXPECT_NO_THROW(lsaq::top_tokens(states, embedding, 3, out, lsaq::select_kernels()));
  std::vector<ScoredToken> all(2 * 10);
  expect_mentions(refusal(states, embedding, 10, all), {"hidden state 0 is not finite", "embedding"});
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

} // namespace token_sets_test
