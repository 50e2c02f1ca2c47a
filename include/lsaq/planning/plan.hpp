// The plan: bits for every layer and the bytes that result. Pure data; may cross translation units.
#pragma once

#include <lsaq/types.hpp>

#include <map>
#include <vector>

namespace lsaq::inline v0 {

/// Where the bytes of a plan go; total is the sum of the five parts before it.
struct PlanBytes {
  Bytes weights = 0;   ///< the layers as planned (codes, scales, padding, norms) and the final norm
  Bytes embedding = 0; ///< embedding and output head; a tied pair counts once
  Bytes kv_cache = 0;
  Bytes activations = 0; ///< workspace of the forward pass
  Bytes reserve = 0;     ///< kept free for safety
  Bytes total = 0;
  Bytes memory = 0; ///< what was available: total <= memory
};

/// Bits for every layer of a model, within a byte budget.
struct Plan {
  std::vector<unsigned> bits = {};              ///< one a layer: 16 (not quantized), or 2 to 8
  std::map<std::string, unsigned> tensors = {}; ///< exceptions: "layer index.linear name" -> bits
  double average_bits = 0;                      ///< code bits averaged over the layers' weights, scales left out
  PlanBytes bytes = {};
  double cost = 0;       ///< expected damage, in the unit of the strategy's costs; 0 for strategies without
  std::size_t cache = 0; ///< which of the budget's caches was chosen, where it offers several

  /// Key of a linear in `tensors`: "3.mlp.down_proj".
  [[gnu::always_inline]] static std::string tensor_key(std::size_t layer, std::string_view linear) { return std::to_string(layer) + "." + std::string(linear); }

  /// Bits of one linear of a layer.
  [[gnu::always_inline]] unsigned bits_of(std::size_t layer, std::string_view linear) const {
    if (!tensors.empty())
      if (const auto found = tensors.find(tensor_key(layer, linear)); found != tensors.end()) return found->second;
    return bits.at(layer);
  }

  /// Layers planned at `width` bits.
  [[gnu::always_inline]] std::size_t layers_at(unsigned width) const noexcept {
    std::size_t count = 0;
    for (unsigned b : bits) count += b == width;
    return count;
  }
};

} // namespace lsaq::inline v0
