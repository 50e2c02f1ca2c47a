// The weights of a Llama-type model in memory, by plan: layers packed or 16-bit, embedding, head and norms 16-bit; streamed from the mapped file.
#pragma once

#include <lsaq/deployment/deployed_matrix.hpp>
#include <lsaq/models/llama_transform.hpp>

#include <array>
#include <functional>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// One decoder layer as deployed.
struct LayerWeights {
  FloatMatrix attention_norm;
  FloatMatrix mlp_norm;
  std::array<DeployedMatrix, linears_per_layer> linears;
  std::shared_ptr<const ModelTransform> transform = {}; ///< null: the model as it is stored

  const DeployedMatrix& operator[](Linear linear) const noexcept { return linears[static_cast<std::size_t>(linear)]; }

  Bytes bytes() const noexcept {
    Bytes sum = attention_norm.storage.size() + mlp_norm.storage.size();
    for (const DeployedMatrix& linear : linears) sum += linear.bytes();
    return sum;
  }
};

/// What is beside the layers: embedding, final norm, and the output head unless it is tied.
struct OuterWeights {
  FloatMatrix embedding;
  FloatMatrix final_norm;
  FloatMatrix separate_head;                            ///< empty when tied
  std::shared_ptr<const ModelTransform> transform = {}; ///< the layers' basis; embedding and head are stored in the original one

  MatrixView head() const noexcept { return separate_head.storage.size() != 0 ? separate_head.view() : embedding.view(); }
  Bytes embedding_bytes() const noexcept { return embedding.storage.size() + separate_head.storage.size(); }
};

/// Reads layers and outer weights of one model; keeps nothing but references to model and configuration.
class WeightLoader {
public:
  /// For deployment: whatever is not quantized becomes F16, or stays BF16 where the checkpoint's linears are BF16.
  WeightLoader(const ModelSource& model, const Config& config, ExecutorRef executor = {}) : model_(&model), config_(&config), executor_(executor) {
    StoredType stored = model.at(tensor_name(model, 0, Linear::q)).type;
    if (is_packed(stored)) stored = model.at(embedding_name(model)).type;
    unquantized_ = stored == StoredType::bf16 ? ElementType::bf16 : ElementType::f16;
  }

  /// For measuring: F32 and BF16 tensors that are not quantized keep their type, so that the model measured is the one in the file.
  WeightLoader& keep_as_stored() noexcept {
    as_stored_ = true;
    return *this;
  }

  /// Whatever is not quantized is kept as `type`: F16, BF16 or F32.
  WeightLoader& keep_as(ElementType type) noexcept {
    as_stored_ = false;
    unquantized_ = type;
    return *this;
  }

  /// Loads the transformed model instead of the stored one; it computes the same. Null: the stored one.
  WeightLoader& transform(std::shared_ptr<const ModelTransform> transform) noexcept {
    transform_ = std::move(transform);
    return *this;
  }

  const Config& config() const noexcept { return *config_; }
  /// What floats that are not quantized become, unless they are kept as stored.
  ElementType unquantized() const noexcept { return unquantized_; }
  const std::shared_ptr<const ModelTransform>& transform() const noexcept { return transform_; }

  /// Deploys layer `layer` with `bits_of(linear name)` bits for each linear; its pages of the source file are dropped. Throws BadInput, std::bad_alloc.
  template <backend Device, class BitsOf> LayerWeights layer(const Device& device, std::size_t layer, BitsOf&& bits_of) const {
    return this->layer(device, layer, bits_of, {}, [](Linear, unsigned) { return std::optional<PackedMatrix>(); });
  }

  /// The same in a format (its bits are bits_of's), where round(linear, bits) may round a linear itself; what it leaves is rounded to nearest. It is asked for
  /// the linears that are quantized, in their order.
  template <backend Device, class BitsOf, class Round>
  LayerWeights layer(const Device& device, std::size_t layer, BitsOf&& bits_of, const PackedFormat& format, Round&& round) const {
    LayerWeights weights{gain(device, layer, LinearInput::attention), gain(device, layer, LinearInput::mlp), {}, transform_};
    each_linear(device, layer, bits_of, format, round,
                [&](Linear linear, DeployedMatrix matrix) { weights.linears[static_cast<std::size_t>(linear)] = std::move(matrix); });
    return weights;
  }

  /// The layer's linears one after another, in their order: take(linear, matrix). Nothing is kept of those that were taken.
  template <backend Device, class BitsOf, class Round, class Take>
  void each_linear(const Device& device, std::size_t layer, BitsOf&& bits_of, const PackedFormat& format, Round&& round, Take&& take) const {
    for (std::size_t i = 0; i < linears_per_layer; ++i) {
      const auto linear = static_cast<Linear>(i);
      const std::string name = tensor_name(*model_, layer, linear);
      DeployOptions options = options_of(model_->at(name), bits_of(name_of(linear)));
      options.scale = format.scale;
      options.grouping = format.grouping;
      options.range = format.range;
      std::optional<PackedMatrix> rounded;
      if (options.bits != 16) rounded = round(linear, options.bits);
      if (rounded)
        take(linear, DeployedMatrix(device.prepare(std::move(*rounded))));
      else
        take(linear, transform_ ? deploy(device, name, options, weights_of(layer, linear)) : matrix(device, name, options));
    }
  }

  /// Deploys embedding, final norm and head.
  template <backend Device> OuterWeights outer(const Device& device) const {
    OuterWeights weights{floats(device, embedding_name(*model_)), floats(device, final_norm_name(*model_)), {}, transform_};
    if (!config_->tied) weights.separate_head = floats(device, head_name(*model_));
    return weights;
  }

  /// The weights of a linear as FP32, rows x columns, transformed if the model is. Throws BadInput, std::bad_alloc.
  std::vector<float> weights_of(std::size_t layer, Linear linear) const {
    const TensorInfo& tensor = model_->at(tensor_name(*model_, layer, linear));
    std::vector<float> weights(tensor.rows * tensor.columns);
    read(tensor, 0, tensor.rows, weights.data());
    if (transform_) transform_->apply(layer, linear, gain_of(layer, input_of(linear)), {weights.data(), tensor.rows, tensor.columns}, executor_);
    return weights;
  }

  /// The gain of the norm before an input as it is stored: hidden values for attention and mlp, none for the others.
  std::vector<float> gain_of(std::size_t layer, LinearInput input) const {
    if (input == LinearInput::attended || input == LinearInput::ffn) return {};
    const TensorInfo& tensor = model_->at(input == LinearInput::attention ? attention_norm_name(*model_, layer) : mlp_norm_name(*model_, layer));
    std::vector<float> gain(tensor.rows * tensor.columns);
    read(tensor, 0, tensor.rows, gain.data());
    return gain;
  }

private:
  DeployOptions options_of(const TensorInfo& tensor, unsigned bits) const noexcept {
    const std::optional<ElementType> stored = element_type_of(tensor.type); // nothing: the source is itself quantized
    return {.bits = bits, .unquantized = as_stored_ ? stored.value_or(ElementType::f16) : unquantized_, .round_to_f16_first = !stored && !transform_};
  }

  void read(const TensorInfo& tensor, std::size_t first, std::size_t count, float* out) const {
    executor_.parallel_for(count, [&](std::size_t row) { model_->read_rows(tensor, first + row, 1, out + row * tensor.columns); });
    model_->drop(tensor); // pages of the file that are resident count as ours
  }

  /// Deploys `name` from rows that `read` gives.
  template <backend Device, class Read>
  DeployedMatrix deploy_rows(const Device& device, const std::string& name, const DeployOptions& options, Read&& read) const {
    const TensorInfo& tensor = model_->at(name);
    try {
      return deploy_matrix(device, printable(name), {tensor.rows, tensor.columns}, options, read, executor_);
    } catch (const BadInput& error) { // knows the tensor, not the file
      fail<BadInput>(printable_path(model_->path()) + ": " + error.what());
    }
  }

  template <backend Device> DeployedMatrix matrix(const Device& device, const std::string& name, const DeployOptions& options) const {
    const TensorInfo& tensor = model_->at(name);
    if (const std::optional<MatrixView> view = model_->view(tensor); view && options.bits != 16) return quantize_in_place(device, name, options, *view);
    return deploy_rows(device, name, options, [&](std::size_t first, std::size_t count, float* out) { read(tensor, first, count, out); });
  }

  /// Quantizes floats where the file has them, without widening them first.
  template <backend Device>
  DeployedMatrix quantize_in_place(const Device& device, const std::string& name, const DeployOptions& options, MatrixView view) const {
    check_deployable(printable(name), options.bits);
    PackedMatrix packed({view.rows, view.columns}, options.format());
    if (const QuantizationFault fault = quantize_rows(view, 0, {view.rows, view.columns}, options.format(), packed.storage(), executor_))
      fail<BadInput>(printable_path(model_->path()) + ": " + message_of(fault, printable(name), options.scale));
    model_->drop(model_->at(name));
    return DeployedMatrix(device.prepare(std::move(packed)));
  }

  template <backend Device>
  DeployedMatrix deploy(const Device& device, const std::string& name, const DeployOptions& options, std::span<const float> weights) const {
    const std::size_t columns = model_->at(name).columns;
    return deploy_rows(device, name, options,
                       [&](std::size_t first, std::size_t count, float* out) { std::copy_n(weights.begin() + first * columns, count * columns, out); });
  }

  template <backend Device> FloatMatrix floats(const Device& device, const std::string& name) const {
    DeployedMatrix deployed = matrix(device, name, options_of(model_->at(name), 16));
    return std::move(deployed).take_floats();
  }

  template <backend Device> FloatMatrix gain(const Device& device, std::size_t layer, LinearInput input) const {
    const std::string name = input == LinearInput::attention ? attention_norm_name(*model_, layer) : mlp_norm_name(*model_, layer);
    if (!transform_) return floats(device, name);
    std::vector<float> values = gain_of(layer, input);
    transform_->apply_to_gain(layer, input, values);
    DeployedMatrix deployed = deploy(device, name, options_of(model_->at(name), 16), values);
    return std::move(deployed).take_floats();
  }

  const ModelSource* model_;
  const Config* config_;
  ExecutorRef executor_;
  ElementType unquantized_;
  std::shared_ptr<const ModelTransform> transform_;
  bool as_stored_ = false;
};

/// A whole model deployed by a plan.
struct ModelWeights {
  OuterWeights outer;
  std::vector<LayerWeights> layers;

  /// The layers as a decoder reads them during one pass.
  const std::vector<LayerWeights>& read() const noexcept { return layers; }

  /// Bytes of layers and final norm: the plan's `bytes.weights`.
  Bytes weight_bytes() const noexcept {
    Bytes sum = outer.final_norm.storage.size();
    for (const LayerWeights& layer : layers) sum += layer.bytes();
    return sum;
  }
};

/// Deploys the model by the plan; `progress(layers done)` is called after each layer. Throws BadInput, InvalidArgument, std::bad_alloc.
template <backend Device, class Loader>
ModelWeights load_weights(const Loader& loader, const Config& config, const Plan& plan, const Device& device,
                          const std::function<void(std::size_t)>& progress = {}) {
  if (plan.bits.size() != config.layers)
    fail<BadInput>("the plan has bits for " + std::to_string(plan.bits.size()) + " layers, the model has " + std::to_string(config.layers));
  ModelWeights weights{loader.outer(device), {}};
  weights.layers.reserve(config.layers);
  for (std::size_t l = 0; l < config.layers; ++l) {
    weights.layers.push_back(loader.layer(device, l, [&](std::string_view linear) { return plan.bits_of(l, linear); }));
    if (progress) progress(l + 1);
  }
  return weights;
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
