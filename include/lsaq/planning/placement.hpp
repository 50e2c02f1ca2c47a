// A model over several devices: contiguous ranges of layers, each within its device's own budget, and the bits of all layers chosen together.
#pragma once

#include <lsaq/planning/device_split.hpp>
#include <lsaq/planning/optimal.hpp>

namespace lsaq::inline v0 {

/// A device and what it may hold. Devices are given in the order in which the model runs through them.
struct DeviceBudget {
  std::string name = {};
  Bytes memory = 0;
  Bytes beside = 0; ///< on it besides layers: workspace, what is kept free
};

/// A plan and where its layers are; a device that is not needed has none.
struct PlacedPlan {
  Plan plan = {};
  std::vector<DeviceShare> devices = {}; ///< as many as were given, in their order
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// Divides layers over devices by dynamic programming; the best plan of a range on a device is a knapsack of its own.
class Placement {
public:
  Placement(const ModelShape& shape, const OptimalBudget& options, CostTable costs, std::span<const DeviceBudget> devices, const PlacedBytes& placed)
      : shape_(shape), options_(options), costs_(std::move(costs)), devices_(devices), placed_(placed) {}

  /// The least cost, then the fewest devices; nothing if no division fits.
  std::optional<PlacedPlan> best() const {
    const std::size_t layers = shape_.layers.size();
    struct Step {
      double cost = std::numeric_limits<double>::infinity();
      std::size_t used = 0, first = 0; ///< devices with layers; where the last one's begin
    };
    std::vector<std::vector<Step>> steps(devices_.size() + 1, std::vector<Step>(layers + 1)); // by devices, then layers placed on them
    steps[0][0].cost = 0;
    for (std::size_t d = 0; d < devices_.size(); ++d)
      for (std::size_t first = 0; first <= layers; ++first) {
        const Step& before = steps[d][first];
        if (!std::isfinite(before.cost)) continue;
        for (std::size_t end = d + 1 == devices_.size() ? layers : first; end <= layers; ++end) {
          const std::optional<PlanChoice> range = plan(d, first, end);
          if (!range) break; // more layers don't fit either
          const Step now{before.cost + range->cost, before.used + (end > first), first};
          Step& best = steps[d + 1][end];
          const double equal = 1e-12 * std::max(1e-300, std::abs(now.cost));
          if (now.cost < best.cost - equal || (now.cost <= best.cost + equal && now.used < best.used)) best = now;
        }
      }
    if (!std::isfinite(steps.back()[layers].cost)) return std::nullopt;
    PlacedPlan placed{.plan = {.bits = std::vector<unsigned>(layers, 16)}, .devices = std::vector<DeviceShare>(devices_.size())};
    for (std::size_t d = devices_.size(), end = layers; d-- > 0;) {
      const std::size_t first = steps[d + 1][end].first;
      const PlanChoice range = *plan(d, first, end);
      placed.plan.cost += range.cost;
      for (std::size_t l = first; l < end; ++l) placed.plan.bits[l] = range.bits[l - first];
      for (const auto& [key, bits] : range.tensors)
        placed.plan.tensors[Plan::tensor_key(std::stoul(key) + first, std::string_view(key).substr(key.find('.') + 1))] = bits;
      placed.devices[d] = {devices_[d].name, first, end - first, 0};
      end = first;
    }
    return placed;
  }

  /// Bytes on a device that has the layers [first, end), without their weights; there is one at least.
  Bytes beside(std::size_t d, std::size_t first, std::size_t end) const { return devices_[d].beside + placed_.of(first, end, shape_.layers.size()); }

private:
  /// The best plan of the layers [first, end) on a device, by numbers from 0.
  std::optional<PlanChoice> plan(std::size_t d, std::size_t first, std::size_t end) const {
    if (first == end) return PlanChoice{};
    const Bytes other = beside(d, first, end);
    if (devices_[d].memory < other) return std::nullopt;
    ModelShape part;
    OptimalBudget options;
    options.widths = options_.widths;
    options.fused = options_.fused;
    options.grouping = options_.grouping;
    options.destination = options_.destination;
    options.costs.widths = costs_.widths;
    for (std::size_t l = first; l < end; ++l) {
      part.layers.push_back(shape_.layers[l]);
      if (!costs_.layers.empty()) options.costs.layers.push_back(costs_.layers[l]);
      if (!costs_.linears.empty()) options.costs.linears.push_back(costs_.linears[l]);
    }
    for (const auto& [layer, width] : options_.pins)
      if (layer >= first && layer < end) options.pins.emplace_back(layer - first, width);
    return Optimal::choose({}, part, options, devices_[d].memory - other);
  }

  const ModelShape& shape_;
  const OptimalBudget& options_;
  CostTable costs_;
  std::span<const DeviceBudget> devices_;
  PlacedBytes placed_;
};

} // namespace detail

/// The plan of least cost over several devices, each with a contiguous range of layers in the order given and a budget of its own; of equally good ones that
/// with the fewest devices, so that a weak device gets layers only where that saves damage.
///
/// Of `options` what may be chosen counts (widths, costs, pins, fused groups, format, grouping); memory is the devices'. Gives the reason where no division
/// fits (missing: what all devices lack together, at least 1). Plans a knapsack for every device and range: for 80 layers some
/// 30 ms for two devices and half a second for four by layer, 60 ms and a second by linear; some seconds where all linears cost the same.
inline Expected<PlacedPlan> place(const Importance& importance, const ModelShape& shape, const OptimalBudget& options, std::span<const DeviceBudget> devices,
                                  const PlacedBytes& bytes = {}) {
  using Failure = Expected<PlacedPlan>::Failure;
  if (devices.empty()) return Failure{"there are no devices to place layers on"};
  if (!options.caches.empty()) return Failure{"caches can't be chosen for several devices: decide their type and context"};
  if (const std::string problem = Optimal::problem(importance, shape, options); !problem.empty()) return Failure{problem};
  CostTable costs = options.costs;
  if (costs.empty()) costs = costs_of_importance(importance, shape, detail::PlanProblem::widths_of(options), options.by_linear);
  const detail::Placement placement(shape, options, std::move(costs), devices, bytes);
  std::optional<PlacedPlan> placed = placement.best();
  Bytes memory = 0;
  for (const DeviceBudget& device : devices) memory += device.memory;
  if (!placed) {
    const Bytes needed = Optimal::smallest(shape, options) - shape.fixed_bytes + placement.beside(0, 0, shape.layers.size());
    return Failure{"no division of " + std::to_string(shape.layers.size()) + " layers fits: at their smallest they need " + std::to_string(needed) +
                       " bytes on one device, and more on several; a layer lies whole on one, the first beside " + std::to_string(bytes.first_layer) +
                       " bytes and the last beside " + std::to_string(bytes.last_layer) + "; the devices have " + std::to_string(memory) + " together",
                   needed > memory ? needed - memory : 1};
  }
  Plan& plan = placed->plan;
  for (std::size_t l = 0; l < shape.layers.size(); ++l)
    for (const LinearShape& linear : shape.layers[l].linears)
      if (linear.pinned != 0 && linear.pinned != plan.bits[l]) plan.tensors[Plan::tensor_key(l, linear.name)] = linear.pinned;
  plan.average_bits = average_bits(shape, plan);
  plan.bytes.weights = weight_bytes(shape, plan, ScaleType::f16, options.grouping, options.destination);
  plan.bytes.kv_cache = bytes.each_layer * shape.layers.size();
  for (std::size_t d = 0; d < devices.size(); ++d) {
    DeviceShare& range = placed->devices[d];
    if (range.layers == 0) continue;
    range.bytes = placement.beside(d, range.first_layer, range.first_layer + range.layers);
    for (std::size_t l = range.first_layer; l < range.first_layer + range.layers; ++l)
      range.bytes += layer_bytes(shape, plan, l, ScaleType::f16, options.grouping, options.destination);
    plan.bytes.memory += devices[d].memory;
    plan.bytes.total += range.bytes;
  }
  return std::move(*placed);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
