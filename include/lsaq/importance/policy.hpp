// What an importance policy offers: the named concepts that ImportanceMetric<P> asks for. docs/importance.md shows how to write one.
#pragma once

#include <lsaq/importance/token_sets.hpp>
#include <lsaq/types.hpp>

#include <concepts>
#include <span>
#include <string_view>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Consecutive rows of a policy's trace: the positions of one sequence at one boundary.
template <class Trace> struct TraceRows {
  const Trace* trace = nullptr;
  std::size_t first = 0;
  std::size_t count = 0;
};

/// Mean of score(position) over the positions of a sequence. With a weight above 0 for the first one, it counts by that beside the mean of the others: what a
/// layer does to the first position of a text is out of all proportion to its share (massive activations), and else invisible.
template <class Score> double over_positions(std::size_t count, double first_weight, Score&& score) {
  if (first_weight > 0 && count > 1) {
    double rest = 0;
    for (std::size_t p = 1; p < count; ++p) rest += score(p);
    return rest / static_cast<double>(count - 1) + first_weight * score(0);
  }
  double sum = 0;
  for (std::size_t p = 0; p < count; ++p) sum += score(p);
  return sum / static_cast<double>(count);
}

template <class P>
concept has_metric_name = requires {
  { P::name } -> std::convertible_to<std::string_view>;
};

namespace detail {
/// Stands for any device when a policy is checked.
struct AnyDevice {
  void top_tokens(MatrixView states, MatrixView embedding, std::size_t k, std::span<ScoredToken> out) const;
};
} // namespace detail

/// A policy that compares the states entering a layer with those leaving it: FP32, the positions of one sequence as rows. Higher = more important.
template <class P>
concept scores_hidden_states = requires(const typename P::Options& options, MatrixView entering, MatrixView leaving) {
  { P::score(options, entering, leaving) } -> std::convertible_to<double>;
};

/// A policy that first turns states into something else, each boundary once, and then compares that. It may give several scores at once: P::results(options).
template <class P>
concept scores_traces = requires(const typename P::Options& options, MatrixView states, const detail::AnyDevice& device, TraceRows<typename P::Trace> rows,
                                 std::span<double> scores) {
  { P::trace(options, states, device) } -> std::same_as<typename P::Trace>;
  { P::results(options) } -> std::convertible_to<std::size_t>;
  P::score(options, rows, rows, scores);
};

/// A policy that scores a layer from its weights.
template <class P>
concept scores_weights = requires(const typename P::Options& options, std::span<const MatrixView> linears) {
  { P::score_layer(options, linears) } -> std::convertible_to<double>;
};

/// A policy that measures what quantizing one layer does: one number for each calibration window.
template <class P>
concept measures_layers = requires(const typename P::Options& options, std::size_t layer) {
  { P::measure(options, layer) } -> std::same_as<std::vector<double>>;
};

/// A policy that is fed hidden states, either way.
template <class P>
concept observes_states = scores_hidden_states<P> || scores_traces<P>;

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
