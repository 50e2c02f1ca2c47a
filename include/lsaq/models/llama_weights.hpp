// The weights of a Llama-type model in memory, by plan: layers packed or 16-bit, embedding, head and norms 16-bit; streamed from the mapped file.
#pragma once

#include <lsaq/deployment/deployed_matrix.hpp>
#include <lsaq/models/llama_config.hpp>

#include <array>
#include <functional>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// One decoder layer as deployed.
struct LayerWeights {
  FloatMatrix attention_norm;
  FloatMatrix mlp_norm;
  std::array<DeployedMatrix, linears_per_layer> linears;

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
  FloatMatrix separate_head; ///< empty when tied

  MatrixView head() const noexcept { return separate_head.storage.size() != 0 ? separate_head.view() : embedding.view(); }
  Bytes embedding_bytes() const noexcept { return embedding.storage.size() + separate_head.storage.size(); }
};

/// Reads layers and outer weights of one model; keeps nothing but references to model and configuration.
class WeightLoader {
public:
  /// For deployment: whatever is not quantized becomes F16, or stays BF16 where the checkpoint's linears are BF16.
  WeightLoader(const ModelSource& model, const Config& config, ExecutorRef executor = {}) : model_(&model), config_(&config), executor_(executor) {
    unquantized_ = model.at(tensor_name(model, 0, Linear::q)).type == StoredType::bf16 ? ElementType::bf16 : ElementType::f16;
  }

  /// For measuring: F32 and BF16 tensors that are not quantized keep their type, so that the model measured is the one in the file.
  WeightLoader& keep_as_stored() noexcept {
    as_stored_ = true;
    return *this;
  }

  /// Deploys layer `layer` with `bits_of(linear name)` bits for each linear; its pages of the source file are dropped. Throws BadInput, std::bad_alloc.
  template <backend Device, class BitsOf> LayerWeights layer(const Device& device, std::size_t layer, BitsOf&& bits_of) const {
    LayerWeights weights{floats(device, attention_norm_name(*model_, layer)), floats(device, mlp_norm_name(*model_, layer)), {}};
    for (std::size_t i = 0; i < linears_per_layer; ++i) {
      const auto linear = static_cast<Linear>(i);
      weights.linears[i] = matrix(device, tensor_name(*model_, layer, linear), bits_of(name_of(linear)));
    }
    return weights;
  }

  /// Deploys embedding, final norm and head.
  template <backend Device> OuterWeights outer(const Device& device) const {
    OuterWeights weights{floats(device, embedding_name(*model_)), floats(device, final_norm_name(*model_)), {}};
    if (!config_->tied) weights.separate_head = floats(device, head_name(*model_));
    return weights;
  }

private:
  template <backend Device> DeployedMatrix matrix(const Device& device, const std::string& name, unsigned bits) const {
    const TensorInfo& tensor = model_->at(name);
    const std::optional<ElementType> stored = element_type_of(tensor.type); // nothing: the source is itself quantized
    const ElementType unquantized = as_stored_ ? stored.value_or(ElementType::f16) : unquantized_;
    const DeployOptions options{.bits = bits, .unquantized = unquantized, .round_to_f16_first = !stored};
    const auto read = [&](std::size_t first, std::size_t count, float* out) {
      executor_.parallel_for(count, [&](std::size_t row) { model_->read_rows(tensor, first + row, 1, out + row * tensor.columns); });
      model_->drop(tensor); // pages of the file that are resident count as ours
    };
    try {
      return deploy_matrix(device, printable(name), {tensor.rows, tensor.columns}, options, read, executor_);
    } catch (const BadInput& error) { // knows the tensor, not the file
      fail<BadInput>(printable_path(model_->path()) + ": " + error.what());
    }
  }

  template <backend Device> FloatMatrix floats(const Device& device, const std::string& name) const {
    DeployedMatrix deployed = matrix(device, name, 16);
    return std::move(deployed).take_floats();
  }

  const ModelSource* model_;
  const Config* config_;
  ExecutorRef executor_;
  ElementType unquantized_;
  bool as_stored_ = false;
};

/// A whole model deployed by a plan.
struct ModelWeights {
  OuterWeights outer;
  std::vector<LayerWeights> layers;

  /// Bytes of layers and final norm: the plan's `bytes.weights`.
  Bytes weight_bytes() const noexcept {
    Bytes sum = outer.final_norm.storage.size();
    for (const LayerWeights& layer : layers) sum += layer.bytes();
    return sum;
  }
};

/// Deploys the model by the plan; `progress(layers done)` is called after each layer. Throws BadInput, InvalidArgument, std::bad_alloc.
template <backend Device>
ModelWeights load_weights(const WeightLoader& loader, const Config& config, const Plan& plan, const Device& device,
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
