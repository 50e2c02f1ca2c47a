// The metrics that quantize one layer at a time and measure what that does: the honest upper reference for all others.
#pragma once

#include "state_metrics.hpp"

namespace command {

/// Measures `requests` (error, error-nll, output-error) on `windows`: for each a row of windows x layers. KL divergence and rise of the negative log-likelihood
/// are means over a window's targets, all its tokens but the first; the output error is the mean over its positions of |dy|^2 / |y|^2.
/// Cost: the output error runs every layer twice; the others about layers / 2 forward passes and layers times the output head. Throws as measure_states.
std::vector<MetricScores> measure_errors(const Model& model, const lsaq::llama::WeightLoader& loader, const lsaq::llama::OuterWeights& outer,
                                         const Device& device, const Windows& windows, const DetectOptions& options,
                                         const std::vector<MetricRequest>& requests);

} // namespace command
