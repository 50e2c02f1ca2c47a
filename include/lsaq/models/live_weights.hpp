// The weights of a Llama-type model whose layers may be exchanged while a Decoder runs on them.
#pragma once

#include <lsaq/deployment/deployment.hpp>
#include <lsaq/models/llama_weights.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Outer weights that stay, and layers that follow a plan. Takes the place of ModelWeights: Decoder<Device, LiveWeights>. Stays where it is.
class LiveWeights {
public:
  /// Takes over weights that were deployed by `plan`. Throws InvalidArgument if they have another number of layers, std::bad_alloc.
  LiveWeights(const Config& config, Plan plan, ModelWeights weights, Grouping grouping = {})
      : outer(std::move(weights.outer)), layers(model_shape(config), std::move(plan), std::move(weights.layers), ScaleType::f16, grouping) {}

  OuterWeights outer;
  Deployment<LayerWeights> layers;

  /// The layers as a decoder reads them during one pass.
  Deployment<LayerWeights>::Pass read() const noexcept { return layers.read(); }

  /// Bytes of layers and final norm: the plan's `bytes.weights`.
  Bytes weight_bytes() const { return outer.final_norm.storage.size() + layers.held(); }

  /// Deploys another plan with layers of `loader`, which `device` only prepares; the layers hold at most `limit` bytes at every moment. As
  /// Deployment::replan().
  template <class Loader, backend Device, class OnExchange>
  ReplanReport replan(const Loader& loader, const Device& device, const Plan& target, Bytes limit, std::stop_token stop, OnExchange&& on_exchange) {
    const auto build = [&](std::size_t layer, const Plan& plan) {
      return loader.layer(device, layer, [&](std::string_view linear) { return plan.bits_of(layer, linear); });
    };
    return layers.replan(target, limit, build, std::move(stop), on_exchange);
  }
};

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
