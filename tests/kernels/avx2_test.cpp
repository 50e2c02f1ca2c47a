#include <lsaq/kernels/cpu/avx2.hpp>

#include "kernels/oracle_agreement.hpp"
#include "kernels/quantization_contract.hpp"

#if LSAQ_X86
namespace avx2_test {

LSAQ_KERNEL_CONTRACT(Avx2, lsaq::Isa::avx2)
LSAQ_QUANTIZATION_CONTRACT(Avx2, lsaq::Isa::avx2)
LSAQ_ORACLE_AGREEMENT(Avx2Bytes, lsaq::Isa::avx2)

} // namespace avx2_test
#endif
