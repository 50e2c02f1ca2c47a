// lsaq costs: what each layer, or linear, costs the model at each width, measured once for all budgets. What `plan --planner optimal --costs` adds up.
#include "evaluation_windows.hpp"
#include "layer_source.hpp"

#include <lsaq/formats/costs_file.hpp>
#include <lsaq/models/plan_evaluation.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

namespace command {

namespace {

namespace llama = lsaq::llama;

struct CostsOptions {
  std::string model;
  std::vector<unsigned> widths = {2, 3, 4, 5, 6, 8};
  std::string around = "unquantized";
  std::string measure = "kl";
  bool by_linear = false;
  std::string output;
  CalibrationOptions calibration;
  RoundingOptions rounding;
};

/// Linears that are measured together: a whole layer, or those of a fused group.
struct Part {
  std::size_t layer = 0;
  std::vector<std::size_t> linears = {};
};

std::vector<Part> parts_of(const lsaq::ModelShape& shape, bool by_linear) {
  std::vector<Part> parts;
  for (std::size_t l = 0; l < shape.layers.size(); ++l) {
    std::map<std::string, std::size_t> known;
    for (std::size_t i = 0; i < shape.layers[l].linears.size(); ++i) {
      const lsaq::LinearShape& linear = shape.layers[l].linears[i];
      const std::string key = !by_linear ? "layer" : linear.group.empty() ? linear.name : linear.group;
      if (known.emplace(key, parts.size()).second) parts.push_back({l, {}});
      parts[known.at(key)].linears.push_back(i);
    }
  }
  return parts;
}

/// `base` with one part at `bits`.
lsaq::Plan with_part(lsaq::Plan base, const lsaq::ModelShape& shape, const Part& part, unsigned bits, bool whole) {
  if (whole)
    base.bits[part.layer] = bits;
  else
    for (const std::size_t i : part.linears) base.tensors[lsaq::Plan::tensor_key(part.layer, shape.layers[part.layer].linears[i].name)] = bits;
  return base;
}

/// Mean damage a token of each plan: KL divergence or rise of the negative log-likelihood against the unquantized model.
std::vector<double> damages_of(const Model& model, const LayerSource& source, const Device& device, const Windows& windows,
                               const std::vector<lsaq::Plan>& plans, const std::string& measure) {
  const std::vector<llama::ScoredWindow> scored = scored_windows(windows, "costs");
  Progress progress("costs: layer runs", 0);
  const llama::PlanScores runs = llama::evaluate_plans(
      model.config, source, source.outer(device), device, scored, std::span<const lsaq::Plan>(plans), {}, [](std::size_t, const llama::PlanScores&) {},
      [&](std::size_t done, std::size_t steps) {
        check_interrupt();
        progress.set(done, steps);
      });
  llama::WindowScore reference;
  for (const llama::WindowScore& window : runs.reference) reference += window;
  std::vector<double> damages;
  for (const std::vector<llama::WindowScore>& plan : runs.plans) {
    llama::WindowScore sum;
    for (const llama::WindowScore& window : plan) sum += window;
    const auto tokens = static_cast<double>(sum.tokens);
    damages.push_back(measure == "kl" ? sum.kl / tokens : (sum.nll - reference.nll) / tokens);
  }
  return damages;
}

void costs(const CostsOptions& options, const Global& global) {
  const Model model(options.model);
  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const lsaq::ModelShape shape = llama::model_shape(model.config);
  const Quantization quantization = quantization_of(options.rounding);
  const LayerSource source(rounding_loader(model, quantization, options.rounding, device));
  const Windows windows = calibration_windows(model, options.calibration);

  lsaq::CostTable table{.widths = options.widths};
  std::sort(table.widths.begin(), table.widths.end());
  if (const auto wrong =
          std::find_if(table.widths.begin(), table.widths.end(), [](unsigned width) { return width < lsaq::min_bits || width > lsaq::max_bits; });
      wrong != table.widths.end() || std::adjacent_find(table.widths.begin(), table.widths.end()) != table.widths.end())
    lsaq::fail<lsaq::InvalidArgument>("--widths: widths are 2 to 8 bits, each once; 16 costs nothing and is added");
  const unsigned around = options.around == "unquantized" ? 16 : 4;
  const lsaq::Plan base{.bits = std::vector<unsigned>(shape.layers.size(), around)};
  const std::vector<Part> parts = parts_of(shape, options.by_linear);
  table.widths.push_back(16);
  std::vector<lsaq::Plan> plans;
  for (const Part& part : parts)
    for (const unsigned width : table.widths)
      if (width != 16 || around != 16) plans.push_back(with_part(base, shape, part, width, !options.by_linear));
  const Stopwatch watch;
  const std::vector<double> damages = damages_of(model, source, device, windows, plans, options.measure);

  if (options.by_linear) {
    for (const lsaq::LayerShape& layer : shape.layers) table.linears.emplace_back(layer.linears.size(), std::vector<double>(table.widths.size()));
  } else {
    table.layers.assign(shape.layers.size(), std::vector<double>(table.widths.size()));
  }
  std::size_t next = 0;
  for (const Part& part : parts) {
    std::vector<double> row;
    for (const unsigned width : table.widths) row.push_back(width != 16 || around != 16 ? damages[next++] : 0);
    for (double& damage : row) damage -= row.back(); // beside the part unquantized; 0 where all else is
    double weights = 0;
    for (const std::size_t i : part.linears) weights += static_cast<double>(shape.layers[part.layer].linears[i].weights());
    for (std::size_t w = 0; w < row.size(); ++w) {
      if (!options.by_linear) table.layers[part.layer][w] = row[w];
      for (const std::size_t i : part.linears) // linears that were measured together bear it by their weights
        if (options.by_linear) table.linears[part.layer][i][w] = row[w] * static_cast<double>(shape.layers[part.layer].linears[i].weights()) / weights;
    }
  }
  nlohmann::json json = lsaq::costs_to_json(table, shape);
  json["model_sha256"] = model_sha256(model.source);
  json["measure"] = options.measure;
  json["around"] = options.around;
  json["rounding"] = quantization.describe();
  json["windows"] = windows.size();
  json["seconds"] = watch.seconds();
  if (!options.output.empty()) write_json(options.output, json);
  if (global.json) return print_json(json);
  std::string text = fmt::format("layer  {} at bits\n     ", options.measure == "kl" ? "KL divergence" : "rise of the NLL");
  for (const unsigned width : table.widths) text += fmt::format("{:>9}", width);
  for (std::size_t l = 0; l < shape.layers.size(); ++l) {
    text += fmt::format("\n{:5}", l);
    for (std::size_t w = 0; w < table.widths.size(); ++w) {
      double sum = options.by_linear ? 0 : table.layers[l][w];
      if (options.by_linear)
        for (const std::vector<double>& linear : table.linears[l]) sum += linear[w];
      text += fmt::format("{:9.5f}", sum);
    }
  }
  print_text(text + "\n");
}

} // namespace

void add_costs(CLI::App& app, Global& global) {
  auto options = std::make_shared<CostsOptions>();
  CLI::App* verb = app.add_subcommand("costs", "Measure what each layer costs at each width, for plan --planner optimal");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  verb->add_option("--widths", options->widths, "Bits to measure")->delimiter(',')->capture_default_str();
  verb->add_flag("--by-linear", options->by_linear, "Measure fused groups of linears (q/k/v, o, gate/up, down) instead of whole layers");
  verb->add_option("--around", options->around, "What all else is meanwhile: unquantized, or at 4 bits (int4)")
      ->capture_default_str()
      ->check(CLI::IsMember({"unquantized", "int4"}));
  verb->add_option("--measure", options->measure, "Damage as KL divergence from the unquantized model (kl), or rise of the negative log-likelihood (nll)")
      ->capture_default_str()
      ->check(CLI::IsMember({"kl", "nll"}));
  add_calibration_options(*verb, options->calibration);
  add_rounding_options(*verb, options->rounding);
  add_rounding_calibration_options(*verb, options->rounding);
  verb->add_option("-o,--output", options->output, "Write the costs to this JSON file");
  add_global_options(*verb, global);
  verb->callback([options, &global] { costs(*options, global); });
}

} // namespace command
