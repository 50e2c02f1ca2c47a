// A policy that scores both ways: nobody could say which score counts.
// expected-error: lsaq: ImportanceMetric<P>: P offers more than one kind of score; a policy looks at hidden states, at weights, or at runs (docs/importance.md)
#include <lsaq/importance/metric.hpp>

struct Policy {
  static constexpr std::string_view name = "mine";
  struct Options {};
  static double score_layer(const Options&, std::span<const lsaq::MatrixView>) { return 1; }
#ifdef WITH_ERROR
  static double score(const Options&, lsaq::MatrixView, lsaq::MatrixView) { return 1; }
#endif
};

lsaq::ImportanceMetric<Policy> metric(4);
