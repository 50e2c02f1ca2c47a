// A plan as a recipe for llama.cpp's own quantizer: its types follow LSAQ's importance, their codes are llama.cpp's.
//
// Format: the file of llama-quantize's --tensor-type-file, one REGEX=TYPE a line, searched in names of tensors; the first that is found counts.
#pragma once

#include <lsaq/models/llama_config.hpp>

#include <map>

namespace lsaq::inline v0::llama {

/// Types of llama.cpp that stand for the widths of a plan.
using RecipeTypes = std::map<unsigned, std::string>;

inline RecipeTypes default_recipe_types() { return {{2, "q2_k"}, {3, "q3_k"}, {4, "q4_0"}, {5, "q5_0"}, {6, "q6_k"}, {7, "q8_0"}, {8, "q8_0"}, {16, "f16"}}; }

/// The recipe of a plan; embedding and head stay 16-bit. Throws InvalidArgument for a width without a type.
inline std::string quantize_recipe(const Config& config, const Plan& plan, const RecipeTypes& types = default_recipe_types()) {
  std::map<unsigned, std::string> layers; // numbers of the layers at a width
  std::string recipe;
  const auto type_of = [&](unsigned bits) {
    const auto type = types.find(bits);
    if (type == types.end()) fail<InvalidArgument>("no type of llama.cpp is given for " + std::to_string(bits) + " bits");
    return type->second;
  };
  for (std::size_t l = 0; l < config.layers; ++l) {
    std::string& list = layers[plan.bits.at(l)];
    list += (list.empty() ? "" : "|") + std::to_string(l);
    for (std::size_t i = 0; i < linears_per_layer; ++i) {
      const auto linear = static_cast<Linear>(i);
      if (const unsigned bits = plan.bits_of(l, name_of(linear)); bits != plan.bits[l]) // exceptions come first
        recipe += "^blk\\." + std::to_string(l) + "\\." + std::string(gguf_name_of(linear)) + "\\.weight$=" + type_of(bits) + "\n";
    }
  }
  for (const auto& [bits, list] : layers) recipe += "^blk\\.(" + list + ")\\.(attn_(q|k|v|output)|ffn_(gate|up|down))\\.weight$=" + type_of(bits) + "\n";
  return recipe + "^token_embd\\.weight$=" + type_of(16) + "\n^output\\.weight$=" + type_of(16) + "\n";
}

} // namespace lsaq::inline v0::llama
