// The joint order: what a layer changes times what quantizing it does to its output.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/importance/layer_importance.hpp>

#include <cmath>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// I = sqrt(change * error), window by window: the geometric mean of how much a layer changes the residual stream (Jaccard) and how far quantizing it alone
/// moves its output (the output error). Neither part needs the whole model quantized.
///
/// A layer that changes much but is rounded well, or is rounded badly but changes little, is less important than one where both come together. Throws
/// InvalidArgument unless both come from the same number of layers and windows, and no score is negative.
inline Importance joint_importance(const Importance& change, const Importance& error) {
  const std::size_t layers = change.scores.size();
  if (error.scores.size() != layers || change.window_scores.size() != error.window_scores.size() || change.window_scores.empty())
    fail<InvalidArgument>("importance: a joint order needs the scores of the same windows and layers from both its parts");
  std::vector<double> scores;
  scores.reserve(change.window_scores.size());
  for (std::size_t i = 0; i < change.window_scores.size(); ++i) {
    if (!(change.window_scores[i] >= 0 && error.window_scores[i] >= 0))
      fail<InvalidArgument>("importance: a joint order is made of scores that are not negative");
    scores.push_back(std::sqrt(change.window_scores[i] * error.window_scores[i]));
  }
  return importance_of_windows("joint", std::move(scores), layers);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
