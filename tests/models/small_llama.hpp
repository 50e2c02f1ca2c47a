// Small random Llama models, written as GGUF files and as Hugging Face folders, and ways to spoil them.
#pragma once

#include <lsaq/half.hpp>

#include "formats/make_files.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace small_llama {

/// A tensor as it is written: shape outermost first, type by its name in safetensors (and Q8_0).
struct Tensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  std::string type;
  std::string bytes;
};

inline std::string shape_text(const std::vector<std::uint64_t>& shape) { return nlohmann::json(shape).dump(); }

/// Values as the bytes of a type, each value rounded.
inline std::string stored(const std::vector<float>& values, const std::string& type) {
  std::string bytes;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (type == "F32") {
      bytes += make_files::le(values[i]);
    } else if (type == "F16") {
      bytes += make_files::le(lsaq::to_f16(values[i]).bits);
    } else if (type == "BF16") {
      bytes += make_files::le(lsaq::to_bf16(values[i]).bits);
    } else if (i % 32 == 0) { // Q8_0
      float largest = 0;
      for (std::size_t j = i; j < i + 32; ++j) largest = std::max(largest, std::abs(values[j]));
      const lsaq::f16 scale = lsaq::to_f16(largest / 127);
      bytes += make_files::le(scale.bits);
      for (std::size_t j = i; j < i + 32; ++j) bytes += static_cast<char>(std::lround(std::clamp(values[j] / lsaq::to_float(scale), -127.0f, 127.0f)));
    }
  }
  return bytes;
}

/// A GGUF file in parts that a test may change before it is built.
struct GgufParts {
  std::map<std::string, std::pair<std::uint32_t, std::string>> keys; ///< type and payload
  std::vector<Tensor> tensors;

  void set_unsigned(const std::string& key, std::uint32_t value) { keys[key] = {4, make_files::u32(value)}; }
  void set_float(const std::string& key, float value) { keys[key] = {6, make_files::le(value)}; }
  void set_text(const std::string& key, std::string_view value) { keys[key] = {8, make_files::text(value)}; }

  Tensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  }
  void erase_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& t) { return t.name == name; });
  }

  std::string build() const {
    static const std::map<std::string, std::uint32_t> type_ids = {{"F32", 0}, {"F16", 1}, {"Q8_0", 8}, {"I32", 26}, {"BF16", 30}};
    make_files::Gguf file;
    for (const auto& [key, value] : keys) file.key(key, value.first, value.second);
    for (const Tensor& tensor : tensors) {
      file.tensor(tensor.name, {tensor.shape.rbegin(), tensor.shape.rend()}, type_ids.at(tensor.type), file.data.size());
      file.bytes(tensor.bytes);
      while (file.data.size() % 32 != 0) file.bytes(std::string(1, '\0'));
    }
    return file.build();
  }
};

/// The parts of a Hugging Face folder.
struct FolderParts {
  nlohmann::json config;
  std::vector<Tensor> tensors;

  Tensor& tensor(const std::string& name) {
    return *std::find_if(tensors.begin(), tensors.end(), [&](const Tensor& t) { return t.name == name; });
  }
  void erase_tensor(const std::string& name) {
    std::erase_if(tensors, [&](const Tensor& t) { return t.name == name; });
  }

  void write(const make_files::TemporaryFolder& folder) const {
    std::string header, data;
    for (const Tensor& tensor : tensors) {
      header +=
          (header.empty() ? "{" : ",") + make_files::entry(tensor.name, tensor.type, shape_text(tensor.shape), data.size(), data.size() + tensor.bytes.size());
      data += tensor.bytes;
    }
    header += "}";
    folder.write("config.json", config.dump());
    folder.write("model.safetensors", make_files::safetensors(header, data));
  }
};

/// A Llama model with random weights; the same dimensions give the same weights. Names are those of Hugging Face.
struct Model {
  std::size_t layers = 2;
  std::size_t hidden = 32;
  std::size_t ffn = 48;
  std::size_t heads = 4;
  std::size_t kv_heads = 2;
  std::size_t head_size = 8;
  std::size_t vocabulary = 97;
  std::size_t longest_context = 1024;
  double theta = 10000;
  double epsilon = 1e-5;
  bool tied = true;
  std::string type = "F16";              ///< of the matrices
  std::vector<float> rope_divisors = {}; ///< written as rope_freqs.weight

  /// A tensor's shape and its values, exactly as stored.
  struct Values {
    std::vector<std::uint64_t> shape;
    std::vector<float> values;
  };
  std::map<std::string, Values> tensors = {};

  static std::string layer_name(std::size_t layer, const std::string& rest) { return "model.layers." + std::to_string(layer) + "." + rest + ".weight"; }

  /// Draws the weights; sizes are chosen so that states stay near one and attention is far from uniform.
  Model& fill() {
    std::mt19937 random(7);
    const auto draw = [&] { return static_cast<float>(random() >> 8) * 0x1p-23f - 1; }; // uniform in [-1, 1)
    const std::string precision = type == "Q8_0" ? "F16" : type;
    const auto add = [&](const std::string& name, std::vector<std::uint64_t> shape, float centre, float width) {
      std::size_t count = 1;
      for (std::uint64_t extent : shape) count *= extent;
      Values tensor{std::move(shape), std::vector<float>(count)};
      for (float& value : tensor.values) {
        value = centre + width * draw();
        if (precision == "F16") value = lsaq::to_float(lsaq::to_f16(value));
        if (precision == "BF16") value = lsaq::to_float(lsaq::to_bf16(value));
      }
      tensors[name] = std::move(tensor);
    };
    const auto matrix = [&](const std::string& name, std::size_t rows, std::size_t columns, float gain) {
      add(name, {rows, columns}, 0, gain * std::sqrt(3.0f / static_cast<float>(columns)));
    };
    matrix("model.embed_tokens.weight", vocabulary, hidden, std::sqrt(static_cast<float>(hidden)));
    for (std::size_t l = 0; l < layers; ++l) {
      add(layer_name(l, "input_layernorm"), {hidden}, 1, 0.3f);
      matrix(layer_name(l, "self_attn.q_proj"), heads * head_size, hidden, 1.5f);
      matrix(layer_name(l, "self_attn.k_proj"), kv_heads * head_size, hidden, 1.5f);
      matrix(layer_name(l, "self_attn.v_proj"), kv_heads * head_size, hidden, 1);
      matrix(layer_name(l, "self_attn.o_proj"), hidden, heads * head_size, 1);
      add(layer_name(l, "post_attention_layernorm"), {hidden}, 1, 0.3f);
      matrix(layer_name(l, "mlp.gate_proj"), ffn, hidden, 1);
      matrix(layer_name(l, "mlp.up_proj"), ffn, hidden, 1);
      matrix(layer_name(l, "mlp.down_proj"), hidden, ffn, 1);
    }
    add("model.norm.weight", {hidden}, 1, 0.3f);
    if (!tied) matrix("lm_head.weight", vocabulary, hidden, 1);
    return *this;
  }

  static std::string gguf_name(const std::string& name) {
    static const std::map<std::string, std::string> outer = {
        {"model.embed_tokens.weight", "token_embd.weight"}, {"model.norm.weight", "output_norm.weight"}, {"lm_head.weight", "output.weight"}};
    static const std::map<std::string, std::string> inner = {
        {"input_layernorm", "attn_norm"}, {"post_attention_layernorm", "ffn_norm"}, {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},   {"self_attn.o_proj", "attn_output"},      {"mlp.gate_proj", "ffn_gate"},  {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"}};
    if (const auto found = outer.find(name); found != outer.end()) return found->second;
    const std::size_t number = std::string("model.layers.").size();
    const std::size_t dot = name.find('.', number);
    const std::string rest = name.substr(dot + 1, name.size() - dot - 1 - std::string(".weight").size());
    return "blk." + name.substr(number, dot - number) + "." + inner.at(rest) + ".weight";
  }

  GgufParts gguf() const {
    GgufParts parts;
    parts.set_text("general.architecture", "llama");
    parts.set_text("general.name", "Small Llama");
    const auto number = [&](const std::string& key, std::size_t value) { parts.set_unsigned("llama." + key, static_cast<std::uint32_t>(value)); };
    number("block_count", layers);
    number("context_length", longest_context);
    number("embedding_length", hidden);
    number("feed_forward_length", ffn);
    number("attention.head_count", heads);
    number("attention.head_count_kv", kv_heads);
    number("attention.key_length", head_size);
    number("attention.value_length", head_size);
    number("rope.dimension_count", head_size);
    parts.set_float("llama.attention.layer_norm_rms_epsilon", static_cast<float>(epsilon));
    parts.set_float("llama.rope.freq_base", static_cast<float>(theta));
    for (const auto& [name, tensor] : tensors) {
      const std::string how = tensor.shape.size() == 1 ? "F32" : type;
      parts.tensors.push_back({gguf_name(name), tensor.shape, how, stored(tensor.values, how)});
    }
    if (!rope_divisors.empty()) parts.tensors.push_back({"rope_freqs.weight", {rope_divisors.size()}, "F32", stored(rope_divisors, "F32")});
    return parts;
  }

  FolderParts folder() const {
    FolderParts parts;
    parts.config = {{"architectures", {"LlamaForCausalLM"}},
                    {"model_type", "llama"},
                    {"_name_or_path", "small/llama"},
                    {"hidden_act", "silu"},
                    {"num_hidden_layers", layers},
                    {"hidden_size", hidden},
                    {"intermediate_size", ffn},
                    {"num_attention_heads", heads},
                    {"num_key_value_heads", kv_heads},
                    {"head_dim", head_size},
                    {"vocab_size", vocabulary},
                    {"max_position_embeddings", longest_context},
                    {"rms_norm_eps", epsilon},
                    {"rope_theta", theta},
                    {"tie_word_embeddings", tied}};
    for (const auto& [name, tensor] : tensors) parts.tensors.push_back({name, tensor.shape, type, stored(tensor.values, type)});
    return parts;
  }
};

} // namespace small_llama
