// A strategy of one's own that can't say how small it can get.
// expected-error: S needs `using Options = MemoryBudget`, `choose(importance, shape, options, available)` and `smallest(shape, options)`
#include <lsaq/planning/planner.hpp>

struct Strategy {
  using Options = lsaq::MemoryBudget;
  static std::optional<std::vector<unsigned>> choose(const lsaq::Importance&, const lsaq::ModelShape&, const Options&, lsaq::Bytes) { return std::nullopt; }
#ifndef WITH_ERROR
  static lsaq::Bytes smallest(const lsaq::ModelShape&, const Options&) { return 0; }
#endif
};

lsaq::Planner<Strategy> planner({.memory = 1});
