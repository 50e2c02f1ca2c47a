// lsaq quantize: rounds the layers of a model by a plan into a file that run and eval take, or into a model that other engines load.
#include "output_formats.hpp"
#include "sequential_layers.hpp"

#include <lsaq/models/compressed_tensors_export.hpp>
#include <lsaq/models/gguf_export.hpp>
#include <lsaq/models/quantize_recipe.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <set>

namespace command {

namespace llama = lsaq::llama;

namespace {

struct QuantizeOptions {
  std::string model;
  std::string plan_file;
  unsigned bits = 8;
  std::string format; ///< empty: the plan's
  std::vector<std::string> recipe_types;
  std::string shard_size = "5GB";
  std::string output;
  std::string report;
  bool sequential = false;
  RoundingOptions rounding;
};

nlohmann::json report_json(const llama::RoundingReport& row) {
  nlohmann::json json{{"tensor", fmt::format("model.layers.{}.{}", row.layer, name_of(row.linear))},
                      {"bits", row.bits},
                      {"rounding", std::string(name_of(row.rounding))},
                      {"snr_db", row.snr()},
                      {"seconds", row.seconds}};
  if (row.output > 0) {
    json["relative_output_error"] = row.relative_error();
    for (const lsaq::Rounding rounding : {lsaq::Rounding::nearest, lsaq::Rounding::clip, lsaq::Rounding::gptq})
      if (const double error = row.errors[static_cast<std::size_t>(rounding)]; error > 0) json["tried"][name_of(rounding)] = error / row.output;
  }
  return json;
}

/// A line for each layer: what its linears cost together.
std::string report_table(const std::vector<llama::RoundingReport>& rows) {
  const bool calibrated = std::any_of(rows.begin(), rows.end(), [](const llama::RoundingReport& row) { return row.output > 0; });
  std::string text = fmt::format("{:>5}  {:<10}{:>14}{}{:>9}\n", "layer", "bits", "weight SNR", calibrated ? "   output error   of nearest's" : "", "seconds");
  for (std::size_t first = 0; first < rows.size();) {
    std::size_t end = first;
    double weights = 0, weight_error = 0, output = 0, error = 0, nearest = 0, seconds = 0;
    std::set<unsigned> bits;
    for (; end < rows.size() && rows[end].layer == rows[first].layer; ++end) {
      const llama::RoundingReport& row = rows[end];
      bits.insert(row.bits);
      weights += row.weights;
      weight_error += row.weight_error;
      seconds += row.seconds;
      if (!(row.output > 0)) continue;
      output += 1; // each linear counts the same, whatever the size of its outputs
      error += row.relative_error();
      nearest += row.errors[0] / row.output;
    }
    text += fmt::format("{:>5}  {:<10}{:>11.1f} dB", rows[first].layer, fmt::format("{}", fmt::join(bits, ", ")),
                        weight_error > 0 ? 10 * std::log10(weights / weight_error) : INFINITY);
    if (calibrated)
      text += output > 0 ? fmt::format("{:>14.5f}%{:>14.0f}%", 100 * error / output, nearest > 0 ? 100 * error / nearest : 100) : std::string(30, ' ');
    text += fmt::format("{:>9.2f}\n", seconds);
    first = end;
  }
  return text;
}

/// Types of llama.cpp by bits: the usual ones, and what --recipe-type says instead.
llama::RecipeTypes recipe_types(const std::vector<std::string>& given) {
  llama::RecipeTypes types = llama::default_recipe_types();
  for (const std::string& text : given) {
    const std::size_t equals = text.find('=');
    const std::string bits = text.substr(0, equals), type = equals == std::string::npos ? "" : text.substr(equals + 1);
    const bool is_width = bits == "16" || (bits.size() == 1 && bits[0] >= '2' && bits[0] <= '8');
    if (!is_width || type.empty() || type.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_") != std::string::npos)
      lsaq::fail<lsaq::InvalidArgument>(fmt::format("--recipe-type: \"{}\" is not BITS=TYPE, for example 4=q4_k", lsaq::printable(text, 40)));
    types[static_cast<unsigned>(std::stoul(bits))] = type;
  }
  return types;
}

void write_recipe(const QuantizeOptions& options, const Global& global, const Model& model, const ReadPlan& read) {
  const std::string recipe = llama::quantize_recipe(model.config, read.file.plan, recipe_types(options.recipe_types));
  lsaq::AtomicFile file(options.output);
  file.write(recipe);
  file.commit();
  if (global.json)
    return print_json(
        {{"schema", "lsaq.quantize/1"}, {"model", model.config.name}, {"format", "recipe"}, {"plan", lsaq::plan_to_json(read.file)}, {"bytes", recipe.size()}});
  print_text(fmt::format("llama-quantize --tensor-type-file {} MODEL-F16.gguf OUT.gguf q8_0\n", lsaq::printable_path(options.output)));
}

OutputFormat output_format(const QuantizeOptions& options, const Model& model, const lsaq::PlanFile& plan, lsaq::Grouping grouping,
                           lsaq::ElementType unquantized) {
  if (plan.format == "gguf") return gguf_format(model, plan, unquantized, options.output);
  if (plan.format == "compressed-tensors")
    return folder_format(model, plan, grouping, unquantized, bytes_option("--shard-size", options.shard_size), options.output);
  return packed_format(model, plan, grouping, unquantized, options.output);
}

/// Bits and rounding as the options, or the plan, and the format want them.
ReadPlan wanted(const QuantizeOptions& options, const Model& model) {
  if (options.bits != 16 && (options.bits < lsaq::min_bits || options.bits > lsaq::max_bits))
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("--bits {}: 2 to 8 are possible, and 16", options.bits));
  ReadPlan read = plan_of(options.plan_file, options.bits, model);
  read.quantization = quantization_of(options.rounding, read.quantization);
  if (!options.format.empty()) read.file.format = options.format;
  const std::string& format = read.file.format;
  if (format != "packed" && format != "gguf" && format != "compressed-tensors" && format != "recipe")
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: \"format\" is \"{}\"; this program writes packed, gguf, compressed-tensors and recipe", options.plan_file,
                                           lsaq::printable(format, 40)));
  if (format == "packed" && options.bits == 16 && options.plan_file.empty())
    lsaq::fail<lsaq::InvalidArgument>("--bits 16: nothing would be quantized; 2 to 8 are possible, 16 with --format gguf or compressed-tensors");
  read.quantization.write_to(read.file);
  read.file.model_sha256 = model_sha256(model.source);
  if (format == "gguf") read.file.plan = llama::gguf_plan(model.config, std::move(read.file.plan));
  if (format == "gguf" || format == "compressed-tensors") llama::check_exportable(read.quantization.transform);
  if (format == "compressed-tensors") {
    // Engines cast scales to the model's type: they are of that type from the start.
    const lsaq::TensorInfo& first = model.source.at(tensor_name(model.source, 0, llama::Linear::q));
    const lsaq::ElementType stored =
        first.type == lsaq::StoredType::f32 && !model.source.is_gguf() ? lsaq::ElementType::f32 : llama::WeightLoader(model.source, model.config).unquantized();
    read.quantization.rounding.scale = llama::CompressedTensorsExport::scale_of(stored);
    read.file.scale = stored == lsaq::ElementType::f32 ? "f32" : stored == lsaq::ElementType::bf16 ? "bf16" : "f16";
  }
  read.file.plan.bytes = model_bytes_of(model.config, read.file.plan, read.quantization.rounding.grouping, destination_named(format));
  read.file.plan.average_bits = lsaq::average_bits(llama::model_shape(model.config), read.file.plan);
  return read;
}

/// Everything the output depends on.
std::string key_of(const OutputFormat& format, const Windows& calibration, bool sequential) {
  std::string key = format.texts;
  for (const PartFile& file : format.files) key += file.header;
  if (!calibration.empty()) key += nlohmann::json(calibration).dump();
  if (sequential) key += "sequential";
  return sha256(key);
}

/// The first layer that is not written yet; the number of layers if all are.
std::size_t next_layer(const PartWriter& output) { return output.next() == 0 ? 0 : output.next() - 1; }

/// Writes what is left to write. Throws Interrupted, IoError, and what rounding throws.
void write_parts(const Model& model, const OutputFormat& format, PartWriter& output, const RoundedLayers& rounded, SequentialLayers* sequential) {
  const WriteBytes write = [&](std::span<const std::byte> bytes) { output.write(bytes); };
  Progress progress("quantize: layer", model.config.layers);
  Stopwatch since_safe;
  for (std::size_t part = output.next(); part < output.parts(); ++part) {
    check_interrupt();
    progress.set(next_layer(output));
    if (part == llama::embedding_part || part == llama::last_part(model.config)) {
      format.write_outer(part, write);
      output.end_part(false);
      continue;
    }
    format.write_layer(part - 1, rounded, write);
    const bool due = since_safe.seconds() >= seconds_between_checkpoints();
    if (due && sequential != nullptr) sequential->save();
    if (output.end_part(due)) since_safe = Stopwatch();
  }
}

void quantize(const QuantizeOptions& options, const Global& global) {
  const Model model(options.model);
  const auto [plan_file, quantization] = wanted(options, model);
  const lsaq::Plan& plan = plan_file.plan;
  refuse_overwriting("--output", options.output, model, options.plan_file);
  if (!options.report.empty()) {
    refuse_overwriting("--report", options.report, model, options.plan_file);
    if (std::error_code error; std::filesystem::weakly_canonical(options.report, error) == std::filesystem::weakly_canonical(options.output, error))
      lsaq::fail<lsaq::InvalidArgument>("--report: this is the output; name another file");
  }
  if (plan_file.format == "recipe") return write_recipe(options, global, model, {plan_file, quantization});
  if (options.sequential && !quantization.needs_calibration())
    lsaq::fail<lsaq::InvalidArgument>("--sequential: nearest rounding looks at no inputs; add --rounding clip or --rounding gptq");

  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const Stopwatch watch;
  Windows windows;
  if (quantization.needs_calibration()) windows = calibration_windows(model, options.rounding.calibration);
  llama::RoundingLoader loader = rounding_loader(model, quantization, windows, options.rounding.keep, device);
  OutputFormat format = output_format(options, model, plan_file, quantization.rounding.grouping, loader.weights().unquantized());
  const std::string key = key_of(format, windows, options.sequential);
  format.prepare(key);
  for (const std::string& line : format.notes) note("note: " + line);
  PartWriter output(format.files, key, format.part_bytes);
  std::optional<SequentialLayers> sequential;
  if (options.sequential) sequential.emplace(loader, windows, device, key);
  std::vector<llama::RoundingReport> rows;
  if (!options.report.empty() || quantization.needs_calibration())
    (sequential ? sequential->rounding() : loader).on_rounded([&](const llama::RoundingReport& row) { rows.push_back(row); });
  const std::size_t layers = model.config.layers;
  if (sequential && next_layer(output) != 0 && next_layer(output) < layers && !sequential->resume_at(next_layer(output))) output.start_over();
  const std::size_t first = next_layer(output);
  if (first != 0) note(fmt::format("resumed at layer {} of {}", first, layers));

  RoundedLayers rounded;
  rounded.whole = [&](std::size_t l) {
    const auto bits_of = [&](std::string_view linear) { return plan.bits_of(l, linear); };
    return sequential ? sequential->next(bits_of) : loader.layer(device, l, bits_of);
  };
  rounded.each_linear = [&](std::size_t l, const TakeLinear& take) {
    if (!sequential)
      return loader.each_linear(
          device, l, [&](std::string_view linear) { return plan.bits_of(l, linear); }, take);
    llama::LayerWeights layer = rounded.whole(l);
    for (std::size_t i = 0; i < llama::linears_per_layer; ++i) take(static_cast<llama::Linear>(i), std::move(layer.linears[i]));
  };
  write_parts(model, format, output, rounded, sequential ? &*sequential : nullptr);
  format.finish();
  if (sequential) sequential->finish();

  const lsaq::Bytes bytes = output.bytes();
  const double stored_bits = stored_bits_of(model.config, plan_file, quantization);
  nlohmann::json tensors = nlohmann::json::array();
  for (const llama::RoundingReport& row : rows) tensors.push_back(report_json(row));
  nlohmann::json json{{"schema", "lsaq.quantize/1"},
                      {"model", model.config.name},
                      {"format", plan_file.format},
                      {"rounding", quantization.describe()},
                      {"sequential", options.sequential},
                      {"plan", lsaq::plan_to_json(plan_file)},
                      {"bytes", bytes},
                      {"stored_bits", stored_bits},
                      {"seconds", watch.seconds()},
                      {"resumed_at", first},
                      {"tensors", tensors}};
  if (!options.report.empty()) write_json(options.report, json);
  if (global.json) return print_json(json);
  if (!rows.empty()) print_text(report_table(rows));
  print_text(fmt::format("{} layers, {:.4g} bits a weight ({:.3f} with scales): {} in {:.1f} s\n{}\n", model.config.layers, plan.average_bits, stored_bits,
                         lsaq::format_bytes(bytes), watch.seconds(), quantization.describe()));
}

} // namespace

void add_quantize(CLI::App& app, Global& global) {
  auto options = std::make_shared<QuantizeOptions>();
  CLI::App* verb = app.add_subcommand("quantize", "Round the layers of a model by a plan: for run and eval, or for other engines");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  CLI::Option* bits = verb->add_option("--bits", options->bits, "Bits of every layer: 2 to 8, or 16")->capture_default_str();
  verb->add_option("--plan", options->plan_file, "Bits and rounding by this plan")->excludes(bits);
  add_rounding_options(*verb, options->rounding);
  add_rounding_calibration_options(*verb, options->rounding);
  verb->add_flag("--sequential", options->sequential, "Round each layer on what the rounded layers before it give, not on the model's own states");
  verb->add_option(
          "--format", options->format,
          "packed: layers in safetensors, beside MODEL (default); gguf: a model for llama.cpp; compressed-tensors: a folder for transformers and vLLM; "
          "recipe: types for llama-quantize --tensor-type-file")
      ->check(CLI::IsMember({"packed", "gguf", "compressed-tensors", "recipe"}));
  verb->add_option("--recipe-type", options->recipe_types, "BITS=TYPE: llama.cpp's type for a width of the plan, for example 4=q4_k; may be repeated");
  verb->add_option("--shard-size", options->shard_size, "Largest safetensors file of a folder, unless a layer is larger")->capture_default_str();
  verb->add_option("-o,--output", options->output, "Write to this file, or folder")->required();
  verb->add_option("--report", options->report, "Write each tensor's errors to this JSON file");
  add_global_options(*verb, global);
  verb->footer("An interrupted run goes on where it was when it is called the same way again.");
  verb->callback([options, &global] { quantize(*options, global); });
}

} // namespace command
