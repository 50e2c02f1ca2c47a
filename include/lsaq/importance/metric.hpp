// Layer importance detection: ImportanceMetric<Policy> watches hidden states at layer boundaries, or weights, or quantized runs, and scores every layer.
//
//   Jaccard, RankedJaccard   the token sets before and after the layer (LSAQ)        fed by hidden states
//   Cosine                   the angle between its input and output (LWQ, ShortGPT)  fed by hidden states
//   WeightOutliers           weights far from the layer's mean (LWQ)                 fed by weights
//   MeasuredError            the damage of quantizing just this layer                fed by quantized runs
//
// A policy of your own needs what one of the concepts in policy.hpp asks for.
#pragma once

#include <lsaq/importance/cosine.hpp>
#include <lsaq/importance/jaccard.hpp>
#include <lsaq/importance/layer_importance.hpp>
#include <lsaq/importance/measured_error.hpp>
#include <lsaq/importance/sweep.hpp>
#include <lsaq/importance/weight_outliers.hpp>
#include <lsaq/importance/window.hpp>

#include <optional>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Scores decoder layers by the policy's rule and averages over calibration windows. A value the caller owns; no shared state.
template <class Policy> class ImportanceMetric {
  static_assert(has_metric_name<Policy>, "lsaq: ImportanceMetric<P>: P needs `static constexpr std::string_view name` (docs/importance.md)");
  static_assert(
      observes_states<Policy> || scores_weights<Policy> || measures_layers<Policy>,
      "lsaq: ImportanceMetric<P>: P needs `struct Options` and one of `static double score(const Options&, MatrixView entering, MatrixView leaving)`, "
      "`static double score_layer(const Options&, std::span<const MatrixView> linears)`, "
      "`static std::vector<double> measure(const Options&, std::size_t layer)`, or `Trace`, `results`, `trace` and `score` (docs/importance.md)");
  static_assert(
      scores_hidden_states<Policy> + scores_traces<Policy> + scores_weights<Policy> + measures_layers<Policy> <= 1,
      "lsaq: ImportanceMetric<P>: P offers more than one kind of score; a policy looks at hidden states, at weights, or at runs (docs/importance.md)");

public:
  using Options = typename Policy::Options;

  explicit ImportanceMetric(std::size_t layers, Options options = {}) : layers_(layers), options_(std::move(options)) {
    if (layers == 0) fail<InvalidArgument>("importance needs a model with at least one layer");
    if constexpr (observes_states<Policy>) results_ = detail::results_of<Policy>(options_);
    if constexpr (scores_weights<Policy>) weight_scores_.assign(layers, std::nullopt);
  }

  std::size_t layers() const noexcept { return layers_; }
  const Options& options() const noexcept { return options_; }

  /// Scores each layer gets: one, or as many as the policy evaluates in one pass (Jaccard: sizes of token sets).
  std::size_t results() const noexcept { return results_; }

  /// Starts a window: one forward pass of one text, whose shape is that of the first states seen.
  ImportanceWindow begin_window() const requires observes_states<Policy> { return ImportanceWindow(layers_); }

  /// Starts a window of known shape: a batch of texts, each a calibration window of its own, prefilled in any number of parts.
  ImportanceWindow begin_window(WindowShape shape) const requires observes_states<Policy> {
    if (shape.rows() == 0 || shape.hidden == 0) fail<InvalidArgument>("importance: a window needs sequences, positions and a hidden size");
    return ImportanceWindow(layers_, shape);
  }

  /// Scores a window on `device`, whose executor or stream it uses, and empties it for the next one. Throws InvalidArgument if a boundary is missing,
  /// observation went wrong or a score is not finite; the detector is then unchanged. Cost: the policy's; every boundary is traced once, all of them together.
  template <class Device> void end_window(ImportanceWindow& window, const Device& device) requires observes_states<Policy> {
    check_window(window);
    const std::size_t rows = window.shape_.rows(), hidden = window.shape_.hidden, positions = window.shape_.positions;
    const auto* states = window.states_.data();
    std::vector<double> scores(window.shape_.sequences * layers_ * results_);
    [[maybe_unused]] detail::trace_of<Policy> trace{};
    if constexpr (scores_traces<Policy>) trace = Policy::trace(options_, MatrixView(states, (layers_ + 1) * rows, hidden), device);
    for (std::size_t s = 0; s < window.shape_.sequences; ++s)
      for (std::size_t l = 0; l < layers_; ++l) {
        const std::size_t entering = l * rows + s * positions, leaving = entering + rows;
        const std::span<double> layer_scores(scores.data() + (s * layers_ + l) * results_, results_);
        if constexpr (scores_traces<Policy>)
          Policy::score(options_, TraceRows<typename Policy::Trace>{&trace, entering, positions}, TraceRows<typename Policy::Trace>{&trace, leaving, positions},
                        layer_scores);
        else
          layer_scores[0] =
              Policy::score(options_, MatrixView(states + entering * hidden, positions, hidden), MatrixView(states + leaving * hidden, positions, hidden));
      }
    add_window_scores(scores);
    window.empty();
  }

  /// Adds the windows of a complete sweep of the same model and options.
  template <observes_states P = Policy>
  requires std::same_as<P, Policy>
  void add(const ImportanceSweep<P>& sweep) {
    if (sweep.layers() != layers_ || sweep.results() != results_) fail<InvalidArgument>("importance: the sweep is one of another model or other options");
    if (!sweep.complete()) fail<InvalidArgument>("importance: the sweep has not reached the last layer");
    add_window_scores(sweep.scores());
  }

  /// Adds windows that were scored before: windows x layers x results(). Throws InvalidArgument if a score is not finite or the size is no multiple.
  void add_window_scores(std::span<const double> scores) {
    if (scores.size() % (layers_ * results_) != 0) fail<InvalidArgument>("importance: scores of a model with another number of layers");
    for (std::size_t i = 0; i < scores.size(); ++i) detail::check_score(i / results_ % layers_, scores[i]);
    window_scores_.insert(window_scores_.end(), scores.begin(), scores.end());
  }

  /// Scores a layer from all its linears at once (any float type). A layer seen twice keeps the later score. Throws InvalidArgument if there is no such layer
  /// or its score is not finite.
  void observe_weights(std::size_t layer, std::span<const MatrixView> linears) requires scores_weights<Policy> {
    if (layer >= layers_) fail<InvalidArgument>("importance: layer " + std::to_string(layer) + " of " + std::to_string(layers_));
    const double score = Policy::score_layer(options_, linears);
    detail::check_score(layer, score);
    weight_scores_[layer] = score;
  }

  /// observe_weights for a layer held in one matrix.
  void observe_weights(std::size_t layer, MatrixView weights) requires scores_weights<Policy> {
    observe_weights(layer, std::span<const MatrixView>(&weights, 1));
  }

  /// Measures every layer in turn and adds the windows. Throws InvalidArgument if layers disagree on the number of windows, and what the policy throws.
  void measure() requires measures_layers<Policy> {
    std::vector<double> scores;
    std::size_t windows = 0;
    for (std::size_t l = 0; l < layers_; ++l) {
      const std::vector<double> measured = Policy::measure(options_, l);
      if (l == 0) {
        windows = measured.size();
        scores.resize(windows * layers_);
      }
      if (measured.size() != windows)
        fail<InvalidArgument>("importance: layer " + std::to_string(l) + " was measured in " + std::to_string(measured.size()) + " windows, layer 0 in " +
                              std::to_string(windows));
      for (std::size_t w = 0; w < windows; ++w) scores[w * layers_ + l] = measured[w];
    }
    add_window_scores(scores);
  }

  /// Adds what another detector of the same model and options found: data-parallel calibration. Its windows count after ours.
  void merge(const ImportanceMetric& other) {
    if (other.layers_ != layers_) fail<InvalidArgument>("importance: can't merge detectors of models with different layer counts");
    if (other.results_ != results_) fail<InvalidArgument>("importance: can't merge detectors that give different numbers of results");
    window_scores_.insert(window_scores_.end(), other.window_scores_.begin(), other.window_scores_.end());
    for (std::size_t l = 0; l < weight_scores_.size(); ++l)
      if (other.weight_scores_[l]) weight_scores_[l] = other.weight_scores_[l];
  }

  /// Mean score of every layer, its standard error over windows, and the windows' scores. `result` chooses among results(). Throws InvalidArgument if nothing
  /// was observed.
  Importance importance(std::size_t result = 0) const {
    if (result >= results_) fail<InvalidArgument>("importance: result " + std::to_string(result) + " of " + std::to_string(results_));
    if constexpr (scores_weights<Policy>) {
      Importance found{.metric = std::string(Policy::name), .scores = std::vector<double>(layers_), .spread = std::vector<double>(layers_)};
      for (std::size_t l = 0; l < layers_; ++l) {
        if (!weight_scores_[l]) fail<InvalidArgument>("importance: the weights of layer " + std::to_string(l) + " were not observed");
        found.scores[l] = *weight_scores_[l];
      }
      return found;
    } else {
      if (window_scores_.empty()) fail<InvalidArgument>("importance: no window was observed");
      std::vector<double> scores;
      scores.reserve(window_scores_.size() / results_);
      for (std::size_t i = result; i < window_scores_.size(); i += results_) scores.push_back(window_scores_[i]);
      return importance_of_windows(std::string(Policy::name), std::move(scores), layers_);
    }
  }

private:
  void check_window(const ImportanceWindow& window) const {
    if (const char* fault = window.fault()) fail<InvalidArgument>(std::string("importance: ") + fault);
    if (window.layers() != layers_)
      fail<InvalidArgument>("importance: the window is one of a model with " + std::to_string(window.layers()) + " layers, not " + std::to_string(layers_));
    for (std::size_t b = 0; b <= layers_; ++b)
      if (const std::size_t seen = window.seen_[b].get(); seen == 0 || seen != window.shape_.rows())
        fail<InvalidArgument>("importance: boundary " + std::to_string(b) + " of " + std::to_string(layers_) + " was not " + (seen == 0 ? "" : "completely ") +
                              "observed in this window");
  }

  std::size_t layers_;
  Options options_;
  std::size_t results_ = 1;
  std::vector<double> window_scores_;                // windows x layers x results
  std::vector<std::optional<double>> weight_scores_; // one a layer; empty for metrics that do not look at weights
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
