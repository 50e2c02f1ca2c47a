// A policy of one's own that forgot its name.
// expected-error: lsaq: ImportanceMetric<P>: P needs `static constexpr std::string_view name` (docs/importance.md)
#include <lsaq/importance/metric.hpp>

struct Policy {
#ifndef WITH_ERROR
  static constexpr std::string_view name = "mine";
#endif
  struct Options {};
  static double score_layer(const Options&, std::span<const lsaq::MatrixView>) { return 1; }
};

lsaq::ImportanceMetric<Policy> metric(4);
