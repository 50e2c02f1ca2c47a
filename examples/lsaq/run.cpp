// lsaq run: the main job in one go. Importance, device, plan, quantize, deploy, generate, and a report of what it cost and saved.
#include "deployed_model.hpp"
#include "number_option.hpp"
#include "planning.hpp"
#include "sampler.hpp"
#include "tokens.hpp"

#include <lsaq/models/utf8.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <malloc.h>
#include <memory>

namespace command {

namespace {

struct RunOptions {
  std::string model;
  std::string plan_file;
  std::string quantized_file;
  std::string prompt = "Once upon a time";
  bool raw = false;
  std::optional<std::size_t> wanted_context;
  std::size_t context = 0; ///< the one wanted, or 256, or the model's
  std::size_t tokens = 0;
  std::string activations = "int8";
  double temperature = 0;
  std::uint64_t seed = 0;
  BudgetOptions budget;
  RoundingOptions rounding;
};

/// What a generation gave.
struct Generation {
  std::string text = {};
  std::size_t prompt_tokens = 0;
  std::size_t tokens = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

/// Tokens of the prompt. Throws InvalidArgument if it leaves no room for an answer.
std::vector<lsaq::TokenId> read_prompt(const RunOptions& options, const Tokens& tokens) {
  std::vector<lsaq::TokenId> prompt = tokens.prompt(options.prompt, options.raw);
  if (prompt.empty()) lsaq::fail<lsaq::InvalidArgument>("--prompt has no tokens: there is nothing to continue");
  if (prompt.size() >= options.context)
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("the prompt has {} tokens, --context {} leaves no room for an answer", prompt.size(), options.context));
  return prompt;
}

Generation generate(const RunOptions& options, const Global& global, const Tokens& tokens, const std::vector<lsaq::TokenId>& prompt, DeployedModel& model) {
  const std::size_t room = model.context() - prompt.size();
  const std::size_t wanted = options.tokens == 0 ? room : std::min(options.tokens, room);
  Generation result{.prompt_tokens = prompt.size()};
  Sampler sample(options.temperature, options.seed);
  lsaq::Utf8Stream stream;
  const auto emit = [&](const std::string& text) {
    result.text += text;
    if (!global.json) print_text(text);
  };
  Stopwatch prefill;
  std::span<const float> logits = model.forward(prompt);
  result.prefill_seconds = prefill.seconds();
  Stopwatch decode;
  while (true) {
    check_interrupt();
    const lsaq::TokenId token = sample(logits);
    if (tokens.ends_generation(token)) break;
    emit(stream.push(tokens.text(token)));
    if (++result.tokens == wanted) break;
    logits = model.forward(std::span(&token, 1));
  }
  emit(stream.finish());
  result.decode_seconds = decode.seconds();
  if (!global.json) print_text("\n");
  return result;
}

/// The process's peak resident memory, or 0 where the system does not tell.
lsaq::Bytes peak_resident() {
  const std::optional<std::string> status = lsaq::detail::read_text("/proc/self/status");
  return status ? lsaq::detail::number_after(*status, "VmHWM:").value_or(0) * 1024 : 0;
}

/// Gives memory that measuring has used and freed back to the system, where the allocator would keep it.
void release_freed_memory() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

/// Free memory of the device, capped by --memory and LSAQ_MEMORY.
lsaq::Device choose(const BudgetOptions& options) {
  lsaq::Device device = lsaq::choose_device<Device>();
  if (options.memory.empty()) return device;
  if (const lsaq::Bytes cap = bytes_option("--memory", options.memory); cap < device.free_bytes) {
    device.free_bytes = cap;
    device.limited_by = "--memory";
  }
  return device;
}

double rate(std::size_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

void run(RunOptions options, const Global& global) {
  const Model model(options.model);
  options.context = context_of(model.config, options.wanted_context, 256);
  const Tokens tokens(model.source);
  const std::vector<lsaq::TokenId> prompt = read_prompt(options, tokens);
  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const lsaq::ModelShape shape = lsaq::llama::model_shape(model.config);

  // Importance and plan, or a plan made before.
  lsaq::PlanFile plan;
  Quantization quantization = quantization_of(options.rounding);
  std::optional<Detected> found;
  lsaq::Device chosen = choose(options.budget);
  std::optional<LayerSource> source;
  if (!options.plan_file.empty() || !options.quantized_file.empty()) {
    if (!options.quantized_file.empty()) {
      QuantizedFile file = open_quantized(options.quantized_file, model, device);
      plan = std::move(file.plan);
      quantization = file.quantization;
      source = std::move(file.source);
    } else {
      ReadPlan read = read_plan(options.plan_file, model);
      plan = std::move(read.file);
      quantization = quantization_of(options.rounding, read.quantization);
    }
    const lsaq::MemoryBudget budget = make_budget(options.budget, model.config, chosen.free_bytes, options.context);
    lsaq::PlanBytes& bytes = plan.plan.bytes;
    bytes = model_bytes_of(model.config, plan.plan, quantization.rounding.grouping);
    bytes.kv_cache = budget.kv_cache;
    bytes.activations = budget.activations;
    bytes.reserve = budget.reserve.value_or(0);
    bytes.total += bytes.kv_cache + bytes.activations + bytes.reserve;
    bytes.memory = chosen.free_bytes;
    if (bytes.total > bytes.memory)
      fail_infeasible("the plan of " + lsaq::printable(source ? options.quantized_file : options.plan_file), bytes.total, bytes.memory);
  } else {
    const lsaq::Grouping grouping = quantization.rounding.grouping;
    const lsaq::MemoryBudget now = make_budget(options.budget, model.config, chosen.free_bytes, options.context, grouping);
    lsaq::Importance any;
    any.scores.assign(model.config.layers, 0.0);
    (void)make_plan(any, model.config, now, options.context); // too little memory is known before anything is measured
    if (options.budget.importance_file.empty())
      found = detect_importance(model, {}, device);
    else
      found = Detected{read_importance(options.budget.importance_file, model.config.layers), true, 0};
    if (!global.json)
      note(lsaq::importance_chart(found->importance) +
           (options.budget.importance_file.empty()
                ? found->cached ? "importance: from the cache\n" : fmt::format("importance: measured in {:.1f} s\n", found->seconds)
                : "importance: from " + lsaq::printable(options.budget.importance_file) + "\n"));
    release_freed_memory();
    chosen = choose(options.budget); // measuring took a while: look again
    plan = make_plan(found->importance, model.config, make_budget(options.budget, model.config, chosen.free_bytes, options.context, grouping), options.context);
  }
  quantization.write_to(plan);
  plan.kv_bits = kv_cache_bits(options.budget);
  if (!global.json) {
    note(fmt::format("device: {} with {} free ({})\n", chosen.id, lsaq::format_bytes(chosen.free_bytes), chosen.limited_by));
    note(lsaq::plan_table(plan.plan));
    note("rounding: " + quantization.describe() + "\n");
  }

  // Quantize and deploy.
  const Stopwatch load;
  if (!source) source.emplace(rounding_loader(model, quantization, options.rounding, device));
  DeployedModel deployed(model, plan.plan, *source, device, options.context, *activations_named(options.activations),
                         kv_cache_type(options.budget, model.config));
  const double load_seconds = load.seconds();
  const lsaq::PlanBytes& planned = plan.plan.bytes;
  const lsaq::PlanBytes allocated = deployed.allocated();
  if (allocated.weights != planned.weights || allocated.embedding != planned.embedding || allocated.kv_cache != planned.kv_cache ||
      allocated.activations != planned.activations)
    lsaq::fail<lsaq::Error>("internal error: the deployment's bytes are not the plan's; please report this with the model's `lsaq inspect`");

  const Generation text = generate(options, global, tokens, prompt, deployed);
  const lsaq::Bytes fp16 = model_bytes(shape, 16);
  const lsaq::Bytes model_now = allocated.weights + allocated.embedding;
  if (global.json) {
    plan.model_sha256 = model_sha256(model.source);
    nlohmann::json json{
        {"schema", "lsaq.run/1"},
        {"device", {{"id", chosen.id}, {"free", chosen.free_bytes}, {"limited_by", chosen.limited_by}}},
        {"isa", name_of(device.isa())},
        {"plan", lsaq::plan_to_json(plan)},
        {"prompt_tokens", text.prompt_tokens},
        {"generated_tokens", text.tokens},
        {"text", text.text},
        {"seconds", {{"importance", found ? found->seconds : 0}, {"load", load_seconds}, {"prefill", text.prefill_seconds}, {"decode", text.decode_seconds}}},
        {"bytes",
         {{"weights", allocated.weights},
          {"embedding", allocated.embedding},
          {"kv_cache", allocated.kv_cache},
          {"activations", allocated.activations},
          {"allocated", allocated.total},
          {"fp16", fp16},
          {"peak_resident", peak_resident()}}}};
    if (found) json["importance_cached"] = found->cached;
    return print_json(json);
  }
  std::string report = "\n";
  const auto row = [&](std::string_view what, const std::string& value) { report += fmt::format("{:<12}{}\n", what, value); };
  row("model", fmt::format("{} deployed, {} at FP16: {:.0f}% saved", lsaq::format_bytes(model_now), lsaq::format_bytes(fp16),
                           100.0 * (1.0 - static_cast<double>(model_now) / static_cast<double>(fp16))));
  row("memory",
      fmt::format("{} allocated, as planned to the byte; peak resident {}", lsaq::format_bytes(allocated.total), lsaq::format_bytes(peak_resident())));
  row("load", fmt::format("{:.2f} s to read, quantize and deploy", load_seconds));
  row("prompt",
      fmt::format("{} tokens in {:.2f} s ({:.1f} tokens/s)", text.prompt_tokens, text.prefill_seconds, rate(text.prompt_tokens, text.prefill_seconds)));
  row("answer", fmt::format("{} tokens in {:.2f} s ({:.1f} tokens/s)", text.tokens, text.decode_seconds, rate(text.tokens, text.decode_seconds)));
  row("kernels", fmt::format("{}, {} threads, {} activations", name_of(device.isa()), pool.concurrency(), options.activations));
  note(report);
}

} // namespace

void add_run(CLI::App& app, Global& global) {
  auto options = std::make_shared<RunOptions>();
  CLI::App* verb = app.add_subcommand("run", "Measure, plan, quantize, deploy and generate text, in one go");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  verb->add_option("--prompt", options->prompt, "What to say to the model")->capture_default_str();
  verb->add_flag("--raw", options->raw, "Continue the prompt as it is, without the model's chat template");
  verb->add_option("--tokens", options->tokens, "Most tokens to generate (default: to the end of the context)")->check(CLI::Range(1, 1 << 30));
  verb->add_option("--context", options->wanted_context, "Positions for prompt and answer (default: 256)")->check(CLI::Range(2, 1 << 30));
  verb->add_option("--temperature", options->temperature, "0 takes the likeliest token")->capture_default_str()->check(number_between(0, 100));
  verb->add_option("--seed", options->seed, "Seed of the drawing at a temperature")->capture_default_str()->check(CLI::NonNegativeNumber);
  add_budget_options(*verb, options->budget);
  verb->add_option("--plan", options->plan_file, "Deploy this plan instead of making one");
  verb->add_option("--quantized", options->quantized_file, "Deploy the layers of this file of lsaq quantize")->excludes("--plan");
  add_rounding_options(*verb, options->rounding);
  add_rounding_calibration_options(*verb, options->rounding);
  verb->add_option("--activations", options->activations, "Activations beside packed weights: int8 is faster, float32 the reference")
      ->capture_default_str()
      ->check(CLI::IsMember({"float32", "int8"}));
  add_global_options(*verb, global);
  verb->footer("The text goes to standard output, the report to standard error.");
  verb->callback([options, &global] { run(*options, global); });
}

} // namespace command
