// A policy that scores both ways: nobody could say which score counts.
// expected-error: lsaq: ImportanceMetric<P>: P has both `score` and `score_layer`; a policy looks at hidden states or at weights (docs/policies.md)
#include <lsaq/importance/metric.hpp>

struct Policy {
  static constexpr std::string_view name = "mine";
  struct Options {};
  static double score_layer(const Options&, std::span<const lsaq::MatrixView>) { return 1; }
#ifdef WITH_ERROR
  static void score(const Options&, const lsaq::WindowStates&, const auto&, std::span<double> scores) { scores[0] = 1; }
#endif
};

lsaq::ImportanceMetric<Policy> metric(4);
