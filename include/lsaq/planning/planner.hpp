// Bits per layer within a byte budget: Planner<Strategy>, with the paper's rule as Budget. The optimal strategy is in optimal.hpp.
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
  Destination destination = Destination::packed;           ///< what the weights are stored as
};

/// What a strategy decided.
struct PlanChoice {
  std::vector<unsigned> bits = {};              ///< by layer
  std::map<std::string, unsigned> tensors = {}; ///< exceptions, as in Plan
  double cost = 0;
  std::size_t cache = 0; ///< which of the budget's caches
  Bytes kv_cache = 0;    ///< of that cache, beside the budget's own
  Bytes activations = 0; ///< likewise
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
      if (weight_bytes(shape, bits, ScaleType::f16, options.grouping, options.destination) <= available) return bits;
    }
    Bytes needed =
        weight_bytes(shape, bits, ScaleType::f16, options.grouping, options.destination); // all INT8 from here: lower the least important layers one by one
    for (std::size_t layer : importance.order()) {
      if (pinned[layer]) continue;
      bits[layer] = 4;
      const auto bytes = [&](unsigned width) { return layer_bytes(shape.layers[layer], width, ScaleType::f16, options.grouping, options.destination); };
      needed = needed - bytes(8) + bytes(4);
      if (needed <= available) return bits;
    }
    return std::nullopt;
  }

  /// Bytes of the smallest plan this rule can make.
  static Bytes smallest(const ModelShape& shape, const Options& options) {
    std::vector<unsigned> bits(shape.layers.size(), 4);
    for (const auto& [layer, width] : options.pins) bits[layer] = width;
    return weight_bytes(shape, bits, ScaleType::f16, options.grouping, options.destination);
  }
};

/// What choose() may give: bits by layer, or all of a PlanChoice; nothing where no plan fits.
template <class T>
concept plan_choice = std::same_as<T, std::optional<std::vector<unsigned>>> || std::same_as<T, std::optional<PlanChoice>>;

/// A planning strategy: options that carry the budget, the choice of bits, and the bytes of its smallest plan.
template <class S>
concept planning_strategy = std::derived_from<typename S::Options, MemoryBudget> &&
    requires(const Importance& importance, const ModelShape& shape, const typename S::Options& options) {
  { S::choose(importance, shape, options, Bytes{}) } -> plan_choice;
  { S::smallest(shape, options) } -> std::same_as<Bytes>;
};

/// A strategy with options of its own that may be wrong: problem() says in a sentence what is, or nothing. It checks importance and the bits of pins too.
template <class S>
concept checks_options = requires(const Importance& importance, const ModelShape& shape, const typename S::Options& options) {
  { S::problem(importance, shape, options) } -> std::same_as<std::string>;
};

static_assert(planning_strategy<Budget>);

namespace detail {

/// What is wrong with the scores of layers, or nothing.
inline std::string problem_of(const Importance& importance, const ModelShape& shape) {
  if (importance.scores.size() != shape.layers.size())
    return "importance has scores for " + std::to_string(importance.scores.size()) + " layers, the model has " + std::to_string(shape.layers.size());
  for (std::size_t l = 0; l < importance.scores.size(); ++l)
    if (std::isnan(importance.scores[l])) return "the score of layer " + std::to_string(l) + " is not a number; it has no place in the order";
  return "";
}

} // namespace detail

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
    if (const std::string problem = problem_of(importance, shape); !problem.empty()) return Failure{problem};
    Plan plan;
    plan.bytes.embedding = shape.embedding_bytes; // one by one: nvcc 13.0 gives designated values of a template to other members where some are left out
    plan.bytes.kv_cache = options_.kv_cache;
    plan.bytes.activations = options_.activations;
    plan.bytes.reserve = options_.reserve.value_or(default_reserve(shape));
    plan.bytes.memory = options_.memory + options_.releasable;
    const Bytes beside = plan.bytes.embedding + plan.bytes.kv_cache + plan.bytes.activations + plan.bytes.reserve;
    std::optional<PlanChoice> choice;
    if (plan.bytes.memory >= beside) choice = choose(importance, shape, plan.bytes.memory - beside);
    if (!choice) {
      const Bytes smallest = beside + Strategy::smallest(shape, options_);
      return Failure{"the smallest plan needs " + std::to_string(smallest) + " bytes, " + std::to_string(plan.bytes.memory) +
                         " are available: " + std::to_string(smallest - plan.bytes.memory) + " bytes are missing",
                     smallest - plan.bytes.memory};
    }
    plan.bits = std::move(choice->bits);
    plan.tensors = std::move(choice->tensors);
    for (std::size_t l = 0; l < shape.layers.size(); ++l)
      for (const LinearShape& linear : shape.layers[l].linears)
        if (linear.pinned != 0 && linear.pinned != plan.bits[l]) plan.tensors[Plan::tensor_key(l, linear.name)] = linear.pinned;
    plan.bytes.weights = weight_bytes(shape, plan, ScaleType::f16, options_.grouping, options_.destination);
    plan.bytes.kv_cache += choice->kv_cache;
    plan.bytes.activations += choice->activations;
    plan.bytes.total = plan.bytes.weights + beside + choice->kv_cache + choice->activations;
    plan.average_bits = average_bits(shape, plan);
    plan.cost = choice->cost;
    plan.cache = choice->cache;
    return plan;
  }

private:
  std::string problem_of(const Importance& importance, const ModelShape& shape) const {
    for (const auto& [layer, width] : options_.pins)
      if (layer >= shape.layers.size())
        return "layer " + std::to_string(layer) + " can't be pinned: the model's last layer is " + std::to_string(shape.layers.size() - 1);
    if constexpr (checks_options<Strategy>) {
      return Strategy::problem(importance, shape, options_);
    } else {
      for (const auto& [layer, width] : options_.pins)
        if (width != 16 && width != 8 && width != 4)
          return "layer " + std::to_string(layer) + " can't be pinned to " + std::to_string(width) + " bits: 16, 8 and 4 are possible";
      return detail::problem_of(importance, shape);
    }
  }

  std::optional<PlanChoice> choose(const Importance& importance, const ModelShape& shape, Bytes available) const {
    auto found = Strategy::choose(importance, shape, options_, available);
    if constexpr (std::same_as<decltype(found), std::optional<PlanChoice>>)
      return found;
    else if (found)
      return PlanChoice{.bits = std::move(*found)};
    else
      return std::nullopt;
  }

  Options options_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
