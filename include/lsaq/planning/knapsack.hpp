// The multiple-choice knapsack, exactly: one item of every class, least total cost within a number of bytes.
//
// The Lagrangian bound at the slope where the continuous problem breaks leaves few items that can be part of a better choice than one already known; those are
// enumerated by dynamic programming over non-dominated (bytes, cost) states, each cut off by its own bound. After Dyer (1984), Zemel (1984) and Pisinger,
// "A minimal algorithm for the multiple-choice knapsack problem" (EJOR 83, 1995).
#pragma once

#include <lsaq/types.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <tuple>
#include <vector>

namespace lsaq::inline v0 {

/// One way to decide a class: what it takes and what it costs.
struct KnapsackItem {
  Bytes bytes = 0;
  double cost = 0; ///< finite, any unit that adds up
};

/// What may be chosen for one decision: exactly one item, at least one is there.
using KnapsackClass = std::vector<KnapsackItem>;

/// One item of every class.
struct KnapsackChoice {
  std::vector<std::size_t> items = {}; ///< by class: which of its items
  Bytes bytes = 0;
  double cost = 0; ///< the sum in the order of the classes
};

/// A choice that no other of as many bytes beats, and how it differs from the point before.
struct KnapsackPoint {
  Bytes bytes = 0;
  double cost = 0;
  std::size_t which = 0; ///< the class that changes; the first point is the smallest choice and changes none
  std::size_t item = 0;  ///< what it changes to
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// The classes of a problem as the solver sees them: items by bytes, dominated ones left out, and the lower convex hull of each class.
class Knapsack {
public:
  /// A step along a hull: from one vertex of a class to the next, more bytes for less cost.
  struct Step {
    std::size_t which = 0; ///< class
    std::size_t to = 0;    ///< its item, by position in items(which)
    Bytes bytes = 0;
    double gain = 0; ///< cost saved
    double slope() const noexcept { return gain / static_cast<double>(bytes); }
  };

  struct Item {
    std::size_t index = 0; ///< in the caller's class
    Bytes bytes = 0;
    double cost = 0;
  };

  explicit Knapsack(std::span<const KnapsackClass> classes) : classes_(classes), items_(classes.size()) {
    for (std::size_t k = 0; k < classes.size(); ++k) {
      std::vector<Item> sorted;
      for (std::size_t i = 0; i < classes[k].size(); ++i) sorted.push_back({i, classes[k][i].bytes, classes[k][i].cost});
      std::stable_sort(sorted.begin(), sorted.end(), [](const Item& a, const Item& b) { return a.bytes != b.bytes ? a.bytes < b.bytes : a.cost < b.cost; });
      for (const Item& item : sorted)
        if (items_[k].empty() || item.cost < items_[k].back().cost) items_[k].push_back(item);
      add_hull(k);
      smallest_ += items_[k].front().bytes;
    }
    std::stable_sort(steps_.begin(), steps_.end(), [](const Step& a, const Step& b) { return a.slope() > b.slope(); });
  }

  std::size_t size() const noexcept { return items_.size(); }
  const std::vector<Item>& items(std::size_t k) const noexcept { return items_[k]; }
  /// Steep ones first: within a class they come in order.
  const std::vector<Step>& steps() const noexcept { return steps_; }
  Bytes smallest() const noexcept { return smallest_; }

  /// A choice by positions in items(), as the caller knows it.
  KnapsackChoice choice(std::span<const std::size_t> positions) const {
    KnapsackChoice choice;
    for (std::size_t k = 0; k < size(); ++k) {
      const Item& item = items_[k][positions[k]];
      choice.items.push_back(item.index);
      choice.bytes += item.bytes;
      choice.cost += item.cost;
    }
    return choice;
  }

private:
  void add_hull(std::size_t k) {
    const std::vector<Item>& items = items_[k];
    std::vector<std::size_t> hull;
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto slope = [&](std::size_t from, std::size_t to) {
        return (items[from].cost - items[to].cost) / static_cast<double>(items[to].bytes - items[from].bytes);
      };
      while (hull.size() >= 2 && slope(hull[hull.size() - 2], hull.back()) <= slope(hull.back(), i)) hull.pop_back();
      hull.push_back(i);
    }
    for (std::size_t i = 1; i < hull.size(); ++i)
      steps_.push_back({k, hull[i], items[hull[i]].bytes - items[hull[i - 1]].bytes, items[hull[i - 1]].cost - items[hull[i]].cost});
  }

  std::span<const KnapsackClass> classes_;
  std::vector<std::vector<Item>> items_;
  std::vector<Step> steps_;
  Bytes smallest_ = 0;
};

/// The search below a capacity: begins with the continuous problem's choice, then enumerates what may be better.
class KnapsackSearch {
public:
  /// Precondition: problem.smallest() <= capacity.
  KnapsackSearch(const Knapsack& problem, Bytes capacity) : problem_(problem), base_(problem.size(), 0), best_(problem.size(), 0) {
    take_steps(capacity - problem.smallest());
  }

  /// The best choice's positions. Every choice that saves more than a 1e-13th of the costs is found.
  const std::vector<std::size_t>& run() {
    if (slope_ == 0) return best_; // everything fits at its least cost
    make_candidates();
    // Good choices first: their cost cuts off most of what follows. Where nothing had to be left out, the search was complete.
    for (std::size_t width = first_beam; enumerate(width); width *= 8) drop_hopeless();
    return best_;
  }

private:
  using Signed = std::int64_t;
  static constexpr std::size_t first_beam = 64;

  /// Another item of a class than the base's, relative to it.
  struct Candidate {
    std::size_t position = 0;
    Signed bytes = 0;
    double cost = 0;
    double penalty = 0; ///< what it adds to the Lagrangian bound
  };
  struct Decision {
    std::size_t which = 0;
    std::vector<Candidate> candidates = {};
    double ratio = 0; ///< the least penalty for a byte up or down
  };
  struct State {
    Signed bytes = 0; ///< above the base's
    double cost = 0;  ///< above the base's
    std::uint32_t parent = 0;
    std::uint32_t candidate = 0; ///< 0: the base's item, else one more than its number
  };

  /// Steep steps first until one does not fit: the base. Flatter ones that fit make the first choice.
  void take_steps(Bytes left) {
    bool broken = false;
    std::vector<bool> closed(problem_.size(), false);
    for (const Knapsack::Step& step : problem_.steps()) {
      if (step.bytes <= left && !closed[step.which]) {
        left -= step.bytes;
        best_[step.which] = step.to;
        if (!broken) base_[step.which] = step.to;
        best_cost_ -= broken ? step.gain : 0;
      } else {
        closed[step.which] = true;
        if (!broken) {
          slope_ = step.slope();
          slack_ = static_cast<Signed>(left);
        }
        broken = true;
      }
    }
  }

  void make_candidates() {
    for (std::size_t k = 0; k < problem_.size(); ++k) {
      const std::vector<Knapsack::Item>& items = problem_.items(k);
      Decision decision{.which = k, .ratio = std::numeric_limits<double>::infinity()};
      for (std::size_t i = 0; i < items.size(); ++i) {
        if (i == base_[k]) continue;
        Candidate one{i, static_cast<Signed>(items[i].bytes - items[base_[k]].bytes), items[i].cost - items[base_[k]].cost};
        scale_ = std::max(scale_, std::abs(one.cost));
        one.penalty = std::max(0.0, one.cost + slope_ * static_cast<double>(one.bytes));
        decision.ratio = std::min(decision.ratio, one.penalty / static_cast<double>(std::abs(one.bytes)));
        decision.candidates.push_back(one);
      }
      if (decision.ratio < 1e-3 * slope_) decision.ratio = 0; // almost: scales make equal weights a little unequal
      if (!decision.candidates.empty()) decisions_.push_back(std::move(decision));
    }
    // Decisions that change bytes cheaply come first, so that what is left over later is dear to correct; of those that do so for almost nothing, equal ones
    // come together, large ones first: sums of few different numbers are few, and small ones share a divisor that cuts off what they can't fill.
    std::stable_sort(decisions_.begin(), decisions_.end(), [](const Decision& a, const Decision& b) {
      if (a.ratio != b.ratio) return a.ratio < b.ratio;
      return std::abs(a.candidates.front().bytes) > std::abs(b.candidates.front().bytes);
    });
  }

  /// Leaves out candidates that no better choice has. The bytes of the others are multiples of a common divisor: what it leaves over can't be used, which
  /// raises all bounds.
  void drop_hopeless() {
    for (bool changed = true; changed;) {
      Signed divisor = 0;
      for (Decision& decision : decisions_) {
        std::erase_if(decision.candidates, [&](const Candidate& c) { return c.penalty - slope_ * static_cast<double>(slack_) >= limit(); });
        for (const Candidate& c : decision.candidates) divisor = std::gcd(divisor, c.bytes);
      }
      std::erase_if(decisions_, [](const Decision& decision) { return decision.candidates.empty(); });
      changed = divisor != 0 && slack_ % divisor != 0;
      if (changed) slack_ -= slack_ % divisor;
    }
  }

  /// Cost above the base's that a choice must stay below to be better than the best: all bounds are compared with it.
  double limit() const { return best_cost_ - 1e-13 * scale_; }

  /// Dynamic programming over the decisions; of the states of each step only the `width` with the least bounds are kept, of equal ones those nearest to the
  /// capacity. Returns whether any had to be left out: otherwise no choice is better than the best.
  bool enumerate(std::size_t width) {
    // From the decision n on: the least penalty for a byte up and for a byte down, and what all changes of bytes are multiples of.
    std::vector<double> up(decisions_.size() + 1, std::numeric_limits<double>::infinity()), down = up;
    std::vector<Signed> divisors(decisions_.size() + 1, 0);
    for (std::size_t n = decisions_.size(); n-- > 0;) {
      up[n] = up[n + 1];
      down[n] = down[n + 1];
      divisors[n] = divisors[n + 1];
      for (const Candidate& c : decisions_[n].candidates) {
        double& least = c.bytes > 0 ? up[n] : down[n];
        least = std::min(least, c.penalty / static_cast<double>(std::abs(c.bytes)));
        divisors[n] = std::gcd(divisors[n], c.bytes);
      }
    }
    // A lower bound of the cost above the base's of whatever begins with a state and goes on with decision n. The Lagrangian one is -slope * slack.
    const auto bound = [&](const State& s, std::size_t n) {
      const double penalty = s.cost + slope_ * static_cast<double>(s.bytes - slack_);
      const Signed left = slack_ - s.bytes;
      if (left < 0 && std::isinf(down[n])) return down[n];
      const Signed rest = divisors[n] > 1 ? left % divisors[n] : 0, unused = rest < 0 ? rest + divisors[n] : rest; // whatever is decided
      const auto moved = static_cast<double>(left - unused);
      return penalty + slope_ * static_cast<double>(unused) + (left >= 0 ? moved * std::min(slope_, up[n]) : -moved * down[n]);
    };
    std::vector<std::vector<State>> steps(1, {State{}});
    std::vector<State> made;
    std::vector<std::tuple<double, Signed, std::size_t>> by_bound;
    bool narrowed = false;
    std::size_t best_step = 0, best_state = std::numeric_limits<std::size_t>::max();
    for (std::size_t n = 0; n < decisions_.size(); ++n) {
      const std::vector<State>& states = steps.back();
      made.clear();
      const auto add = [&](const State& state) {
        if (bound(state, n + 1) < limit()) made.push_back(state);
      };
      const std::vector<Candidate>& candidates = decisions_[n].candidates;
      std::vector<std::size_t> runs; // each candidate gives a run of states by ascending bytes, for those of the step before are
      for (std::size_t c = 0; c <= candidates.size(); ++c) {
        runs.push_back(made.size());
        for (std::size_t s = 0; s < states.size(); ++s) {
          State state = states[s];
          state.parent = static_cast<std::uint32_t>(s);
          state.candidate = static_cast<std::uint32_t>(c);
          if (c != 0) {
            state.bytes += candidates[c - 1].bytes;
            state.cost += candidates[c - 1].cost;
          }
          add(state);
        }
      }
      runs.push_back(made.size());
      sort_runs(made, runs);
      std::vector<State> kept; // by bytes; each costs less than all before it
      for (const State& state : made)
        if (kept.empty() || state.cost < kept.back().cost) kept.push_back(state);
      if (kept.size() > width) {
        narrowed = true;
        by_bound.clear();
        for (std::size_t s = 0; s < kept.size(); ++s) by_bound.emplace_back(bound(kept[s], n + 1), std::abs(slack_ - kept[s].bytes), s);
        std::nth_element(by_bound.begin(), by_bound.begin() + static_cast<std::ptrdiff_t>(width), by_bound.end());
        by_bound.resize(width);
        std::sort(by_bound.begin(), by_bound.end(), [](const auto& a, const auto& b) { return std::get<2>(a) < std::get<2>(b); });
        std::vector<State> narrow;
        for (const auto& [least, away, s] : by_bound) narrow.push_back(kept[s]);
        kept = std::move(narrow);
      }
      // A state that fits is a choice: what was not decided stays as in the base. The last that fits costs least.
      const auto over = std::partition_point(kept.begin(), kept.end(), [&](const State& s) { return s.bytes <= slack_; });
      if (over != kept.begin() && std::prev(over)->cost < limit()) {
        best_cost_ = std::prev(over)->cost;
        best_step = n + 1;
        best_state = static_cast<std::size_t>(std::prev(over) - kept.begin());
      }
      steps.push_back(std::move(kept));
      if (steps.back().empty()) break;
    }
    if (best_state == std::numeric_limits<std::size_t>::max()) return narrowed;
    best_ = base_;
    for (std::size_t n = best_step, s = best_state; n > 0; --n) {
      const State& state = steps[n][s];
      const Decision& decision = decisions_[n - 1];
      if (state.candidate != 0) best_[decision.which] = decision.candidates[state.candidate - 1].position;
      s = state.parent;
    }
    return narrowed;
  }

  /// Sorts by bytes, then cost, what consists of runs that are sorted by bytes.
  static void sort_runs(std::vector<State>& states, std::vector<std::size_t>& borders) {
    const auto before = [](const State& a, const State& b) { return a.bytes != b.bytes ? a.bytes < b.bytes : a.cost < b.cost; };
    const auto at = [&](std::size_t i) { return states.begin() + static_cast<std::ptrdiff_t>(i); };
    while (borders.size() > 2) {
      std::vector<std::size_t> merged;
      for (std::size_t r = 0; r + 1 < borders.size(); r += 2) {
        merged.push_back(borders[r]);
        if (r + 2 < borders.size()) std::inplace_merge(at(borders[r]), at(borders[r + 1]), at(borders[r + 2]), before);
      }
      merged.push_back(states.size());
      borders = std::move(merged);
    }
  }

  const Knapsack& problem_;
  std::vector<std::size_t> base_; ///< positions where the continuous problem breaks
  std::vector<std::size_t> best_;
  std::vector<Decision> decisions_;
  Signed slack_ = 0;     ///< bytes the base leaves
  double slope_ = 0;     ///< cost a byte is worth where the continuous problem breaks; 0: it does not
  double best_cost_ = 0; ///< above the base's
  double scale_ = 0;     ///< of the costs
};

} // namespace detail

/// The choice of least cost within `capacity` bytes; nothing if the smallest takes more. Costs are compared to a 1e-13th of their differences; of equally good
/// choices any, the same for the same input.
///
/// Takes a few milliseconds for hundreds of classes, some tens where all items are of equal worth a byte; exponential at worst, as the problem is.
inline std::optional<KnapsackChoice> solve_knapsack(std::span<const KnapsackClass> classes, Bytes capacity) {
  const detail::Knapsack problem(classes);
  if (problem.smallest() > capacity) return std::nullopt;
  return problem.choice(detail::KnapsackSearch(problem, capacity).run());
}

/// The frontier of bytes against cost, from the smallest choice to the one of least cost: every corner of its convex hull. Each is the best choice for its
/// bytes; between two of them exact solutions may lie, never below the line that joins them. Cost: sorting the items.
inline std::vector<KnapsackPoint> knapsack_frontier(std::span<const KnapsackClass> classes) {
  const detail::Knapsack problem(classes);
  std::vector<KnapsackPoint> points{{.bytes = problem.smallest()}};
  for (const detail::Knapsack::Step& step : problem.steps())
    points.push_back({.bytes = points.back().bytes + step.bytes, .which = step.which, .item = problem.items(step.which)[step.to].index});
  double cost = 0; // added up from the cheap end, where rounding would show
  for (std::size_t k = 0; k < problem.size(); ++k) cost += problem.items(k).back().cost;
  for (std::size_t p = points.size(); p-- > 0;) {
    points[p].cost = cost;
    if (p != 0) cost += problem.steps()[p - 1].gain;
  }
  return points;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
