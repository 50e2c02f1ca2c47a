// The quantized layers of a model in a file, and back: one safetensors file beside the model it was made from (docs/formats.md).
//
// Names are those of Hugging Face checkpoints. A quantized linear has weight_packed (I32, rows x words: the canonical packed rows), weight_scale (F16, rows x
// groups) and weight_shape (I64), as compressed-tensors has them; what is not quantized has weight. Embedding, final norm and head stay in the model's file.
#pragma once

#include <lsaq/formats/plan_file.hpp>
#include <lsaq/formats/safetensors.hpp>
#include <lsaq/formats/safetensors_writer.hpp>
#include <lsaq/models/llama_rounding.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

namespace detail {

/// Calls act(entry) for the tensors of a layer in the order of their bytes: both norms, then the linears.
template <class Act>
void for_each_layer_tensor(const Config& config, std::size_t layer, const Plan& plan, Grouping grouping, ElementType unquantized, Act&& act,
                           StoredType scale = StoredType::f16) {
  const std::string prefix = "model.layers." + std::to_string(layer) + ".";
  const StoredType floats = stored_type_of(unquantized);
  act(TensorEntry{prefix + "input_layernorm.weight", floats, {config.hidden}});
  act(TensorEntry{prefix + "post_attention_layernorm.weight", floats, {config.hidden}});
  for (std::size_t i = 0; i < linears_per_layer; ++i) {
    const auto linear = static_cast<Linear>(i);
    const MatrixShape shape = shape_of(config, linear);
    const std::string name = prefix + std::string(name_of(linear)) + ".weight";
    const unsigned bits = plan.bits_of(layer, name_of(linear));
    if (bits == 16) {
      act(TensorEntry{name, floats, {shape.rows, shape.columns}});
      continue;
    }
    act(TensorEntry{name + "_packed", StoredType::i32, {shape.rows, packed_row_bytes(shape.columns, bits) / 4}});
    if (grouping.whole_matrix)
      act(TensorEntry{name + "_scale", scale, {1}});
    else
      act(TensorEntry{name + "_scale", scale, {shape.rows, grouping.scales_per_row(shape.columns)}});
    act(TensorEntry{name + "_shape", StoredType::i64, {2}});
  }
}

} // namespace detail

/// The header of a file with all layers of a plan; `metadata` is kept as lsaq's entry. `unquantized` is what the loader keeps floats as.
inline std::string quantized_layers_header(const Config& config, const Plan& plan, Grouping grouping, ElementType unquantized, const std::string& metadata) {
  std::vector<TensorEntry> tensors;
  for (std::size_t l = 0; l < config.layers; ++l)
    detail::for_each_layer_tensor(config, l, plan, grouping, unquantized, [&](TensorEntry entry) { tensors.push_back(std::move(entry)); });
  return safetensors_header(tensors, {{"format", "pt"}, {"lsaq", metadata}});
}

/// Bytes of a layer in such a file.
inline Bytes quantized_layer_bytes(const Config& config, std::size_t layer, const Plan& plan, Grouping grouping, ElementType unquantized) {
  Bytes sum = 0;
  detail::for_each_layer_tensor(config, layer, plan, grouping, unquantized, [&](const TensorEntry& entry) { sum += entry.bytes(); });
  return sum;
}

/// Gives a layer's bytes in the order of the header: write(span of bytes), several times. Weights are in canonical packed form.
template <class Write> void write_quantized_layer(const Config& config, const LayerWeights& layer, Write&& write) {
  const auto bytes_of = [](const AlignedBytes& bytes) { return std::span(bytes.data(), bytes.size()); };
  write(bytes_of(layer.attention_norm.storage));
  write(bytes_of(layer.mlp_norm.storage));
  for (std::size_t i = 0; i < linears_per_layer; ++i) {
    const DeployedMatrix& matrix = layer.linears[i];
    if (const PackedMatrix* packed = matrix.packed()) {
      const MatrixShape shape = shape_of(config, static_cast<Linear>(i));
      const std::int64_t numbers[2] = {static_cast<std::int64_t>(shape.rows), static_cast<std::int64_t>(shape.columns)};
      write(std::span(packed->view().data, static_cast<std::size_t>(packed->bytes()))); // codes, then scales: two tensors
      write(std::as_bytes(std::span(numbers)));
    } else {
      write(bytes_of(matrix.floats()->storage));
    }
  }
}

/// Reads such a file in the place of a WeightLoader.
class QuantizedLayers {
public:
  /// Opens and checks a file for a model: its tensors are exactly those of its plan. `metadata` is read before anything else, by `read_plan(text)`, which gives
  /// plan, rounding and transform. Throws BadInput naming file and tensor.
  template <class ReadPlan>
  QuantizedLayers(const std::filesystem::path& path, const Config& config, WeightLoader loader, ReadPlan&& read_plan)
      : file_(MappedFile::open(path)), config_(config), loader_(std::move(loader)) {
    const std::string name = printable_path(path);
    SafetensorsHeader header = parse_safetensors(file_.bytes(), name);
    const auto entry = std::find_if(header.metadata.begin(), header.metadata.end(), [](const SafetensorsMetadata& one) { return one.name == "lsaq"; });
    if (entry == header.metadata.end()) fail<BadInput>(name + ": not made by lsaq quantize: its header has no entry \"lsaq\"");
    auto [plan, rounding, transform] = read_plan(entry->value);
    plan_ = std::move(plan);
    rounding_ = rounding;
    if (transform) loader_.transform(std::move(transform));
    std::size_t next = 0;
    for (std::size_t l = 0; l < config.layers; ++l)
      llama::detail::for_each_layer_tensor(config, l, plan_, rounding_.grouping, loader_.unquantized(), [&](const TensorEntry& wanted) {
        if (next == header.tensors.size()) fail<BadInput>(name + ": tensor '" + wanted.name + "' is missing");
        const TensorInfo& found = header.tensors[next++];
        if (found.name != wanted.name || found.type != wanted.type || found.shape != wanted.shape)
          fail<BadInput>(name + ": tensor '" + printable(found.name) + "' is not the '" + wanted.name + "' that its plan and this model ask for");
        if (!wanted.name.ends_with("_shape") && !wanted.name.ends_with("_scale")) offsets_.push_back(found.offset);
      });
    if (next != header.tensors.size()) fail<BadInput>(name + ": tensor '" + printable(header.tensors[next].name) + "' belongs to no layer of this model");
  }

  const Plan& plan() const noexcept { return plan_; }
  const ModelRounding& rounding() const noexcept { return rounding_; }

  template <backend Device> OuterWeights outer(const Device& device) const { return loader_.outer(device); }

  /// The layer as the file has it, where bits_of agrees with its plan; as the model has it, where all bits are 16. Throws BadInput, InvalidArgument,
  /// std::bad_alloc.
  template <backend Device, class BitsOf> LayerWeights layer(const Device& device, std::size_t layer, BitsOf&& bits_of) const {
    std::array<unsigned, linears_per_layer> asked;
    for (std::size_t i = 0; i < linears_per_layer; ++i) asked[i] = bits_of(name_of(static_cast<Linear>(i)));
    if (std::all_of(asked.begin(), asked.end(), [](unsigned bits) { return bits == 16; }))
      return loader_.layer(device, layer, [](std::string_view) { return 16u; });
    constexpr std::size_t tensors = 2 + linears_per_layer;
    const std::uint64_t* const offsets = offsets_.data() + layer * tensors;
    const auto floats = [&](std::uint64_t offset, MatrixShape shape) {
      const ElementType type = loader_.unquantized();
      FloatMatrix matrix{AlignedBytes(shape.rows * shape.columns * size_of(type)), shape, type};
      std::memcpy(matrix.storage.data(), file_.bytes().data() + offset, matrix.storage.size());
      return matrix;
    };
    LayerWeights weights{floats(offsets[0], {1, config_.hidden}), floats(offsets[1], {1, config_.hidden}), {}, loader_.transform()};
    for (std::size_t i = 0; i < linears_per_layer; ++i) {
      const auto linear = static_cast<Linear>(i);
      const MatrixShape shape = shape_of(config_, linear);
      const unsigned bits = plan_.bits_of(layer, name_of(linear));
      if (asked[i] != bits)
        fail<InvalidArgument>("layer " + std::to_string(layer) + " is quantized to " + std::to_string(bits) + " bits in the file, not to " +
                              std::to_string(asked[i]));
      if (bits == 16) {
        weights.linears[i] = DeployedMatrix(floats(offsets[2 + i], shape));
      } else {
        PackedMatrix packed(shape, rounding_.format(bits));
        std::memcpy(packed.storage().data(), file_.bytes().data() + offsets[2 + i], packed.storage().size());
        check_scales(packed.view(), layer, linear);
        weights.linears[i] = DeployedMatrix(device.prepare(std::move(packed)));
      }
    }
    file_.drop(0, file_.size());
    return weights;
  }

private:
  void check_scales(PackedView packed, std::size_t layer, Linear linear) const {
    for (std::size_t s = 0; s < packed.grouping.scales(packed.rows, packed.columns); ++s)
      if (const float scale = load_scale(packed.scale_data(), packed.scale_type, s); !(scale >= 0) || !std::isfinite(scale))
        fail<BadInput>(printable_path(file_.path()) + ": tensor 'model.layers." + std::to_string(layer) + "." + std::string(name_of(linear)) +
                       ".weight_scale': scale " + std::to_string(s) + " is " + std::to_string(scale));
  }

  MappedFile file_;
  Config config_;
  WeightLoader loader_;
  Plan plan_;
  ModelRounding rounding_;
  std::vector<std::uint64_t> offsets_; ///< by layer: norms, then the codes or floats of the linears
};

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
