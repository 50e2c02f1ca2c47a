// How good a deployed model is: perplexity over windows of tokens.
#pragma once

#include <lsaq/models/layerwise.hpp>
#include <lsaq/models/llama.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Summed negative log-likelihood, natural logarithm, of the tokens scored.
struct Likelihood {
  double nll = 0;
  std::size_t tokens = 0;

  double perplexity() const noexcept { return tokens == 0 ? std::numeric_limits<double>::quiet_NaN() : std::exp(nll / static_cast<double>(tokens)); }
};

/// -log softmax(logits)[target], sums in double.
inline double negative_log_likelihood(std::span<const float> logits, TokenId target) noexcept {
  const Eigen::Map<const Eigen::ArrayXf, Eigen::Unaligned> values(logits.data(), static_cast<Eigen::Index>(logits.size()));
  const float highest = values.maxCoeff();
  double sum = 0;
  constexpr Eigen::Index chunk = 512; // single-precision sums of 512 terms, added in double
  for (Eigen::Index i = 0; i < values.size(); i += chunk) sum += (values.segment(i, std::min(chunk, values.size() - i)) - highest).exp().sum();
  return std::log(sum) - (double{logits[target]} - highest);
}

/// Scores every token of a window but its first; the window starts with an empty context. `scratch` holds prefill_block x vocabulary floats.
template <backend Device>
Likelihood window_likelihood(Decoder<Device>& decoder, const Config& config, const Device& device, std::span<const TokenId> window, std::span<float> scratch) {
  Likelihood result;
  decoder.reset();
  std::size_t first = 0;
  decoder.read(window, [&](MatrixView states) {
    decoder.project(states, {scratch.data(), states.rows, config.vocabulary});
    const std::size_t scored = std::min(states.rows, window.size() - 1 - first);
    std::vector<double> nll(scored);
    device.executor().parallel_for(
        scored, [&](std::size_t t) { nll[t] = negative_log_likelihood(scratch.subspan(t * config.vocabulary, config.vocabulary), window[first + t + 1]); });
    for (double value : nll) result.nll += value;
    result.tokens += scored;
    first += states.rows;
  });
  return result;
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
