// The best plan within a budget: every layer's, or fused group's, width and the cache chosen together, exactly; and the whole frontier of bytes against cost.
#pragma once

#include <lsaq/planning/costs.hpp>
#include <lsaq/planning/knapsack.hpp>
#include <lsaq/planning/planner.hpp>

namespace lsaq::inline v0 {

/// A way to keep keys and values: a precision and a context. Which one is taken is decided together with the weights' bits.
struct CacheChoice {
  Bytes kv_cache = 0;
  Bytes activations = 0;
  double cost = 0; ///< damage, in the unit of the weights' costs; a context shorter than wished for is damage too
};

/// A budget and what may be chosen within it.
struct OptimalBudget : MemoryBudget {
  std::vector<unsigned> widths = {2, 3, 4, 5, 6, 7, 8, 16};
  CostTable costs = {};                 ///< empty: costs_of_importance()
  bool by_linear = false;               ///< linears of a layer may differ, where costs come from importance
  bool fused = true;                    ///< linears of one group share their bits, as inference engines that fuse them ask for
  std::vector<CacheChoice> caches = {}; ///< to choose from, beside kv_cache and activations; empty: there is nothing to choose
};

/// A point of a frontier.
struct FrontierPoint {
  Bytes total = 0; ///< as PlanBytes::total
  double cost = 0;
  double average_bits = 0;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// A budget as a knapsack: the classes, and what their items mean.
class PlanProblem {
public:
  /// Precondition: Optimal::problem() has nothing to say.
  PlanProblem(const Importance& importance, const ModelShape& shape, const OptimalBudget& options)
      : shape_(shape), options_(options), costs_(options.costs), fixed_(shape.fixed_bytes), pins_(shape.layers.size(), 0) {
    for (const auto& [layer, width] : options.pins) pins_[layer] = width;
    if (costs_.empty()) costs_ = costs_of_importance(importance, shape, widths_of(options), options.by_linear);
    for (std::size_t l = 0; l < shape.layers.size(); ++l) {
      fixed_ += shape.layers[l].fixed_bytes;
      std::vector<std::vector<std::size_t>> groups = groups_of(l);
      for (std::vector<std::size_t>& group : groups) add(l, std::move(group));
    }
    if (!options.caches.empty()) {
      KnapsackClass caches;
      for (const CacheChoice& cache : options.caches) caches.push_back({cache.kv_cache + cache.activations, cache.cost});
      classes_.push_back(std::move(caches));
    }
  }

  /// The widths that costs are needed for: those to choose from and those of pins.
  static std::vector<unsigned> widths_of(const OptimalBudget& options) {
    std::vector<unsigned> widths = options.widths;
    for (const auto& [layer, width] : options.pins)
      if (std::find(widths.begin(), widths.end(), width) == widths.end()) widths.push_back(width);
    return widths;
  }

  const std::vector<KnapsackClass>& classes() const noexcept { return classes_; }
  /// The layer of a class that is not the cache's.
  std::size_t layer_of(std::size_t which) const noexcept { return decisions_[which].layer; }
  /// Bytes that no decision changes.
  Bytes fixed() const noexcept { return fixed_; }

  PlanChoice choice_of(const KnapsackChoice& chosen) const {
    PlanChoice plan{.bits = std::vector<unsigned>(shape_.layers.size(), 16), .cost = chosen.cost};
    std::vector<std::map<unsigned, std::uint64_t>> weights(shape_.layers.size()); // by layer and width
    for (std::size_t d = 0; d < decisions_.size(); ++d)
      for (const std::size_t linear : decisions_[d].linears)
        weights[decisions_[d].layer][decisions_[d].widths[chosen.items[d]]] += shape_.layers[decisions_[d].layer].linears[linear].weights();
    for (std::size_t l = 0; l < weights.size(); ++l) {
      std::uint64_t most = 0; // the layer's width is that of most of its weights; the others are exceptions
      for (const auto& [width, count] : weights[l])
        if (count >= most) {
          most = count;
          plan.bits[l] = width;
        }
    }
    for (std::size_t d = 0; d < decisions_.size(); ++d)
      for (const std::size_t linear : decisions_[d].linears)
        if (const unsigned width = decisions_[d].widths[chosen.items[d]]; width != plan.bits[decisions_[d].layer])
          plan.tensors[Plan::tensor_key(decisions_[d].layer, shape_.layers[decisions_[d].layer].linears[linear].name)] = width;
    if (!options_.caches.empty()) {
      plan.cache = chosen.items.back();
      plan.kv_cache = options_.caches[plan.cache].kv_cache;
      plan.activations = options_.caches[plan.cache].activations;
    }
    return plan;
  }

  /// Bits times weights of the item of a class; 0 for the cache.
  double bits_of(std::size_t which, std::size_t item) const {
    if (which == decisions_.size()) return 0;
    double weights = 0;
    for (const std::size_t linear : decisions_[which].linears) weights += static_cast<double>(shape_.layers[decisions_[which].layer].linears[linear].weights());
    return weights * decisions_[which].widths[item];
  }

private:
  struct Decision {
    std::size_t layer = 0;
    std::vector<std::size_t> linears = {}; ///< decided together
    std::vector<unsigned> widths = {};     ///< of the items
  };

  /// The linears of a layer that are decided together: all of them, or those of a group. Those the shape pins are not decided.
  std::vector<std::vector<std::size_t>> groups_of(std::size_t layer) {
    const std::vector<LinearShape>& linears = shape_.layers[layer].linears;
    std::vector<std::vector<std::size_t>> groups;
    std::map<std::string, std::size_t> known;
    for (std::size_t i = 0; i < linears.size(); ++i) {
      if (linears[i].pinned != 0) {
        fixed_ += bytes_of(linears[i], linears[i].pinned);
        continue;
      }
      const std::string group = costs_.linears.empty() ? "layer" : options_.fused ? linears[i].group : "";
      const auto [at, added] = known.emplace(group, groups.size());
      if (added || group.empty()) {
        at->second = groups.size();
        groups.emplace_back();
      }
      groups[at->second].push_back(i);
    }
    return groups;
  }

  void add(std::size_t layer, std::vector<std::size_t> linears) {
    KnapsackClass items;
    Decision decision{.layer = layer, .linears = std::move(linears)};
    for (std::size_t w = 0; w < costs_.widths.size(); ++w) {
      const unsigned width = costs_.widths[w];
      const bool allowed =
          pins_[layer] != 0 ? pins_[layer] == width : std::find(options_.widths.begin(), options_.widths.end(), width) != options_.widths.end();
      if (!allowed || !can_store(options_.destination, width)) continue;
      KnapsackItem item{.cost = costs_.linears.empty() ? costs_.layers[layer][w] : 0};
      for (const std::size_t linear : decision.linears) {
        item.bytes += bytes_of(shape_.layers[layer].linears[linear], width);
        if (!costs_.linears.empty()) item.cost += costs_.linears[layer][linear][w];
      }
      if (!(item.cost < std::numeric_limits<double>::infinity())) continue;
      items.push_back(item);
      decision.widths.push_back(width);
    }
    classes_.push_back(std::move(items));
    decisions_.push_back(std::move(decision));
  }

  Bytes bytes_of(const LinearShape& linear, unsigned width) const {
    return linear_bytes(linear, width, ScaleType::f16, options_.grouping, options_.destination);
  }

  const ModelShape& shape_;
  const OptimalBudget& options_;
  CostTable costs_;
  Bytes fixed_ = 0;
  std::vector<unsigned> pins_;
  std::vector<Decision> decisions_;
  std::vector<KnapsackClass> classes_; ///< of the decisions, then of the caches
};

} // namespace detail

/// The plan of least cost that fits, exactly: no other choice of widths and cache within the budget costs less, so it is never worse than a uniform plan or the
/// paper's under the same costs. A multiple-choice knapsack; layers or fused groups are its classes (HIGGS, arXiv 2411.17525, and others plan so).
///
/// It is as good as its costs are additive: docs/policies.md.
struct Optimal {
  using Options = OptimalBudget;
  static constexpr std::string_view name = "optimal";

  static std::optional<PlanChoice> choose(const Importance& importance, const ModelShape& shape, const Options& options, Bytes available) {
    const detail::PlanProblem problem(importance, shape, options);
    if (available < problem.fixed()) return std::nullopt;
    const std::optional<KnapsackChoice> chosen = solve_knapsack(problem.classes(), available - problem.fixed());
    if (!chosen) return std::nullopt;
    return problem.choice_of(*chosen);
  }

  static Bytes smallest(const ModelShape& shape, const Options& options) {
    Importance any;
    any.scores.assign(shape.layers.size(), 1.0);
    const detail::PlanProblem problem(any, shape, options);
    Bytes sum = problem.fixed();
    for (const KnapsackClass& items : problem.classes())
      sum += std::min_element(items.begin(), items.end(), [](const KnapsackItem& a, const KnapsackItem& b) { return a.bytes < b.bytes; })->bytes;
    return sum;
  }

  static std::string problem(const Importance& importance, const ModelShape& shape, const Options& options) {
    const auto known = [](unsigned width) { return width == 16 || (width >= min_bits && width <= max_bits); };
    const std::vector<unsigned> offered = options.costs.empty() ? detail::PlanProblem::widths_of(options) : options.costs.widths;
    const std::string destination(name_of(options.destination));
    for (const std::vector<unsigned>* widths : {&options.widths, &offered})
      for (const unsigned width : *widths)
        if (!known(width)) return "a width of " + std::to_string(width) + " bits can't be planned: 16 and 2 to 8 are possible";
    const auto usable = [&](unsigned width) {
      return std::find(offered.begin(), offered.end(), width) != offered.end() && can_store(options.destination, width);
    };
    if (std::none_of(options.widths.begin(), options.widths.end(), usable))
      return "none of the widths to plan with has costs and can be stored as " + destination;
    for (const auto& [layer, width] : options.pins)
      if (!usable(width))
        return "layer " + std::to_string(layer) + " can't be pinned to " + std::to_string(width) +
               " bits: there are no costs for them, or they can't be stored as " + destination;
    for (const CacheChoice& cache : options.caches)
      if (!std::isfinite(cache.cost)) return "the cost of a cache is not a finite number";
    if (options.costs.empty()) {
      for (std::size_t l = 0; l < importance.scores.size(); ++l)
        if (std::isinf(importance.scores[l])) return "the score of layer " + std::to_string(l) + " is infinite: costs can't be made of it";
      if (const std::string sentence = detail::problem_of(importance, shape); !sentence.empty()) return sentence;
    } else if (const std::string sentence = problem_of_costs(shape, options.costs); !sentence.empty()) {
      return sentence;
    }
    const detail::PlanProblem knapsack(importance, shape, options);
    for (std::size_t k = 0; k < knapsack.classes().size(); ++k)
      if (knapsack.classes()[k].empty())
        return "layer " + std::to_string(knapsack.layer_of(k)) + " has no width that all linears decided together may be given";
    return "";
  }

  /// From the smallest plan to the one of least cost, what bytes buy: the corners of the convex hull of all plans. Planning with a point's total as memory
  /// gives a plan of its cost; between two points the best plans lie on the line that joins them or above it. Throws InvalidArgument as Planner does.
  static std::vector<FrontierPoint> frontier(const Importance& importance, const ModelShape& shape, const Options& options) {
    if (const std::string sentence = problem(importance, shape, options); !sentence.empty()) fail<InvalidArgument>(sentence);
    const detail::PlanProblem knapsack(importance, shape, options);
    const std::vector<KnapsackClass>& classes = knapsack.classes();
    const std::vector<KnapsackPoint> points = knapsack_frontier(classes);
    double weights = 0, bits = 0; // bits of all weights: those the shape pins, then those of each class as it is
    for (const LayerShape& layer : shape.layers)
      for (const LinearShape& linear : layer.linears) {
        weights += static_cast<double>(linear.weights());
        bits += static_cast<double>(linear.weights()) * linear.pinned;
      }
    std::vector<std::size_t> items(classes.size(), 0);
    for (std::size_t k = 0; k < classes.size(); ++k) {
      for (std::size_t i = 1; i < classes[k].size(); ++i) {
        const KnapsackItem &one = classes[k][i], &least = classes[k][items[k]];
        if (one.bytes < least.bytes || (one.bytes == least.bytes && one.cost < least.cost)) items[k] = i;
      }
      bits += knapsack.bits_of(k, items[k]);
    }
    const Bytes beside = knapsack.fixed() + shape.embedding_bytes + options.kv_cache + options.activations + options.reserve.value_or(default_reserve(shape));
    std::vector<FrontierPoint> frontier;
    for (std::size_t p = 0; p < points.size(); ++p) {
      if (p != 0) {
        std::size_t& item = items[points[p].which];
        bits += knapsack.bits_of(points[p].which, points[p].item) - knapsack.bits_of(points[p].which, item);
        item = points[p].item;
      }
      frontier.push_back({beside + points[p].bytes, points[p].cost, weights > 0 ? bits / weights : 0});
    }
    return frontier;
  }

private:
  static std::string problem_of_costs(const ModelShape& shape, const CostTable& costs) {
    const auto counted = [](std::size_t n, const char* what) { return std::to_string(n) + " " + what; };
    if (costs.layers.empty() == costs.linears.empty()) return "costs must be given either by layer or by linear";
    const std::size_t layers = costs.layers.size() + costs.linears.size();
    if (layers != shape.layers.size()) return "there are costs for " + counted(layers, "layers") + ", the model has " + std::to_string(shape.layers.size());
    const auto problem = [&](std::size_t layer, const std::vector<double>& row) -> std::string {
      if (row.size() != costs.widths.size())
        return "layer " + std::to_string(layer) + " has " + counted(row.size(), "costs") + " for " + counted(costs.widths.size(), "widths");
      for (std::size_t w = 0; w < row.size(); ++w)
        if (std::isnan(row[w]) || row[w] == -std::numeric_limits<double>::infinity())
          return "the cost of layer " + std::to_string(layer) + " at " + std::to_string(costs.widths[w]) + " bits is not a number";
      return "";
    };
    for (std::size_t l = 0; l < costs.layers.size(); ++l)
      if (const std::string sentence = problem(l, costs.layers[l]); !sentence.empty()) return sentence;
    for (std::size_t l = 0; l < costs.linears.size(); ++l) {
      if (costs.linears[l].size() != shape.layers[l].linears.size())
        return "layer " + std::to_string(l) + " has costs for " + counted(costs.linears[l].size(), "linears") + ", the model has " +
               std::to_string(shape.layers[l].linears.size());
      for (const std::vector<double>& row : costs.linears[l])
        if (const std::string sentence = problem(l, row); !sentence.empty()) return sentence;
    }
    return "";
  }
};

static_assert(planning_strategy<Optimal> && checks_options<Optimal>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
