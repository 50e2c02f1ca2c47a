// What is different between two plans of one model, layer by layer and linear by linear.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/planning/plan.hpp>

#include <set>

namespace lsaq::inline v0 {

/// A layer or linear whose bits change.
struct PlanChange {
  std::size_t layer = 0;
  std::string linear = {}; ///< empty: the whole layer, but for the linears named beside it
  unsigned from = 16;
  unsigned to = 16;

  friend bool operator==(const PlanChange&, const PlanChange&) = default;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The changes from one plan to another, by layer: its own bits first, then linears that are exceptions in either. Throws InvalidArgument for plans of
/// different numbers of layers.
inline std::vector<PlanChange> changes(const Plan& from, const Plan& to) {
  if (from.bits.size() != to.bits.size())
    fail<InvalidArgument>("a plan for " + std::to_string(from.bits.size()) + " layers can't be compared with one for " + std::to_string(to.bits.size()));
  std::vector<std::set<std::string>> exceptions(from.bits.size());
  for (const Plan* plan : {&from, &to})
    for (const auto& [key, bits] : plan->tensors) {
      const std::size_t layer = std::stoul(key);
      if (layer < exceptions.size()) exceptions[layer].insert(key.substr(key.find('.') + 1));
    }
  std::vector<PlanChange> found;
  for (std::size_t l = 0; l < from.bits.size(); ++l) {
    if (from.bits[l] != to.bits[l]) found.push_back({l, "", from.bits[l], to.bits[l]});
    for (const std::string& linear : exceptions[l])
      if (const unsigned a = from.bits_of(l, linear), b = to.bits_of(l, linear); a != b) found.push_back({l, linear, a, b});
  }
  return found;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
