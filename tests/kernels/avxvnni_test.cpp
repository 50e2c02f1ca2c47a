#include <lsaq/kernels/cpu/avxvnni.hpp>

#include "kernels/integer_agreement.hpp"

// AVX-VNNI's integer products in the other encoding of their instruction, which machines with AVX-512 VNNI run. integer_matmul_test has them in their own where
// the machine runs it.
#if LSAQ_X86
namespace avxvnni_test {

TEST(AvxVnni, SumsAreTheOraclesInAvx512sEncodingToo) {
  SKIP_UNLESS_RUNS(lsaq::Isa::avx512vnni);
  integer_agreement::expect_the_oracles_sums(lsaq::avxvnni::integer_kernels<lsaq::avxvnni::Encoding::evex>);
  integer_agreement::expect_exact_sums_at_the_limits(lsaq::avxvnni::integer_kernels<lsaq::avxvnni::Encoding::evex>);
}

} // namespace avxvnni_test
#endif
