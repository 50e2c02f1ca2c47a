#include <lsaq/kernels/cpu/neon.hpp>

#include "kernels/oracle_agreement.hpp"
#include "kernels/quantization_contract.hpp"

#if LSAQ_ARM64
namespace neon_test {

LSAQ_KERNEL_CONTRACT(Neon, lsaq::Isa::neon)
LSAQ_QUANTIZATION_CONTRACT(Neon, lsaq::Isa::neon)
LSAQ_ORACLE_AGREEMENT(NeonBytes, lsaq::Isa::neon)

} // namespace neon_test
#endif
