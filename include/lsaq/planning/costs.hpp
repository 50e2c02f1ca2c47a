// What quantizing costs: a table of expected damage by layer, or by linear, and width. What planners add up.
#pragma once

#include <lsaq/importance/layer_importance.hpp>
#include <lsaq/planning/plan.hpp>
#include <lsaq/quantization/packed_matrix.hpp>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

namespace lsaq::inline v0 {

/// Damage in any unit that adds up over layers, for every width that may be chosen.
///
/// Either `layers` or `linears` is filled. A row has a number for each width; infinity forbids it.
struct CostTable {
  std::vector<unsigned> widths = {};                          ///< each once: 2 to 8, 16
  std::vector<std::vector<double>> layers = {};               ///< layer x width
  std::vector<std::vector<std::vector<double>>> linears = {}; ///< layer x linear, in the order of the shape, x width

  bool empty() const noexcept { return layers.empty() && linears.empty(); }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Mean squared rounding error of `bits` in units of that of 4 bits: (7 / (2^(bits-1) - 1))^2, by the step of Eq. 4; 0 for 16.
///
/// How much a whole model loses follows it closely: on a model of 135M parameters with one scale a row the KL divergence at 3 and 8 bits is 6.6 and 0.003 times
/// that at 4 (docs/accuracy.md), this rule says 5.4 and 0.003.
constexpr double rounding_error(unsigned bits) noexcept {
  if (bits == 16) return 0;
  const double ratio = 7.0 / code_limit(bits);
  return ratio * ratio;
}

/// Costs from importance: a layer's score times rounding_error(bits). A score is taken for the damage at 4 bits, which is what MeasuredError measures; other
/// metrics only say in which proportion layers matter. Scores below a hundredth of the greatest count as that: no layer is free.
///
/// With `by_linear` every linear bears its share of its layer's weights.
inline CostTable costs_of_importance(const Importance& importance, const ModelShape& shape, std::vector<unsigned> widths, bool by_linear = false) {
  CostTable costs{.widths = std::move(widths)};
  double greatest = 0;
  for (const double score : importance.scores) greatest = std::max(greatest, score);
  for (std::size_t l = 0; l < importance.scores.size(); ++l) {
    const double score = greatest > 0 ? std::max(importance.scores[l], greatest / 100) : 1;
    const auto row = [&](double share) {
      std::vector<double> damages;
      for (const unsigned bits : costs.widths) damages.push_back(share * score * rounding_error(bits));
      return damages;
    };
    if (!by_linear) {
      costs.layers.push_back(row(1));
      continue;
    }
    std::vector<std::vector<double>>& linears = costs.linears.emplace_back();
    const auto weights = static_cast<double>(std::max<std::uint64_t>(1, shape.layers[l].weights()));
    for (const LinearShape& linear : shape.layers[l].linears) linears.push_back(row(static_cast<double>(linear.weights()) / weights));
  }
  return costs;
}

/// Expected damage of a plan: the sum of its layers' or linears' costs, infinity for widths the table does not have. Linears that the shape pins cost nothing:
/// there is nothing to decide.
inline double cost_of(const CostTable& costs, const ModelShape& shape, const Plan& plan) {
  const auto at = [&](const std::vector<double>& row, unsigned bits) {
    const auto found = std::find(costs.widths.begin(), costs.widths.end(), bits);
    return found == costs.widths.end() ? std::numeric_limits<double>::infinity() : row[static_cast<std::size_t>(found - costs.widths.begin())];
  };
  double sum = 0;
  for (std::size_t l = 0; l < costs.layers.size(); ++l) sum += at(costs.layers[l], plan.bits[l]);
  for (std::size_t l = 0; l < costs.linears.size(); ++l)
    for (std::size_t i = 0; i < costs.linears[l].size(); ++i) {
      const LinearShape& linear = shape.layers[l].linears[i];
      if (linear.pinned == 0) sum += at(costs.linears[l][i], plan.bits_of(l, linear.name));
    }
  return sum;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
