// A strategy that is none.
// expected-error: S needs `using Options = MemoryBudget`, `choose(importance, shape, options, available)` and `smallest(shape, options)`
#include <lsaq/planning/planner.hpp>

#ifdef WITH_ERROR
using Strategy = int;
#else
using Strategy = lsaq::Budget;
#endif

lsaq::Planner<Strategy> planner({.memory = 1});
