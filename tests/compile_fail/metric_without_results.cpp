// A policy with a trace that does not say how many scores it gives.
// expected-error: or `Trace`, `results`, `trace` and `score` (docs/importance.md)
#include <lsaq/importance/metric.hpp>

struct Policy {
  static constexpr std::string_view name = "mine";
  struct Options {};
  using Trace = std::vector<float>;
#ifndef WITH_ERROR
  static std::size_t results(const Options&) { return 1; }
#endif
  static Trace trace(const Options&, lsaq::MatrixView states, const auto&) { return Trace(states.rows); }
  static void score(const Options&, lsaq::TraceRows<Trace>, lsaq::TraceRows<Trace>, std::span<double> scores) { scores[0] = 1; }
};

lsaq::ImportanceMetric<Policy> metric(4);
