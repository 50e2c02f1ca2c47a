// What bytes buy: the frontier of the best plans, beside uniform ones and those of the paper's rule.
#pragma once

#include "planning.hpp"
#include "plot.hpp"

namespace command {

/// The plans of a budget's frontier, and what they are compared with.
struct Frontier {
  std::vector<lsaq::FrontierPoint> points; ///< from the smallest plan to the best
  std::vector<FrontierSeries> series;      ///< "best plans", "uniform", "paper's rule"
};

/// Throws as Planner<Optimal> does.
Frontier frontier_of(const lsaq::Importance& importance, const lsaq::ModelShape& shape, const lsaq::OptimalBudget& budget);

} // namespace command
