// How sure a measured mean is: means per token over windows, differences of two runs over the same windows, and their standard errors.
//
// Windows are the independent units: tokens of one window share a text and its context. Source: the ratio estimator of W. G. Cochran, Sampling Techniques, 3rd
// ed., 1977, chapter 6.
#pragma once

#include <lsaq/models/evaluation.hpp>

namespace lsaq::inline v0::llama {

/// A mean per token and its standard error over windows; the error is NaN where there are less than two windows.
struct Estimate {
  double mean = 0;
  double error = 0;
};

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// The mean per token of `windows` windows: value(w) is the sum over the tokens of window w, tokens(w) their number.
///
/// With m windows of equally many tokens the error is the standard deviation of the windows' means over sqrt(m). Windows without tokens are left out; the mean
/// of none is NaN.
template <class Value, class Tokens> Estimate mean_per_token(std::size_t windows, Value&& value, Tokens&& tokens) {
  double sum = 0, count = 0, units = 0;
  for (std::size_t w = 0; w < windows; ++w) {
    if (tokens(w) == 0) continue;
    sum += value(w);
    count += static_cast<double>(tokens(w));
    ++units;
  }
  Estimate result{sum / count, std::numeric_limits<double>::quiet_NaN()};
  if (units < 2) return result;
  double squares = 0;
  for (std::size_t w = 0; w < windows; ++w) {
    if (tokens(w) == 0) continue;
    const double residual = value(w) - result.mean * static_cast<double>(tokens(w));
    squares += residual * residual;
  }
  result.error = std::sqrt(squares * units / (units - 1)) / count;
  return result;
}

/// Nats a token.
inline Estimate nll_of(std::span<const WindowScore> run) {
  return mean_per_token(
      run.size(), [&](std::size_t w) { return run[w].nll; }, [&](std::size_t w) { return run[w].tokens; });
}

/// Divergence from the reference, nats a token.
inline Estimate kl_of(std::span<const WindowScore> run) {
  return mean_per_token(
      run.size(), [&](std::size_t w) { return run[w].kl; }, [&](std::size_t w) { return run[w].tokens; });
}

/// Share of predictions whose likeliest token is the reference's.
inline Estimate agreement_of(std::span<const WindowScore> run) {
  return mean_per_token(
      run.size(), [&](std::size_t w) { return static_cast<double>(run[w].agreements); }, [&](std::size_t w) { return run[w].tokens; });
}

namespace detail {
inline void check_paired(std::span<const WindowScore> run, std::span<const WindowScore> other) {
  bool same = run.size() == other.size();
  for (std::size_t w = 0; same && w < run.size(); ++w) same = run[w].tokens == other[w].tokens;
  if (!same) fail<InvalidArgument>("only runs over the same windows can be compared in pairs");
}
} // namespace detail

/// How much more nats a token `run` needs than `other` over the same windows. Throws InvalidArgument if the windows differ.
inline Estimate nll_difference(std::span<const WindowScore> run, std::span<const WindowScore> other) {
  detail::check_paired(run, other);
  return mean_per_token(
      run.size(), [&](std::size_t w) { return run[w].nll - other[w].nll; }, [&](std::size_t w) { return run[w].tokens; });
}

/// How much further from the reference `run` is than `other` over the same windows. Throws InvalidArgument if the windows differ.
inline Estimate kl_difference(std::span<const WindowScore> run, std::span<const WindowScore> other) {
  detail::check_paired(run, other);
  return mean_per_token(
      run.size(), [&](std::size_t w) { return run[w].kl - other[w].kl; }, [&](std::size_t w) { return run[w].tokens; });
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
