// lsaq run: the main job in one go. Importance, device, plan, quantize, deploy, generate, and a report of what it cost and saved.
#include "memory.hpp"
#include "number_option.hpp"
#include "sampler.hpp"
#include "tokens.hpp"

#include <lsaq/models/utf8.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

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
  std::string wait; ///< --wait
  bool watch = false;
  bool ignore_end = false; ///< --ignore-eos
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
  double longest_token_seconds = 0; ///< of the answer
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
    if (!options.ignore_end && tokens.ends_generation(token)) break;
    emit(stream.push(tokens.text(token)));
    if (++result.tokens == wanted) break;
    const Stopwatch one;
    logits = model.forward(std::span(&token, 1));
    result.longest_token_seconds = std::max(result.longest_token_seconds, one.seconds());
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

double rate(std::size_t tokens, double seconds) { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }

/// What a file has decided: its plan, rounding, and perhaps the layers themselves.
struct Given {
  lsaq::PlanFile plan = {};
  Quantization quantization = {};
  std::optional<LayerSource> source = std::nullopt;
  std::string name = {}; ///< of the file
};

/// The plan of --plan or --quantized; nothing where neither is given.
std::optional<Given> given_plan(RunOptions& options, const Model& model, const Device& device) {
  std::optional<Given> given;
  if (!options.quantized_file.empty()) {
    QuantizedFile file = open_quantized(options.quantized_file, model, device);
    given = Given{std::move(file.plan), file.quantization, std::move(file.source), options.quantized_file};
  } else if (!options.plan_file.empty()) {
    ReadPlan read = read_plan(options.plan_file, model);
    given = Given{std::move(read.file), quantization_of(options.rounding, read.quantization), std::nullopt, options.plan_file};
  } else {
    return given;
  }
  if (options.budget.kv_cache == "auto") options.budget.kv_cache = given->plan.kv_bits == 8 ? "q8_0" : "f16";
  given->plan.kv_bits = kv_cache_bits(options.budget);
  return given;
}

/// A given plan's bytes here and now. Throws Infeasible where they are more than `memory`.
lsaq::PlanFile counted(const Given& given, const RunOptions& options, const Model& model, lsaq::Bytes memory) {
  lsaq::PlanFile plan = given.plan;
  const lsaq::MemoryBudget budget = make_budget(options.budget, model.config, memory, options.context);
  lsaq::PlanBytes& bytes = plan.plan.bytes;
  bytes = model_bytes_of(model.config, plan.plan, given.quantization.rounding.grouping);
  bytes.kv_cache = budget.kv_cache;
  bytes.activations = budget.activations;
  bytes.reserve = budget.reserve.value_or(0);
  bytes.total += bytes.kv_cache + bytes.activations + bytes.reserve;
  bytes.memory = memory;
  if (bytes.total > bytes.memory) fail_infeasible("the plan of " + lsaq::printable(given.name), bytes.total, bytes.memory);
  return plan;
}

nlohmann::json events_json(const std::vector<MemoryWatch::Event>& events) {
  nlohmann::json list = nlohmann::json::array();
  for (const MemoryWatch::Event& event : events) {
    list.push_back({{"seconds", event.seconds},
                    {"memory", event.memory},
                    {"layers", event.exchanged},
                    {"exchange_seconds", event.exchange_seconds},
                    {"average_bits", event.average_bits}});
    if (!event.problem.empty()) list.back()["problem"] = event.problem;
  }
  return list;
}

void tell(const MemoryWatch::Event& event) {
  const std::string memory = lsaq::format_bytes(event.memory);
  note(event.problem.empty() ? fmt::format("\n[{} now: {} layers exchanged in {:.2f} s, {:.4g} bits a weight]\n", memory, event.exchanged,
                                           event.exchange_seconds, event.average_bits)
                             : fmt::format("\n[{} now: the layers stay as they are: {}]\n", memory, event.problem));
}

void run(RunOptions options, const Global& global) {
  check(options.budget);
  const std::chrono::nanoseconds patience = options.wait.empty() ? std::chrono::nanoseconds(0) : wait_option(options.wait);
  const Model model(options.model);
  options.context = context_of(model.config, options.wanted_context, 256);
  const Tokens tokens(model.source);
  const std::vector<lsaq::TokenId> prompt = read_prompt(options, tokens);
  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  const lsaq::ModelShape shape = lsaq::llama::model_shape(model.config);

  // Importance and plan, or a plan made before.
  Quantization quantization = quantization_of(options.rounding);
  std::optional<Detected> found;
  std::optional<Given> given = given_plan(options, model, device);
  std::function<lsaq::PlanFile(lsaq::Bytes)> plan_for;
  if (given) {
    quantization = given->quantization;
    plan_for = [&](lsaq::Bytes memory) { return counted(*given, options, model, memory); };
  } else {
    const lsaq::Grouping grouping = quantization.rounding.grouping;
    lsaq::Importance any;
    any.scores.assign(model.config.layers, 0.0);
    const auto with = [&, grouping](const lsaq::Importance& importance, lsaq::Bytes memory) {
      return make_plan(options.budget, importance, model.config, make_budget(options.budget, model.config, memory, options.context, grouping), options.context);
    };
    if (patience == patience.zero()) (void)with(any, free_memory(options.budget).free_bytes); // too little memory is known before anything is measured
    if (!options.budget.needs_importance() && options.budget.importance_file.empty())
      found = Detected{any, true, 0};
    else if (options.budget.importance_file.empty())
      found = detect_importance(model, {}, device);
    else
      found = Detected{read_importance(options.budget.importance_file, model.config.layers), true, 0};
    if (!global.json && !found->importance.metric.empty())
      note(lsaq::importance_chart(found->importance) +
           (options.budget.importance_file.empty()
                ? found->cached ? "importance: from the cache\n" : fmt::format("importance: measured in {:.1f} s\n", found->seconds)
                : "importance: from " + lsaq::printable(options.budget.importance_file) + "\n"));
    release_freed_memory();
    plan_for = [&, with](lsaq::Bytes memory) { return with(found->importance, memory); };
  }
  Allotted allotted = allot(options.budget, patience, plan_for); // measuring took a while: it looks again
  const lsaq::Device& chosen = allotted.device;
  lsaq::PlanFile& plan = allotted.plan;
  quantization.write_to(plan);
  if (!global.json) {
    note(fmt::format("device: {} with {} free ({})\n", chosen.id, lsaq::format_bytes(chosen.free_bytes), chosen.limited_by));
    note(lsaq::plan_table(plan.plan));
    note("rounding: " + quantization.describe() + "\n");
  }

  // Quantize and deploy.
  const Stopwatch load;
  const LayerSource source = given && given->source ? std::move(*given->source) : LayerSource(rounding_loader(model, quantization, options.rounding, device));
  DeployedModel deployed(model, plan.plan, source, device, options.context, activations_named(options.activations),
                         plan.kv_bits == 8 ? lsaq::ElementType::q8_0 : lsaq::ElementType::f16, quantization.rounding.grouping);
  allotted.reserved = {}; // it is allocated now
  const double load_seconds = load.seconds();
  const lsaq::PlanBytes& planned = plan.plan.bytes;
  const lsaq::PlanBytes allocated = deployed.allocated();
  if (allocated.weights != planned.weights || allocated.embedding != planned.embedding || allocated.kv_cache != planned.kv_cache ||
      allocated.activations != planned.activations)
    lsaq::fail<lsaq::Error>("internal error: the deployment's bytes are not the plan's; please report this with the model's `lsaq inspect`");

  std::optional<MemoryWatch> watch;
  if (options.watch) {
    options.budget.kv_cache = plan.kv_bits == 8 ? "q8_0" : "f16"; // is allocated, and stays
    const Device beside;                                          // one thread: the others make tokens
    watch.emplace(options.budget, plan.plan, deployed, LayerSource(rounding_loader(model, quantization, options.rounding, beside)), beside, plan_for,
                  [&](const MemoryWatch::Event& event) {
                    if (!global.json) tell(event);
                  });
  }
  const Generation text = generate(options, global, tokens, prompt, deployed);
  const std::vector<MemoryWatch::Event> events = watch ? watch->events() : std::vector<MemoryWatch::Event>();
  watch.reset();
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
    if (options.watch) {
      json["replans"] = events_json(events);
      json["seconds"]["longest_token"] = text.longest_token_seconds;
      json["bits_at_end"] = deployed.plan().bits;
      json["bytes"]["allocated_at_end"] = deployed.allocated().total;
    }
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
  if (options.watch)
    row("memory", fmt::format("watched: {} plans, {:.4g} bits a weight at the end; longest token {:.3f} s", events.size(), deployed.plan().average_bits,
                              text.longest_token_seconds));
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
  verb->add_flag("--ignore-eos", options->ignore_end, "Go on where the model ends its answer, until --tokens or the context is full");
  verb->add_option("--context", options->wanted_context, "Positions for prompt and answer (default: 256)")->check(CLI::Range(2, 1 << 30));
  verb->add_option("--temperature", options->temperature, "0 takes the likeliest token")->capture_default_str()->check(number_between(0, 100));
  verb->add_option("--seed", options->seed, "Seed of the drawing at a temperature")->capture_default_str()->check(CLI::NonNegativeNumber);
  add_budget_options(*verb, options->budget);
  verb->add_option("--plan", options->plan_file, "Deploy this plan instead of making one");
  verb->add_option("--quantized", options->quantized_file, "Deploy the layers of this file of lsaq quantize")->excludes("--plan");
  verb->add_option("--wait", options->wait, "Wait so long for enough memory: 60s, 500ms, 2m");
  verb->add_flag("--watch", options->watch, "Plan again while text is made, as memory comes and goes")->excludes("--plan")->excludes("--quantized");
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
