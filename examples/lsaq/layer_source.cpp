#include "layer_source.hpp"
#include "planning.hpp"

namespace command {

namespace llama = lsaq::llama;

QuantizedFile open_quantized(const std::filesystem::path& path, const Model& model, const Device& device) {
  const std::string name = lsaq::printable_path(path);
  lsaq::PlanFile file;
  Quantization quantization;
  const auto read = [&](const std::string& metadata) {
    ReadPlan plan = checked_plan(lsaq::parse_json(metadata, name), name, model);
    if (plan.file.model_sha256.empty()) lsaq::fail<lsaq::BadInput>(name + ": does not say which model it was made from");
    file = plan.file;
    quantization = plan.quantization;
    return std::tuple(std::move(plan.file.plan), quantization.rounding, quantization.model_transform(model.config));
  };
  LayerSource source(llama::QuantizedLayers(path, model.config, llama::WeightLoader(model.source, model.config, device.executor()), read));
  return {std::move(file), quantization, std::move(source)};
}

} // namespace command
