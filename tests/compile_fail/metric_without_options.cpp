// A policy that measures layers but has no options to be set up with.
// expected-error: P needs `struct Options` and one of
#include <lsaq/importance/metric.hpp>

struct Settings {};

struct Policy {
  static constexpr std::string_view name = "mine";
#ifndef WITH_ERROR
  using Options = Settings;
#endif
  static std::vector<double> measure(const Settings&, std::size_t) { return {1}; }
};

lsaq::ImportanceMetric<Policy> metric(4);
