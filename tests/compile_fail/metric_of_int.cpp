// A type that is no policy at all.
// expected-error: lsaq: ImportanceMetric<P>: P needs `static constexpr std::string_view name` (docs/importance.md)
#include <lsaq/importance/metric.hpp>

#ifdef WITH_ERROR
using Policy = int;
#else
using Policy = lsaq::Cosine;
#endif

lsaq::ImportanceMetric<Policy> metric(4);
