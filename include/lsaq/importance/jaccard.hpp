// Jaccard and RankedJaccard: what a layer does to the words its states stand for (LSAQ, Eqs. 1-3).
#pragma once

#include <lsaq/importance/policy.hpp>

#include <initializer_list>

namespace lsaq::inline v0 {

/// Sizes of token sets: one, or several that are evaluated in one pass.
struct TopK {
  std::vector<std::size_t> sizes = {50};

  TopK() = default;
  TopK(std::size_t k) : sizes{k} {} // NOLINT: `.top_k = 50` is how it is used
  TopK(std::initializer_list<std::size_t> ks) : sizes(ks) {}

  [[gnu::always_inline]] std::size_t largest() const noexcept {
    std::size_t k = 0;
    for (std::size_t size : sizes) k = size > k ? size : k;
    return k;
  }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// The k highest tokens of each row, highest first.
struct TokenTrace {
  std::vector<ScoredToken> tokens;
  std::size_t k = 0;

  std::span<const ScoredToken> row(std::size_t r) const noexcept { return {tokens.data() + r * k, k}; }
};

template <class Device> TokenTrace trace_tokens(MatrixView states, MatrixView embedding, std::size_t k, const Device& device) {
  TokenTrace trace{std::vector<ScoredToken>(states.rows * k), k};
  device.top_tokens(states, embedding, k, trace.tokens);
  return trace;
}

/// shared[d] = tokens that are among the d + 1 highest of both rankings, d = 0 .. k - 1. Allocates k entries.
inline std::vector<std::size_t> shared_tokens(std::span<const ScoredToken> a, std::span<const ScoredToken> b) {
  std::vector<std::pair<TokenId, std::size_t>> ranks; // of a's tokens, by id
  ranks.reserve(a.size());
  for (std::size_t r = 0; r < a.size(); ++r) ranks.emplace_back(a[r].id, r);
  std::sort(ranks.begin(), ranks.end());
  std::vector<std::size_t> shared(a.size(), 0);
  for (std::size_t r = 0; r < b.size(); ++r) {
    const auto found = std::lower_bound(ranks.begin(), ranks.end(), std::pair(b[r].id, std::size_t{0}));
    if (found != ranks.end() && found->first == b[r].id) ++shared[std::max(r, found->second)];
  }
  for (std::size_t d = 1; d < shared.size(); ++d) shared[d] += shared[d - 1];
  return shared;
}

/// 1 - |A n B| / |A u B| of two sets of k tokens of which `shared` are in both.
inline double jaccard_distance(std::size_t shared, std::size_t k) noexcept { return 1.0 - static_cast<double>(shared) / static_cast<double>(2 * k - shared); }

/// Scores a layer for every size of token sets: distance(shared, k) averaged over the positions.
template <class Distance>
void score_rankings(const TopK& top_k, double first_weight, TraceRows<TokenTrace> entering, TraceRows<TokenTrace> leaving, std::span<double> scores,
                    Distance&& distance) {
  std::vector<std::vector<std::size_t>> shared;
  for (std::size_t p = 0; p < entering.count; ++p)
    shared.push_back(shared_tokens(entering.trace->row(entering.first + p), leaving.trace->row(leaving.first + p)));
  for (std::size_t i = 0; i < scores.size(); ++i)
    scores[i] = over_positions(entering.count, first_weight, [&](std::size_t p) { return distance(shared[p], top_k.sizes[i]); });
}

} // namespace detail

/// I = 1 - |A n B| / |A u B| of the top-k token sets of a layer's input and output, averaged over positions (LSAQ, Eqs. 1-3).
///
/// Several sizes in Options::top_k give as many results in one pass. Cost: one projection of every state on the embedding, which the device does.
struct Jaccard {
  static constexpr std::string_view name = "jaccard";

  struct Options {
    MatrixView embedding = {}; ///< W_E, vocabulary x hidden; owned by the engine
    TopK top_k = 50;           ///< sizes of the token sets
    double first_position = 0; ///< weight of a sequence's first position beside the mean of the others; 0: one like the others
  };
  using Trace = detail::TokenTrace;

  static std::size_t results(const Options& options) noexcept { return options.top_k.sizes.size(); }

  /// Device offers top_tokens(states, embedding, k, out).
  template <class Device> static Trace trace(const Options& options, MatrixView states, const Device& device) {
    for (const std::size_t k : options.top_k.sizes)
      if (k == 0) fail<InvalidArgument>("top_k is 0; a token set has at least one token");
    return detail::trace_tokens(states, options.embedding, options.top_k.largest(), device);
  }

  static void score(const Options& options, TraceRows<Trace> entering, TraceRows<Trace> leaving, std::span<double> scores) {
    detail::score_rankings(options.top_k, options.first_position, entering, leaving, scores,
                           [](std::span<const std::size_t> shared, std::size_t k) { return detail::jaccard_distance(shared[k - 1], k); });
  }
};

/// I = 1 - J_d averaged over the set sizes d = 1 .. k: Jaccard at every depth of the ranking, so that the highest tokens count most and no single k decides
/// (average overlap, Fagin, Kumar and Sivakumar 2003, with Jaccard's instead of the plain share). Same cost as Jaccard.
struct RankedJaccard {
  static constexpr std::string_view name = "ranked";

  using Options = Jaccard::Options;
  using Trace = detail::TokenTrace;

  static std::size_t results(const Options& options) noexcept { return Jaccard::results(options); }

  template <class Device> static Trace trace(const Options& options, MatrixView states, const Device& device) {
    return Jaccard::trace(options, states, device);
  }

  static void score(const Options& options, TraceRows<Trace> entering, TraceRows<Trace> leaving, std::span<double> scores) {
    detail::score_rankings(options.top_k, options.first_position, entering, leaving, scores, [](std::span<const std::size_t> shared, std::size_t k) {
      double sum = 0;
      for (std::size_t d = 1; d <= k; ++d) sum += detail::jaccard_distance(shared[d - 1], d);
      return sum / static_cast<double>(k);
    });
  }
};

static_assert(has_metric_name<Jaccard> && scores_traces<Jaccard>);
static_assert(has_metric_name<RankedJaccard> && scores_traces<RankedJaccard>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
