#include "deployed_model.hpp"

#include <malloc.h>

namespace command {

namespace llama = lsaq::llama;

namespace {

llama::ModelWeights load(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device) {
  Progress progress("quantize: layer", model.config.layers);
  return llama::load_weights(source, model.config, plan, device, [&](std::size_t layers) {
    check_interrupt();
    progress.set(layers);
  });
}

using Exact = llama::Decoder<Device, llama::LiveWeights>;
using Fast = llama::Decoder<FastDevice, llama::LiveWeights>;
using Decoder = std::variant<Exact, Fast>;

Decoder decoder_on(const llama::LiveWeights& weights, const Model& model, const Device& device, std::size_t context, Activations activations,
                   lsaq::ElementType kv_cache) {
  if (activations == Activations::float32) return Decoder(std::in_place_type<Exact>, model.config, weights, device, context, kv_cache);
  return Decoder(std::in_place_type<Fast>, model.config, weights, FastDevice(device.executor(), device.isa()), context, kv_cache);
}

} // namespace

Activations activations_named(const std::string& name) { return name == "int8" ? Activations::int8 : Activations::float32; }

DeployedModel::DeployedModel(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device, std::size_t context,
                             Activations activations, lsaq::ElementType kv_cache, lsaq::Grouping grouping)
    : model_(&model), weights_(model.config, plan, load(model, plan, source, device), grouping),
      decoder_(decoder_on(weights_, model, device, context, activations, kv_cache)) {
  if (plan.bytes.memory != 0) weights_.layers.allow(left_for_layers(plan.bytes.memory));
}

void release_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

lsaq::PlanBytes DeployedModel::allocated() const {
  lsaq::PlanBytes bytes{.weights = weights_.weight_bytes(), .embedding = weights_.outer.embedding_bytes()};
  std::visit(
      [&](const auto& decoder) {
        bytes.kv_cache = decoder.kv_cache_bytes();
        bytes.activations = decoder.activation_bytes();
      },
      decoder_);
  bytes.total = bytes.weights + bytes.embedding + bytes.kv_cache + bytes.activations;
  return bytes;
}

lsaq::Bytes DeployedModel::left_for_layers(lsaq::Bytes memory) const {
  const lsaq::PlanBytes now = allocated();
  const lsaq::Bytes beside = now.total - weights_.layers.held();
  return memory - std::min(memory, beside);
}

lsaq::ReplanReport DeployedModel::replan(const LayerSource& source, const Device& device, const lsaq::Plan& plan, lsaq::Bytes memory,
                                         const std::stop_token& stop) {
  return weights_.replan(source, device, plan, left_for_layers(memory), stop, [](const lsaq::ReplanReport&) { release_freed_memory(); });
}

std::span<const float> DeployedModel::forward(std::span<const lsaq::TokenId> tokens) {
  return std::visit([&](auto& decoder) { return decoder.forward(tokens); }, decoder_);
}

llama::Likelihood DeployedModel::likelihood(const llama::ScoredWindow& window) {
  block_logits_.resize(llama::logits_block * model_->config.vocabulary);
  return std::visit(
      [&](auto& decoder) { return llama::window_likelihood(decoder, model_->config, decoder.device(), window.tokens, block_logits_, window.first_scored); },
      decoder_);
}

} // namespace command
