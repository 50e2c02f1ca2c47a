// The reference decoder: a Llama-type model on a backend, with its KV cache and one block of working memory.
#pragma once

#include <lsaq/models/llama_layer.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Tokens processed at once while reading a prompt.
inline constexpr std::size_t prefill_block = 128;
/// Positions whose logits are made at once while scoring: a vocabulary is much wider than a layer.
inline constexpr std::size_t logits_block = 64;

/// Bytes of working memory of a Decoder: the plan's `bytes.activations`. Layers for one block of tokens, and the logits of one token.
inline Bytes workspace_bytes(const Config& config, std::size_t context) noexcept {
  return sizeof(float) * (LayerWorkspace::floats(config, std::min(prefill_block, context)) + config.vocabulary);
}

/// Runs deployed weights. Refers to configuration and weights, which the caller owns and keeps; owns KV cache and working memory, allocated once.
///
/// Weights: ModelWeights, or LiveWeights whose layers may be exchanged meanwhile; each block of tokens is read with one state of the layers.
template <backend Device, class Weights = ModelWeights> class Decoder {
public:
  /// Room for `context` positions, keys and values kept as `kv_type`. Throws InvalidArgument as KvCache does, std::bad_alloc.
  Decoder(const Config& config, const Weights& weights, const Device& device, std::size_t context, ElementType kv_type = ElementType::f16)
      : config_(&config), weights_(&weights), device_(device), cache_(config, config.layers, context, kv_type),
        memory_(static_cast<std::size_t>(workspace_bytes(config, context))) {
    const std::span<float> floats(reinterpret_cast<float*>(memory_.data()), memory_.size() / sizeof(float));
    logits_ = floats.first(config.vocabulary);
    workspace_ = LayerWorkspace::divide(config, std::min(prefill_block, context), floats.subspan(config.vocabulary));
    fill_frequencies(config, workspace_.frequencies);
  }

  Decoder(Decoder&&) = default;

  const Device& device() const noexcept { return device_; }
  std::size_t position() const noexcept { return position_; }
  std::size_t context() const noexcept { return cache_.context(); }
  Bytes kv_cache_bytes() const noexcept { return cache_.bytes(); }
  Bytes activation_bytes() const noexcept { return memory_.size(); }

  /// Forgets all positions.
  void reset() noexcept { position_ = 0; }

  /// Appends tokens and calls on_block(states) with the residual stream (before the final norm) of each block of at most prefill_block of them.
  /// Throws InvalidArgument for ids beyond the vocabulary and when the context is full.
  template <class OnBlock> void read(std::span<const TokenId> tokens, OnBlock&& on_block) {
    check_tokens(*config_, tokens);
    if (tokens.size() > context() - position_)
      fail<InvalidArgument>(std::to_string(position_ + tokens.size()) + " tokens do not fit a context of " + std::to_string(context()));
    while (!tokens.empty()) {
      const std::size_t count = std::min(prefill_block, tokens.size());
      embed(*config_, device_.kernels(), weights_->outer, tokens.first(count), workspace_.x);
      fill_rotation(*config_, workspace_.frequencies, position_, count, workspace_.rotation);
      const auto& layers = weights_->read();
      for (std::size_t l = 0; l < config_->layers; ++l) run_layer(*config_, layers[l], device_, cache_, l, position_, count, workspace_);
      position_ += count;
      tokens = tokens.subspan(count);
      on_block(MatrixView(workspace_.x.data(), count, config_->hidden));
    }
  }

  /// Appends tokens and returns the logits of the token that follows, valid until the next call. Throws as read(), and for an empty span.
  std::span<const float> forward(std::span<const TokenId> tokens) {
    if (tokens.empty()) fail<InvalidArgument>("there is nothing to continue: the prompt has no tokens");
    std::size_t last = 0;
    read(tokens, [&](MatrixView states) { last = states.rows - 1; });
    project(MatrixView(workspace_.x.data() + last * config_->hidden, 1, config_->hidden), {logits_.data(), 1, config_->vocabulary});
    return logits_;
  }

  /// Final norm and output head: states rows x hidden to logits rows x vocabulary, at most prefill_block rows.
  void project(MatrixView states, MutableMatrixView logits) const noexcept {
    llama::project(*config_, weights_->outer, device_, states, workspace_.normed, logits, std::as_writable_bytes(workspace_.product));
  }

private:
  const Config* config_;
  const Weights* weights_;
  Device device_;
  KvCache cache_;
  AlignedBytes memory_;
  std::span<float> logits_;
  LayerWorkspace workspace_;
  std::size_t position_ = 0;
};

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
