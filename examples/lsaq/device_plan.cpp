#include "device_plan.hpp"

#include <lsaq/planning/placement.hpp>
#include <lsaq/report.hpp>
#include <lsaq/resources/byte_size.hpp>

#include <limits>
#include <numeric>
#include <sstream>

namespace command {

namespace llama = lsaq::llama;

namespace {

lsaq::Bytes together(const std::vector<lsaq::DeviceMemory>& devices) {
  return std::accumulate(devices.begin(), devices.end(), lsaq::Bytes{0}, [](lsaq::Bytes sum, const lsaq::DeviceMemory& one) { return sum + one.bytes; });
}

/// Without spaces at its ends.
std::string trimmed(std::string_view text) {
  const std::size_t first = std::min(text.find_first_not_of(' '), text.size());
  return std::string(text.substr(first, text.find_last_not_of(' ') + 1 - first));
}

} // namespace

std::vector<lsaq::DeviceMemory> parse_devices(const std::string& text) {
  std::vector<lsaq::DeviceMemory> devices;
  std::istringstream list(text);
  for (std::string one; std::getline(list, one, ',');) {
    const std::size_t equals = one.rfind('=');
    const bool named = equals != std::string::npos;
    const std::string amount = trimmed(named ? one.substr(equals + 1) : one), name = named ? trimmed(one.substr(0, equals)) : std::to_string(devices.size());
    const lsaq::Expected<lsaq::Bytes> bytes = lsaq::parse_bytes(amount);
    if (name.empty() || !bytes)
      lsaq::fail<lsaq::InvalidArgument>(
          fmt::format("--devices: \"{}\" is neither NAME=AMOUNT nor an amount, for example gpu0=6GiB or 6GiB", lsaq::printable(one, 40)));
    const auto has_name = [&](const lsaq::DeviceMemory& known) { return known.name == name; };
    if (std::any_of(devices.begin(), devices.end(), has_name))
      lsaq::fail<lsaq::InvalidArgument>(fmt::format("--devices: \"{}\" is there twice; each device has a name of its own", lsaq::printable(name, 40)));
    if (*bytes > std::numeric_limits<lsaq::Bytes>::max() - together(devices))
      lsaq::fail<lsaq::InvalidArgument>("--devices: more memory together than there can be");
    devices.push_back({name, *bytes});
  }
  if (devices.empty()) lsaq::fail<lsaq::InvalidArgument>("--devices: no device is named; write NAME=AMOUNT,NAME=AMOUNT");
  return devices;
}

namespace {

/// What a device keeps besides layers: working memory, and its part of the reserve.
lsaq::Bytes kept(lsaq::Bytes activations, lsaq::Bytes reserve, const lsaq::DeviceMemory& device, lsaq::Bytes total) {
  return activations +
         static_cast<lsaq::Bytes>(static_cast<double>(reserve) * static_cast<double>(device.bytes) / static_cast<double>(std::max(total, lsaq::Bytes{1})));
}

/// What lies beside the weights of certain layers.
lsaq::PlacedBytes beside_layers(const llama::Config& config, const lsaq::ModelShape& shape, lsaq::Bytes kv_cache) {
  const lsaq::Bytes matrix = config.tied ? shape.embedding_bytes : shape.embedding_bytes / 2;
  return {.each_layer = kv_cache / shape.layers.size(), .first_layer = matrix, .last_layer = matrix + shape.fixed_bytes, .in_common = config.tied ? matrix : 0};
}

/// Counts what the devices that have layers hold; where all are on one, a tied head is no copy.
void count_bytes(DevicePlan& found, const std::vector<lsaq::DeviceMemory>& devices, lsaq::Bytes activations, lsaq::Bytes reserve) {
  lsaq::PlanBytes& bytes = found.file.plan.bytes;
  bytes.activations = bytes.reserve = bytes.total = 0;
  for (std::size_t d = 0; d < devices.size(); ++d) {
    bytes.total += found.shares[d].bytes;
    if (found.shares[d].layers == 0) continue;
    bytes.activations += activations;
    bytes.reserve += kept(activations, reserve, devices[d], together(devices)) - activations;
  }
  bytes.embedding = bytes.total - bytes.weights - bytes.kv_cache - bytes.activations - bytes.reserve;
  bytes.memory = together(devices);
}

DevicePlan placed(const std::vector<lsaq::DeviceMemory>& devices, const BudgetOptions& options, const lsaq::Importance& importance, const llama::Config& config,
                  const lsaq::OptimalBudget& budget) {
  const lsaq::ModelShape shape = shape_of(options, config);
  const lsaq::Bytes reserve = budget.reserve.value_or(0);
  std::vector<lsaq::DeviceBudget> budgets;
  for (const lsaq::DeviceMemory& device : devices)
    budgets.push_back({.name = device.name, .memory = device.bytes, .beside = kept(budget.activations, reserve, device, together(devices))});
  lsaq::Expected<lsaq::PlacedPlan> found = lsaq::place(importance, shape, budget, budgets, beside_layers(config, shape, budget.kv_cache));
  if (!found && found.error().missing != 0) lsaq::fail<lsaq::Infeasible>("does not fit: " + found.error().message, found.error().missing);
  if (!found) lsaq::fail<lsaq::InvalidArgument>("--devices: " + found.error().message);
  DevicePlan result{{.plan = std::move(found->plan), .model = config.name, .planner = options.planner, .format = std::string(name_of(budget.destination))},
                    std::move(found->devices)};
  result.file.kv_bits = kv_cache_bits(options);
  count_bytes(result, devices, budget.activations, reserve);
  return result;
}

} // namespace

DevicePlan plan_for_devices(const std::vector<lsaq::DeviceMemory>& devices, const BudgetOptions& options, const lsaq::Importance& importance,
                            const llama::Config& config, std::size_t context, lsaq::Grouping grouping) {
  const lsaq::Bytes total = together(devices);
  const lsaq::OptimalBudget budget = make_budget(options, config, total, context, grouping);
  if (options.optimal()) {
    DevicePlan found = placed(devices, options, importance, config, budget);
    found.file.context = context;
    return found;
  }
  const lsaq::ModelShape shape = shape_of(options, config);
  const lsaq::PlacedBytes beside = beside_layers(config, shape, budget.kv_cache);
  const lsaq::Bytes reserve = budget.reserve.value_or(0);
  std::vector<lsaq::DeviceMemory> room = devices; // for layers
  for (lsaq::DeviceMemory& device : room) device.bytes -= std::min(device.bytes, kept(budget.activations, reserve, device, total));
  DevicePlan found{make_plan(options, importance, config, budget, context), {}};
  lsaq::Plan& plan = found.file.plan;
  for (lsaq::OptimalBudget within = budget;;) {
    std::vector<lsaq::Bytes> layers(config.layers);
    for (std::size_t l = 0; l < config.layers; ++l) layers[l] = lsaq::layer_bytes(shape, plan, l, lsaq::ScaleType::f16, grouping, budget.destination);
    if (auto shares = lsaq::split_layers(layers, room, beside)) {
      found.shares = std::move(*shares);
      for (std::size_t d = 0; d < devices.size(); ++d)
        if (found.shares[d].layers != 0) found.shares[d].bytes += kept(budget.activations, reserve, devices[d], total);
      count_bytes(found, devices, budget.activations, reserve);
      return found;
    }
    within.memory = plan.bytes.total - 1; // the next smaller plan
    lsaq::Expected<lsaq::Plan> smaller = lsaq::Planner<lsaq::Budget>(within).try_plan(importance, shape);
    if (!smaller)
      lsaq::fail<lsaq::Infeasible>(
          fmt::format(
              "does not fit: together the devices have room for the smallest plan (INT4 layers), but no division of the layers fits each of them: a layer "
              "lies whole on one, the first beside the embedding ({}) and the last beside the head ({}); give a device more, change their order, or try "
              "--planner optimal",
              lsaq::format_bytes(beside.first_layer), lsaq::format_bytes(beside.last_layer)),
          1);
    plan = std::move(smaller.value());
  }
}

nlohmann::json engine_flags(const std::vector<lsaq::DeviceShare>& shares) {
  std::size_t last = 0, used = 0; // the last device with layers
  for (std::size_t d = 0; d < shares.size(); ++d)
    if (shares[d].layers != 0) last = d;
  std::string split, partition;
  for (std::size_t d = 0; d < shares.size(); ++d) {
    // llama.cpp counts the head as one more layer, which is on the last device.
    split += fmt::format("{}{}", d == 0 ? "" : ",", shares[d].layers + (d == last ? 1 : 0));
    if (shares[d].layers != 0) partition += fmt::format("{}{}", used++ == 0 ? "" : ",", shares[d].layers);
  }
  return {{"llama.cpp", fmt::format("--n-gpu-layers 999 --split-mode layer --tensor-split {}", split)},
          {"tensor_split", split},
          {"vllm", fmt::format("VLLM_PP_LAYER_PARTITION={} vllm serve FOLDER -pp {}", partition, used)}};
}

nlohmann::json devices_json(const DevicePlan& plan) {
  nlohmann::json devices = nlohmann::json::array();
  for (const lsaq::DeviceShare& share : plan.shares)
    devices.push_back({{"name", share.name}, {"first_layer", share.first_layer}, {"layers", share.layers}, {"bytes", share.bytes}});
  return devices;
}

std::string device_table(const DevicePlan& plan) {
  std::string text = fmt::format("\n{:<24}{:>12}{:>18}\n", "device", "layers", "bytes");
  for (const lsaq::DeviceShare& share : plan.shares) {
    const std::string layers = share.layers == 0 ? "none" : fmt::format("{} to {}", share.first_layer, share.first_layer + share.layers - 1);
    text += fmt::format("{:<24}{:>12}{:>18}{:>14}\n", lsaq::printable(share.name, 24), layers, share.bytes, lsaq::format_bytes(share.bytes));
  }
  const nlohmann::json flags = engine_flags(plan.shares);
  for (const char* engine : {"llama.cpp", "vllm"}) text += fmt::format("{}: {}\n", engine, flags.at(engine).get<std::string>());
  return text;
}

} // namespace command
