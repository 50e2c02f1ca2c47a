#include "planning.hpp"

#include <lsaq/formats/costs_file.hpp>
#include <lsaq/models/llama.hpp>
#include <lsaq/report.hpp>
#include <lsaq/resources/byte_size.hpp>

#include <CLI/CLI.hpp>

#include <charconv>

namespace command {

void add_budget_options(CLI::App& verb, BudgetOptions& options) {
  verb.add_option("--memory", options.memory, "Memory to fit into, for example 140MiB or 6GiB");
  verb.add_option("--reserve", options.reserve, "Memory to keep free: an amount, or percent of the FP16 weights (default: 3%)");
  verb.add_option("--pin", options.pins, "LAYER=BITS: decide a layer yourself (16, 8 or 4; optimal: 16 or 2 to 8); may be repeated");
  verb.add_option("--importance", options.importance_file, "Importance of the layers from this JSON file");
  verb.add_option("--kv-cache", options.kv_cache,
                  "Keys and values as f16, as q8_0 (8 bits and a scale for each 32), or what the optimal planner finds better (auto)")
      ->capture_default_str()
      ->check(CLI::IsMember({"f16", "q8_0", "auto"}));
  verb.add_option("--planner", options.planner, "Planning rule: the paper's, or the plan of least cost")
      ->capture_default_str()
      ->check(CLI::IsMember({"paper", "optimal"}));
  verb.add_option("--widths", options.widths, "Bits the optimal planner may choose from (default: 2 to 8, 16)")->delimiter(',');
  verb.add_option("--costs", options.costs_file, "What each layer costs at each width, for the optimal planner (lsaq costs; default: made from importance)");
  verb.add_flag("--by-linear", options.by_linear, "The optimal planner may give the linears of a layer different bits");
}

void check(const BudgetOptions& options) {
  const auto refuse = [](const char* option) { lsaq::fail<lsaq::InvalidArgument>(fmt::format("{} is for --planner optimal", option)); };
  if (options.optimal()) return;
  if (!options.widths.empty()) refuse("--widths");
  if (!options.costs_file.empty()) refuse("--costs");
  if (options.by_linear) refuse("--by-linear");
  if (options.kv_cache == "auto") refuse("--kv-cache auto");
}

lsaq::Destination destination_named(const std::string& name) {
  for (const lsaq::Destination destination : {lsaq::Destination::gguf, lsaq::Destination::compressed_tensors})
    if (name == name_of(destination)) return destination;
  return lsaq::Destination::packed;
}

lsaq::ModelShape shape_of(const BudgetOptions& options, const lsaq::llama::Config& config) {
  return lsaq::llama::model_shape(config, destination_named(options.destination));
}

lsaq::ElementType kv_cache_type(const BudgetOptions& options, const lsaq::llama::Config& config) {
  return lsaq::llama::KvCache::checked(options.kv_cache == "q8_0" ? lsaq::ElementType::q8_0 : lsaq::ElementType::f16, config.head_size);
}

unsigned kv_cache_bits(const BudgetOptions& options) { return options.kv_cache == "q8_0" ? 8 : 16; }

lsaq::Bytes bytes_option(const char* option, const std::string& text) {
  const lsaq::Expected<lsaq::Bytes> bytes = lsaq::parse_bytes(text);
  if (!bytes) lsaq::fail<lsaq::InvalidArgument>(fmt::format("{}: {}", option, bytes.error().message));
  return *bytes;
}

namespace {

lsaq::Bytes reserve_bytes(const std::string& text, const lsaq::ModelShape& shape) {
  if (text.empty()) return lsaq::default_reserve(shape);
  if (text.back() != '%') return bytes_option("--reserve", text);
  std::size_t used = 0;
  double percent = -1;
  try {
    percent = std::stod(text, &used);
  } catch (const std::exception&) {
  }
  if (used + 1 != text.size() || !(percent >= 0 && percent <= 100))
    lsaq::fail<lsaq::InvalidArgument>(
        fmt::format("--reserve: \"{}\" is no percentage; write 0% to 100%, or an amount such as 64MiB", lsaq::printable(text, 40)));
  return lsaq::default_reserve(shape, percent);
}

std::pair<std::size_t, unsigned> parse_pin(const std::string& text) {
  std::size_t layer = 0;
  unsigned bits = 0;
  const char* const end = text.data() + text.size();
  const auto [equals, layer_error] = std::from_chars(text.data(), end, layer);
  const bool has_layer = layer_error == std::errc() && equals != end && *equals == '=';
  if (const auto [rest, error] = std::from_chars(has_layer ? equals + 1 : end, end, bits); error != std::errc() || rest != end)
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("--pin: \"{}\" is not LAYER=BITS, for example 0=8", lsaq::printable(text, 40)));
  return {layer, bits};
}

} // namespace

std::size_t context_of(const lsaq::llama::Config& config, std::optional<std::size_t> wanted, std::size_t usual) {
  if (!wanted) return std::min(usual, config.longest_context);
  check_context(config, *wanted);
  return *wanted;
}

void check_context(const lsaq::llama::Config& config, std::size_t context) {
  if (context > config.longest_context)
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("--context {}: the model was made for at most {} positions", context, config.longest_context));
}

namespace {

/// Keys and values as Q8_0 are taken to cost what the linears k and v would at 8 bits in every layer.
double damage_of_q8_0(const lsaq::CostTable& costs, const lsaq::ModelShape& shape) {
  std::size_t nearest = 0; // the column for 8 bits, or the widest below
  for (std::size_t w = 0; w < costs.widths.size(); ++w)
    if (costs.widths[w] <= 8 && (costs.widths[nearest] > 8 || costs.widths[w] > costs.widths[nearest])) nearest = w;
  double sum = 0;
  for (std::size_t l = 0; l < shape.layers.size(); ++l) {
    const lsaq::LayerShape& layer = shape.layers[l];
    for (std::size_t i = 0; i < layer.linears.size(); ++i) {
      if (layer.linears[i].name != "self_attn.k_proj" && layer.linears[i].name != "self_attn.v_proj") continue;
      const double damage = costs.linears.empty()
                                ? costs.layers[l][nearest] * static_cast<double>(layer.linears[i].weights()) / static_cast<double>(layer.weights())
                                : costs.linears[l][i][nearest];
      if (std::isfinite(damage)) sum += std::max(damage, 0.0);
    }
  }
  return costs.widths[nearest] > 8 ? 0 : sum * lsaq::rounding_error(8) / lsaq::rounding_error(costs.widths[nearest]);
}

/// Settings that would make a plan fit where none does: "--context 64, or --kv-cache q8_0".
std::string remedies(const BudgetOptions& options, const lsaq::llama::Config& config, const lsaq::OptimalBudget& budget, std::size_t context) {
  const lsaq::ModelShape shape = shape_of(options, config);
  const lsaq::Bytes available = budget.memory + budget.releasable, reserve = budget.reserve.value_or(0);
  const auto smallest = [&](bool optimal) { return optimal ? lsaq::Optimal::smallest(shape, budget) : lsaq::Budget::smallest(shape, budget); };
  const auto needed = [&](bool optimal, std::size_t positions, const char* kv_cache, lsaq::Bytes kept_free) {
    BudgetOptions other = options;
    other.kv_cache = kv_cache;
    lsaq::Bytes beside = shape.embedding_bytes + kept_free + smallest(optimal);
    if (positions != 0)
      beside += lsaq::kv_cache_bytes(config.layers, config.kv_heads, config.head_size, positions, kv_cache_type(other, config)) +
                lsaq::llama::workspace_bytes(config, positions);
    return beside;
  };
  const bool optimal = options.optimal(), blocks = config.head_size % lsaq::q8_0_block == 0;
  const char* const cache = options.kv_cache == "auto" ? (blocks ? "q8_0" : "f16") : options.kv_cache.c_str();
  std::vector<std::string> found;
  if (!optimal && needed(true, context, cache, reserve) <= available) found.push_back("--planner optimal");
  if (context != 0 && cache == std::string_view("f16") && blocks && needed(optimal, context, "q8_0", reserve) <= available) found.push_back("--kv-cache q8_0");
  std::size_t fits = 0; // the longest context that does
  for (std::size_t step = std::size_t{1} << 30; step != 0 && context != 0; step /= 2)
    if (fits + step < context && needed(optimal, fits + step, cache, reserve) <= available) fits += step;
  if (fits >= 2) found.push_back(fmt::format("--context {}", fits));
  if (const lsaq::Bytes bare = needed(optimal, context, cache, 0); reserve != 0 && bare <= available)
    found.push_back(fmt::format("--reserve {} or less", available - bare));
  return fmt::format("{}", fmt::join(found, ", or "));
}

} // namespace

lsaq::OptimalBudget make_budget(const BudgetOptions& options, const lsaq::llama::Config& config, lsaq::Bytes memory, std::size_t context,
                                lsaq::Grouping grouping) {
  check(options);
  check_context(config, context);
  lsaq::OptimalBudget budget;
  budget.memory = memory;
  budget.grouping = grouping;
  budget.destination = destination_named(options.destination);
  const lsaq::ModelShape shape = shape_of(options, config);
  if (context != 0) {
    const lsaq::Bytes activations = lsaq::llama::workspace_bytes(config, context);
    const auto cache_of = [&](lsaq::ElementType type) { return lsaq::kv_cache_bytes(config.layers, config.kv_heads, config.head_size, context, type); };
    if (options.kv_cache == "auto") {
      budget.caches.push_back({.kv_cache = cache_of(lsaq::ElementType::f16), .activations = activations});
      if (config.head_size % lsaq::q8_0_block == 0) budget.caches.push_back({.kv_cache = cache_of(lsaq::ElementType::q8_0), .activations = activations});
    } else {
      budget.kv_cache = cache_of(kv_cache_type(options, config));
      budget.activations = activations;
    }
  }
  budget.reserve = reserve_bytes(options.reserve, lsaq::llama::model_shape(config));
  for (const std::string& pin : options.pins) budget.pins.push_back(parse_pin(pin));
  budget.by_linear = options.by_linear;
  if (!options.widths.empty()) budget.widths = options.widths;
  if (!options.costs_file.empty()) {
    const std::string name = lsaq::printable(options.costs_file);
    budget.costs = lsaq::costs_from_json(lsaq::parse_json(read_file(options.costs_file), name), shape, name);
  }
  return budget;
}

void fail_infeasible(const std::string& what, lsaq::Bytes needed, lsaq::Bytes available, const std::string& remedies) {
  const lsaq::Bytes missing = needed - available;
  lsaq::fail<lsaq::Infeasible>(fmt::format("does not fit: {} needs {} ({} bytes), {} are available: {} ({} bytes) are missing{}", what,
                                           lsaq::format_bytes(needed), needed, lsaq::format_bytes(available), lsaq::format_bytes(missing), missing,
                                           remedies.empty() ? "" : "; it would fit with " + remedies),
                               missing);
}

lsaq::PlanFile make_plan(const BudgetOptions& options, const lsaq::Importance& importance, const lsaq::llama::Config& config, const lsaq::OptimalBudget& budget,
                         std::size_t context) {
  const lsaq::ModelShape shape = shape_of(options, config);
  lsaq::OptimalBudget priced = budget;
  if (priced.caches.size() == 2)
    priced.caches[1].cost =
        damage_of_q8_0(budget.costs.empty() ? lsaq::costs_of_importance(importance, shape, budget.widths, budget.by_linear) : budget.costs, shape);
  lsaq::Expected<lsaq::Plan> plan =
      options.optimal() ? lsaq::Planner<lsaq::Optimal>(priced).try_plan(importance, shape) : lsaq::Planner<lsaq::Budget>(budget).try_plan(importance, shape);
  if (!plan && plan.error().missing != 0) {
    fail_infeasible(options.optimal() ? "the smallest plan" : "the smallest plan (INT4 layers)", budget.memory + plan.error().missing, budget.memory,
                    remedies(options, config, budget, context));
  }
  if (!plan) lsaq::fail<lsaq::InvalidArgument>(plan.error().message);
  lsaq::PlanFile file{.plan = std::move(plan.value()), .model = config.name};
  file.planner = options.planner;
  file.format = name_of(budget.destination);
  file.context = context;
  file.kv_bits = budget.caches.empty() ? kv_cache_bits(options) : file.plan.cache == 1 ? 8 : 16;
  return file;
}

lsaq::PlanBytes model_bytes_of(const lsaq::llama::Config& config, const lsaq::Plan& plan, lsaq::Grouping grouping, lsaq::Destination destination) {
  const lsaq::ModelShape shape = lsaq::llama::model_shape(config, destination);
  lsaq::PlanBytes bytes{.weights = lsaq::weight_bytes(shape, plan, lsaq::ScaleType::f16, grouping, destination), .embedding = shape.embedding_bytes};
  bytes.total = bytes.weights + bytes.embedding;
  return bytes;
}

double stored_bits_of(const lsaq::llama::Config& config, const lsaq::PlanFile& file, const Quantization& quantization) {
  const lsaq::Destination destination = destination_named(file.format);
  return lsaq::stored_bits(lsaq::llama::model_shape(config, destination), file.plan, quantization.rounding.scale, quantization.rounding.grouping, destination);
}

ReadPlan read_plan(const std::filesystem::path& path, const Model& model) {
  const std::string name = lsaq::printable_path(path);
  return checked_plan(lsaq::parse_json(read_file(path), name), name, model);
}

ReadPlan plan_of(const std::string& file, unsigned bits, const Model& model) {
  if (!file.empty()) return read_plan(file, model);
  ReadPlan uniform;
  uniform.file.plan.bits.assign(model.config.layers, bits);
  uniform.file.plan.average_bits = bits;
  uniform.file.model = model.config.name;
  return uniform;
}

ReadPlan checked_plan(const nlohmann::json& json, const std::string& name, const Model& model) {
  lsaq::PlanFile file = lsaq::plan_from_json(json, name);
  if (file.plan.bits.size() != model.config.layers)
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: a plan for {} layers, the model has {}", name, file.plan.bits.size(), model.config.layers));
  if (!file.model_sha256.empty() && file.model_sha256 != model_sha256(model.source))
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: made for another model: its model_sha256 is {}, this model's is {}", name,
                                           lsaq::printable(file.model_sha256, 64), model_sha256(model.source)));
  const Quantization quantization = Quantization::of_plan(file, name);
  const lsaq::ModelShape shape = lsaq::llama::model_shape(model.config);
  for (const auto& [key, bits] : file.plan.tensors) {
    const auto is_it = [&, linear = key.substr(key.find('.') + 1)](const lsaq::LinearShape& known) { return known.name == linear; };
    if (std::none_of(shape.layers[0].linears.begin(), shape.layers[0].linears.end(), is_it))
      lsaq::fail<lsaq::BadInput>(fmt::format("{}: \"tensors\" names model.layers.{}, which is no linear of this model", name, lsaq::printable(key)));
  }
  file.plan.average_bits = lsaq::average_bits(shape, file.plan);
  file.plan.bytes = model_bytes_of(model.config, file.plan, quantization.rounding.grouping, destination_named(file.format));
  return {std::move(file), quantization};
}

} // namespace command
