#include "deployed_model.hpp"

namespace command {

namespace llama = lsaq::llama;

namespace {

llama::ModelWeights load(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const DeployedModel::Device& device) {
  Progress progress("quantize: layer", model.config.layers);
  return llama::load_weights(source, model.config, plan, device, [&](std::size_t layers) {
    check_interrupt();
    progress.set(layers);
  });
}

} // namespace

DeployedModel::DeployedModel(const Model& model, const lsaq::Plan& plan, const LayerSource& source, const Device& device, std::size_t context,
                             lsaq::ElementType kv_cache)
    : model_(&model), device_(device), weights_(load(model, plan, source, device)), decoder_(model.config, weights_, device, context, kv_cache) {}

lsaq::PlanBytes DeployedModel::allocated() const {
  lsaq::PlanBytes bytes{.weights = weights_.weight_bytes(),
                        .embedding = weights_.outer.embedding_bytes(),
                        .kv_cache = decoder_.kv_cache_bytes(),
                        .activations = decoder_.activation_bytes()};
  bytes.total = bytes.weights + bytes.embedding + bytes.kv_cache + bytes.activations;
  return bytes;
}

std::span<const float> DeployedModel::forward(std::span<const lsaq::TokenId> tokens) { return decoder_.forward(tokens); }

llama::Likelihood DeployedModel::likelihood(const llama::ScoredWindow& window) {
  block_logits_.resize(llama::prefill_block * model_->config.vocabulary);
  return llama::window_likelihood(decoder_, model_->config, device_, window.tokens, block_logits_, window.first_scored);
}

} // namespace command
