// How good a deployed model is: which tokens of a text are scored, their likelihood, and how far a model's predictions are from a reference model's.
#pragma once

#include <lsaq/models/layerwise.hpp>
#include <lsaq/models/llama.hpp>

#include <Eigen/Core>

#include <limits>
#include <optional>

namespace lsaq::inline v0::llama {

/// Which tokens of a text are scored, and with how much context. Numbers of different protocols are not comparable.
enum class Protocol : std::uint8_t {
  every,       ///< consecutive windows; every token of a window but its first
  second_half, ///< consecutive windows; only tokens after the middle one, as llama.cpp's perplexity program does
  strided      ///< overlapping windows `stride` tokens apart; each token once, in the first window that holds it, as in Hugging Face's guide
};

constexpr std::string_view name_of(Protocol protocol) noexcept {
  return protocol == Protocol::every ? "every" : protocol == Protocol::second_half ? "second-half" : "strided";
}

/// A sequence of its own, whose tokens from `first_scored` on are predicted from those before them.
struct ScoredWindow {
  std::vector<TokenId> tokens = {};
  std::size_t first_scored = 1; ///< at least 1: the first token has nothing before it

  /// Tokens scored.
  std::size_t targets() const noexcept { return tokens.size() - std::min(tokens.size(), first_scored); }
};

/// Summed negative log-likelihood, natural logarithm, of the tokens scored.
struct Likelihood {
  double nll = 0;
  std::size_t tokens = 0;

  double perplexity() const noexcept { return tokens == 0 ? std::numeric_limits<double>::quiet_NaN() : std::exp(nll / static_cast<double>(tokens)); }
};

/// What a model made of one window, beside a reference model; sums over the tokens scored.
struct WindowScore {
  double nll = 0;             ///< -log of the tokens' probabilities, natural logarithm
  double kl = 0;              ///< Kullback-Leibler divergence KL(reference || model) of the predictions, in nats
  std::size_t agreements = 0; ///< predictions whose likeliest token is the reference's
  std::size_t tokens = 0;     ///< tokens scored

  WindowScore& operator+=(const WindowScore& other) noexcept {
    nll += other.nll;
    kl += other.kl;
    agreements += other.agreements;
    tokens += other.tokens;
    return *this;
  }

  friend bool operator==(const WindowScore&, const WindowScore&) = default;
};

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// One window of the given tokens as it is, scored by a protocol: of `second_half`, tokens after the one in the middle; else all but the first.
inline ScoredWindow scored_window(std::vector<TokenId> tokens, Protocol protocol) {
  const std::size_t first = protocol == Protocol::second_half ? tokens.size() / 2 + 1 : 1;
  return {std::move(tokens), first};
}

/// Consecutive windows of `context` tokens of a text; a rest that fills no window is left out. Throws InvalidArgument for a context below 2.
///
/// With `bos`, it takes the place of each window's first token: llama.cpp does so where the vocabulary asks for it.
inline std::vector<ScoredWindow> consecutive_windows(std::span<const TokenId> text, std::size_t context, Protocol protocol,
                                                     std::optional<TokenId> bos = std::nullopt) {
  if (context < 2) fail<InvalidArgument>("a context of " + std::to_string(context) + " tokens scores nothing; 2 are the least");
  std::vector<ScoredWindow> windows;
  for (; text.size() >= context; text = text.subspan(context)) {
    windows.push_back(scored_window({text.begin(), text.begin() + static_cast<std::ptrdiff_t>(context)}, protocol));
    if (bos) windows.back().tokens[0] = *bos;
  }
  return windows;
}

/// Windows of at most `context` tokens that begin every `stride` tokens of a text, until one reaches its end; each token but the first is scored once.
///
/// A window scores what the one before it did not hold: after the first, at least context - stride tokens precede each token scored. With stride = context, the
/// first token of each window has no context and is not scored. Throws InvalidArgument unless 1 <= stride <= context and context >= 2.
/// Source: "Perplexity of fixed-length models", Hugging Face transformers.
inline std::vector<ScoredWindow> strided_windows(std::span<const TokenId> text, std::size_t context, std::size_t stride) {
  if (context < 2 || stride < 1 || stride > context)
    fail<InvalidArgument>("a stride of " + std::to_string(stride) + " does not go with a context of " + std::to_string(context) +
                          ": it must be 1 to the context, which must be at least 2");
  std::vector<ScoredWindow> windows;
  std::size_t scored_to = 0;
  for (std::size_t begin = 0; scored_to < text.size(); begin += stride) {
    const std::size_t count = std::min(context, text.size() - begin);
    const std::span<const TokenId> part = text.subspan(begin, count);
    windows.push_back({{part.begin(), part.end()}, std::max<std::size_t>(1, scored_to - begin)});
    scored_to = begin + count;
  }
  return windows;
}

namespace detail {

inline constexpr Eigen::Index sum_chunk = 512; // single-precision sums of as many terms, added in double

using ConstFloatArray = Eigen::Map<const Eigen::ArrayXf, Eigen::Unaligned>;

inline ConstFloatArray array_of(std::span<const float> values) { return {values.data(), static_cast<Eigen::Index>(values.size())}; }

/// The sum of term(first, count), an array expression over each chunk of n values.
template <class Term> double chunked_sum(Eigen::Index n, Term&& term) {
  double sum = 0;
  for (Eigen::Index i = 0; i < n; i += sum_chunk) sum += term(i, std::min(sum_chunk, n - i)).sum();
  return sum;
}

} // namespace detail

/// -log softmax(logits)[target], sums in double.
inline double negative_log_likelihood(std::span<const float> logits, TokenId target) noexcept {
  const detail::ConstFloatArray values = detail::array_of(logits);
  const float highest = values.maxCoeff();
  const double sum = detail::chunked_sum(values.size(), [&](Eigen::Index i, Eigen::Index n) { return (values.segment(i, n) - highest).exp(); });
  return std::log(sum) - (double{logits[target]} - highest);
}

/// A prediction of the reference model, prepared for comparing others with it. Refers to the caller's logits and scratch memory.
struct ReferencePrediction {
  std::span<const float> logits;
  std::span<const float> exponentials; ///< exp(logit - highest)
  double sum = 0;                      ///< of the exponentials
  float highest = 0;
  TokenId likeliest = 0; ///< the lowest id among equals

  /// `exponentials` is filled; it must have as many values as there are logits, at least one.
  static ReferencePrediction prepare(std::span<const float> logits, std::span<float> exponentials) noexcept {
    const detail::ConstFloatArray values = detail::array_of(logits);
    ReferencePrediction prediction{logits, exponentials};
    prediction.highest = values.maxCoeff();
    Eigen::Map<Eigen::ArrayXf, Eigen::Unaligned> out(exponentials.data(), values.size());
    prediction.sum = detail::chunked_sum(values.size(), [&](Eigen::Index i, Eigen::Index n) {
      out.segment(i, n) = (values.segment(i, n) - prediction.highest).exp();
      return out.segment(i, n);
    });
    const auto top = std::find(logits.begin(), logits.end(), prediction.highest);
    prediction.likeliest = top == logits.end() ? 0 : static_cast<TokenId>(top - logits.begin()); // the end: some logits are NaN
    return prediction;
  }

  /// Adds what another model's logits for the same position make of `target` to `score`.
  ///
  /// The divergence is sum of p (log p - log q) over the whole vocabulary; the difference of the two normalizers is taken off each term, so that predictions
  /// that are nearly the same lose little to cancellation: about 1e-7 nats are left, what exp() has. Equal logits give exactly 0.
  void compare(std::span<const float> other, TokenId target, WindowScore& score) const noexcept {
    const detail::ConstFloatArray a = detail::array_of(logits), b = detail::array_of(other), weights = detail::array_of(exponentials);
    const float other_highest = b.maxCoeff();
    const double other_sum = detail::chunked_sum(b.size(), [&](Eigen::Index i, Eigen::Index n) { return (b.segment(i, n) - other_highest).exp(); });
    const double normalizers = std::log(sum / other_sum);
    const auto shift = static_cast<float>(normalizers);
    const double weighted = detail::chunked_sum(a.size(), [&](Eigen::Index i, Eigen::Index n) {
      return weights.segment(i, n) * ((a.segment(i, n) - highest) - (b.segment(i, n) - other_highest) - shift);
    });
    const double kl = weighted / sum - (normalizers - double{shift});
    score.nll += std::log(other_sum) - (double{other[target]} - other_highest);
    score.kl += kl < 0 ? 0 : kl; // by rounding; NaN stays
    score.agreements += other[likeliest] == other_highest && (likeliest == 0 || b.head(static_cast<Eigen::Index>(likeliest)).maxCoeff() < other_highest);
    ++score.tokens;
  }

  /// Adds the reference's own likelihood of `target`: divergence 0, agreement.
  void compare_with_itself(TokenId target, WindowScore& score) const noexcept {
    score.nll += std::log(sum) - (double{logits[target]} - highest);
    ++score.agreements;
    ++score.tokens;
  }
};

/// Scores the tokens of a window from `first_scored` on; the window starts with an empty context. `scratch` holds logits_block x vocabulary floats.
template <backend Device, class Weights>
Likelihood window_likelihood(Decoder<Device, Weights>& decoder, const Config& config, const Device& device, std::span<const TokenId> window,
                             std::span<float> scratch, std::size_t first_scored = 1) {
  Likelihood result;
  decoder.reset();
  std::size_t first = 0; // position of the block's first state, which predicts the token after it
  decoder.read(window, [&](MatrixView states) {
    const std::size_t end = std::min(states.rows, window.size() - 1 - first);
    for (std::size_t begin = std::clamp(first_scored - 1, first, first + states.rows) - first; begin < end; begin += logits_block) {
      const std::size_t count = std::min(logits_block, end - begin);
      decoder.project(states.slice(begin, count), {scratch.data(), count, config.vocabulary});
      std::vector<double> nll(count);
      device.executor().parallel_for(nll.size(), [&](std::size_t t) {
        nll[t] = negative_log_likelihood(scratch.subspan(t * config.vocabulary, config.vocabulary), window[first + begin + t + 1]);
      });
      for (double value : nll) result.nll += value;
      result.tokens += nll.size();
    }
    first += states.rows;
  });
  return result;
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
