// The result of layer importance detection: a score for each layer, how sure it is, and the order it gives.
#pragma once

#include <lsaq/config.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>
#include <string>
#include <vector>

namespace lsaq::inline v0 {

/// Importance of every decoder layer, higher = more important. Pure data; may cross translation units.
struct Importance {
  std::string metric = {};                ///< name of the policy: "jaccard"
  std::vector<double> scores = {};        ///< one a layer: the mean over windows
  std::vector<double> spread = {};        ///< standard error of that mean; 0 for a single window
  std::size_t windows = 0;                ///< calibration windows averaged over; 0 for metrics that look at weights only
  std::vector<double> window_scores = {}; ///< windows x layers; empty if not known. What order_confidence.hpp works with

  /// Layers from the least to the most important; ties: lower layer first.
  [[gnu::always_inline]] std::vector<std::size_t> order() const {
    std::vector<std::size_t> layers(scores.size());
    std::iota(layers.begin(), layers.end(), std::size_t{0});
    std::stable_sort(layers.begin(), layers.end(), [&](std::size_t a, std::size_t b) { return scores[a] < scores[b]; });
    return layers;
  }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Mean score of every layer over windows (window_scores: windows x layers, at least one window) and its standard error.
inline Importance importance_of_windows(std::string metric, std::vector<double> window_scores, std::size_t layers) {
  Importance found{.metric = std::move(metric), .scores = std::vector<double>(layers), .spread = std::vector<double>(layers)};
  found.windows = window_scores.size() / layers;
  const auto n = static_cast<double>(found.windows);
  for (std::size_t l = 0; l < layers; ++l) {
    double sum = 0, squares = 0;
    for (std::size_t w = 0; w < found.windows; ++w) sum += window_scores[w * layers + l];
    found.scores[l] = sum / n;
    for (std::size_t w = 0; w < found.windows; ++w) squares += std::pow(window_scores[w * layers + l] - found.scores[l], 2);
    found.spread[l] = found.windows > 1 ? std::sqrt(squares / (n - 1) / n) : 0;
  }
  found.window_scores = std::move(window_scores);
  return found;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
