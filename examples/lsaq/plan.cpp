// lsaq plan: bits per layer for a model, or for a shape known by name, within a byte budget.
#include "device_plan.hpp"
#include "explain.hpp"
#include "frontier.hpp"
#include "plan_difference.hpp"

#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

namespace command {

namespace {

struct PlanOptions {
  std::string model;
  std::string shape;
  std::string output;
  std::string frontier; ///< a picture
  std::string devices;  ///< --devices; empty: one
  std::vector<std::string> difference;
  bool explain = false;
  std::size_t context = 0;
  BudgetOptions budget;
  RoundingOptions rounding;
};

lsaq::Bytes available_memory(const BudgetOptions& options) {
  if (!options.memory.empty()) return bytes_option("--memory", options.memory);
  if (const std::optional<lsaq::Bytes> stated = lsaq::memory_from_environment()) return *stated;
  return lsaq::choose_device<Device>().free_bytes;
}

nlohmann::json explained_json(const std::vector<ExplainedBytes>& parts) {
  nlohmann::json list = nlohmann::json::array();
  for (const ExplainedBytes& one : parts) list.push_back({{"part", one.part}, {"text", one.text}, {"bytes", one.bytes}});
  return list;
}

void plan(const PlanOptions& options, const Global& global) {
  if (!options.difference.empty()) return compare_plans(options.difference[0], options.difference[1], global);
  check(options.budget);
  if (!options.frontier.empty()) check_picture(options.frontier);
  if (options.model.empty() == options.shape.empty())
    lsaq::fail<lsaq::InvalidArgument>("plan needs either a MODEL or --shape NAME (llama-2-7b, llama-2-13b, llama-3-8b)");
  lsaq::Importance importance;
  lsaq::llama::Config config;
  std::string hash;
  if (!options.shape.empty()) {
    config = *lsaq::llama::known_config(options.shape);
    if (options.budget.importance_file.empty()) {
      if (options.budget.needs_importance()) importance.metric = "none";
      importance.scores.assign(config.layers, 0.0);
    } else {
      importance = read_importance(options.budget.importance_file, config.layers);
    }
  } else {
    const Model model(options.model);
    config = model.config;
    check_context(config, options.context);
    hash = model_sha256(model.source);
    if (!options.budget.needs_importance() && options.budget.importance_file.empty()) {
      importance.scores.assign(config.layers, 0.0);
    } else if (options.budget.importance_file.empty()) {
      lsaq::ThreadPool pool(global.threads);
      importance = detect_importance(model, {}, Device(pool)).importance;
    } else {
      importance = read_importance(options.budget.importance_file, config.layers);
    }
  }
  const Quantization quantization = quantization_of(options.rounding);
  const std::string title = options.shape.empty() ? config.name : options.shape;
  const bool spread = !options.devices.empty();
  const std::vector<lsaq::DeviceMemory> devices = spread ? parse_devices(options.devices) : std::vector<lsaq::DeviceMemory>();
  std::optional<Frontier> frontier;
  DevicePlan found;
  if (spread) {
    found = plan_for_devices(devices, options.budget, importance, config, options.context, quantization.rounding.grouping);
  } else {
    const lsaq::OptimalBudget budget = make_budget(options.budget, config, available_memory(options.budget), options.context, quantization.rounding.grouping);
    if (!options.frontier.empty()) { // drawn though no plan may fit: it shows what would
      const lsaq::Importance& scores = importance;
      frontier = frontier_of(scores, shape_of(options.budget, config), budget);
      draw_frontier(options.frontier, lsaq::printable(title, 200) + ": what memory buys", frontier->series);
    }
    found.file = make_plan(options.budget, importance, config, budget, options.context);
  }
  lsaq::PlanFile& file = found.file;
  quantization.write_to(file);
  file.model_sha256 = hash;
  if (importance.metric == "none") note("note: without --importance, layers are lowered in their order");
  nlohmann::json json = lsaq::plan_to_json(file);
  std::vector<ExplainedBytes> parts;
  if (options.explain) {
    parts = explain(config, file, quantization, options.budget.reserve);
    json["explain"] = explained_json(parts);
  }
  if (frontier)
    for (const lsaq::FrontierPoint& point : frontier->points)
      json["frontier"].push_back({{"total", point.total}, {"cost", point.cost}, {"average_bits", point.average_bits}});
  if (spread) {
    json["devices"] = devices_json(found);
    json["flags"] = engine_flags(found.shares);
  }
  if (!options.output.empty()) write_json(options.output, json);
  if (global.json) return print_json(json);
  print_text(lsaq::plan_table(file.plan) + (spread ? device_table(found) : "") + (options.explain ? explained_table(parts) : ""));
}

} // namespace

void add_plan(CLI::App& app, Global& global) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* verb = app.add_subcommand("plan", "Decide the bits of every layer within a byte budget");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder");
  verb->add_option("--shape", options->shape, "Plan for a shape instead: llama-2-7b, llama-2-13b or llama-3-8b")
      ->check(CLI::IsMember({"llama-2-7b", "llama-2-13b", "llama-3-8b"}));
  add_budget_options(*verb, options->budget);
  verb->add_option("--context", options->context, "Count KV cache and activations for this many positions (default: left to the reserve)")
      ->check(CLI::Range(1, 1 << 30));
  add_rounding_options(*verb, options->rounding);
  verb->add_option("--format", options->budget.destination, "Count the bytes of what `lsaq quantize --format` writes; gguf takes 8.5 and 4.5 bits a weight")
      ->capture_default_str()
      ->check(CLI::IsMember({"packed", "gguf", "compressed-tensors"}));
  verb->add_option("--devices", options->devices,
                   "NAME=AMOUNT,...: devices that hold the layers together, in this order, for example near=24GiB,far=8GiB; prints flags of other engines")
      ->excludes("--memory");
  verb->add_flag("--explain", options->explain, "Show how every number of bytes comes about")->excludes("--devices");
  verb->add_option("--frontier", options->frontier, "Draw expected damage against memory to this SVG or PNG file: best, uniform and the paper's plans")
      ->excludes("--devices");
  verb->add_option("--diff", options->difference, "Compare two plan files, A and B, instead of making a plan")
      ->expected(2)
      ->excludes("MODEL")
      ->excludes("--shape");
  verb->add_option("-o,--output", options->output, "Write the plan to this JSON file");
  add_global_options(*verb, global);
  verb->callback([options, &global] { plan(*options, global); });
}

} // namespace command
