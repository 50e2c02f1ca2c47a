// A model quantized and deployed by a plan, and what is done with it: the next token's logits, the likelihood of a window.
#pragma once

#include "layer_source.hpp"

#include <lsaq/models/evaluation.hpp>
#include <lsaq/models/live_weights.hpp>
#include <lsaq/planning/plan.hpp>

#include <variant>

namespace command {

/// What activations are while packed weights are multiplied.
enum class Activations { float32, int8 };

/// What --activations says, which the command line admits as int8 or float32 only.
Activations activations_named(const std::string& name);

/// Gives memory that was used and freed back to the system, where the allocator would keep it.
void release_freed_memory();

/// Weights in memory and a decoder on them, which reads them as they are at each token. Stays where it is: the decoder refers to the weights.
class DeployedModel {
public:
  /// Quantizes and deploys layer by layer, as `source` gives them; shows progress, can be interrupted. `model` must outlive it. Throws what the source does,
  /// BadInput, std::bad_alloc, Interrupted. `grouping` is what the bytes of later plans are counted with.
  DeployedModel(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device, std::size_t context, Activations activations,
                lsaq::ElementType kv_cache = lsaq::ElementType::f16, lsaq::Grouping grouping = {});
  DeployedModel(const DeployedModel&) = delete;
  DeployedModel& operator=(const DeployedModel&) = delete;

  std::size_t context() const {
    return std::visit([](const auto& decoder) { return decoder.context(); }, decoder_);
  }
  /// Bytes allocated, in the plan's parts; reserve and memory are 0.
  lsaq::PlanBytes allocated() const;
  /// Appends tokens, gives the logits of the next one.
  std::span<const float> forward(std::span<const lsaq::TokenId> tokens);
  /// The plan that is deployed now.
  lsaq::Plan plan() const { return weights_.layers.plan(); }
  /// Deploys another plan while tokens are made, the whole model in `memory` bytes at every moment. As LiveWeights::replan().
  lsaq::ReplanReport replan(const LayerSource& source, const Device& device, const lsaq::Plan& plan, lsaq::Bytes memory, const std::stop_token& stop);
  /// Scores a window, from an empty context.
  lsaq::llama::Likelihood likelihood(const lsaq::llama::ScoredWindow& window);

private:
  const Model* model_;
  /// What the layers may hold where the whole model may hold `memory`.
  lsaq::Bytes left_for_layers(lsaq::Bytes memory) const;

  lsaq::llama::LiveWeights weights_;
  std::variant<lsaq::llama::Decoder<Device, lsaq::llama::LiveWeights>, lsaq::llama::Decoder<FastDevice, lsaq::llama::LiveWeights>> decoder_;
  std::vector<float> block_logits_; ///< of a block of positions, while scoring
};

} // namespace command
