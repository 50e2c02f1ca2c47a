// The metrics that look at hidden states or weights, all in one pass over the model's layers that can be interrupted and resumed.
#pragma once

#include "detect.hpp"

#include <lsaq/models/layerwise.hpp>

#include <random>

namespace command {

/// A metric to measure, with all sizes of its token sets.
struct MetricRequest {
  std::string metric;
  std::vector<std::size_t> top_k; ///< empty for metrics without token sets
};

/// Scores of one metric: for each size of its token sets (one if it has none), windows x layers; a single row for metrics of weights.
using MetricScores = std::vector<std::vector<double>>;

/// Measures `requests` on `windows`. `key` names the checkpoint: everything the result depends on. `random` draws sampled positions, and goes on from batch to
/// batch of windows. Throws InvalidArgument, BadInput, Interrupted.
std::vector<MetricScores> measure_states(const Model& model, const lsaq::llama::WeightLoader& loader, const lsaq::llama::OuterWeights& outer,
                                         const Device& device, const Windows& windows, const DetectOptions& options, const std::vector<MetricRequest>& requests,
                                         const std::string& key, std::mt19937_64& random);

/// The largest token sets asked for, of the only window's last state at every boundary.
TokenSets token_sets_of(const Model& model, const Device& device, const Windows& one, const DetectOptions& options);

} // namespace command
