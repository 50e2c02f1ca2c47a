#include <lsaq/kernels/cpu/neon.hpp>

#include "kernels/oracle_agreement.hpp"

namespace {

LSAQ_KERNEL_CONTRACT(Neon, lsaq::Isa::neon)
LSAQ_ORACLE_AGREEMENT(NeonBytes, lsaq::Isa::neon)

} // namespace
