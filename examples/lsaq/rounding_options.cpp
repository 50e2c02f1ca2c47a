#include "rounding_options.hpp"
#include "input_statistics_cache.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <charconv>

namespace command {

namespace llama = lsaq::llama;

namespace {

std::optional<lsaq::Rounding> rounding_named(const std::string& name) {
  for (const lsaq::Rounding rounding : {lsaq::Rounding::nearest, lsaq::Rounding::clip, lsaq::Rounding::gptq})
    if (name == name_of(rounding)) return rounding;
  return std::nullopt;
}

std::optional<lsaq::CodeRange> codes_named(const std::string& name) {
  for (const lsaq::CodeRange range : {lsaq::CodeRange::symmetric, lsaq::CodeRange::full})
    if (name == name_of(range)) return range;
  return std::nullopt;
}

std::string rotation_name(const llama::TransformOptions& transform) {
  std::string name;
  for (const auto& [wanted, part] : {std::pair{transform.residual, "residual"}, std::pair{transform.heads, "heads"}, std::pair{transform.ffn, "ffn"}})
    if (wanted) name += (name.empty() ? "" : "+") + std::string(part);
  return name.empty() ? "none" : name;
}

std::optional<llama::TransformOptions> rotation_named(const std::string& name) {
  for (const bool residual : {false, true})
    for (const bool heads : {false, true})
      for (const bool ffn : {false, true})
        if (const llama::TransformOptions transform{.residual = residual, .heads = heads, .ffn = ffn}; name == rotation_name(transform)) return transform;
  return std::nullopt;
}

std::optional<lsaq::Grouping> granularity_named(std::string_view text) {
  if (text == "channel") return lsaq::PerChannel::grouping;
  if (text == "tensor") return lsaq::PerTensor::grouping;
  constexpr std::string_view prefix = "group:";
  if (!text.starts_with(prefix)) return std::nullopt;
  lsaq::Grouping grouping;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + prefix.size(), end, grouping.columns);
  if (error != std::errc() || rest != end || grouping.columns == 0 || grouping.columns % lsaq::group_multiple != 0) return std::nullopt;
  return grouping;
}

} // namespace

lsaq::Grouping parse_granularity(const std::string& text) {
  if (const std::optional<lsaq::Grouping> grouping = granularity_named(text)) return *grouping;
  lsaq::fail<lsaq::InvalidArgument>(
      fmt::format("--granularity: \"{}\" is none of channel, tensor and group:N with N a multiple of 32, for example group:32", lsaq::printable(text, 40)));
}

Quantization Quantization::of_plan(const lsaq::PlanFile& file, const std::string& name) {
  const auto refuse = [&](const char* field, const std::string& value, const char* possible) {
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: \"{}\" is \"{}\"; this program deploys {}", name, field, lsaq::printable(value), possible));
  };
  const auto rounding = rounding_named(file.rounding);
  if (!rounding) refuse("rounding", file.rounding, "nearest, clip and gptq");
  const auto grouping = granularity_named(file.granularity);
  if (!grouping) refuse("granularity", file.granularity, "channel, tensor and group:N with N a multiple of 32");
  const auto codes = codes_named(file.codes);
  if (!codes) refuse("codes", file.codes, "symmetric and full");
  const auto rotation = rotation_named(file.rotation);
  if (!rotation) refuse("rotation", file.rotation, "none, or residual, heads and ffn in this order, joined by +");
  if (file.scale != "f16") refuse("scale", file.scale, "\"f16\"");
  Quantization quantization;
  quantization.rounding = {.rounding = *rounding, .grouping = *grouping, .range = *codes};
  quantization.transform = *rotation;
  return quantization;
}

void Quantization::write_to(lsaq::PlanFile& file) const {
  file.rounding = name_of(rounding.rounding);
  file.granularity = rounding.grouping.name();
  file.codes = name_of(rounding.range);
  file.rotation = rotation_name(transform);
}

std::string Quantization::describe() const {
  std::string text = fmt::format("{}, {}, {} codes", name_of(rounding.rounding), rounding.grouping.name(), name_of(rounding.range));
  if (transform.any()) text += ", rotated " + rotation_name(transform);
  return text;
}

std::shared_ptr<const llama::ModelTransform> Quantization::model_transform(const llama::Config& config) const {
  return transform.any() ? std::make_shared<const llama::ModelTransform>(config, transform) : nullptr;
}

void add_rounding_options(CLI::App& verb, RoundingOptions& options) {
  verb.add_option("--rounding", options.rounding, "nearest (default), clip (scales fitted to the inputs) or gptq (codes too)")
      ->check(CLI::IsMember({"nearest", "clip", "gptq"}));
  verb.add_option("--granularity", options.granularity, "What shares a scale: channel (default), tensor, or group:N columns");
  verb.add_option("--codes", options.codes, "symmetric (-7..7 at 4 bits), or full (-8..7; default of gptq)")->check(CLI::IsMember({"symmetric", "full"}));
  verb.add_flag("--rotate", options.rotate, "Rotate residual stream and heads, so that no channel stands out; best with gptq");
  verb.add_flag("--rotate-heads", options.rotate_heads, "Rotate the values within their heads only");
  verb.add_flag("--rotate-ffn", options.rotate_ffn, "Rotate the input of down_proj too, while the model runs");
}

void add_rounding_calibration_options(CLI::App& verb, RoundingOptions& options) {
  verb.add_option("--calibration-text", options.calibration.text_file, "Text that clip and gptq look at (default: a text that comes with the program)");
  CLI::Option* ids = verb.add_option("--calibration-ids", options.calibration.token_ids_file, "Token ids instead: a JSON array of arrays, each a window")
                         ->excludes("--calibration-text");
  verb.add_option("--calibration-windows", options.calibration.windows, "Windows of the text")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20))
      ->excludes(ids);
  verb.add_option("--calibration-length", options.calibration.window_length, "Tokens of a window")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 20))
      ->excludes(ids);
  verb.add_flag("!--no-statistics-cache", options.keep, "Do not keep the statistics of the inputs in the cache");
}

Quantization quantization_of(const RoundingOptions& options, const Quantization& of_plan) {
  Quantization quantization = of_plan;
  if (!options.rounding.empty()) {
    quantization.rounding.rounding = *rounding_named(options.rounding);
    if (quantization.rounding.rounding == lsaq::Rounding::gptq) quantization.rounding.range = lsaq::CodeRange::full;
  }
  if (!options.granularity.empty()) quantization.rounding.grouping = parse_granularity(options.granularity);
  if (!options.codes.empty()) quantization.rounding.range = *codes_named(options.codes);
  quantization.transform.residual |= options.rotate;
  quantization.transform.heads |= options.rotate || options.rotate_heads;
  quantization.transform.ffn |= options.rotate_ffn;
  return quantization;
}

llama::RoundingLoader rounding_loader(const Model& model, const Quantization& quantization, const RoundingOptions& options,
                                      const Device& device) {
  Windows windows;
  if (quantization.needs_calibration()) windows = calibration_windows(model, options.calibration);
  return rounding_loader(model, quantization, std::move(windows), options.keep, device);
}

llama::RoundingLoader rounding_loader(const Model& model, const Quantization& quantization, Windows windows, bool keep,
                                      const Device& device) {
  llama::WeightLoader loader(model.source, model.config, device.executor());
  loader.transform(quantization.model_transform(model.config));
  if (quantization.rounding.scale == lsaq::ScaleType::f32) loader.keep_as(lsaq::ElementType::f32); // an F32 checkpoint that stays one
  std::function<llama::LayerStatistics(std::size_t)> statistics;
  if (quantization.needs_calibration()) {
    auto cache = std::make_shared<InputStatisticsCache>(model, std::move(windows), device, keep);
    statistics = [cache](std::size_t layer) { return cache->layer(layer); };
  }
  return llama::RoundingLoader(std::move(loader), quantization.rounding, std::move(statistics));
}

} // namespace command
