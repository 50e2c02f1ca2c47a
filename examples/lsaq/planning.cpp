#include "planning.hpp"

#include <lsaq/models/llama.hpp>
#include <lsaq/report.hpp>
#include <lsaq/resources/byte_size.hpp>

#include <CLI/CLI.hpp>

#include <charconv>

namespace command {

void add_budget_options(CLI::App& verb, BudgetOptions& options) {
  verb.add_option("--memory", options.memory, "Memory to fit into, for example 140MiB or 6GiB");
  verb.add_option("--reserve", options.reserve, "Memory to keep free: an amount, or percent of the FP16 weights (default: 3%)");
  verb.add_option("--pin", options.pins, "LAYER=BITS: decide a layer yourself (16, 8 or 4); may be repeated");
  verb.add_option("--importance", options.importance_file, "Importance of the layers from this JSON file");
  verb.add_option("--kv-cache", options.kv_cache, "Keys and values as f16, or as q8_0: 8 bits and a scale for each 32")
      ->capture_default_str()
      ->check(CLI::IsMember({"f16", "q8_0"}));
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

lsaq::MemoryBudget make_budget(const BudgetOptions& options, const lsaq::llama::Config& config, lsaq::Bytes memory, std::size_t context,
                               lsaq::Grouping grouping) {
  check_context(config, context);
  lsaq::MemoryBudget budget{.memory = memory};
  budget.grouping = grouping;
  if (context != 0) {
    budget.kv_cache = lsaq::kv_cache_bytes(config.layers, config.kv_heads, config.head_size, context, kv_cache_type(options, config));
    budget.activations = lsaq::llama::workspace_bytes(config, context);
  }
  budget.reserve = reserve_bytes(options.reserve, lsaq::llama::model_shape(config));
  for (const std::string& pin : options.pins) budget.pins.push_back(parse_pin(pin));
  return budget;
}

void fail_infeasible(const std::string& what, lsaq::Bytes needed, lsaq::Bytes available) {
  const lsaq::Bytes missing = needed - available;
  lsaq::fail<lsaq::Infeasible>(fmt::format("does not fit: {} needs {} ({} bytes), {} are available: {} ({} bytes) are missing", what,
                                           lsaq::format_bytes(needed), needed, lsaq::format_bytes(available), lsaq::format_bytes(missing), missing),
                               missing);
}

lsaq::PlanFile make_plan(const lsaq::Importance& importance, const lsaq::llama::Config& config, const lsaq::MemoryBudget& budget, std::size_t context) {
  const lsaq::Planner<lsaq::Budget> planner(budget);
  lsaq::Expected<lsaq::Plan> plan = planner.try_plan(importance, lsaq::llama::model_shape(config));
  if (!plan && plan.error().missing != 0) {
    fail_infeasible("the smallest plan (INT4 layers)", budget.memory + plan.error().missing, budget.memory);
  }
  if (!plan) lsaq::fail<lsaq::InvalidArgument>(plan.error().message);
  lsaq::PlanFile file{.plan = std::move(plan.value()), .model = config.name};
  file.context = context;
  return file;
}

lsaq::PlanBytes model_bytes_of(const lsaq::llama::Config& config, const lsaq::Plan& plan, lsaq::Grouping grouping) {
  const lsaq::ModelShape shape = lsaq::llama::model_shape(config);
  lsaq::PlanBytes bytes{.weights = lsaq::weight_bytes(shape, plan, lsaq::ScaleType::f16, grouping), .embedding = shape.embedding_bytes};
  bytes.total = bytes.weights + bytes.embedding;
  return bytes;
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
  file.plan.bytes = model_bytes_of(model.config, file.plan, quantization.rounding.grouping);
  return {std::move(file), quantization};
}

} // namespace command
