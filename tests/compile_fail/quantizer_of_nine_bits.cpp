// A width that packed matrices do not have.
// expected-error(GNU): the expression 'Bits <= lsaq::v0::max_bits [with Bits = 9]' evaluated to 'false'
// expected-error(Clang): (9 <= 8) evaluated to false
#include <lsaq/quantization/quantizer.hpp>

#ifdef WITH_ERROR
constexpr unsigned bits = 9;
#else
constexpr unsigned bits = 8;
#endif

lsaq::PackedMatrix pack(lsaq::MatrixView weights) { return lsaq::Quantizer<lsaq::PerChannel, bits>{}(weights); }
