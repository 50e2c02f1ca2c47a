#include "error_metrics.hpp"
#include "evaluation_windows.hpp"

#include <lsaq/models/layer_output_error.hpp>
#include <lsaq/models/plan_evaluation.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace command {

namespace {

namespace llama = lsaq::llama;

/// One plan a layer: that layer at `bits`, all others unquantized.
std::vector<lsaq::Plan> single_layer_plans(std::size_t layers, unsigned bits) {
  std::vector<lsaq::Plan> plans(layers);
  for (std::size_t l = 0; l < layers; ++l) {
    plans[l].bits.assign(layers, 16);
    plans[l].bits[l] = bits;
  }
  return plans;
}

} // namespace

std::vector<MetricScores> measure_errors(const Model& model, const llama::WeightLoader& loader, const llama::OuterWeights& outer, const Device& device,
                                         const Windows& windows, const DetectOptions& options, const std::vector<MetricRequest>& requests) {
  const std::size_t layers = model.config.layers;
  const auto wanted = [&](const char* metric) {
    return std::any_of(requests.begin(), requests.end(), [&](const MetricRequest& request) { return request.metric == metric; });
  };
  llama::PlanScores runs;
  if (wanted("error") || wanted("error-nll")) {
    const std::vector<llama::ScoredWindow> scored = scored_windows(windows, "the error metrics");
    Progress progress("importance: quantized layer runs", 0);
    runs = llama::evaluate_plans(
        model.config, loader, outer, device, scored, std::span<const lsaq::Plan>(single_layer_plans(layers, options.error_bits)),
        {.kv = lsaq::ElementType::f32}, [](std::size_t, const llama::PlanScores&) {},
        [&](std::size_t done, std::size_t steps) {
          check_interrupt();
          progress.set(done, steps);
        });
  }
  std::vector<std::vector<llama::LayerOutputError>> outputs;
  if (wanted("output-error")) {
    Progress progress("importance: layer outputs", 0);
    outputs = llama::layer_output_errors(model.config, loader, outer, device, windows, options.error_bits, [&](std::size_t done, std::size_t steps) {
      check_interrupt();
      progress.set(done, steps);
    });
  }

  std::vector<MetricScores> scores;
  for (const MetricRequest& request : requests) {
    std::vector<double> one(windows.size() * layers);
    for (std::size_t w = 0; w < windows.size(); ++w)
      for (std::size_t l = 0; l < layers; ++l) {
        double& score = one[w * layers + l];
        if (request.metric == "output-error") {
          score = outputs[l][w].mean();
          continue;
        }
        const llama::WindowScore& quantized = runs.plans[l][w];
        const auto targets = static_cast<double>(quantized.tokens);
        score = request.metric == "error" ? quantized.kl / targets : (quantized.nll - runs.reference[w].nll) / targets;
      }
    scores.push_back({std::move(one)});
  }
  return scores;
}

} // namespace command
