// WeightOutliers: how many of a layer's weights are far from their mean.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/importance/policy.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// I = share of the layer's weights further than `sigmas` standard deviations from the layer's mean; more outliers = more important.
///
/// LWQ counts weights far above the average and calls layers with fewer of them more important; LSAQ's text reads it the other way. `more_is_important` says
/// which. Needs no calibration text. Two passes over the layer's weights, sums in double.
struct WeightOutliers {
  static constexpr std::string_view name = "outlier";

  struct Options {
    double sigmas = 3.0;
    bool more_is_important = true;
  };

  static double score_layer(const Options& options, std::span<const MatrixView> linears) {
    double count = 0, sum = 0, squares = 0;
    for_each_weight(linears, [&](double value) {
      sum += value;
      squares += value * value;
      count += 1;
    });
    if (count == 0) return 0;
    if (!std::isfinite(sum)) return std::numeric_limits<double>::quiet_NaN(); // compared with NaN, no weight is far: the layer would look calm
    const double mean = sum / count;
    const double limit = options.sigmas * std::sqrt(std::max(0.0, squares / count - mean * mean));
    double far = 0;
    for_each_weight(linears, [&](double value) { far += std::abs(value - mean) > limit; });
    return (options.more_is_important ? far : 0 - far) / count; // none is 0, not -0
  }

private:
  template <class Act> static void for_each_weight(std::span<const MatrixView> linears, Act&& act) {
    for (const MatrixView& w : linears)
      for (std::size_t r = 0; r < w.rows; ++r)
        for (std::size_t c = 0; c < w.columns; ++c) act(double{load_element(w.row(r), w.type, c)});
  }
};

static_assert(has_metric_name<WeightOutliers> && scores_weights<WeightOutliers>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
