// How sure is an order of layers that was averaged over calibration windows, and are more windows needed?
//
// The question that is answered: had as many other windows been drawn, how alike would the order be, and how many of the layers that a plan quantizes to INT4
// would be the same? Two natural answers are wrong. Comparing bootstrap resamples (Efron, "Bootstrap methods: another look at the jackknife", 1979) with the
// order they were drawn from, or with one another, claims far too much: all of them carry the noise of the windows at hand, which then looks like signal (with
// no signal at all the rank correlation comes out at 0.7). Comparing two halves of the windows claims too little: each is an order from half as many.
//
// What is done instead, from random halves of the windows (disjoint, so their noise is independent):
//   1. Agreement of halves gives that of whole samples by the formula of Spearman and Brown (1910): B = f h / (1 + (f - 1) h), f = 2. It holds for Pearson's
//      correlation h, so ranks are taken to the scale of a normal distribution and back, h = 2 sin(pi r / 6), and for a set h is the tetrachoric correlation,
//      that of two normal variables whose lower tails overlap as much.
//   2. What other windows would give, knowing these: the mean m drawn towards the middle by B, with the noise e of the old and of the new windows on it,
//      B m + sqrt(1 + B) e, the same order as m + sqrt(1 + B) / B e. A half minus the whole is a draw of e with exactly the right variance (half-samples:
//      McCarthy, "Pseudo-replication: half samples", 1969). Counting who is among the least important gives probabilities, and these the overlaps.
// Each of the three sets has a B of its own: layers crowd in one place of the order and stand apart in another.
//
// Checked by simulation (tests/importance/order_confidence_test.cpp) and on 1,280 windows of a real model: averaged over experiments, what is reported and what
// new windows show differ by less than 0.06 from 8 windows on, by 0.04 at most on the real model. Overlaps of an order without any signal come out 0.05 above
// chance (they are not allowed below it); where some layers are many times as noisy as others up to 0.1 too low; with fewer than ten layers either way. A
// single answer is itself an estimate from few windows: its standard error for the quarter, half and three quarters is about 0.10, 0.05 and 0.025 from 8
// windows and 0.06, 0.03 and 0.015 from 32. It speaks of other windows of the same kind of text: another text may order differently.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/importance/layer_importance.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <numbers>
#include <optional>
#include <span>

namespace lsaq::inline v0 {

/// How many layers plans of 7, 6 and 5 average bits quantize to INT4 (the others to INT8): a quarter, half and three quarters, rounded up.
using PlannedSets = std::array<std::size_t, 3>;

/// What another draw of as many windows would leave as it is. Pure data; may cross translation units.
struct OrderConfidence {
  /// From this many windows on the numbers are calibrated; with fewer they say little more than "not sure".
  static constexpr std::size_t trusted_windows = 8;

  /// The least important layers as a set, whatever the order among them.
  struct Set {
    std::size_t count = 0;                  ///< layers in it
    double overlap = 0;                     ///< expected share of it that as many new windows would choose again, 0 to 1; chance gives count / layers
    std::vector<double> probabilities = {}; ///< of every layer to be in the set new windows choose; they sum to `count`
  };

  std::size_t windows = 0;
  double agreement = 0;         ///< expected Spearman correlation with the order from as many new windows; without any signal it scatters around 0
  std::array<Set, 3> sets = {}; ///< least important quarter, half and three quarters (PlannedSets)

  [[gnu::always_inline]] bool trusted() const { return windows >= trusted_windows; }
  /// The least sure of the three sets; what StableOrder compares with its threshold.
  [[gnu::always_inline]] double lowest_overlap() const { return std::min({sets[0].overlap, sets[1].overlap, sets[2].overlap}); }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every platform, unlike the distributions of the standard library.
class SplitMix64 {
public:
  explicit SplitMix64(std::uint64_t seed) : state_(seed) {}

  /// A number below `limit`, which is at most 2^32.
  std::size_t below(std::size_t limit) {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<std::size_t>(((z ^ (z >> 31)) >> 32) * limit >> 32);
  }

private:
  std::uint64_t state_;
};

/// Layers sorted as Importance::order() sorts them, and their ranks; keeps its memory for the next scores.
class LayerSorter {
public:
  explicit LayerSorter(std::size_t layers) : entries_(layers), positions_(layers), ranks_(layers) {}

  void sort(std::span<const double> scores) {
    for (std::size_t l = 0; l < entries_.size(); ++l) entries_[l] = {scores[l], l};
    std::sort(entries_.begin(), entries_.end());
    for (std::size_t i = 0; i < entries_.size(); ++i) positions_[entries_[i].layer] = i;
  }

  /// Layer at `position`, 0 is the least important.
  std::size_t layer(std::size_t position) const { return entries_[position].layer; }
  std::size_t position(std::size_t layer) const { return positions_[layer]; }

  /// Ranks from 1; layers of equal score share the mean of their ranks.
  const std::vector<double>& ranks() {
    for (std::size_t first = 0; first < entries_.size();) {
      std::size_t end = first + 1;
      while (end < entries_.size() && entries_[end].score == entries_[first].score) ++end;
      for (std::size_t i = first; i < end; ++i) ranks_[entries_[i].layer] = static_cast<double>(first + end + 1) / 2;
      first = end;
    }
    return ranks_;
  }

private:
  struct Entry {
    double score;
    std::size_t layer;
    friend bool operator<(const Entry& a, const Entry& b) { return a.score < b.score || (a.score == b.score && a.layer < b.layer); }
  };

  std::vector<Entry> entries_;
  std::vector<std::size_t> positions_;
  std::vector<double> ranks_;
};

/// Throws InvalidArgument for NaN, which has no place in an order.
inline LayerSorter sorted(std::span<const double> scores) {
  for (std::size_t l = 0; l < scores.size(); ++l)
    if (std::isnan(scores[l])) fail<InvalidArgument>("the score of layer " + std::to_string(l) + " is not a number");
  LayerSorter sorter(scores.size());
  sorter.sort(scores);
  return sorter;
}

/// Pearson's correlation of ranks; 1 if both orders are one big tie, 0 if only one is.
inline double correlation_of_ranks(std::span<const double> a, std::span<const double> b) {
  const double middle = (static_cast<double>(a.size()) + 1) / 2;
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += (a[i] - middle) * (b[i] - middle);
    aa += (a[i] - middle) * (a[i] - middle);
    bb += (b[i] - middle) * (b[i] - middle);
  }
  if (aa == 0 || bb == 0) return aa == bb ? 1 : 0;
  return std::clamp(ab / std::sqrt(aa * bb), -1.0, 1.0);
}

/// Share of the `count` least important layers that two orders have in common.
inline double overlap(const LayerSorter& a, const LayerSorter& b, std::size_t count) {
  std::size_t shared = 0;
  for (std::size_t i = 0; i < count; ++i) shared += b.position(a.layer(i)) < count;
  return static_cast<double>(shared) / static_cast<double>(count);
}

/// Correlation of two normal variables whose lower tails of probability `share` have `overlap` of it in common (the tetrachoric correlation).
///
/// With share = Phi(z) and rho = cos 2t: overlap = 1 - 1 / (pi share) * integral from 0 to t of exp(-z^2 / (2 cos^2 x)) dx (Owen, "Tables for computing
/// bivariate normal probabilities", 1956, with x the arc tangent of his variable). The integral is followed until it has grown to what the overlap demands.
inline double tetrachoric_correlation(double overlap, double share) {
  double low = 0, high = 40; // z, without its sign
  for (int i = 0; i < 64; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(middle / std::numbers::sqrt2) / 2 > std::min(share, 1 - share) ? low : high) = middle;
  }
  constexpr int steps = 512;
  constexpr double step = std::numbers::pi / 2 / steps;
  double missing = std::numbers::pi * share * (1 - overlap);
  for (int i = 0; i < steps; ++i) {
    const double cosine = std::cos((i + 0.5) * step);
    const double area = step * std::exp(-low * low / (2 * cosine * cosine));
    if (area >= missing) return std::cos(2 * step * (i + (missing <= 0 ? 0 : missing / area)));
    missing -= area;
  }
  return -1;
}

/// Reliability of a sample from the correlation of two of its parts, the sample being `factor` times as long. Odd in `correlation`: parts that contradict each
/// other by chance then cancel, on average, those that agree by chance.
inline double spearman_brown(double correlation, double factor) { return factor * correlation / (1 + (factor - 1) * std::abs(correlation)); }

/// Throws InvalidArgument unless there are whole windows of finite scores.
inline void check_window_scores(std::span<const double> window_scores, std::size_t layers) {
  if (layers == 0 || window_scores.size() % layers != 0)
    fail<InvalidArgument>("order confidence: " + std::to_string(window_scores.size()) + " scores are not whole windows of " + std::to_string(layers) +
                          " layers");
  for (std::size_t i = 0; i < window_scores.size(); ++i)
    if (!std::isfinite(window_scores[i]))
      fail<InvalidArgument>("order confidence: the score of layer " + std::to_string(i % layers) + " in window " + std::to_string(i / layers) +
                            " is not finite");
}

/// Scores as whole numbers between 0 and 2^bits, bits small enough that sums over all windows are exact: equal sums are ties in whatever order they were added.
inline std::vector<double> on_a_grid(std::span<const double> window_scores, std::size_t windows) {
  const auto [smallest, largest] = std::minmax_element(window_scores.begin(), window_scores.end());
  const double range = *largest / 2 - *smallest / 2; // halves: no overflow
  const double steps = std::ldexp(1.0, 52 - static_cast<int>(std::bit_width(windows)));
  std::vector<double> grid(window_scores.size(), 0.0);
  if (range > 0)
    for (std::size_t i = 0; i < grid.size(); ++i) grid[i] = std::round((window_scores[i] / 2 - *smallest / 2) / range * steps);
  return grid;
}

/// What random halves of the windows show.
struct Halves {
  static constexpr std::size_t draws = 256;

  double factor = 0;                   ///< how many times as long as a half the whole is; more than 2 if the halves are unequal
  double correlation = 0;              ///< mean Spearman correlation of the two halves
  std::array<double, 3> overlaps = {}; ///< mean overlap of their sets
  std::vector<double> mean = {};       ///< of all windows
  std::vector<double> noise = {};      ///< draws x layers: a half's deviation from the mean, scaled to the standard error of the mean
};

inline Halves random_halves(std::span<const double> grid, std::size_t layers, const PlannedSets& counts, std::uint64_t seed) {
  const std::size_t windows = grid.size() / layers;
  const auto n = static_cast<double>(windows);
  const auto half = static_cast<double>(windows / 2);
  Halves result{.factor = n * n / (2 * half * (n - half)), .mean = std::vector<double>(layers), .noise = std::vector<double>(Halves::draws * layers)};
  const double scale = std::sqrt(half / (n - half));

  std::vector<double> total(layers, 0.0), first(layers), second(layers);
  for (std::size_t i = 0; i < grid.size(); ++i) total[i % layers] += grid[i];
  for (std::size_t l = 0; l < layers; ++l) result.mean[l] = total[l] / n;

  SplitMix64 random(seed);
  std::vector<std::size_t> shuffled(windows);
  std::iota(shuffled.begin(), shuffled.end(), std::size_t{0});
  LayerSorter one(layers), other(layers);
  for (std::size_t d = 0; d < Halves::draws; ++d) {
    std::fill(first.begin(), first.end(), 0.0);
    for (std::size_t i = 0; i < windows / 2; ++i) {
      std::swap(shuffled[i], shuffled[i + random.below(windows - i)]);
      const double* row = grid.data() + shuffled[i] * layers;
      for (std::size_t l = 0; l < layers; ++l) first[l] += row[l];
    }
    for (std::size_t l = 0; l < layers; ++l) {
      second[l] = total[l] - first[l];
      result.noise[d * layers + l] = (first[l] / half - result.mean[l]) * scale;
    }
    one.sort(first);
    other.sort(second);
    result.correlation += correlation_of_ranks(one.ranks(), other.ranks()) / Halves::draws;
    for (std::size_t s = 0; s < counts.size(); ++s) result.overlaps[s] += overlap(one, other, counts[s]) / Halves::draws;
  }
  return result;
}

/// Fills `set` of set.count layers with what new windows would choose, if `reliability` (0 to 1) is the share of the scores' variance that is no noise.
inline void choose_again(const Halves& halves, double reliability, OrderConfidence::Set& set) {
  const std::size_t layers = halves.mean.size();
  const double spread = std::sqrt(1 + reliability) / reliability;
  set.probabilities.assign(layers, 0.0);
  std::vector<double> scores(layers);
  LayerSorter sorter(layers);
  for (std::size_t d = 0; d < Halves::draws; ++d)
    for (const double sign : {-spread, spread}) {
      for (std::size_t l = 0; l < layers; ++l) scores[l] = halves.mean[l] + sign * halves.noise[d * layers + l];
      sorter.sort(scores);
      for (std::size_t i = 0; i < set.count; ++i) set.probabilities[sorter.layer(i)] += 0.5 / Halves::draws;
    }
  sorter.sort(halves.mean);
  set.overlap = 0;
  for (std::size_t i = 0; i < set.count; ++i) set.overlap += set.probabilities[sorter.layer(i)];
  set.overlap /= static_cast<double>(set.count);
}

} // namespace detail

/// Ranks of scores from 1, the lowest, to their number; equal scores share the mean of their ranks. Throws InvalidArgument for NaN.
inline std::vector<double> ranks(std::span<const double> scores) { return detail::sorted(scores).ranks(); }

/// Spearman's rank correlation of two score vectors: Pearson's correlation of their ranks, ties averaged. Never NaN: 1 if all scores of both are equal, or
/// there are fewer than two; 0 if those of just one are. Throws InvalidArgument if the lengths differ or for NaN.
inline double spearman(std::span<const double> a, std::span<const double> b) {
  if (a.size() != b.size()) fail<InvalidArgument>("rank correlation of scores of " + std::to_string(a.size()) + " and " + std::to_string(b.size()) + " layers");
  return detail::correlation_of_ranks(ranks(a), ranks(b));
}

/// The `count` layers a planner would take first, least important first; equal scores: lower layer first, as Importance::order(). Throws InvalidArgument if
/// there are fewer or for NaN.
inline std::vector<std::size_t> least_important(std::span<const double> scores, std::size_t count) {
  if (count > scores.size()) fail<InvalidArgument>("the " + std::to_string(count) + " least important of " + std::to_string(scores.size()) + " layers");
  const detail::LayerSorter sorter = detail::sorted(scores);
  std::vector<std::size_t> layers(count);
  for (std::size_t i = 0; i < count; ++i) layers[i] = sorter.layer(i);
  return layers;
}

/// Share of the `count` least important layers that two score vectors have in common, 0 to 1; 1 for no layers. Throws InvalidArgument if the lengths differ or
/// are less than `count`, or for NaN.
inline double overlap(std::span<const double> a, std::span<const double> b, std::size_t count) {
  if (a.size() != b.size()) fail<InvalidArgument>("overlap of orders of " + std::to_string(a.size()) + " and " + std::to_string(b.size()) + " layers");
  if (count > a.size()) fail<InvalidArgument>("the " + std::to_string(count) + " least important of " + std::to_string(a.size()) + " layers");
  if (count == 0) return 1;
  return detail::overlap(detail::sorted(a), detail::sorted(b), count);
}

/// Sizes of the three sets for a model of `layers` layers.
constexpr PlannedSets planned_sets(std::size_t layers) noexcept { return {(layers + 3) / 4, (layers + 1) / 2, (3 * layers + 3) / 4}; }

/// Confidence in the order of the mean scores of `window_scores` (windows x layers, row-major); nothing for fewer than two windows.
///
/// The same for the same scores and seed on every platform. Throws InvalidArgument if the scores are not whole windows or not finite. Cost: 256 random halves,
/// that is 128 x windows x layers additions and about a thousand sorts of the layers: 1 to 10 ms.
inline std::optional<OrderConfidence> order_confidence(std::span<const double> window_scores, std::size_t layers, std::uint64_t seed = 0) {
  detail::check_window_scores(window_scores, layers);
  const std::size_t windows = window_scores.size() / layers;
  if (windows < 2) return std::nullopt;
  const PlannedSets counts = planned_sets(layers);
  const detail::Halves halves = detail::random_halves(detail::on_a_grid(window_scores, windows), layers, counts, seed);
  const double whole = detail::spearman_brown(2 * std::sin(halves.correlation * std::numbers::pi / 6), halves.factor);
  OrderConfidence confidence{.windows = windows, .agreement = std::clamp(std::asin(whole / 2) * 6 / std::numbers::pi, -1.0, 1.0)};
  for (std::size_t s = 0; s < counts.size(); ++s) {
    confidence.sets[s].count = counts[s];
    const double share = static_cast<double>(counts[s]) / static_cast<double>(layers);
    const double reliability = detail::spearman_brown(detail::tetrachoric_correlation(halves.overlaps[s], share), halves.factor);
    constexpr double least = 1.0 / 32; // so much noise that any layer may be chosen
    detail::choose_again(halves, std::clamp(reliability, least, 1.0), confidence.sets[s]);
  }
  return confidence;
}

/// Says when enough windows were seen: feed it window scores batch by batch until add() returns true.
///
/// Stable means: of each of the three sets at least `threshold` would be chosen again by as many new windows, and the same held without the last quarter of the
/// windows. Layers that matter are therefore those near the three boundaries; what changes places inside a set does not count. The second look is against
/// stopping at the first lucky estimate: with it the overlap that new windows really show when it stops averages the threshold, give or take 0.05. The answer
/// depends on the windows so far, not on how they were batched. Layers of nearly equal score at a boundary may keep it unstable for hundreds of windows, though
/// it hardly matters which of them is chosen: limit the windows.
class StableOrder {
public:
  struct Options {
    double threshold = 0.9;                                         ///< least expected overlap, above 0, at most 1
    std::size_t minimum_windows = OrderConfidence::trusted_windows; ///< not stable before
    std::uint64_t seed = 0;                                         ///< of the random halves
  };

  /// Throws InvalidArgument for no layers or a threshold out of range.
  explicit StableOrder(std::size_t layers) : StableOrder(layers, Options()) {}
  StableOrder(std::size_t layers, Options options) : layers_(layers), options_(options) {
    if (layers == 0) fail<InvalidArgument>("a stable order needs a model with at least one layer");
    if (!(options.threshold > 0 && options.threshold <= 1))
      fail<InvalidArgument>("the overlap wanted of a stable order is " + std::to_string(options.threshold) + "; it must be above 0 and at most 1");
  }

  /// Adds windows (windows x layers, row-major) and returns whether the order of all so far is stable. Throws InvalidArgument as order_confidence() does, and
  /// has then added nothing. Cost: twice that of order_confidence().
  bool add(std::span<const double> window_scores) {
    detail::check_window_scores(window_scores, layers_);
    scores_.insert(scores_.end(), window_scores.begin(), window_scores.end());
    confidence_ = order_confidence(scores_, layers_, options_.seed);
    stable_ = confidence_ && windows() >= options_.minimum_windows && confidence_->lowest_overlap() >= options_.threshold && was_stable();
    return stable_;
  }

  bool stable() const noexcept { return stable_; }
  std::size_t windows() const noexcept { return scores_.size() / layers_; }
  /// All scores so far, windows x layers; valid until the next add().
  std::span<const double> window_scores() const noexcept { return scores_; }
  /// Confidence in the order of all windows so far; nothing for fewer than two.
  const std::optional<OrderConfidence>& confidence() const noexcept { return confidence_; }

private:
  bool was_stable() const {
    const std::size_t before = windows() - windows() / 4;
    const std::optional<OrderConfidence> earlier = order_confidence(std::span(scores_).first(before * layers_), layers_, options_.seed);
    return earlier && earlier->lowest_overlap() >= options_.threshold;
  }

  std::size_t layers_;
  Options options_;
  std::vector<double> scores_;
  std::optional<OrderConfidence> confidence_;
  bool stable_ = false;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
