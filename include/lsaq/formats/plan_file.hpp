// Plans as JSON, schema "lsaq.plan/1" (docs/formats.md): `bits` is the required part, readers accept just that.
#pragma once

#include <lsaq/formats/names.hpp>
#include <lsaq/formats/strict_json.hpp>
#include <lsaq/planning/plan.hpp>

#include <limits>
#include <type_traits>

namespace lsaq::inline v0 {

/// A plan and what it was made for.
struct PlanFile {
  Plan plan;
  std::string model = {};
  std::string model_sha256 = {}; ///< empty: unknown
  std::string planner = "paper";
  std::string rounding = "nearest";
  std::string granularity = "channel";
  std::string codes = "symmetric"; ///< or "full"
  std::string rotation = "none";   ///< bases of the model that were changed: "residual", "heads", "ffn", joined by "+"
  std::string scale = "f16";
  std::string format = "packed";
  std::size_t context = 0; ///< positions the KV cache was counted for; 0: left to the reserve
  unsigned kv_bits = 16;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

inline nlohmann::json plan_to_json(const PlanFile& file) {
  const PlanBytes& b = file.plan.bytes;
  nlohmann::json json{{"schema", "lsaq.plan/1"},
                      {"bits", file.plan.bits},
                      {"average_bits", file.plan.average_bits},
                      {"model", file.model},
                      {"planner", file.planner},
                      {"rounding", file.rounding},
                      {"granularity", file.granularity},
                      {"codes", file.codes},
                      {"rotation", file.rotation},
                      {"scale", file.scale},
                      {"format", file.format},
                      {"context", file.context},
                      {"kv_bits", file.kv_bits},
                      {"bytes",
                       {{"weights", b.weights},
                        {"embedding", b.embedding},
                        {"kv_cache", b.kv_cache},
                        {"activations", b.activations},
                        {"reserve", b.reserve},
                        {"total", b.total},
                        {"memory", b.memory}}}};
  if (!file.model_sha256.empty()) json["model_sha256"] = file.model_sha256;
  if (file.plan.cost != 0) json["cost"] = file.plan.cost;
  for (const auto& [key, bits] : file.plan.tensors) json["tensors"]["model.layers." + key] = bits;
  return json;
}

/// Key in Plan::tensors of a tensor's name in a file: "model.layers.3.mlp.down_proj", with or without ".weight". Throws BadInput for other names.
inline std::string tensor_key_of(std::string_view tensor, const std::string& name) {
  constexpr std::string_view prefix = "model.layers.", suffix = ".weight";
  std::string_view key = tensor;
  if (key.ends_with(suffix)) key.remove_suffix(suffix.size());
  const bool prefixed = key.starts_with(prefix);
  if (prefixed) key.remove_prefix(prefix.size());
  const std::size_t digits = key.find_first_not_of("0123456789");
  if (!prefixed || digits == 0 || digits == std::string_view::npos || key[digits] != '.' || digits + 1 == key.size())
    fail<BadInput>(name + ": \"tensors\" names " + printable(tensor) + "; names like model.layers.3.mlp.down_proj are wanted");
  return std::string(key);
}

/// Reads a plan back; `bits` must hold one width of 2 to 8 or 16 for each layer. Throws BadInput naming `name` and the field.
///
/// `average_bits` and `bytes` follow from the bits and the model's shape and are not taken from the file: see average_bits() and weight_bytes().
inline PlanFile plan_from_json(const nlohmann::json& json, const std::string& name) {
  const auto refuse = [&](const std::string& sentence) { fail<BadInput>(name + ": " + sentence); };
  const auto width = [&](const char* key, const nlohmann::json& value) {
    if (!value.is_number_unsigned() || !(value == 16u || (value >= 2u && value <= 8u)))
      refuse(std::string("\"") + key + "\" holds " + printable(value.dump()) + "; a width may be 16 or 2 to 8 bits");
    return value.get<unsigned>();
  };
  if (!json.is_object()) refuse("not a plan: a JSON object is wanted");
  if (const auto schema = json.find("schema"); schema != json.end() && *schema != "lsaq.plan/1")
    refuse("\"schema\" is " + printable(schema->dump()) + ", not \"lsaq.plan/1\"");
  const auto bits = json.find("bits");
  if (bits == json.end() || !bits->is_array() || bits->empty()) refuse("not a plan: \"bits\" must be an array with one width for each layer");
  PlanFile file;
  for (const nlohmann::json& value : *bits) file.plan.bits.push_back(width("bits", value));
  if (const auto tensors = json.find("tensors"); tensors != json.end()) {
    if (!tensors->is_object()) refuse("\"tensors\" must map tensor names to bits");
    for (const auto& [tensor, value] : tensors->items()) {
      const std::string key = tensor_key_of(tensor, name);
      const std::string layer = key.substr(0, key.find('.'));
      if (layer.size() > 9 || std::to_string(std::stoul(layer)) != layer || std::stoul(layer) >= file.plan.bits.size())
        refuse("\"tensors\" names " + printable(tensor) + "; the layers of this plan are 0 to " + std::to_string(file.plan.bits.size() - 1));
      if (!file.plan.tensors.emplace(key, width("tensors", value)).second) refuse("\"tensors\" names " + printable(tensor) + " twice");
    }
  }
  const auto text = [&](const char* key, std::string& target) {
    const auto found = json.find(key);
    if (found == json.end()) return;
    if (!found->is_string()) refuse(std::string("\"") + key + "\" must be a string");
    target = found->get<std::string>();
  };
  text("model", file.model);
  text("model_sha256", file.model_sha256);
  text("planner", file.planner);
  text("rounding", file.rounding);
  text("granularity", file.granularity);
  text("codes", file.codes);
  text("rotation", file.rotation);
  text("scale", file.scale);
  text("format", file.format);
  const auto number = [&](const char* key, auto& target) {
    const auto found = json.find(key);
    if (found == json.end()) return;
    if (!found->is_number_unsigned() || *found > std::numeric_limits<std::remove_reference_t<decltype(target)>>::max())
      refuse(std::string("\"") + key + "\" is " + printable(found->dump()) + "; it must be a whole number");
    target = found->get<std::remove_reference_t<decltype(target)>>();
  };
  number("context", file.context);
  number("kv_bits", file.kv_bits);
  return file;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
