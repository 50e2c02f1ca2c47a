// Where deployed layers come from: rounded now, or from a file of `lsaq quantize`.
#pragma once

#include "rounding_options.hpp"

#include <lsaq/models/quantized_layers.hpp>

#include <variant>

namespace command {

/// Gives layers as a WeightLoader does.
class LayerSource {
public:
  explicit LayerSource(lsaq::llama::RoundingLoader loader) : source_(std::move(loader)) {}
  explicit LayerSource(lsaq::llama::QuantizedLayers layers) : source_(std::move(layers)) {}

  template <class Device> lsaq::llama::OuterWeights outer(const Device& device) const {
    return std::visit([&](const auto& source) { return source.outer(device); }, source_);
  }
  template <class Device, class BitsOf> lsaq::llama::LayerWeights layer(const Device& device, std::size_t layer, BitsOf&& bits_of) const {
    return std::visit([&](const auto& source) { return source.layer(device, layer, bits_of); }, source_);
  }

private:
  std::variant<lsaq::llama::RoundingLoader, lsaq::llama::QuantizedLayers> source_;
};

/// A file of `lsaq quantize`, opened for the model it was made from.
struct QuantizedFile {
  lsaq::PlanFile plan = {};
  Quantization quantization = {};
  LayerSource source;
};

/// Throws BadInput if it was made from another model, or is damaged.
QuantizedFile open_quantized(const std::filesystem::path& path, const Model& model, const Device& device);

} // namespace command
