// lsaq quantize: rounds the layers of a model by a plan into a file that run and eval take.
#include "checkpoint.hpp"
#include "layer_source.hpp"
#include "planning.hpp"

#include <lsaq/formats/resumable_file.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <set>

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

namespace {

struct QuantizeOptions {
  std::string model;
  std::string plan_file;
  unsigned bits = 8;
  std::string output;
  std::string report;
  bool sequential = false;
  RoundingOptions rounding;
};

/// Layers rounded on what the rounded layers before them give, with a checkpoint of those states.
class SequentialLayers {
public:
  /// `key`: everything the rounding depends on. `windows` must outlive it.
  SequentialLayers(const llama::RoundingLoader& loader, const Windows& windows, const Device& device, const std::string& key)
      : weights_(loader.weights()), outer_(weights_.outer(device)), rounding_(weights_.config(), weights_, loader.rounding(), outer_, device, windows),
        checkpoint_("sequential rounding " + key) {}

  llama::RoundingLoader& rounding() { return rounding_.rounding(); }

  /// Goes on at a layer, if that is what was saved.
  bool resume_at(std::size_t layer) {
    const std::optional<Checkpoint::Contents> saved = checkpoint_.read();
    if (!saved || saved->boundary != layer) return false;
    rounding_.resume_at(layer, saved->states);
    return true;
  }

  template <class BitsOf> llama::LayerWeights next(BitsOf&& bits_of) {
    return rounding_.next(bits_of, [](std::size_t) { check_interrupt(); });
  }

  void save() { checkpoint_.write(rounding_.pass().boundary(), rounding_.pass().states(), {}); }
  void finish() const { checkpoint_.remove(); }

private:
  llama::WeightLoader weights_;
  llama::OuterWeights outer_;
  llama::SequentialRounding<Device> rounding_;
  Checkpoint checkpoint_;
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

void quantize(const QuantizeOptions& options, const Global& global) {
  const Model model(options.model);
  if (options.bits < lsaq::min_bits || options.bits > lsaq::max_bits)
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("--bits {}: 2 to 8 are possible", options.bits));
  ReadPlan read = plan_of(options.plan_file, options.bits, model);
  const Quantization quantization = quantization_of(options.rounding, read.quantization);
  quantization.write_to(read.file);
  read.file.model_sha256 = model_sha256(model.source);
  const lsaq::Plan& plan = read.file.plan;
  read.file.plan.bytes = model_bytes_of(model.config, plan, quantization.rounding.grouping);
  std::error_code error;
  for (const std::filesystem::path& source : model.source.files())
    if (std::filesystem::equivalent(source, options.output, error))
      lsaq::fail<lsaq::InvalidArgument>("--output: this is the model itself; it is never overwritten");

  if (options.sequential && !quantization.needs_calibration())
    lsaq::fail<lsaq::InvalidArgument>("--sequential: nearest rounding looks at no inputs; add --rounding clip or --rounding gptq");

  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const Stopwatch watch;
  Windows windows;
  if (quantization.needs_calibration()) windows = calibration_windows(model, options.rounding.calibration);
  llama::RoundingLoader loader = rounding_loader(model, quantization, windows, options.rounding.keep, device);
  const lsaq::ElementType unquantized = loader.weights().unquantized();
  const std::string header =
      llama::quantized_layers_header(model.config, plan, quantization.rounding.grouping, unquantized, lsaq::plan_to_json(read.file).dump());
  std::string key = header;
  if (quantization.needs_calibration()) key += nlohmann::json(windows).dump();
  if (options.sequential) key += "sequential";
  key = sha256(key);
  lsaq::ResumableFile file(options.output, key);
  std::optional<SequentialLayers> sequential;
  if (options.sequential) sequential.emplace(loader, windows, device, key);
  std::vector<llama::RoundingReport> rows;
  if (!options.report.empty() || quantization.needs_calibration())
    (sequential ? sequential->rounding() : loader).on_rounded([&](const llama::RoundingReport& row) { rows.push_back(row); });
  std::size_t first = 0;
  lsaq::Bytes bytes = header.size();
  const auto layer_bytes = [&](std::size_t l) { return llama::quantized_layer_bytes(model.config, l, plan, quantization.rounding.grouping, unquantized); };
  while (first < model.config.layers && bytes < file.safe()) bytes += layer_bytes(first++);
  if (file.safe() != 0 && bytes != file.safe()) lsaq::fail<lsaq::IoError>(options.output + ".partial: ends within a layer; remove it");
  if (sequential && first != 0 && !sequential->resume_at(first)) {
    file.start_over();
    first = 0;
    bytes = header.size();
  }
  if (file.safe() == 0) file.write(header);
  if (first != 0) note(fmt::format("resumed at layer {} of {}", first, model.config.layers));

  Progress progress("quantize: layer", model.config.layers);
  Stopwatch since_safe;
  for (std::size_t l = first; l < model.config.layers; ++l) {
    check_interrupt();
    progress.set(l);
    const auto bits_of = [&](std::string_view linear) { return plan.bits_of(l, linear); };
    const llama::LayerWeights layer = sequential ? sequential->next(bits_of) : loader.layer(device, l, bits_of);
    llama::write_quantized_layer(model.config, layer, [&](std::span<const std::byte> part) { file.write(part); });
    bytes += layer_bytes(l);
    if (since_safe.seconds() < seconds_between_checkpoints()) continue;
    if (sequential) sequential->save();
    file.mark_safe();
    since_safe = Stopwatch();
  }
  file.commit();
  if (sequential) sequential->finish();

  const double stored_bits = lsaq::stored_bits(llama::model_shape(model.config), plan, quantization.rounding.scale, quantization.rounding.grouping);
  nlohmann::json tensors = nlohmann::json::array();
  for (const llama::RoundingReport& row : rows) tensors.push_back(report_json(row));
  nlohmann::json json{{"schema", "lsaq.quantize/1"},
                      {"model", model.config.name},
                      {"rounding", quantization.describe()},
                      {"sequential", options.sequential},
                      {"plan", lsaq::plan_to_json(read.file)},
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
  CLI::App* verb = app.add_subcommand("quantize", "Round the layers of a model by a plan into a file for run and eval");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  CLI::Option* bits = verb->add_option("--bits", options->bits, "Bits of every layer: 2 to 8")->capture_default_str();
  verb->add_option("--plan", options->plan_file, "Bits and rounding by this plan")->excludes(bits);
  add_rounding_options(*verb, options->rounding);
  add_rounding_calibration_options(*verb, options->rounding);
  verb->add_flag("--sequential", options->sequential, "Round each layer on what the rounded layers before it give, not on the model's own states");
  verb->add_option("-o,--output", options->output, "Write the quantized layers to this file (safetensors); MODEL stays needed beside it")->required();
  verb->add_option("--report", options->report, "Write each tensor's errors to this JSON file");
  add_global_options(*verb, global);
  verb->footer("An interrupted run goes on where it was when it is called the same way again.");
  verb->callback([options, &global] { quantize(*options, global); });
}

} // namespace command
