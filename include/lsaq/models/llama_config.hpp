// Configuration of a Llama-type model, read from GGUF metadata or config.json; whatever the decoder can't run is refused by name.
#pragma once

#include <lsaq/formats/model_source.hpp>
#include <lsaq/formats/names.hpp>
#include <lsaq/planning/memory_model.hpp>

#include <cmath>
#include <numbers>

namespace lsaq::inline v0::llama {

/// The seven linears of a decoder layer, in the order they are used.
enum class Linear : std::uint8_t { q, k, v, o, gate, up, down };
inline constexpr std::size_t linears_per_layer = 7;

/// Dimensions and constants of a Llama-type decoder.
struct Config {
  std::string name = {};
  std::size_t layers = 0;
  std::size_t hidden = 0;
  std::size_t ffn = 0;
  std::size_t heads = 0;
  std::size_t kv_heads = 0;
  std::size_t head_size = 0;
  std::size_t vocabulary = 0;
  std::size_t longest_context = 0;
  double rope_theta = 10000.0;
  double epsilon = 1e-5;
  std::vector<float> rope_divisors = {}; ///< head_size / 2 divisors of the rotation frequencies (Llama-3, linear scaling); empty: none
  bool tied = false;                     ///< the output head is the embedding
  bool interleaved_rope = false;         ///< rotation pairs are neighbours (2i, 2i+1), as in GGUF; else halves (i, i + head_size/2)

  std::size_t q_rows() const noexcept { return heads * head_size; }
  std::size_t kv_rows() const noexcept { return kv_heads * head_size; }
};

/// Rows and columns of a linear.
inline MatrixShape shape_of(const Config& config, Linear linear) noexcept {
  switch (linear) {
  case Linear::q: return {config.q_rows(), config.hidden};
  case Linear::k:
  case Linear::v: return {config.kv_rows(), config.hidden};
  case Linear::o: return {config.hidden, config.q_rows()};
  case Linear::gate:
  case Linear::up: return {config.ffn, config.hidden};
  case Linear::down: return {config.hidden, config.ffn};
  }
  return {};
}

/// Name of a linear without its layer's prefix, as in Hugging Face checkpoints.
constexpr std::string_view name_of(Linear linear) noexcept {
  constexpr std::string_view names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  return names[static_cast<std::size_t>(linear)];
}

/// The planner's view of the model: linears by layer, norms and embedding as 16-bit; in GGUF norms are F32, and linears whose rows are no whole blocks are
/// pinned to 16 bits.
inline ModelShape model_shape(const Config& config, Destination destination = Destination::packed) {
  const bool gguf = destination == Destination::gguf;
  const Bytes norm = gguf ? gguf_padded(Bytes{4} * config.hidden) : Bytes{2} * config.hidden;
  const Bytes embedding = Bytes{2} * config.vocabulary * config.hidden;
  LayerShape layer;
  for (std::size_t i = 0; i < linears_per_layer; ++i) {
    const auto linear = static_cast<Linear>(i);
    const MatrixShape shape = shape_of(config, linear);
    const char* group = linear <= Linear::v ? "qkv" : linear == Linear::gate || linear == Linear::up ? "gate_up" : "";
    layer.linears.push_back({.name = std::string(name_of(linear)), .rows = shape.rows, .columns = shape.columns, .group = group});
    if (gguf && shape.columns % gguf_columns != 0) layer.linears.back().pinned = 16;
  }
  layer.fixed_bytes = 2 * norm;
  ModelShape model{.name = config.name, .layers = std::vector<LayerShape>(config.layers, layer)};
  model.embedding_bytes = (gguf ? gguf_padded(embedding) : embedding) * (config.tied ? 1 : 2);
  model.fixed_bytes = norm; // the final one
  return model;
}

/// Shapes known by name, for planning without the model: llama-2-7b, llama-2-13b, llama-3-8b.
inline std::optional<Config> known_config(std::string_view name) {
  struct Known {
    std::string_view name;
    std::size_t layers, hidden, ffn, heads, kv_heads, vocabulary, longest_context;
    double rope_theta;
  };
  constexpr Known known[] = {{"llama-2-7b", 32, 4096, 11008, 32, 32, 32000, 4096, 1e4},
                             {"llama-2-13b", 40, 5120, 13824, 40, 40, 32000, 4096, 1e4},
                             {"llama-3-8b", 32, 4096, 14336, 32, 8, 128256, 8192, 5e5}};
  for (const Known& k : known)
    if (name == k.name)
      return Config{.name = std::string(name),
                    .layers = k.layers,
                    .hidden = k.hidden,
                    .ffn = k.ffn,
                    .heads = k.heads,
                    .kv_heads = k.kv_heads,
                    .head_size = k.hidden / k.heads,
                    .vocabulary = k.vocabulary,
                    .longest_context = k.longest_context,
                    .rope_theta = k.rope_theta};
  return std::nullopt;
}

/// Divisors of the rotation frequencies for Llama-3's scaling: long wavelengths are slowed by `factor`, short ones kept, those between interpolated.
/// Source: the Llama 3.1 release ("use_scaled_rope"); the same formula as Hugging Face's rope_type "llama3".
inline std::vector<float> llama3_rope_divisors(const Config& config, double factor, double low_frequency, double high_frequency, double original_context) {
  std::vector<float> divisors(config.head_size / 2);
  for (std::size_t i = 0; i < divisors.size(); ++i) {
    const double frequency = std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_size));
    const double turns = original_context * frequency / (2 * std::numbers::pi); // full rotations within the original context
    double divisor = 1;
    if (turns < low_frequency) {
      divisor = factor;
    } else if (turns <= high_frequency) {
      const double smooth = (turns - low_frequency) / (high_frequency - low_frequency);
      divisor = 1 / ((1 - smooth) / factor + smooth);
    }
    divisors[i] = static_cast<float>(divisor);
  }
  return divisors;
}

/// What a linear is called in GGUF files.
constexpr std::string_view gguf_name_of(Linear linear) noexcept {
  constexpr std::string_view names[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
  return names[static_cast<std::size_t>(linear)];
}

/// Name of a tensor of a layer in GGUF files.
inline std::string gguf_layer_name(std::size_t layer, std::string_view rest) { return "blk." + std::to_string(layer) + "." + std::string(rest) + ".weight"; }

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Name of a linear's tensor in the checkpoint.
inline std::string tensor_name(const ModelSource& model, std::size_t layer, Linear linear) {
  if (model.is_gguf()) return gguf_layer_name(layer, gguf_name_of(linear));
  return "model.layers." + std::to_string(layer) + "." + std::string(name_of(linear)) + ".weight";
}

inline std::string attention_norm_name(const ModelSource& model, std::size_t layer) {
  return model.is_gguf() ? gguf_layer_name(layer, "attn_norm") : "model.layers." + std::to_string(layer) + ".input_layernorm.weight";
}

inline std::string mlp_norm_name(const ModelSource& model, std::size_t layer) {
  return model.is_gguf() ? gguf_layer_name(layer, "ffn_norm") : "model.layers." + std::to_string(layer) + ".post_attention_layernorm.weight";
}

inline std::string final_norm_name(const ModelSource& model) { return model.is_gguf() ? "output_norm.weight" : "model.norm.weight"; }
inline std::string embedding_name(const ModelSource& model) { return model.is_gguf() ? "token_embd.weight" : "model.embed_tokens.weight"; }
inline std::string head_name(const ModelSource& model) { return model.is_gguf() ? "output.weight" : "lm_head.weight"; }

namespace detail {

[[noreturn]] inline void refuse(const ModelSource& model, const std::string& sentence) { fail<BadInput>(printable_path(model.path()) + ": " + sentence); }

/// Refuses dimensions that can't be a model, before they size anything.
inline void check_dimensions(const ModelSource& model, const Config& config) {
  const auto limit = [&](const char* what, std::size_t value, std::size_t most) {
    if (value == 0 || value > most) refuse(model, std::string(what) + " is " + std::to_string(value) + "; it must be 1 to " + std::to_string(most));
  };
  limit("the number of layers", config.layers, 4096);
  limit("the hidden size", config.hidden, 1u << 20);
  limit("the feed-forward size", config.ffn, 1u << 22);
  limit("the number of heads", config.heads, 1u << 14);
  limit("the number of key-value heads", config.kv_heads, config.heads);
  limit("the head size", config.head_size, 256);
  limit("the vocabulary size", config.vocabulary, 1u << 24);
  limit("the longest context", config.longest_context, 1u << 30);
  if (config.heads % config.kv_heads != 0)
    refuse(model, std::to_string(config.heads) + " heads can't share " + std::to_string(config.kv_heads) + " key-value heads evenly");
  if (config.head_size % 2 != 0) refuse(model, "the head size " + std::to_string(config.head_size) + " is odd; rotary embeddings need pairs");
  if (!(config.rope_theta > 0) || !std::isfinite(config.rope_theta))
    refuse(model, "the rotary base is " + std::to_string(config.rope_theta) + "; it must be positive");
  if (!(config.epsilon > 0) || !(config.epsilon < 1)) refuse(model, "the norm's epsilon is " + std::to_string(config.epsilon) + "; it must be between 0 and 1");
  for (float divisor : config.rope_divisors)
    if (!(divisor > 0) || !std::isfinite(divisor)) refuse(model, "a rotary frequency divisor is " + std::to_string(divisor) + "; it must be positive");
}

/// Every tensor the decoder reads is there with the shape the configuration gives it, and no layer is left over.
inline void check_tensors(const ModelSource& model, const Config& config) {
  const auto expect = [&](const std::string& name, std::size_t rows, std::size_t columns) {
    const TensorInfo& tensor = model.at(name);
    const bool vector = rows == 1;
    if (tensor.rows != rows || tensor.columns != columns || tensor.shape.size() != (vector ? 1u : 2u))
      refuse(model, "tensor " + printable(name) + " is " + std::to_string(tensor.rows) + " x " + std::to_string(tensor.columns) + ", the configuration wants " +
                        std::to_string(rows) + " x " + std::to_string(columns));
  };
  expect(embedding_name(model), config.vocabulary, config.hidden);
  expect(final_norm_name(model), 1, config.hidden);
  if (!config.tied) expect(head_name(model), config.vocabulary, config.hidden);
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    expect(attention_norm_name(model, layer), 1, config.hidden);
    expect(mlp_norm_name(model, layer), 1, config.hidden);
    for (std::size_t i = 0; i < linears_per_layer; ++i) {
      const MatrixShape shape = shape_of(config, static_cast<Linear>(i));
      expect(tensor_name(model, layer, static_cast<Linear>(i)), shape.rows, shape.columns);
    }
  }
  if (model.find(attention_norm_name(model, config.layers)) != nullptr)
    refuse(model, "there are tensors of layer " + std::to_string(config.layers) + ", but the configuration names " + std::to_string(config.layers) + " layers");
  for (const TensorInfo& tensor : model.tensors())
    if (tensor.name.ends_with(".bias")) refuse(model, "tensor " + printable(tensor.name) + ": biases are not supported by this decoder");
}

inline Config read_gguf(const ModelSource& model) {
  const GgufFile& file = model.gguf();
  const std::string& architecture = file.string_at("general.architecture");
  if (architecture != "llama") refuse(model, "architecture \"" + printable(architecture) + "\" is not supported by this decoder; it runs llama");
  if (file.unsigned_or("llama.expert_count", 0) != 0) refuse(model, "a mixture of experts (llama.expert_count) is not supported by this decoder");
  Config config{.name = file.string_or("general.name", model.path().filename().string())};
  config.layers = file.unsigned_at("llama.block_count");
  config.hidden = file.unsigned_at("llama.embedding_length");
  config.ffn = file.unsigned_at("llama.feed_forward_length");
  config.heads = file.unsigned_at("llama.attention.head_count");
  config.kv_heads = file.unsigned_or("llama.attention.head_count_kv", config.heads);
  config.head_size = file.unsigned_or("llama.attention.key_length", config.heads == 0 ? 0 : config.hidden / config.heads);
  if (file.unsigned_or("llama.attention.value_length", config.head_size) != config.head_size)
    refuse(model, "llama.attention.value_length differs from the key length; this decoder wants them equal");
  if (const std::uint64_t rotated = file.unsigned_or("llama.rope.dimension_count", config.head_size); rotated != config.head_size)
    refuse(model, "llama.rope.dimension_count is " + std::to_string(rotated) + "; this decoder rotates the whole head of " + std::to_string(config.head_size));
  config.vocabulary = model.at("token_embd.weight").rows;
  config.longest_context = file.unsigned_at("llama.context_length");
  config.rope_theta = file.float_or("llama.rope.freq_base", 10000.0);
  config.epsilon = file.float_at("llama.attention.layer_norm_rms_epsilon");
  config.tied = model.find("output.weight") == nullptr;
  config.interleaved_rope = true;
  check_dimensions(model, config); // before the head size sizes the divisors
  // A factor without a type is linear scaling, as in files older than the type's key.
  const char* factor_key = file.find("llama.rope.scale_linear") != nullptr ? "llama.rope.scale_linear" : "llama.rope.scaling.factor";
  const double factor = file.float_or(factor_key, 1.0);
  const std::string scaling = file.string_or("llama.rope.scaling.type", factor != 1.0 && factor != 0.0 ? "linear" : "none");
  if (scaling != "none" && scaling != "linear")
    refuse(model, "rotary scaling \"" + printable(scaling) + "\" is not supported by this decoder; it knows linear and Llama 3's");
  if (scaling == "linear") config.rope_divisors.assign(config.head_size / 2, static_cast<float>(file.float_at(factor_key)));
  if (const TensorInfo* divisors = model.find("rope_freqs.weight"); divisors != nullptr) {
    if (divisors->rows != 1 || divisors->columns != config.head_size / 2)
      refuse(model, "tensor rope_freqs.weight has " + std::to_string(divisors->rows * divisors->columns) + " values, half the head size is " +
                        std::to_string(config.head_size / 2));
    std::vector<float> stored(divisors->columns);
    model.read_rows(*divisors, 0, 1, stored.data());
    config.rope_divisors.resize(stored.size(), 1.0f);
    for (std::size_t i = 0; i < stored.size(); ++i) config.rope_divisors[i] *= stored[i];
  }
  return config;
}

inline std::size_t unsigned_field(const ModelSource& model, const char* key, std::optional<std::size_t> fallback = std::nullopt) {
  const auto found = model.config().find(key);
  if (found == model.config().end() || found->is_null()) {
    if (fallback) return *fallback;
    refuse(model, std::string("config.json has no \"") + key + "\"");
  }
  if (!found->is_number_unsigned()) refuse(model, std::string("config.json: \"") + key + "\" must be a whole number, not " + printable(found->dump()));
  return found->get<std::size_t>();
}

inline double number_field(const ModelSource& model, const nlohmann::json& object, const char* key, std::optional<double> fallback = std::nullopt) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) {
    if (fallback) return *fallback;
    refuse(model, std::string("config.json has no \"") + key + "\"");
  }
  if (!found->is_number()) refuse(model, std::string("config.json: \"") + key + "\" must be a number, not " + printable(found->dump()));
  return found->get<double>();
}

inline std::string string_field(const ModelSource& model, const nlohmann::json& object, const char* key, const char* fallback) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return fallback;
  if (!found->is_string()) refuse(model, std::string("config.json: \"") + key + "\" must be a string, not " + printable(found->dump()));
  return found->get<std::string>();
}

/// Flags whose other value this decoder does not implement.
inline void expect_flag(const ModelSource& model, const char* key, bool wanted) {
  const auto found = model.config().find(key);
  if (found == model.config().end() || found->is_null()) return;
  if (!found->is_boolean() || found->get<bool>() != wanted)
    refuse(model, std::string("config.json: \"") + key + "\": " + printable(found->dump()) + " is not supported by this decoder");
}

inline Config read_hugging_face(const ModelSource& model) {
  const nlohmann::json& json = model.config();
  const std::string type = string_field(model, json, "model_type", "");
  if (type != "llama") refuse(model, "config.json: model_type \"" + printable(type) + "\" is not supported by this decoder; it runs llama");
  const std::string activation = string_field(model, json, "hidden_act", "silu");
  if (activation != "silu") refuse(model, "config.json: hidden_act \"" + printable(activation) + "\" is not supported by this decoder; it computes silu");
  expect_flag(model, "attention_bias", false);
  expect_flag(model, "mlp_bias", false);
  if (const double share = number_field(model, json, "partial_rotary_factor", 1.0); share != 1.0)
    refuse(model, "config.json: \"partial_rotary_factor\" is " + std::to_string(share) + "; this decoder rotates whole heads");
  Config config{.name = string_field(model, json, "_name_or_path", "")};
  if (config.name.empty()) config.name = model.path().filename().string();
  config.layers = unsigned_field(model, "num_hidden_layers");
  config.hidden = unsigned_field(model, "hidden_size");
  config.ffn = unsigned_field(model, "intermediate_size");
  config.heads = unsigned_field(model, "num_attention_heads");
  config.kv_heads = unsigned_field(model, "num_key_value_heads", config.heads);
  config.head_size = unsigned_field(model, "head_dim", config.heads == 0 ? 0 : config.hidden / config.heads);
  config.vocabulary = unsigned_field(model, "vocab_size");
  config.longest_context = unsigned_field(model, "max_position_embeddings", 2048);
  config.epsilon = number_field(model, json, "rms_norm_eps", 1e-6);
  if (const auto tied = json.find("tie_word_embeddings"); tied != json.end() && !tied->is_null()) {
    if (!tied->is_boolean()) refuse(model, "config.json: \"tie_word_embeddings\" must be true or false, not " + printable(tied->dump()));
    config.tied = tied->get<bool>();
  }
  // Newer checkpoints keep theta and scaling together in rope_parameters.
  const auto parameters = json.find("rope_parameters");
  const bool together = parameters != json.end() && parameters->is_object();
  config.rope_theta = number_field(model, json, "rope_theta", 10000.0);
  if (together) config.rope_theta = number_field(model, *parameters, "rope_theta", config.rope_theta);
  check_dimensions(model, config); // before the head size sizes the divisors
  const auto separate = json.find("rope_scaling");
  if (!together && (separate == json.end() || separate->is_null())) return config;
  const nlohmann::json& scaling = together ? *parameters : *separate;
  if (!scaling.is_object()) refuse(model, "config.json: \"rope_scaling\" must be an object");
  const std::string kind = string_field(model, scaling, "rope_type", string_field(model, scaling, "type", "default").c_str());
  if (kind == "linear") {
    config.rope_divisors.assign(config.head_size / 2, static_cast<float>(number_field(model, scaling, "factor")));
  } else if (kind == "llama3") {
    config.rope_divisors =
        llama3_rope_divisors(config, number_field(model, scaling, "factor"), number_field(model, scaling, "low_freq_factor"),
                             number_field(model, scaling, "high_freq_factor"), number_field(model, scaling, "original_max_position_embeddings"));
  } else if (kind != "default") {
    refuse(model, "config.json: rope_type \"" + printable(kind) + "\" is not supported by this decoder; it knows linear and llama3");
  }
  return config;
}

} // namespace detail

/// Reads and checks the configuration and the shape of every tensor. Throws BadInput naming the file and the key or tensor.
inline Config read_config(const ModelSource& model) {
  Config config = model.is_gguf() ? detail::read_gguf(model) : detail::read_hugging_face(model);
  detail::check_dimensions(model, config);
  detail::check_tensors(model, config);
  return config;
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
