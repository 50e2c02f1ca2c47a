// Layer importance detection: ImportanceMetric<Policy> watches hidden states at layer boundaries, or weights, and scores every layer.
//
// Boundary b is the residual stream entering layer b; boundary n_layers is what leaves the last layer, before the final norm. Policies:
//   Jaccard         1 - Jaccard of the top-k token sets before and after the layer (LSAQ, Eqs. 1-3)
//   Cosine          1 - cosine of the states before and after the layer (LWQ; Block Influence of ShortGPT)
//   WeightOutliers  share of a layer's weights far from its mean (LWQ's second measure)
// A policy of your own needs what `scores_hidden_states` or `scores_weights` asks for.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/importance/layer_importance.hpp>
#include <lsaq/importance/token_sets.hpp>

#include <concepts>
#include <limits>
#include <new>
#include <optional>
#include <string_view>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// What a policy sees at the end of a window: boundary b, position p at row b * positions + p, FP32.
struct WindowStates {
  MatrixView states;
  std::size_t layers = 0;
  std::size_t positions = 0;

  const float* at(std::size_t boundary, std::size_t position) const noexcept {
    return static_cast<const float*>(states.data) + (boundary * positions + position) * states.stride;
  }
};

/// I = 1 - |A n B| / |A u B| of the top-k token sets of a layer's input and output, averaged over positions (LSAQ, Eqs. 1-3).
struct Jaccard {
  static constexpr std::string_view name = "jaccard";

  struct Options {
    MatrixView embedding = {}; ///< W_E, vocabulary x hidden; owned by the engine
    std::size_t top_k = 50;    ///< size of the token sets
  };

  /// Device offers top_tokens(states, embedding, k, out); every boundary is projected once.
  template <class Device> static void score(const Options& options, const WindowStates& window, const Device& device, std::span<double> scores) {
    std::vector<ScoredToken> tokens(window.states.rows * options.top_k);
    device.top_tokens(window.states, options.embedding, options.top_k, tokens);
    for (std::size_t layer = 0; layer < window.layers; ++layer) {
      double sum = 0;
      for (std::size_t p = 0; p < window.positions; ++p) {
        const std::span<const ScoredToken> entering(tokens.data() + (layer * window.positions + p) * options.top_k, options.top_k);
        const std::span<const ScoredToken> leaving(tokens.data() + ((layer + 1) * window.positions + p) * options.top_k, options.top_k);
        sum += 1.0 - jaccard(entering, leaving);
      }
      scores[layer] = sum / static_cast<double>(window.positions);
    }
  }
};

/// I = 1 - cos(input, output) of a layer's states, averaged over positions (LWQ, arXiv 2406.17415; ShortGPT, arXiv 2403.03853).
struct Cosine {
  static constexpr std::string_view name = "cosine";

  struct Options {};

  template <class Device> static void score(const Options&, const WindowStates& window, const Device&, std::span<double> scores) {
    const std::size_t hidden = window.states.columns;
    for (std::size_t layer = 0; layer < window.layers; ++layer) {
      double sum = 0;
      for (std::size_t p = 0; p < window.positions; ++p) {
        const float* a = window.at(layer, p);
        const float* b = window.at(layer + 1, p);
        double ab = 0, aa = 0, bb = 0; // double: residuals reach 26,000, squares overflow narrower sums
        for (std::size_t i = 0; i < hidden; ++i) {
          ab += double{a[i]} * b[i];
          aa += double{a[i]} * a[i];
          bb += double{b[i]} * b[i];
        }
        const double norms = std::sqrt(aa) * std::sqrt(bb);
        sum += norms == 0 ? (aa == bb ? 0.0 : 1.0) : 1.0 - std::clamp(ab / norms, -1.0, 1.0);
      }
      scores[layer] = sum / static_cast<double>(window.positions);
    }
  }
};

/// I = share of the layer's weights further than `sigmas` standard deviations from the layer's mean; more outliers = more important.
///
/// LWQ counts weights far above the average and calls layers with fewer of them more important; LSAQ's text reads it the other way. `more_is_important` says
/// which.
struct WeightOutliers {
  static constexpr std::string_view name = "outlier";

  struct Options {
    double sigmas = 3.0;
    bool more_is_important = true;
  };

  static double score_layer(const Options& options, std::span<const MatrixView> linears) {
    double count = 0, sum = 0, squares = 0;
    for (const MatrixView& w : linears)
      for (std::size_t r = 0; r < w.rows; ++r)
        for (std::size_t c = 0; c < w.columns; ++c) {
          const double value = load_element(w.row(r), w.type, c);
          sum += value;
          squares += value * value;
          count += 1;
        }
    if (count == 0) return 0;
    if (!std::isfinite(sum)) return std::numeric_limits<double>::quiet_NaN(); // compared with NaN, no weight is far: the layer would look calm
    const double mean = sum / count;
    const double limit = options.sigmas * std::sqrt(std::max(0.0, squares / count - mean * mean));
    double far = 0;
    for (const MatrixView& w : linears)
      for (std::size_t r = 0; r < w.rows; ++r)
        for (std::size_t c = 0; c < w.columns; ++c) far += std::abs(double{load_element(w.row(r), w.type, c)} - mean) > limit;
    return options.more_is_important ? far / count : -far / count;
  }
};

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

/// A policy that scores layers from the hidden states of a window.
template <class P>
concept scores_hidden_states = requires(const typename P::Options& options, const WindowStates& window, const detail::AnyDevice& device,
                                        std::span<double> scores) {
  P::score(options, window, device, scores);
};

/// A policy that scores a layer from its weights.
template <class P>
concept scores_weights = requires(const typename P::Options& options, std::span<const MatrixView> linears) {
  { P::score_layer(options, linears) } -> std::convertible_to<double>;
};

static_assert(has_metric_name<Jaccard> && scores_hidden_states<Jaccard>);
static_assert(has_metric_name<Cosine> && scores_hidden_states<Cosine>);
static_assert(has_metric_name<WeightOutliers> && scores_weights<WeightOutliers>);

/// Collects the states of one window at every boundary. A value: several may be open at once, one for each sequence or thread.
class ImportanceWindow {
public:
  explicit ImportanceWindow(std::size_t layers) : seen_(layers + 1, false) {}

  /// Copies the rows of `states` (any float type and stride, one row a position) as those of `boundary`; the engine may overwrite them at once.
  ///
  /// noexcept: what goes wrong (boundary out of range or seen twice, shapes that are empty or change, no memory) is kept and thrown by end_window. Allocates
  /// only at the first boundary of a window, and only if the windows before it were smaller.
  void observe(std::size_t boundary, MatrixView states) noexcept {
    if (fault_ != nullptr) return;
    if (boundary >= seen_.size()) return set_fault("a boundary beyond the last layer was observed");
    if (seen_[boundary]) return set_fault("a boundary was observed twice in one window");
    if (states.rows == 0 || states.columns == 0) return set_fault("the hidden states have no rows or no columns");
    if (states_.empty() && !reserve(states)) return set_fault("no memory for the window's hidden states");
    if (states.rows != positions_ || states.columns != hidden_) return set_fault("the shape of the hidden states changed within the window");
    for (std::size_t p = 0; p < positions_; ++p) {
      float* row = states_.data() + (boundary * positions_ + p) * hidden_;
      for (std::size_t i = 0; i < hidden_; ++i) row[i] = load_element(states.row(p), states.type, i);
    }
    seen_[boundary] = true;
  }

private:
  template <class> friend class ImportanceMetric;

  bool reserve(MatrixView first) noexcept {
    positions_ = first.rows;
    hidden_ = first.columns;
#if LSAQ_EXCEPTIONS
    try {
      states_.resize(seen_.size() * positions_ * hidden_);
    } catch (const std::bad_alloc&) {
      return false;
    }
#else
    states_.resize(seen_.size() * positions_ * hidden_);
#endif
    return true;
  }

  void set_fault(const char* sentence) noexcept { fault_ = sentence; }

  std::vector<float> states_;
  std::vector<bool> seen_;
  std::size_t positions_ = 0;
  std::size_t hidden_ = 0;
  const char* fault_ = nullptr;
};

/// Scores decoder layers by the policy's rule and averages over calibration windows. A value the caller owns; no shared state.
template <class Policy> class ImportanceMetric {
  static_assert(has_metric_name<Policy>, "lsaq: ImportanceMetric<P>: P needs `static constexpr std::string_view name` (docs/policies.md)");
  static_assert(scores_hidden_states<Policy> || scores_weights<Policy>,
                "lsaq: ImportanceMetric<P>: P needs `struct Options` and `static void score(const Options&, const WindowStates&, const Device&, "
                "std::span<double>)` or `static double score_layer(const Options&, std::span<const MatrixView>)` (docs/policies.md)");
  static_assert(!(scores_hidden_states<Policy> && scores_weights<Policy>),
                "lsaq: ImportanceMetric<P>: P has both `score` and `score_layer`; a policy looks at hidden states or at weights (docs/policies.md)");

public:
  using Options = typename Policy::Options;

  explicit ImportanceMetric(std::size_t layers, Options options = {}) : layers_(layers), options_(std::move(options)) {
    if (layers == 0) fail<InvalidArgument>("importance needs a model with at least one layer");
    if constexpr (!scores_hidden_states<Policy>) weight_scores_.assign(layers, std::nullopt);
  }

  std::size_t layers() const noexcept { return layers_; }

  /// Starts a window: one forward pass of one calibration text (or of a batch of them, one row each).
  ImportanceWindow begin_window() const requires scores_hidden_states<Policy> { return ImportanceWindow(layers_); }

  /// Scores a window on `device`, whose executor or stream it uses, and empties it for the next one. Throws InvalidArgument if a boundary is missing,
  /// observation went wrong or a score is not finite.
  template <class Device> void end_window(ImportanceWindow& window, const Device& device) requires scores_hidden_states<Policy> {
    if (window.fault_ != nullptr) fail<InvalidArgument>(std::string("importance: ") + window.fault_);
    if (window.seen_.size() != layers_ + 1)
      fail<InvalidArgument>("importance: the window is one of a model with " + std::to_string(window.seen_.size() - 1) + " layers, not " +
                            std::to_string(layers_));
    for (std::size_t b = 0; b < window.seen_.size(); ++b)
      if (!window.seen_[b])
        fail<InvalidArgument>("importance: boundary " + std::to_string(b) + " of " + std::to_string(layers_) + " was not observed in this window");
    const WindowStates states{{window.states_.data(), window.seen_.size() * window.positions_, window.hidden_}, layers_, window.positions_};
    std::vector<double> scores(layers_);
    Policy::score(options_, states, device, scores);
    for (std::size_t l = 0; l < layers_; ++l) check_score(l, scores[l]);
    window_scores_.insert(window_scores_.end(), scores.begin(), scores.end());
    window.seen_.assign(window.seen_.size(), false);
    window.states_.clear();
  }

  /// Scores a layer from all its linears at once (any float type). A layer seen twice keeps the later score. Throws InvalidArgument if there is no such layer
  /// or its score is not finite.
  void observe_weights(std::size_t layer, std::span<const MatrixView> linears) requires scores_weights<Policy> {
    if (layer >= layers_) fail<InvalidArgument>("importance: layer " + std::to_string(layer) + " of " + std::to_string(layers_));
    const double score = Policy::score_layer(options_, linears);
    check_score(layer, score);
    weight_scores_[layer] = score;
  }

  /// observe_weights for a layer held in one matrix.
  void observe_weights(std::size_t layer, MatrixView weights) requires scores_weights<Policy> {
    observe_weights(layer, std::span<const MatrixView>(&weights, 1));
  }

  /// Adds what another detector of the same model found: data-parallel calibration. Its windows count after ours.
  void merge(const ImportanceMetric& other) {
    if (other.layers_ != layers_) fail<InvalidArgument>("importance: can't merge detectors of models with different layer counts");
    window_scores_.insert(window_scores_.end(), other.window_scores_.begin(), other.window_scores_.end());
    for (std::size_t l = 0; l < weight_scores_.size(); ++l)
      if (other.weight_scores_[l]) weight_scores_[l] = other.weight_scores_[l];
  }

  /// Mean score of every layer and its standard error over windows. Throws InvalidArgument if nothing was observed.
  Importance importance() const {
    Importance result{.metric = std::string(Policy::name), .scores = std::vector<double>(layers_), .spread = std::vector<double>(layers_)};
    if constexpr (!scores_hidden_states<Policy>) {
      for (std::size_t l = 0; l < layers_; ++l) {
        if (!weight_scores_[l]) fail<InvalidArgument>("importance: the weights of layer " + std::to_string(l) + " were not observed");
        result.scores[l] = *weight_scores_[l];
      }
      return result;
    }
    result.windows = window_scores_.size() / layers_;
    if (result.windows == 0) fail<InvalidArgument>("importance: no window was observed");
    const auto n = static_cast<double>(result.windows);
    for (std::size_t l = 0; l < layers_; ++l) {
      double sum = 0, squares = 0;
      for (std::size_t w = 0; w < result.windows; ++w) sum += window_scores_[w * layers_ + l];
      result.scores[l] = sum / n;
      for (std::size_t w = 0; w < result.windows; ++w) squares += std::pow(window_scores_[w * layers_ + l] - result.scores[l], 2);
      result.spread[l] = result.windows > 1 ? std::sqrt(squares / (n - 1) / n) : 0;
    }
    return result;
  }

private:
  static void check_score(std::size_t layer, double score) { // NaN has no place in an order
    if (!std::isfinite(score)) fail<InvalidArgument>("importance: the score of layer " + std::to_string(layer) + " is not finite");
  }

  std::size_t layers_;
  Options options_;
  std::vector<double> window_scores_;                // windows x layers
  std::vector<std::optional<double>> weight_scores_; // one a layer; empty for metrics that look at states
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
