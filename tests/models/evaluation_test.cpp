#include <lsaq/models/evaluation.hpp>
#include <lsaq/thread_pool.hpp>

#include "models/opened_llama.hpp"

#include <gtest/gtest.h>

namespace {

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
  std::vector<float> scratch(llama::prefill_block * opened.config.vocabulary);
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
  std::vector<float> scratch(llama::prefill_block * opened.config.vocabulary);
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
  std::vector<float> scratch(llama::prefill_block * opened.config.vocabulary);
  EXPECT_THROW(llama::window_likelihood(decoder, opened.config, Device(), some_tokens(model, 11), scratch), lsaq::InvalidArgument);
}

} // namespace
