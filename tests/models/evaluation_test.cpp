#include <lsaq/models/evaluation.hpp>
#include <lsaq/thread_pool.hpp>

#include "models/opened_llama.hpp"

#include <gtest/gtest.h>

namespace evaluation_test {

using lsaq::ElementType;
using lsaq::TokenId;
using small_llama::Device;
using small_llama::Model;
using small_llama::Opened;
using small_llama::some_tokens;
namespace llama = lsaq::llama;

TEST(Evaluation, NegativeLogLikelihoodIsThatOfSoftmax) {
  for (const std::size_t size : {1u, 2u, 511u, 512u, 513u, 1300u})
    for (const float offset : {0.0f, 300.0f, -300.0f}) {
      std::vector<float> logits(size);
      double total = 0;
      for (std::size_t i = 0; i < size; ++i) {
        logits[i] = static_cast<float>(i * 7 % 31) / 3 + offset;
        total += std::exp(double{logits[i]} - double{offset});
      }
      for (const std::size_t target : {std::size_t{0}, size / 2, size - 1})
        EXPECT_NEAR(llama::negative_log_likelihood(logits, static_cast<TokenId>(target)), std::log(total) + double{offset} - double{logits[target]}, 1e-5)
            << size;
    }
}

TEST(Evaluation, FarApartLogitsDoNotOverflow) {
  const std::vector<float> logits{-1e30f, 1000.0f, 0.0f};
  EXPECT_EQ(llama::negative_log_likelihood(logits, 1), 0.0);
  EXPECT_EQ(llama::negative_log_likelihood(logits, 2), 1000.0);
  EXPECT_NEAR(llama::negative_log_likelihood(logits, 0) / 1e30, 1, 1e-6);
}

TEST(Evaluation, PerplexityIsTheExponentialOfTheMean) {
  EXPECT_DOUBLE_EQ((llama::Likelihood{.nll = 6, .tokens = 3}.perplexity()), std::exp(2.0));
  EXPECT_TRUE(std::isnan(llama::Likelihood{}.perplexity()));
}

llama::Likelihood score(const Opened& opened, const llama::ModelWeights& weights, const std::vector<TokenId>& window, const Device& device = Device()) {
  llama::Decoder<Device> decoder(opened.config, weights, device, window.size(), ElementType::f32);
  std::vector<float> scratch(llama::logits_block * opened.config.vocabulary);
  return llama::window_likelihood(decoder, opened.config, device, window, scratch);
}

/// Windows around the block of 64 tokens; every token but the first is scored.
TEST(Evaluation, WindowsAreScoredAsThePlainDecoderDoes) {
  const Model model = Model{.tied = false}.fill();
  const Opened opened = small_llama::open_folder(model);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 16));
  const small_llama::PlainDecoder plain = small_llama::plain_decoder(model, false);
  for (const std::size_t length : {2u, 3u, 63u, 64u, 65u, 66u, 128u, 129u, 200u}) {
    const std::vector<TokenId> window = some_tokens(model, length, static_cast<unsigned>(length));
    const llama::Likelihood found = score(opened, weights, window);
    EXPECT_EQ(found.tokens, length - 1);
    EXPECT_NEAR(found.nll / plain.nll(window), 1, 1e-5) << length;
  }
  EXPECT_EQ(score(opened, weights, {5}).tokens, 0u);
}

TEST(Evaluation, QuantizedWeightsAreScoredAsTheirValues) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy({.bits = {4, 8}});
  const std::vector<TokenId> window = some_tokens(model, 100);
  EXPECT_NEAR(score(opened, weights, window).nll / small_llama::with_deployed(small_llama::plain_decoder(model, true), weights).nll(window), 1, 1e-5);
}

TEST(Evaluation, EveryWindowStartsAnew) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 8));
  const std::vector<TokenId> first = some_tokens(model, 80, 1), second = some_tokens(model, 70, 2);
  llama::Decoder<Device> decoder(opened.config, weights, Device(), 80);
  std::vector<float> scratch(llama::logits_block * opened.config.vocabulary);
  const auto nll = [&](const std::vector<TokenId>& window) { return llama::window_likelihood(decoder, opened.config, Device(), window, scratch).nll; };
  const double alone = nll(second);
  (void)nll(first);
  EXPECT_EQ(nll(second), alone);
}

TEST(Evaluation, DoesNotDependOnThreads) {
  const Model model = Model{.hidden = 96, .ffn = 200, .vocabulary = 600}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 8));
  const std::vector<TokenId> window = some_tokens(model, 100);
  lsaq::ThreadPool pool(4);
  EXPECT_EQ(score(opened, weights, window).nll, score(opened, weights, window, Device(pool)).nll);
}

TEST(Evaluation, RefusesWindowsThatDoNotFit) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 8));
  llama::Decoder<Device> decoder(opened.config, weights, Device(), 10);
  std::vector<float> scratch(llama::logits_block * opened.config.vocabulary);
  EXPECT_THROW(llama::window_likelihood(decoder, opened.config, Device(), some_tokens(model, 11), scratch), lsaq::InvalidArgument);
}

std::vector<std::pair<std::vector<TokenId>, std::size_t>> as_pairs(const std::vector<llama::ScoredWindow>& windows) {
  std::vector<std::pair<std::vector<TokenId>, std::size_t>> pairs;
  for (const llama::ScoredWindow& window : windows) pairs.emplace_back(window.tokens, window.first_scored);
  return pairs;
}

TEST(Protocols, EveryScoresAllButTheFirstTokenOfAWindow) {
  const std::vector<TokenId> text{10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
  using Pairs = decltype(as_pairs({}));
  EXPECT_EQ(as_pairs(llama::consecutive_windows(text, 4, llama::Protocol::every)), (Pairs{{{10, 11, 12, 13}, 1}, {{14, 15, 16, 17}, 1}}));
  EXPECT_EQ(as_pairs(llama::consecutive_windows(text, 11, llama::Protocol::every)), (Pairs{{text, 1}}));
  EXPECT_TRUE(llama::consecutive_windows(text, 12, llama::Protocol::every).empty());
  EXPECT_EQ(llama::scored_window({1, 2, 3}, llama::Protocol::every).targets(), 2u);
  EXPECT_EQ(llama::scored_window({1}, llama::Protocol::every).targets(), 0u);
  EXPECT_EQ(llama::scored_window({}, llama::Protocol::every).targets(), 0u);
  EXPECT_THROW(llama::consecutive_windows(text, 1, llama::Protocol::every), lsaq::InvalidArgument);
}

/// llama.cpp: with n positions and first = n / 2, the logits of positions first .. n - 2 are scored against the tokens after them: n - first - 1 of them.
TEST(Protocols, SecondHalfScoresAsLlamaCppDoes) {
  for (std::size_t n = 2; n < 40; ++n) {
    const llama::ScoredWindow window = llama::scored_window(std::vector<TokenId>(n, 7), llama::Protocol::second_half);
    EXPECT_EQ(window.first_scored, n / 2 + 1);
    EXPECT_EQ(window.targets(), n - n / 2 - 1);
  }
  const std::vector<TokenId> text{10, 11, 12, 13, 14, 15, 16, 17, 18};
  using Pairs = decltype(as_pairs({}));
  EXPECT_EQ(as_pairs(llama::consecutive_windows(text, 4, llama::Protocol::second_half)), (Pairs{{{10, 11, 12, 13}, 3}, {{14, 15, 16, 17}, 3}}));
  EXPECT_EQ(as_pairs(llama::consecutive_windows(text, 4, llama::Protocol::second_half, TokenId{1})), (Pairs{{{1, 11, 12, 13}, 3}, {{1, 15, 16, 17}, 3}}));
}

TEST(Protocols, StridedScoresEachTokenOnce) {
  const std::vector<TokenId> text{10, 11, 12, 13, 14, 15, 16, 17, 18};
  using Pairs = decltype(as_pairs({}));
  EXPECT_EQ(as_pairs(llama::strided_windows(text, 4, 2)), (Pairs{{{10, 11, 12, 13}, 1}, {{12, 13, 14, 15}, 2}, {{14, 15, 16, 17}, 2}, {{16, 17, 18}, 2}}));
  EXPECT_EQ(as_pairs(llama::strided_windows(text, 4, 4)), (Pairs{{{10, 11, 12, 13}, 1}, {{14, 15, 16, 17}, 1}, {{18}, 1}}));
  EXPECT_EQ(as_pairs(llama::strided_windows(text, 20, 3)), (Pairs{{text, 1}})) << "the first window holds everything";
  EXPECT_TRUE(llama::strided_windows({}, 4, 2).empty());
  for (std::size_t context = 2; context < 9; ++context)
    for (std::size_t stride = 1; stride <= context; ++stride)
      for (std::size_t length = 1; length < 30; ++length) {
        std::vector<TokenId> ids(length);
        for (std::size_t i = 0; i < length; ++i) ids[i] = static_cast<TokenId>(i);
        std::vector<std::size_t> times(length);
        for (const llama::ScoredWindow& window : llama::strided_windows(ids, context, stride)) {
          EXPECT_LE(window.tokens.size(), context);
          for (std::size_t t = window.first_scored; t < window.tokens.size(); ++t) ++times[window.tokens[t]];
        }
        for (std::size_t i = 0; i < length; ++i) EXPECT_EQ(times[i], stride == context ? i % context != 0 : i != 0) << context << " " << stride << " " << i;
      }
  for (const auto& [context, stride] : {std::pair<std::size_t, std::size_t>{1, 1}, {4, 0}, {4, 5}})
    EXPECT_THROW(llama::strided_windows(text, context, stride), lsaq::InvalidArgument);
}

/// KL divergence, likelihood and agreement in plain double loops.
llama::WindowScore plain_score(const std::vector<float>& reference, const std::vector<float>& other, TokenId target) {
  const auto log_probabilities = [](const std::vector<float>& logits) {
    const double highest = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit} - highest);
    std::vector<double> result;
    for (const float logit : logits) result.push_back(double{logit} - highest - std::log(sum));
    return result;
  };
  const std::vector<double> p = log_probabilities(reference), q = log_probabilities(other);
  llama::WindowScore score{.nll = -q[target], .tokens = 1};
  for (std::size_t i = 0; i < p.size(); ++i) score.kl += std::exp(p[i]) * (p[i] - q[i]);
  score.agreements = std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
  return score;
}

llama::WindowScore compare(const std::vector<float>& reference, const std::vector<float>& other, TokenId target) {
  std::vector<float> scratch(reference.size());
  llama::WindowScore score;
  llama::ReferencePrediction::prepare(reference, scratch).compare(other, target, score);
  return score;
}

TEST(Divergence, IsThatOfThePlainFormula) {
  std::mt19937 random(3);
  for (const std::size_t size : {1u, 2u, 511u, 512u, 513u, 5000u})
    for (const float width : {1e-3f, 0.1f, 1.0f, 8.0f})
      for (const float offset : {0.0f, 200.0f, -200.0f}) {
        std::vector<float> reference(size), other(size);
        for (std::size_t i = 0; i < size; ++i) {
          reference[i] = static_cast<float>(random() % 20001) / 1000;
          other[i] = reference[i] + offset + width * (static_cast<float>(random() % 2001) / 1000 - 1);
        }
        const auto target = static_cast<TokenId>(random() % size);
        const llama::WindowScore wanted = plain_score(reference, other, target), found = compare(reference, other, target);
        EXPECT_NEAR(found.kl, wanted.kl, 1e-5 * wanted.kl + 3e-7) << size << " " << width << " " << offset;
        EXPECT_NEAR(found.nll, wanted.nll, 1e-5);
        EXPECT_EQ(found.agreements, wanted.agreements);
        EXPECT_EQ(found.tokens, 1u);
        EXPECT_GE(found.kl, 0);
        EXPECT_NEAR(found.nll, llama::negative_log_likelihood(other, target), 1e-12);
      }
}

TEST(Divergence, OfEqualLogitsIsZero) {
  std::vector<float> logits(1000);
  for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 37 % 101) / 7;
  EXPECT_EQ(compare(logits, logits, 5).kl, 0);
  EXPECT_EQ(compare(logits, logits, 5).agreements, 1u);
  std::vector<float> scratch(logits.size());
  llama::WindowScore itself;
  llama::ReferencePrediction::prepare(logits, scratch).compare_with_itself(5, itself);
  EXPECT_EQ(itself, compare(logits, logits, 5));
}

TEST(Divergence, StaysFiniteForCertainPredictions) {
  const std::vector<float> certain{3000, 0, -3000}, other{-3000, 0, 3000};
  EXPECT_EQ(compare(certain, certain, 0).kl, 0);
  EXPECT_EQ(compare(certain, certain, 0).nll, 0);
  EXPECT_NEAR(compare(certain, other, 0).kl, 6000, 1e-3);
  EXPECT_EQ(compare(certain, other, 0).nll, 6000);
  EXPECT_EQ(compare(certain, other, 0).agreements, 0u);
}

TEST(Divergence, TiesGoToTheLowerToken) {
  EXPECT_EQ(compare({1, 5, 5}, {0, 9, 9}, 0).agreements, 1u);
  EXPECT_EQ(compare({1, 5, 5}, {9, 9, 0}, 0).agreements, 0u);
  EXPECT_EQ(compare({1, 5, 5}, {0, 8, 9}, 0).agreements, 0u);
  EXPECT_EQ(compare({5, 5, 1}, {9, 9, 9}, 0).agreements, 1u);
}

TEST(Divergence, NotANumberIsNotHidden) {
  EXPECT_TRUE(std::isnan(compare({1, 2, 3}, {1, NAN, 3}, 0).kl));
  EXPECT_TRUE(std::isnan(compare({1, NAN, 3}, {1, 2, 3}, 0).kl));
}

TEST(Evaluation, LaterTokensOnlyAreScored) {
  const Model model = Model{}.fill();
  const Opened opened = small_llama::open_gguf(model);
  const llama::ModelWeights weights = opened.deploy(small_llama::uniform(model, 8));
  const std::vector<TokenId> window = some_tokens(model, 200);
  llama::Decoder<Device> decoder(opened.config, weights, Device(), window.size());
  std::vector<float> scratch(llama::logits_block * opened.config.vocabulary);
  const auto from = [&](std::size_t first) { return llama::window_likelihood(decoder, opened.config, Device(), window, scratch, first); };
  for (const std::size_t first : {1u, 2u, 63u, 64u, 65u, 66u, 101u, 128u, 129u, 199u}) {
    const llama::Likelihood late = from(first), later = from(first + 1);
    EXPECT_EQ(late.tokens, 200 - first);
    const auto logits_before = [&] {
      decoder.reset();
      return decoder.forward(std::span(window).first(first));
    }();
    EXPECT_NEAR(late.nll - later.nll, llama::negative_log_likelihood(logits_before, window[first]), 1e-3);
  }
  EXPECT_EQ(from(200).tokens, 0u);
  EXPECT_EQ(from(5000).tokens, 0u);
}

} // namespace evaluation_test
