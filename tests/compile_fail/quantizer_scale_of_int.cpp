// A scale type that is none.
// expected-error: lsaq: Quantizer<Granularity, Bits, Scale>: Scale must be lsaq::f16, lsaq::bf16 or float (docs/policies.md)
#include <lsaq/quantization/quantizer.hpp>

#ifdef WITH_ERROR
using Scale = int;
#else
using Scale = float;
#endif

lsaq::PackedMatrix pack(lsaq::MatrixView weights) { return lsaq::Quantizer<lsaq::PerChannel, 8, Scale>{}(weights); }
