// A granularity that is none.
// expected-error: lsaq: Quantizer<Granularity, Bits>: Granularity must be PerTensor, PerChannel or PerGroup<N> (docs/policies.md)
#include <lsaq/quantization/quantizer.hpp>

#ifdef WITH_ERROR
using Granularity = int;
#else
using Granularity = lsaq::PerChannel;
#endif

lsaq::PackedMatrix pack(lsaq::MatrixView weights) { return lsaq::Quantizer<Granularity, 8>{}(weights); }
