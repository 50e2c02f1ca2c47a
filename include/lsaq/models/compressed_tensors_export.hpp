// A quantized Llama-type model as a Hugging Face folder that transformers and vLLM load with compressed-tensors: codes "pack-quantized", symmetric, one scale a
// channel or group, a group of the configuration for each width.
//
// Contract: compressed-tensors' quantization_config and pack-quantized compressor; vLLM's rules for its wNa16 kernels (fused linears share a scheme, scales
// have the model's dtype). A linear X is X.weight_packed, X.weight_scale and X.weight_shape, whose bytes are the packed matrix's own.
#pragma once

#include <lsaq/formats/plan_file.hpp>
#include <lsaq/models/export_parts.hpp>
#include <lsaq/models/quantized_layers.hpp>
#include <lsaq/models/tokenizer_export.hpp>

#include <set>

namespace lsaq::inline v0::llama {

/// Linears that engines fuse into one and that therefore share their bits.
struct FusedLinears {
  Linear first, last;       ///< a range of Linear
  std::string_view pattern; ///< of their names
};
inline constexpr FusedLinears fused_linears[] = {{Linear::q, Linear::v, R"(self_attn\.(q|k|v)_proj$)"},
                                                 {Linear::o, Linear::o, R"(self_attn\.o_proj$)"},
                                                 {Linear::gate, Linear::up, R"(mlp\.(gate|up)_proj$)"},
                                                 {Linear::down, Linear::down, R"(mlp\.down_proj$)"}};

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

namespace detail {

/// "re:.*layers\.(0|1)\.rest": layers by number, so that 1 does not match 10.
inline std::string layers_pattern(const std::vector<std::size_t>& layers, std::string_view rest) {
  std::string pattern = "re:.*layers\\.(";
  for (std::size_t i = 0; i < layers.size(); ++i) pattern += (i == 0 ? "" : "|") + std::to_string(layers[i]);
  return pattern + ")\\." + std::string(rest);
}

/// Patterns of the linears at each width of a plan. Throws InvalidArgument where fused linears differ.
inline std::map<unsigned, std::vector<std::string>> patterns_by_bits(const Config& config, const Plan& plan) {
  std::map<unsigned, std::vector<std::size_t>> whole;                               // layers all at one width
  std::map<unsigned, std::map<std::string_view, std::vector<std::size_t>>> in_part; // others, by fused linears
  for (std::size_t l = 0; l < config.layers; ++l) {
    std::map<std::string_view, unsigned> bits;
    std::set<unsigned> widths;
    for (const FusedLinears& fused : fused_linears) {
      const unsigned width = plan.bits_of(l, name_of(fused.first));
      for (auto linear = fused.first; linear <= fused.last; linear = static_cast<Linear>(static_cast<int>(linear) + 1))
        if (plan.bits_of(l, name_of(linear)) != width)
          fail<InvalidArgument>("layer " + std::to_string(l) + ": " + std::string(name_of(fused.first)) + " has " + std::to_string(width) + " bits and " +
                                std::string(name_of(linear)) + " " + std::to_string(plan.bits_of(l, name_of(linear))) +
                                "; engines fuse them, so they must share their bits");
      bits[fused.pattern] = width;
      widths.insert(width);
    }
    if (widths.size() == 1) {
      whole[*widths.begin()].push_back(l);
    } else {
      for (const auto& [pattern, width] : bits) in_part[width][pattern].push_back(l);
    }
  }
  std::map<unsigned, std::vector<std::string>> patterns;
  for (const auto& [bits, layers] : whole) patterns[bits].push_back(layers_pattern(layers, bits == 16 ? ".*" : R"((self_attn|mlp)\.[a-z]+_proj$)"));
  for (const auto& [bits, parts] : in_part)
    for (const auto& [pattern, layers] : parts) patterns[bits].push_back(layers_pattern(layers, pattern));
  return patterns;
}

/// A width's scheme, as compressed-tensors spells it.
inline nlohmann::ordered_json quantization_scheme(const std::vector<std::string>& targets, unsigned bits, Grouping grouping) {
  using Json = nlohmann::ordered_json;
  const Json group_size = grouping.columns == 0 ? Json() : Json(grouping.columns);
  return {{"targets", targets},
          {"weights",
           {{"num_bits", bits},
            {"type", "int"},
            {"symmetric", true},
            {"strategy", grouping.columns == 0 ? "channel" : "group"},
            {"group_size", group_size},
            {"dynamic", false}}},
          {"input_activations", nullptr},
          {"output_activations", nullptr},
          {"format", "pack-quantized"}};
}

/// What config.json says of rotary frequencies that a GGUF file has as divisors. Throws BadInput for others than linear and Llama 3's scaling.
inline nlohmann::ordered_json rope_scaling_json(const ModelSource& model, const Config& config) {
  const std::vector<float>& divisors = config.rope_divisors;
  const auto is = [&](const std::vector<float>& known) {
    for (std::size_t i = 0; i < divisors.size(); ++i)
      if (!(std::fabs(divisors[i] - known[i]) <= 1e-4f * known[i])) return false;
    return true;
  };
  if (divisors.empty() || is(std::vector<float>(divisors.size(), 1.0f))) return nullptr;
  if (is(std::vector<float>(divisors.size(), divisors[0]))) return {{"rope_type", "linear"}, {"factor", divisors[0]}};
  const double factor = static_cast<double>(divisors.back());
  constexpr double low = 1, high = 4, original = 8192; // of the Llama 3 releases
  if (is(llama3_rope_divisors(config, factor, low, high, original)))
    return {{"rope_type", "llama3"},
            {"factor", factor},
            {"low_freq_factor", low},
            {"high_freq_factor", high},
            {"original_max_position_embeddings", static_cast<int>(original)}};
  refuse(model, "the rotary frequencies are scaled in a way that config.json has no name for; linear and Llama 3's have one");
}

/// config.json of a model that comes from a GGUF file.
inline nlohmann::ordered_json config_of_gguf(const ModelSource& model, const Config& config, const SpecialTokens& special) {
  nlohmann::ordered_json json{{"architectures", {"LlamaForCausalLM"}},
                              {"model_type", "llama"},
                              {"attention_bias", false},
                              {"attention_dropout", 0.0},
                              {"head_dim", config.head_size},
                              {"hidden_act", "silu"},
                              {"hidden_size", config.hidden},
                              {"initializer_range", 0.02},
                              {"intermediate_size", config.ffn},
                              {"max_position_embeddings", config.longest_context},
                              {"mlp_bias", false},
                              {"num_attention_heads", config.heads},
                              {"num_hidden_layers", config.layers},
                              {"num_key_value_heads", config.kv_heads},
                              {"rms_norm_eps", config.epsilon},
                              {"rope_scaling", rope_scaling_json(model, config)},
                              {"rope_theta", config.rope_theta},
                              {"tie_word_embeddings", config.tied},
                              {"use_cache", true},
                              {"vocab_size", config.vocabulary}};
  if (special.bos) json["bos_token_id"] = *special.bos;
  if (special.eos) json["eos_token_id"] = *special.eos;
  return json;
}

/// A JSON document as a text file. Throws BadInput for strings that are not UTF-8, which GGUF files may hold.
inline std::string json_text(const ModelSource& model, const nlohmann::ordered_json& json, int indent = 2) {
  try {
    return json.dump(indent) + "\n";
  } catch (const nlohmann::json::exception&) {
    refuse(model, "a token or template is not UTF-8, which JSON can't hold");
  }
}

} // namespace detail

/// Files beside the weights that are not about them, and are copied where a folder has them.
inline constexpr std::string_view companion_files[] = {"generation_config.json",
                                                       "tokenizer.json",
                                                       "tokenizer.model",
                                                       "tokenizer_config.json",
                                                       "special_tokens_map.json",
                                                       "added_tokens.json",
                                                       "vocab.json",
                                                       "merges.txt",
                                                       "chat_template.jinja",
                                                       "chat_template.json",
                                                       "LICENSE",
                                                       "LICENSE.txt",
                                                       "LICENSE.md",
                                                       "NOTICE",
                                                       "USE_POLICY.md"};

/// One model on its way into a compressed-tensors folder: small files, and shards of parts. Refers to model and configuration; keeps no weights.
class CompressedTensorsExport {
public:
  /// A safetensors file: header, then the parts [first_part, end_part).
  struct Shard {
    std::string name;
    std::string header;
    std::size_t first_part, end_part;
  };

  /// `file.plan` must have 16, 8 or 4 bits, the same for linears that engines fuse; `unquantized` is what the loader keeps other weights as and the dtype of
  /// the model and of the scales. Shards end before they exceed `shard_bytes`, if they hold more than one part.
  ///
  /// Throws InvalidArgument for a plan or grouping that the format or vLLM does not know, BadInput for a tokenizer that can't be written.
  CompressedTensorsExport(const ModelSource& model, const Config& config, const PlanFile& file, Grouping grouping, ElementType unquantized,
                          Bytes shard_bytes = 5'000'000'000)
      : model_(&model), config_(&config), unquantized_(unquantized), parts_(export_parts(config)) {
    check(file.plan, grouping);
    list_tensors(file.plan, grouping);
    list_shards(file, shard_bytes);
    make_config(file.plan, grouping);
    texts_.emplace_back("lsaq_plan.json", plan_to_json(file).dump(2) + "\n");
    if (model.is_gguf())
      make_tokenizer();
    else
      for (const std::string_view name : companion_files)
        if (std::error_code error; std::filesystem::is_regular_file(model.path() / name, error) && std::filesystem::file_size(model.path() / name, error) != 0)
          copies_.push_back(model.path() / name);
    note_kernels(file.plan);
  }

  /// The type of scales in a model of this dtype.
  static constexpr ScaleType scale_of(ElementType unquantized) noexcept {
    return unquantized == ElementType::f32 ? ScaleType::f32 : unquantized == ElementType::bf16 ? ScaleType::bf16 : ScaleType::f16;
  }

  /// Small files with their content: config.json and others.
  const std::vector<std::pair<std::string, std::string>>& texts() const noexcept { return texts_; }
  /// Files of the source that go with it as they are.
  const std::vector<std::filesystem::path>& copies() const noexcept { return copies_; }
  const std::vector<Shard>& shards() const noexcept { return shards_; }
  /// What some engine can't do with this model, for people.
  const std::vector<std::string>& notes() const noexcept { return notes_; }

  Bytes part_bytes(std::size_t part) const noexcept {
    Bytes sum = 0;
    for (const TensorEntry& tensor : parts_[part]) sum += tensor.bytes();
    return sum;
  }

  /// Gives the bytes of the embedding's part or the last one: write(span of bytes), several times. Throws BadInput, and what `write` throws.
  template <class Write> void write_outer(std::size_t part, Write&& write) const {
    if (part == embedding_part) return detail::write_tensor(*model_, model_->at(embedding_name(*model_)), unquantized_, write);
    detail::write_tensor(*model_, model_->at(final_norm_name(*model_)), unquantized_, write);
    if (!config_->tied) detail::write_tensor(*model_, model_->at(head_name(*model_)), unquantized_, write);
  }

  /// Gives the bytes of a layer: each_linear(take) calls take(linear, matrix) for the linears in their order, quantized by plan, grouping and scale_of().
  template <class EachLinear, class Write> void write_layer(std::size_t layer, EachLinear&& each_linear, Write&& write) const {
    for (const std::string& norm : {attention_norm_name(*model_, layer), mlp_norm_name(*model_, layer)})
      detail::write_tensor(*model_, model_->at(norm), unquantized_, write);
    each_linear([&](Linear linear, const DeployedMatrix& matrix) {
      const RowOrder order = RowOrder::of(*config_, linear, false);
      const PackedMatrix* packed = matrix.packed();
      if (packed == nullptr) return detail::write_floats(*matrix.floats(), order, write);
      const PackedView view = packed->view();
      detail::write_rows(
          view.rows, view.row_bytes(), [&](std::size_t row, std::byte* out) { std::memcpy(out, view.codes(order.source(row)), view.row_bytes()); }, write);
      const std::size_t scales = view.grouping.scales_per_row(view.columns) * size_of(view.scale_type);
      detail::write_rows(
          view.rows, scales, [&](std::size_t row, std::byte* out) { std::memcpy(out, view.scale_data() + order.source(row) * scales, scales); }, write);
      const std::int64_t numbers[2] = {static_cast<std::int64_t>(view.rows), static_cast<std::int64_t>(view.columns)};
      write(std::as_bytes(std::span(numbers)));
    });
  }

private:
  void check(const Plan& plan, Grouping grouping) const {
    if (plan.bits.size() != config_->layers)
      fail<InvalidArgument>("a plan for " + std::to_string(plan.bits.size()) + " layers, the model has " + std::to_string(config_->layers));
    if (grouping.whole_matrix)
      fail<InvalidArgument>("compressed-tensors folders have a scale for each channel or group of columns, not one for a whole matrix");
    for (std::size_t l = 0; l < config_->layers; ++l)
      for (std::size_t i = 0; i < linears_per_layer; ++i) {
        const auto linear = static_cast<Linear>(i);
        const unsigned bits = plan.bits_of(l, name_of(linear));
        const std::string name = "layer " + std::to_string(l) + ", " + std::string(name_of(linear)) + ": ";
        if (bits != 16 && bits != 8 && bits != 4) fail<InvalidArgument>(name + std::to_string(bits) + " bits; engines load 16, 8 and 4 of compressed-tensors");
        if (const std::size_t columns = shape_of(*config_, linear).columns; grouping.columns != 0 && bits != 16 && columns % grouping.columns != 0)
          fail<InvalidArgument>(name + std::to_string(columns) + " columns are not whole groups of " + std::to_string(grouping.columns));
      }
  }

  void list_tensors(const Plan& plan, Grouping grouping) {
    const StoredType floats = stored_type_of(unquantized_);
    parts_[embedding_part] = {{"model.embed_tokens.weight", floats, {config_->vocabulary, config_->hidden}}};
    for (std::size_t l = 0; l < config_->layers; ++l)
      detail::for_each_layer_tensor(
          *config_, l, plan, grouping, unquantized_, [&](TensorEntry entry) { parts_[layer_part(l)].push_back(std::move(entry)); }, floats);
    parts_[last_part(*config_)] = {{"model.norm.weight", floats, {config_->hidden}}};
    if (!config_->tied) parts_[last_part(*config_)].push_back({"lm_head.weight", floats, {config_->vocabulary, config_->hidden}});
  }

  void list_shards(const PlanFile& file, Bytes shard_bytes) {
    Bytes filled = 0;
    for (std::size_t part = 0; part < parts_.size(); ++part) {
      if (shards_.empty() || filled + part_bytes(part) > shard_bytes) {
        shards_.push_back({"", "", part, part});
        filled = 0;
      }
      filled += part_bytes(part);
      shards_.back().end_part = part + 1;
    }
    const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"lsaq", plan_to_json(file).dump()}};
    nlohmann::ordered_json map = nlohmann::ordered_json::object();
    Bytes total = 0;
    for (std::size_t i = 0; i < shards_.size(); ++i) {
      Shard& shard = shards_[i];
      const auto digits = [](std::size_t n) {
        const std::string text = std::to_string(n);
        return std::string(text.size() < 5 ? 5 - text.size() : 0, '0') + text;
      };
      shard.name = shards_.size() == 1 ? "model.safetensors" : "model-" + digits(i + 1) + "-of-" + digits(shards_.size()) + ".safetensors";
      std::vector<TensorEntry> tensors;
      for (std::size_t part = shard.first_part; part < shard.end_part; ++part) {
        tensors.insert(tensors.end(), parts_[part].begin(), parts_[part].end());
        total += part_bytes(part);
      }
      for (const TensorEntry& tensor : tensors) map[tensor.name] = shard.name;
      shard.header = safetensors_header(tensors, metadata);
    }
    if (shards_.size() != 1)
      texts_.emplace_back("model.safetensors.index.json", nlohmann::ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n");
  }

  void make_config(const Plan& plan, Grouping grouping) {
    nlohmann::ordered_json json;
    if (model_->is_gguf()) {
      vocabulary_ = gguf_file_vocabulary(model_->gguf(), printable_path(model_->path()));
      json = detail::config_of_gguf(*model_, *config_, std::visit([](const auto& vocabulary) { return vocabulary.special; }, *vocabulary_));
    } else {
      json = nlohmann::ordered_json::parse(model_->config().dump());
      json.erase("quantization_config");
      json.erase("dtype"); // the newer name of the next key, which all readers know
    }
    json["torch_dtype"] = unquantized_ == ElementType::f32 ? "float32" : unquantized_ == ElementType::bf16 ? "bfloat16" : "float16";
    auto patterns = detail::patterns_by_bits(*config_, plan);
    nlohmann::ordered_json ignore = {"lm_head"}, groups = nlohmann::ordered_json::object();
    for (const std::string& pattern : patterns[16]) ignore.push_back(pattern);
    patterns.erase(16);
    for (auto group = patterns.rbegin(); group != patterns.rend(); ++group)
      groups["group_" + std::to_string(groups.size())] = detail::quantization_scheme(group->second, group->first, grouping);
    if (!groups.empty())
      json["quantization_config"] = {{"quant_method", "compressed-tensors"},
                                     {"format", "pack-quantized"},
                                     {"quantization_status", "compressed"},
                                     {"global_compression_ratio", nullptr},
                                     {"kv_cache_scheme", nullptr},
                                     {"ignore", ignore},
                                     {"config_groups", groups}};
    texts_.emplace_back("config.json", detail::json_text(*model_, json));
  }

  void make_tokenizer() {
    const auto json = std::visit([](const auto& vocabulary) { return tokenizer_json(vocabulary); }, *vocabulary_);
    const SpecialTokens special = std::visit([](const auto& vocabulary) { return vocabulary.special; }, *vocabulary_);
    texts_.emplace_back("tokenizer.json", detail::json_text(*model_, json, -1));
    texts_.emplace_back("tokenizer_config.json", detail::json_text(*model_, tokenizer_config_json(*vocabulary_, config_->longest_context)));
    nlohmann::ordered_json generation = nlohmann::ordered_json::object();
    if (special.bos) generation["bos_token_id"] = *special.bos;
    if (special.eos) {
      std::vector<TokenId> ends = {*special.eos};
      ends.insert(ends.end(), special.ends_generation.begin(), special.ends_generation.end());
      generation["eos_token_id"] = ends;
    }
    texts_.emplace_back("generation_config.json", detail::json_text(*model_, generation));
  }

  /// vLLM's Marlin kernels want whole tiles.
  void note_kernels(const Plan& plan) {
    constexpr std::size_t tile_columns = 128, tile_rows = 64;
    std::set<std::string> shapes;
    for (std::size_t l = 0; l < config_->layers; ++l)
      for (std::size_t i = 0; i < linears_per_layer; ++i) {
        const auto linear = static_cast<Linear>(i);
        const MatrixShape shape = shape_of(*config_, linear);
        if (plan.bits_of(l, name_of(linear)) != 16 && (shape.columns % tile_columns != 0 || shape.rows % tile_rows != 0))
          shapes.insert(std::string(name_of(linear)) + " (" + std::to_string(shape.rows) + " x " + std::to_string(shape.columns) + ")");
      }
    std::string list;
    for (const std::string& shape : shapes) list += (list.empty() ? "" : ", ") + shape;
    if (!list.empty()) notes_.push_back("vLLM's Marlin kernels want columns divisible by 128 and rows by 64, so vLLM may refuse this model: " + list);
  }

  const ModelSource* model_;
  const Config* config_;
  ElementType unquantized_;
  std::vector<std::vector<TensorEntry>> parts_;
  std::vector<Shard> shards_;
  std::optional<AnyVocabulary> vocabulary_; ///< of a GGUF file
  std::vector<std::pair<std::string, std::string>> texts_;
  std::vector<std::filesystem::path> copies_;
  std::vector<std::string> notes_;
};

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
