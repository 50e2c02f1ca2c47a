// Scores layers while a model is run layer by layer over all windows: each boundary is traced once, and only the newest trace is kept.
#pragma once

#include <lsaq/importance/policy.hpp>

#include <numeric>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// What a policy keeps of states: its own trace, or a copy of the states.
template <class Policy> struct TraceOf { using type = std::vector<float>; };
template <scores_traces Policy> struct TraceOf<Policy> { using type = typename Policy::Trace; };
template <class Policy> using trace_of = typename TraceOf<Policy>::type;

/// Scores a policy gives a layer; at least one.
template <observes_states Policy> std::size_t results_of(const typename Policy::Options& options) {
  std::size_t results = 1;
  if constexpr (scores_traces<Policy>) results = Policy::results(options);
  if (results == 0) fail<InvalidArgument>("importance: the policy's options ask for no score at all");
  return results;
}

inline void check_score(std::size_t layer, double score) { // NaN has no place in an order
  if (!std::isfinite(score)) fail<InvalidArgument>("importance: the score of layer " + std::to_string(layer) + " is not finite");
}

} // namespace detail

/// The scores of many windows, gathered boundary by boundary. A value; memory: the trace of one boundary, and windows x layers x results scores.
template <observes_states Policy> class ImportanceSweep {
public:
  using Options = typename Policy::Options;

  /// positions[w]: rows of window w at every boundary. Throws InvalidArgument if a window has none.
  ImportanceSweep(std::size_t layers, Options options, std::vector<std::size_t> positions)
      : layers_(layers), options_(std::move(options)), positions_(std::move(positions)),
        rows_(std::accumulate(positions_.begin(), positions_.end(), std::size_t{0})), results_(detail::results_of<Policy>(options_)),
        scores_(positions_.size() * layers_ * results_) {
    for (const std::size_t count : positions_)
      if (count == 0) fail<InvalidArgument>("importance: a window of a sweep has no positions");
  }

  /// The states of all windows at the next boundary, windows one after another; FP32, not kept. Boundaries come in order: 0, 1, .. layers; after resume_at(b),
  /// from b on. Throws InvalidArgument for other rows than promised, columns that change and scores that are not finite.
  template <class Device> void observe(MatrixView states, const Device& device) {
    if (states.rows != rows_ || states.type != ElementType::f32) fail<InvalidArgument>("importance: a sweep wants the FP32 states of all its windows at once");
    if (boundary_ > layers_) fail<InvalidArgument>("importance: a boundary beyond the last layer was observed");
    if (has_trace_ && states.columns != hidden_) fail<InvalidArgument>("importance: the shape of the hidden states changed within the sweep");
    detail::trace_of<Policy> trace;
    if constexpr (scores_traces<Policy>) {
      trace = Policy::trace(options_, states, device);
    } else {
      trace.resize(states.rows * states.columns);
      for (std::size_t r = 0; r < states.rows; ++r)
        std::copy_n(static_cast<const float*>(states.data) + r * states.stride, states.columns, trace.data() + r * states.columns);
    }
    hidden_ = states.columns;
    if (has_trace_) score_layer(boundary_ - 1, trace);
    trace_ = std::move(trace);
    has_trace_ = true;
    ++boundary_;
  }

  /// Continues a sweep of which layers below `boundary` are scored already, as scores() of then said.
  void resume_at(std::size_t boundary, std::span<const double> scores) {
    if (boundary > layers_ || scores.size() != scores_.size()) fail<InvalidArgument>("importance: these are not the scores of this sweep");
    std::copy(scores.begin(), scores.end(), scores_.begin());
    boundary_ = boundary;
    has_trace_ = false;
  }

  std::size_t layers() const noexcept { return layers_; }
  std::size_t results() const noexcept { return results_; }
  bool complete() const noexcept { return boundary_ == layers_ + 1; }

  /// windows x layers x results; zero where a layer was not passed yet.
  std::span<const double> scores() const noexcept { return scores_; }

private:
  void score_layer(std::size_t layer, const detail::trace_of<Policy>& leaving) {
    std::size_t first = 0;
    for (std::size_t w = 0; w < positions_.size(); ++w) {
      const std::span<double> scores(scores_.data() + (w * layers_ + layer) * results_, results_);
      if constexpr (scores_traces<Policy>) {
        std::fill(scores.begin(), scores.end(), 0.0);
        Policy::score(options_, TraceRows<typename Policy::Trace>{&trace_, first, positions_[w]},
                      TraceRows<typename Policy::Trace>{&leaving, first, positions_[w]}, scores);
      } else {
        scores[0] = Policy::score(options_, MatrixView(trace_.data() + first * hidden_, positions_[w], hidden_),
                                  MatrixView(leaving.data() + first * hidden_, positions_[w], hidden_));
      }
      for (const double score : scores) detail::check_score(layer, score);
      first += positions_[w];
    }
  }

  std::size_t layers_;
  Options options_;
  std::vector<std::size_t> positions_;
  std::size_t rows_;
  std::size_t results_;
  std::vector<double> scores_;
  detail::trace_of<Policy> trace_{};
  std::size_t hidden_ = 0; // columns of the states the trace is of
  std::size_t boundary_ = 0;
  bool has_trace_ = false;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
