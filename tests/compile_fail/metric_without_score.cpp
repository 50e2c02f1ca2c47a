// A policy whose score has the wrong signature: it wants to write to states that it may only read.
// expected-error: P needs `struct Options` and one of `static double score(const Options&, MatrixView entering, MatrixView leaving)`, `static double score_layer(
#include <lsaq/importance/metric.hpp>

#ifdef WITH_ERROR
using States = lsaq::MutableMatrixView;
#else
using States = lsaq::MatrixView;
#endif

struct Policy {
  static constexpr std::string_view name = "mine";
  struct Options {};
  static double score(const Options&, States, States) { return 1; }
};

lsaq::ImportanceMetric<Policy> metric(4);
