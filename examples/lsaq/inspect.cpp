// lsaq inspect: what a model is and how many bytes it takes at 16, 8 and 4 bits.
#include "model_files.hpp"

#include <lsaq/report.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <map>
#include <memory>

namespace command {

namespace {

struct InspectOptions {
  std::string model;
  bool tensors = false;
};

std::string dimensions(const lsaq::TensorInfo& tensor) {
  std::string text;
  for (std::uint64_t n : tensor.shape) text += (text.empty() ? "" : " x ") + std::to_string(n);
  return text;
}

void inspect(const InspectOptions& options, const Global& global) {
  const Model model(options.model);
  const lsaq::llama::Config& config = model.config;
  const lsaq::ModelShape shape = lsaq::llama::model_shape(config);
  std::map<std::string, std::size_t> types;
  for (const lsaq::TensorInfo& tensor : model.source.tensors()) ++types[std::string(name_of(tensor.type))];
  const lsaq::Bytes fp16 = model_bytes(shape, 16), int8 = model_bytes(shape, 8), int4 = model_bytes(shape, 4);

  if (global.json) {
    nlohmann::json json{{"schema", "lsaq.inspect/1"},
                        {"model", config.name},
                        {"architecture", "llama"},
                        {"file_format", model.source.is_gguf() ? "gguf" : "safetensors"},
                        {"layers", config.layers},
                        {"hidden", config.hidden},
                        {"ffn", config.ffn},
                        {"heads", config.heads},
                        {"kv_heads", config.kv_heads},
                        {"head_size", config.head_size},
                        {"vocabulary", config.vocabulary},
                        {"context", config.longest_context},
                        {"tied_embedding", config.tied},
                        {"tensor_types", types},
                        {"bytes", {{"file", model.source.file_bytes()}, {"fp16", fp16}, {"int8", int8}, {"int4", int4}}},
                        {"model_sha256", model_sha256(model.source)}};
    if (options.tensors) {
      json["tensors"] = nlohmann::json::array();
      for (const lsaq::TensorInfo& tensor : model.source.tensors())
        json["tensors"].push_back({{"name", tensor.name}, {"type", name_of(tensor.type)}, {"shape", tensor.shape}, {"bytes", tensor.bytes}});
    }
    return print_json(json);
  }

  std::string text;
  const auto row = [&](std::string_view what, const std::string& value) { text += fmt::format("{:<16}{}\n", what, value); };
  row("model", lsaq::printable(config.name, 60));
  row("architecture", fmt::format("llama ({})", model.source.is_gguf() ? "GGUF" : "Hugging Face, safetensors"));
  row("layers", std::to_string(config.layers));
  row("hidden", std::to_string(config.hidden));
  row("feed-forward", std::to_string(config.ffn));
  row("heads", fmt::format("{} of {}, {} for keys and values", config.heads, config.head_size, config.kv_heads));
  row("vocabulary", fmt::format("{}, {} output head", config.vocabulary, config.tied ? "tied" : "separate"));
  row("context", std::to_string(config.longest_context));
  std::string kinds;
  for (const auto& [type, count] : types) kinds += fmt::format("{}{} {}", kinds.empty() ? "" : ", ", count, type);
  row("tensors", fmt::format("{} ({})", model.source.tensors().size(), kinds));
  row("file", fmt::format("{:>13} bytes  {:>10}", model.source.file_bytes(), lsaq::format_bytes(model.source.file_bytes())));
  row("at FP16", fmt::format("{:>13} bytes  {:>10}", fp16, lsaq::format_bytes(fp16)));
  row("layers at INT8", fmt::format("{:>13} bytes  {:>10}", int8, lsaq::format_bytes(int8)));
  row("layers at INT4", fmt::format("{:>13} bytes  {:>10}", int4, lsaq::format_bytes(int4)));
  if (options.tensors)
    for (const lsaq::TensorInfo& tensor : model.source.tensors())
      text += fmt::format("{:<44} {:<5} {:>15} {:>13}\n", lsaq::printable(tensor.name, 44), name_of(tensor.type), dimensions(tensor), tensor.bytes);
  print_text(text);
}

} // namespace

void add_inspect(CLI::App& app, Global& global) {
  auto options = std::make_shared<InspectOptions>();
  CLI::App* verb = app.add_subcommand("inspect", "Show a model's architecture and its bytes at FP16, INT8 and INT4");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  verb->add_flag("--tensors", options->tensors, "List every tensor");
  add_global_options(*verb, global);
  verb->callback([options, &global] { inspect(*options, global); });
}

} // namespace command
