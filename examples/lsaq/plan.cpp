// lsaq plan: bits per layer for a model, or for a shape known by name, within a byte budget.
#include "planning.hpp"

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
  std::string planner = "paper";
  std::string output;
  std::size_t context = 0;
  BudgetOptions budget;
  RoundingOptions rounding;
};

lsaq::Bytes available_memory(const BudgetOptions& options) {
  if (!options.memory.empty()) return bytes_option("--memory", options.memory);
  if (const std::optional<lsaq::Bytes> stated = lsaq::memory_from_environment()) return *stated;
  return lsaq::choose_device<Device>().free_bytes;
}

void plan(const PlanOptions& options, const Global& global) {
  if (options.model.empty() == options.shape.empty())
    lsaq::fail<lsaq::InvalidArgument>("plan needs either a MODEL or --shape NAME (llama-2-7b, llama-2-13b, llama-3-8b)");
  lsaq::Importance importance;
  lsaq::llama::Config config;
  std::string hash;
  if (!options.shape.empty()) {
    config = *lsaq::llama::known_config(options.shape);
    if (options.budget.importance_file.empty()) {
      importance.metric = "none";
      importance.scores.assign(config.layers, 0.0);
    } else {
      importance = read_importance(options.budget.importance_file, config.layers);
    }
  } else {
    const Model model(options.model);
    config = model.config;
    check_context(config, options.context);
    hash = model_sha256(model.source);
    if (options.budget.importance_file.empty()) {
      lsaq::ThreadPool pool(global.threads);
      importance = detect_importance(model, {}, Device(pool)).importance;
    } else {
      importance = read_importance(options.budget.importance_file, config.layers);
    }
  }
  const Quantization quantization = quantization_of(options.rounding);
  const lsaq::MemoryBudget budget = make_budget(options.budget, config, available_memory(options.budget), options.context, quantization.rounding.grouping);
  lsaq::PlanFile file = make_plan(importance, config, budget, options.context);
  quantization.write_to(file);
  file.kv_bits = kv_cache_bits(options.budget);
  file.model_sha256 = hash;
  if (importance.metric == "none") note("note: without --importance, layers are lowered in their order");
  const nlohmann::json json = lsaq::plan_to_json(file);
  if (!options.output.empty()) write_json(options.output, json);
  if (global.json) return print_json(json);
  print_text(lsaq::plan_table(file.plan));
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
  verb->add_option("--planner", options->planner, "Planning rule")->capture_default_str()->check(CLI::IsMember({"paper"}));
  verb->add_option("-o,--output", options->output, "Write the plan to this JSON file");
  add_global_options(*verb, global);
  verb->callback([options, &global] { plan(*options, global); });
}

} // namespace command
