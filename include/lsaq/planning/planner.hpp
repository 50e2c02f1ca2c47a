// Bits per layer within a byte budget: Planner<Strategy>, with the paper's rule as Budget.
#pragma once

#include <lsaq/importance/layer_importance.hpp>
#include <lsaq/planning/memory_model.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <utility>

namespace lsaq::inline v0 {

/// The memory a plan has to fit into.
struct MemoryBudget {
  Bytes memory = 0;                                        ///< free now, on the chosen device
  Bytes releasable = 0;                                    ///< held by weights this plan replaces; counts as free
  Bytes kv_cache = 0;                                      ///< needed beside the weights
  Bytes activations = 0;                                   ///< needed beside the weights
  std::optional<Bytes> reserve = std::nullopt;             ///< kept free for safety; nothing: default_reserve(shape)
  std::vector<std::pair<std::size_t, unsigned>> pins = {}; ///< (layer, bits): decided by the caller
  Grouping grouping = {};                                  ///< which weights of quantized layers share a scale
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// LSAQ's rule (section III.C): all layers FP16 if that fits, else all INT8, else INT8 on as many of the most important layers as fit and INT4 on the rest.
struct Budget {
  using Options = MemoryBudget;
  static constexpr std::string_view name = "paper";

  /// Bits by layer that fit `available` bytes of weights, or nothing. Pinned layers keep their bits at every step.
  static std::optional<std::vector<unsigned>> choose(const Importance& importance, const ModelShape& shape, const Options& options, Bytes available) {
    const std::size_t layers = shape.layers.size();
    std::vector<unsigned> bits(layers);
    std::vector<bool> pinned(layers, false);
    for (const auto& [layer, width] : options.pins) {
      bits[layer] = width;
      pinned[layer] = true;
    }
    for (unsigned width : {16u, 8u}) {
      for (std::size_t l = 0; l < layers; ++l)
        if (!pinned[l]) bits[l] = width;
      if (weight_bytes(shape, bits, ScaleType::f16, options.grouping) <= available) return bits;
    }
    Bytes needed = weight_bytes(shape, bits, ScaleType::f16, options.grouping); // all INT8 from here: lower the least important layers one by one
    for (std::size_t layer : importance.order()) {
      if (pinned[layer]) continue;
      bits[layer] = 4;
      const auto bytes = [&](unsigned width) { return layer_bytes(shape.layers[layer], width, ScaleType::f16, options.grouping); };
      needed = needed - bytes(8) + bytes(4);
      if (needed <= available) return bits;
    }
    return std::nullopt;
  }

  /// Bytes of the smallest plan this rule can make.
  static Bytes smallest(const ModelShape& shape, const Options& options) {
    std::vector<unsigned> bits(shape.layers.size(), 4);
    for (const auto& [layer, width] : options.pins) bits[layer] = width;
    return weight_bytes(shape, bits, ScaleType::f16, options.grouping);
  }
};

/// A planning strategy: options that carry the budget, the choice of bits, and the bytes of its smallest plan.
template <class S>
concept planning_strategy = std::same_as<typename S::Options, MemoryBudget> &&
    requires(const Importance& importance, const ModelShape& shape, const typename S::Options& options) {
  { S::choose(importance, shape, options, Bytes{}) } -> std::same_as<std::optional<std::vector<unsigned>>>;
  { S::smallest(shape, options) } -> std::same_as<Bytes>;
};

static_assert(planning_strategy<Budget>);

/// Plans bits per layer by a strategy. A value; planning again with another budget is another value or call.
template <class Strategy> class Planner {
  static_assert(planning_strategy<Strategy>, "lsaq: Planner<S>: S needs `using Options = MemoryBudget`, `choose(importance, shape, options, available)` and "
                                             "`smallest(shape, options)` (docs/policies.md)");

public:
  using Options = typename Strategy::Options;

  explicit Planner(Options options) : options_(std::move(options)) {}

  /// The plan for `shape`; linears pinned to other bits than their layer's are its exceptions.
  ///
  /// Throws Infeasible with the missing bytes; InvalidArgument if scores and layers do not match or a score is NaN.
  Plan operator()(const Importance& importance, const ModelShape& shape) const {
    Expected<Plan> plan = try_plan(importance, shape);
    if (plan) return std::move(plan.value());
    if (plan.error().missing != 0) fail<Infeasible>(plan.error().message, plan.error().missing);
    fail<InvalidArgument>(plan.error().message);
  }

  /// The plan, or the sentence and the missing bytes (0: wrong arguments) that say why there is none.
  Expected<Plan> try_plan(const Importance& importance, const ModelShape& shape) const {
    using Failure = Expected<Plan>::Failure;
    if (importance.scores.size() != shape.layers.size())
      return Failure{"importance has scores for " + std::to_string(importance.scores.size()) + " layers, the model has " + std::to_string(shape.layers.size())};
    for (std::size_t l = 0; l < importance.scores.size(); ++l)
      if (std::isnan(importance.scores[l])) return Failure{"the score of layer " + std::to_string(l) + " is not a number; it has no place in the order"};
    for (const auto& [layer, width] : options_.pins) {
      if (layer >= shape.layers.size())
        return Failure{"layer " + std::to_string(layer) + " can't be pinned: the model's last layer is " + std::to_string(shape.layers.size() - 1)};
      if (width != 16 && width != 8 && width != 4)
        return Failure{"layer " + std::to_string(layer) + " can't be pinned to " + std::to_string(width) + " bits: 16, 8 and 4 are possible"};
    }
    Plan plan;
    plan.bytes = {.embedding = shape.embedding_bytes,
                  .kv_cache = options_.kv_cache,
                  .activations = options_.activations,
                  .reserve = options_.reserve.value_or(default_reserve(shape)),
                  .memory = options_.memory + options_.releasable};
    const Bytes beside = plan.bytes.embedding + plan.bytes.kv_cache + plan.bytes.activations + plan.bytes.reserve;
    std::optional<std::vector<unsigned>> bits;
    if (plan.bytes.memory >= beside) bits = Strategy::choose(importance, shape, options_, plan.bytes.memory - beside);
    if (!bits) {
      const Bytes smallest = beside + Strategy::smallest(shape, options_);
      return Failure{"the smallest plan needs " + std::to_string(smallest) + " bytes, " + std::to_string(plan.bytes.memory) +
                         " are available: " + std::to_string(smallest - plan.bytes.memory) + " bytes are missing",
                     smallest - plan.bytes.memory};
    }
    plan.bits = std::move(*bits);
    plan.bytes.weights = weight_bytes(shape, plan.bits, ScaleType::f16, options_.grouping);
    plan.bytes.total = plan.bytes.weights + beside;
    for (std::size_t l = 0; l < shape.layers.size(); ++l)
      for (const LinearShape& linear : shape.layers[l].linears)
        if (linear.pinned != 0 && linear.pinned != plan.bits[l]) plan.tensors[Plan::tensor_key(l, linear.name)] = linear.pinned;
    plan.average_bits = average_bits(shape, plan);
    return plan;
  }

private:
  Options options_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
