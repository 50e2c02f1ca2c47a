#include "frontier.hpp"

namespace command {

Frontier frontier_of(const lsaq::Importance& importance, const lsaq::ModelShape& shape, const lsaq::OptimalBudget& budget) {
  Frontier found{.points = lsaq::Optimal::frontier(importance, shape, budget), .series = {}};
  FrontierSeries best{"best plans", {}}, uniform{"uniform", {}, false}, paper{"paper's rule", {}};
  for (const lsaq::FrontierPoint& point : found.points) best.dots.push_back({point.total, point.cost});

  const lsaq::CostTable costs = budget.costs.empty() ? lsaq::costs_of_importance(importance, shape, budget.widths, budget.by_linear) : budget.costs;
  lsaq::Bytes beside = shape.embedding_bytes + budget.kv_cache + budget.activations + budget.reserve.value_or(lsaq::default_reserve(shape));
  if (!budget.caches.empty()) beside += budget.caches[0].kv_cache + budget.caches[0].activations;
  const auto add = [&](FrontierSeries& series, const std::vector<unsigned>& bits) {
    const double cost = lsaq::cost_of(costs, shape, {.bits = bits});
    if (std::isfinite(cost)) series.dots.push_back({beside + lsaq::weight_bytes(shape, bits, lsaq::ScaleType::f16, budget.grouping, budget.destination), cost});
  };
  std::vector<unsigned> widths = budget.widths;
  std::sort(widths.begin(), widths.end());
  for (const unsigned width : widths) add(uniform, std::vector<unsigned>(shape.layers.size(), width));
  if (importance.scores.size() == shape.layers.size()) { // its steps: as many of the least important layers at 4 bits, the others at 8
    const std::vector<std::size_t> order = importance.order();
    std::vector<unsigned> bits(shape.layers.size(), 4);
    add(paper, bits);
    for (std::size_t n = order.size(); n-- > 0;) {
      bits[order[n]] = 8;
      add(paper, bits);
    }
    add(paper, std::vector<unsigned>(shape.layers.size(), 16));
  }
  for (FrontierSeries* series : {&best, &uniform, &paper})
    if (!series->dots.empty()) found.series.push_back(std::move(*series));
  return found;
}

} // namespace command
