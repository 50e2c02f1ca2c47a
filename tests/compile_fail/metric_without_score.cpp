// A policy whose score has the wrong signature: it wants a vector where it is given a span.
// expected-error: P needs `struct Options` and `static void score(const Options&, const WindowStates&, const Device&, std::span<double>)` or
#include <lsaq/importance/metric.hpp>

#ifdef WITH_ERROR
using Scores = std::vector<double>&;
#else
using Scores = std::span<double>;
#endif

struct Policy {
  static constexpr std::string_view name = "mine";
  struct Options {};
  static void score(const Options&, const lsaq::WindowStates&, const auto&, Scores scores) { scores[0] = 1; }
};

lsaq::ImportanceMetric<Policy> metric(4);
