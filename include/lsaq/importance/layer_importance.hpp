// The result of layer importance detection: a score for each layer, how sure it is, and the order it gives.
#pragma once

#include <lsaq/config.hpp>

#include <algorithm>
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
