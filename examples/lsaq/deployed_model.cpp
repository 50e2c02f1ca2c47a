#include "deployed_model.hpp"

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

using Decoder = std::variant<llama::Decoder<Device>, llama::Decoder<FastDevice>>;

Decoder decoder_on(const llama::ModelWeights& weights, const Model& model, const Device& device, std::size_t context, Activations activations,
                   lsaq::ElementType kv_cache) {
  if (activations == Activations::float32) return Decoder(std::in_place_type<llama::Decoder<Device>>, model.config, weights, device, context, kv_cache);
  return Decoder(std::in_place_type<llama::Decoder<FastDevice>>, model.config, weights, FastDevice(device.executor(), device.isa()), context, kv_cache);
}

} // namespace

std::optional<Activations> activations_named(const std::string& name) {
  if (name == "float32") return Activations::float32;
  if (name == "int8") return Activations::int8;
  return std::nullopt;
}

DeployedModel::DeployedModel(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device, std::size_t context,
                             Activations activations, lsaq::ElementType kv_cache)
    : model_(&model), weights_(load(model, plan, source, device)), decoder_(decoder_on(weights_, model, device, context, activations, kv_cache)) {}

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
