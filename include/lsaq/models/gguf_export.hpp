// A quantized Llama-type model as a GGUF file that llama.cpp loads unchanged: codes and scales as they are, in blocks of Q8_0 and Q4_0.
//
// Quantized linears are blocks (formats/gguf_writer.hpp); linears whose rows are not whole blocks stay 16-bit, as do embedding and head; norms are F32.
// Metadata and tokenizer are those of the source, or made from config.json and the tokenizer's files; lsaq.version, lsaq.bits and lsaq.plan say what was done.
#pragma once

#include <lsaq/formats/gguf_writer.hpp>
#include <lsaq/formats/plan_file.hpp>
#include <lsaq/models/export_parts.hpp>
#include <lsaq/models/tokenizer_export.hpp>

#include <set>

namespace lsaq::inline v0::llama {

/// The plan as the file can hold it: linears whose rows are not whole blocks get 16 bits.
inline Plan gguf_plan(const Config& config, Plan plan) {
  for (std::size_t i = 0; i < linears_per_layer; ++i) {
    const auto linear = static_cast<Linear>(i);
    if (shape_of(config, linear).columns % gguf_block == 0) continue;
    for (std::size_t l = 0; l < config.layers; ++l)
      if (plan.bits_of(l, name_of(linear)) != 16) plan.tensors[Plan::tensor_key(l, name_of(linear))] = 16;
  }
  return plan;
}

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

namespace detail {

/// Metadata of a model that comes from a Hugging Face folder.
inline std::vector<GgufEntry> gguf_metadata_of_folder(const ModelSource& model, const Config& config) {
  const auto number = [](std::size_t value) { return static_cast<std::uint32_t>(value); };
  const std::string name = config.name.substr(config.name.find_last_of('/') + 1);
  std::vector<GgufEntry> entries = {{"general.architecture", std::string("llama")},
                                    {"general.type", std::string("model")},
                                    {"general.name", name},
                                    {"llama.block_count", number(config.layers)},
                                    {"llama.context_length", number(config.longest_context)},
                                    {"llama.embedding_length", number(config.hidden)},
                                    {"llama.feed_forward_length", number(config.ffn)},
                                    {"llama.attention.head_count", number(config.heads)},
                                    {"llama.attention.head_count_kv", number(config.kv_heads)},
                                    {"llama.attention.key_length", number(config.head_size)},
                                    {"llama.attention.value_length", number(config.head_size)},
                                    {"llama.attention.layer_norm_rms_epsilon", static_cast<float>(config.epsilon)},
                                    {"llama.rope.freq_base", static_cast<float>(config.rope_theta)},
                                    {"llama.rope.dimension_count", number(config.head_size)},
                                    {"llama.vocab_size", number(config.vocabulary)}};
  const AnyVocabulary any = folder_vocabulary(model.path());
  for (GgufEntry& entry : std::visit([&](const auto& vocabulary) { return gguf_vocabulary(vocabulary, config.vocabulary); }, any))
    entries.push_back(std::move(entry));
  return entries;
}

/// Metadata that is carried over from a GGUF file: all but what describes that file's own tensors.
inline std::vector<GgufEntry> gguf_metadata_of_file(const GgufFile& file) {
  std::vector<GgufEntry> entries;
  for (const GgufEntry& entry : file.metadata()) {
    bool own = entry.name == "general.file_type" || entry.name == "general.quantization_version" || entry.name == "general.alignment";
    for (const char* prefix : {"split.", "quantize.imatrix.", "lsaq."}) own |= entry.name.starts_with(prefix);
    if (!own) entries.push_back(entry);
  }
  return entries;
}

} // namespace detail

/// One model on its way into a GGUF file: header, then parts, each in one piece. Refers to model and configuration; keeps no weights.
class GgufExport {
public:
  /// `plan` is used as gguf_plan() has it; `unquantized` (F16 or BF16) is what the loader keeps other weights as. `metadata` comes last, beside the model's
  /// own.
  ///
  /// Throws BadInput for a tokenizer that GGUF files can't describe, InvalidArgument for a plan of another number of layers.
  GgufExport(const ModelSource& model, const Config& config, const Plan& plan, ElementType unquantized, std::vector<GgufEntry> metadata = {})
      : model_(&model), config_(&config), plan_(gguf_plan(config, plan)), unquantized_(unquantized), parts_(export_parts(config)) {
    if (plan.bits.size() != config.layers)
      fail<InvalidArgument>("a plan for " + std::to_string(plan.bits.size()) + " layers, the model has " + std::to_string(config.layers));
    list_tensors();
    std::vector<TensorEntry> all;
    for (const std::vector<TensorEntry>& part : parts_) all.insert(all.end(), part.begin(), part.end());
    std::vector<GgufEntry> entries = model.is_gguf() ? detail::gguf_metadata_of_file(model.gguf()) : detail::gguf_metadata_of_folder(model, config);
    std::size_t q8 = 0, q4 = 0;
    for (const TensorEntry& tensor : all) {
      q8 += tensor.type == StoredType::q8_0;
      q4 += tensor.type == StoredType::q4_0;
    }
    entries.push_back({"general.file_type", std::uint32_t{q8 == 0 && q4 == 0 ? unquantized == ElementType::bf16 ? 32u : 1u : q8 == 0 ? 2u : 7u}}); // a label
    if (q8 + q4 != 0) entries.push_back({"general.quantization_version", std::uint32_t{2}});
    for (GgufEntry& entry : metadata) entries.push_back(std::move(entry));
    header_ = gguf_header(entries, all);
  }

  /// What was done, for the constructor: lsaq.version, lsaq.bits and the plan as JSON.
  static std::vector<GgufEntry> provenance(const PlanFile& file) {
    std::vector<std::uint32_t> bits(file.plan.bits.begin(), file.plan.bits.end());
    const std::string version = std::to_string(LSAQ_VERSION_MAJOR) + "." + std::to_string(LSAQ_VERSION_MINOR) + "." + std::to_string(LSAQ_VERSION_PATCH);
    return {{"lsaq.version", version}, {"lsaq.bits", std::move(bits)}, {"lsaq.plan", plan_to_json(file).dump()}};
  }

  /// The plan that is carried out.
  const Plan& plan() const noexcept { return plan_; }
  const std::string& header() const noexcept { return header_; }

  /// Bytes of a part, padding included.
  Bytes part_bytes(std::size_t part) const noexcept {
    Bytes sum = 0;
    for (const TensorEntry& tensor : parts_[part]) sum += tensor.bytes() + gguf_padding(tensor.bytes());
    return sum;
  }

  /// Gives the bytes of the embedding's part or the last one: write(span of bytes), several times. Throws BadInput, and what `write` throws.
  template <class Write> void write_outer(std::size_t part, Write&& write) const {
    for (const TensorEntry& entry : parts_[part]) {
      if (entry.name == "rope_freqs.weight" && model_->find(entry.name) == nullptr)
        write(std::as_bytes(std::span(config_->rope_divisors)));
      else
        write_stored(entry, source_name(entry.name), write);
      pad(entry, write);
    }
  }

  /// Gives the bytes of a layer: each_linear(take) calls take(linear, matrix) for the linears in their order, quantized as plan() says with F16 scales.
  template <class EachLinear, class Write> void write_layer(std::size_t layer, EachLinear&& each_linear, Write&& write) const {
    const std::vector<TensorEntry>& entries = parts_[layer_part(layer)];
    const std::string norms[] = {attention_norm_name(*model_, layer), mlp_norm_name(*model_, layer)};
    for (std::size_t i = 0; i < 2; ++i) {
      write_stored(entries[i], norms[i], write);
      pad(entries[i], write);
    }
    each_linear([&](Linear linear, const DeployedMatrix& matrix) {
      const RowOrder order = RowOrder::of(*config_, linear, true);
      const TensorEntry& entry = entries[2 + static_cast<std::size_t>(linear)];
      if (const PackedMatrix* packed = matrix.packed())
        detail::write_rows(
            packed->rows(), row_bytes(entry.type, packed->columns()),
            [&, view = packed->view()](std::size_t row, std::byte* out) { write_gguf_blocks(view, order.source(row), out); }, write);
      else
        detail::write_floats(*matrix.floats(), order, write);
      pad(entry, write);
    });
  }

private:
  void list_tensors() {
    const StoredType floats = stored_type_of(unquantized_);
    parts_[embedding_part] = {{"token_embd.weight", floats, {config_->vocabulary, config_->hidden}}};
    for (std::size_t l = 0; l < config_->layers; ++l) {
      std::vector<TensorEntry>& part = parts_[layer_part(l)];
      for (const char* norm : {"attn_norm", "ffn_norm"}) part.push_back({gguf_layer_name(l, norm), StoredType::f32, {config_->hidden}});
      for (std::size_t i = 0; i < linears_per_layer; ++i) {
        const auto linear = static_cast<Linear>(i);
        const MatrixShape shape = shape_of(*config_, linear);
        const unsigned bits = plan_.bits_of(l, name_of(linear));
        part.push_back({gguf_layer_name(l, gguf_name_of(linear)), bits == 16 ? floats : gguf_block_type(bits), {shape.rows, shape.columns}});
      }
    }
    std::vector<TensorEntry>& last = parts_[last_part(*config_)];
    last.push_back({"output_norm.weight", StoredType::f32, {config_->hidden}});
    if (!config_->tied) last.push_back({"output.weight", floats, {config_->vocabulary, config_->hidden}});
    if (!model_->is_gguf()) {
      if (!config_->rope_divisors.empty()) last.push_back({"rope_freqs.weight", StoredType::f32, {config_->rope_divisors.size()}});
      return;
    }
    std::set<std::string> listed;
    for (const std::vector<TensorEntry>& part : parts_)
      for (const TensorEntry& entry : part) listed.insert(entry.name);
    for (const TensorInfo& tensor : model_->tensors()) // whatever else the file has stays with it
      if (!listed.contains(tensor.name)) last.push_back({tensor.name, tensor.type, tensor.shape});
  }

  std::string source_name(const std::string& name) const {
    if (name == "token_embd.weight") return embedding_name(*model_);
    if (name == "output_norm.weight") return final_norm_name(*model_);
    if (name == "output.weight") return head_name(*model_);
    return name;
  }

  template <class Write> void write_stored(const TensorEntry& entry, const std::string& name, Write&& write) const {
    const TensorInfo& tensor = model_->at(name);
    if (const std::optional<ElementType> type = element_type_of(entry.type))
      detail::write_tensor(*model_, tensor, *type, write);
    else
      detail::copy_tensor(*model_, tensor, write);
  }

  template <class Write> static void pad(const TensorEntry& entry, Write&& write) {
    static constexpr std::byte zeros[gguf_alignment] = {};
    if (const std::uint64_t padding = gguf_padding(entry.bytes()); padding != 0) write(std::span(zeros, static_cast<std::size_t>(padding)));
  }

  const ModelSource* model_;
  const Config* config_;
  Plan plan_;
  ElementType unquantized_;
  std::vector<std::vector<TensorEntry>> parts_;
  std::string header_;
};

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
