#include <lsaq/kernels/cpu/avx512.hpp>

#include "kernels/oracle_agreement.hpp"
#include "kernels/quantization_contract.hpp"

#if LSAQ_X86
namespace avx512_test {

LSAQ_KERNEL_CONTRACT(Avx512, lsaq::Isa::avx512)
LSAQ_QUANTIZATION_CONTRACT(Avx512, lsaq::Isa::avx512)
LSAQ_ORACLE_AGREEMENT(Avx512Bytes, lsaq::Isa::avx512)

} // namespace avx512_test
#endif
