// MeasuredError: what quantizing one layer alone really does to the model, measured by the caller.
#pragma once

#include <lsaq/importance/policy.hpp>

#include <functional>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// I = the damage done when only this layer is quantized: rise of the KL divergence or of the negative log-likelihood, or error of the layer's output. The
/// honest upper reference for orders that look at the unquantized model only, at the price of one quantized run a layer.
///
/// Damages of single layers add up only roughly: with coarse rounding, layers quantized together hurt more than the sum.
struct MeasuredError {
  static constexpr std::string_view name = "error";

  struct Options {
    /// The damage in each calibration window, the same windows for every layer. The engine quantizes the layer, runs, and restores it.
    std::function<std::vector<double>(std::size_t layer)> damage = {};
  };

  static std::vector<double> measure(const Options& options, std::size_t layer) {
    if (!options.damage) fail<InvalidArgument>("importance: MeasuredError needs Options::damage, the function that measures a layer");
    return options.damage(layer);
  }
};

static_assert(has_metric_name<MeasuredError> && measures_layers<MeasuredError>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
