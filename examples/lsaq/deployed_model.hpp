// A model quantized and deployed by a plan, and what is done with it: the next token's logits, the likelihood of a window.
#pragma once

#include "layer_source.hpp"

#include <lsaq/models/evaluation.hpp>
#include <lsaq/planning/plan.hpp>

#include <variant>

namespace command {

/// What activations are while packed weights are multiplied.
enum class Activations { float32, int8 };

/// float32 or int8, for an option; nothing for another word.
std::optional<Activations> activations_named(const std::string& name);

/// Weights in memory and a decoder on them. Stays where it is: the decoder refers to the weights.
class DeployedModel {
public:
  /// Quantizes and deploys layer by layer, as `source` gives them; shows progress, can be interrupted. `model` must outlive it. Throws what the source does,
  /// BadInput, std::bad_alloc, Interrupted.
  DeployedModel(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device, std::size_t context,
                Activations activations, lsaq::ElementType kv_cache = lsaq::ElementType::f16);
  DeployedModel(const DeployedModel&) = delete;
  DeployedModel& operator=(const DeployedModel&) = delete;

  std::size_t context() const { return std::visit([](const auto& decoder) { return decoder.context(); }, decoder_); }
  /// Bytes allocated, in the plan's parts; reserve and memory are 0.
  lsaq::PlanBytes allocated() const;
  /// Appends tokens, gives the logits of the next one.
  std::span<const float> forward(std::span<const lsaq::TokenId> tokens);
  /// Scores a window, from an empty context.
  lsaq::llama::Likelihood likelihood(const lsaq::llama::ScoredWindow& window);

private:
  const Model* model_;
  lsaq::llama::ModelWeights weights_;
  std::variant<lsaq::llama::Decoder<Device>, lsaq::llama::Decoder<FastDevice>> decoder_;
  std::vector<float> block_logits_; ///< of a block of positions, while scoring
};

} // namespace command
