// A model quantized and deployed by a plan, and what is done with it: the next token's logits, the likelihood of a window.
#pragma once

#include "layer_source.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/models/evaluation.hpp>
#include <lsaq/planning/plan.hpp>

namespace command {

/// Weights in memory and a decoder on them. Stays where it is: the decoder refers to the weights.
class DeployedModel {
public:
  using Device = lsaq::Backend<lsaq::Cpu>;

  /// Quantizes and deploys layer by layer, as `source` gives them; shows progress, can be interrupted. `model` must outlive it. Throws what the source does,
  /// BadInput, std::bad_alloc, Interrupted.
  DeployedModel(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device, std::size_t context,
                lsaq::ElementType kv_cache = lsaq::ElementType::f16);
  DeployedModel(const DeployedModel&) = delete;
  DeployedModel& operator=(const DeployedModel&) = delete;

  std::size_t context() const { return decoder_.context(); }
  /// Bytes allocated, in the plan's parts; reserve and memory are 0.
  lsaq::PlanBytes allocated() const;
  /// Appends tokens, gives the logits of the next one.
  std::span<const float> forward(std::span<const lsaq::TokenId> tokens);
  /// Scores a window, from an empty context.
  lsaq::llama::Likelihood likelihood(const lsaq::llama::ScoredWindow& window);

private:
  const Model* model_;
  Device device_;
  lsaq::llama::ModelWeights weights_;
  lsaq::llama::Decoder<Device> decoder_;
  std::vector<float> block_logits_; ///< of a block of positions, while scoring
};

} // namespace command
