// A small Llama model written to a folder of its own, opened by the library, and its weights deployed.
#pragma once

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/models/llama.hpp>

#include "models/plain_decoder.hpp"

namespace small_llama {

using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;
namespace llama = lsaq::llama;

struct Opened {
  std::unique_ptr<make_files::TemporaryFolder> folder = std::make_unique<make_files::TemporaryFolder>();
  std::optional<lsaq::ModelSource> source = std::nullopt;
  llama::Config config = {};

  void open(const std::filesystem::path& path) {
    source.emplace(lsaq::ModelSource::open(path));
    config = llama::read_config(*source);
  }

  llama::ModelWeights deploy(const lsaq::Plan& plan, const Device& device = Device()) const {
    return llama::load_weights(llama::WeightLoader(*source, config, device.executor()), config, plan, device);
  }

  /// All layers unquantized, floats of the types the file has.
  llama::ModelWeights as_stored() const {
    return llama::load_weights(llama::WeightLoader(*source, config).keep_as_stored(), config, {.bits = std::vector<unsigned>(config.layers, 16)}, Device());
  }
};

inline Opened open_gguf(const Model& model) {
  Opened opened;
  opened.open(opened.folder->write("small.gguf", model.gguf().build()));
  return opened;
}

inline Opened open_folder(const Model& model) {
  Opened opened;
  model.folder().write(*opened.folder);
  opened.open(opened.folder->path());
  return opened;
}

inline lsaq::Plan uniform(const Model& model, unsigned bits) { return {.bits = std::vector<unsigned>(model.layers, bits)}; }

/// The values a deployed matrix stands for.
inline Doubles values_of(const lsaq::DeployedMatrix& matrix) {
  Doubles values;
  if (const lsaq::PackedMatrix* packed = matrix.packed()) {
    std::vector<float> floats(packed->rows() * packed->columns());
    lsaq::dequantize(packed->view(), {floats.data(), packed->rows(), packed->columns()});
    values.assign(floats.begin(), floats.end());
  } else {
    const lsaq::MatrixView view = matrix.floats()->view();
    for (std::size_t i = 0; i < view.rows * view.columns; ++i) values.push_back(lsaq::load_element(view.data, view.type, i));
  }
  return values;
}

/// `plain` with the linears replaced by what was deployed.
inline PlainDecoder with_deployed(PlainDecoder plain, const llama::ModelWeights& weights) {
  for (std::size_t l = 0; l < plain.layers.size(); ++l) {
    PlainDecoder::Layer& layer = plain.layers[l];
    const std::array<Doubles*, 7> linears = {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down};
    for (std::size_t i = 0; i < linears.size(); ++i) *linears[i] = values_of(weights.layers[l].linears[i]);
  }
  return plain;
}

/// Residual streams after the last layer of all tokens, read at once.
inline std::vector<float> read_states(llama::Decoder<Device>& decoder, std::span<const lsaq::TokenId> tokens) {
  std::vector<float> states;
  decoder.read(tokens, [&](lsaq::MatrixView block) {
    const auto* values = static_cast<const float*>(block.data);
    states.insert(states.end(), values, values + block.rows * block.columns);
  });
  return states;
}

inline Doubles joined(const std::vector<Doubles>& rows) {
  Doubles all;
  for (const Doubles& row : rows) all.insert(all.end(), row.begin(), row.end());
  return all;
}

} // namespace small_llama
