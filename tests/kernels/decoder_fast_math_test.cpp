// The decoder's kernels compiled with -O3 -ffast-math, as some engines are: what they promise of numbers and infinities stays.
#include "kernels/decoder_contract.hpp"

namespace decoder_fast_math_test {

#if LSAQ_X86
LSAQ_FINITE_DECODER_CONTRACT(Avx2DecoderWithFastMath, lsaq::Isa::avx2)
LSAQ_FINITE_DECODER_CONTRACT(Avx512DecoderWithFastMath, lsaq::Isa::avx512)
#endif

TEST(DecoderWithFastMath, TheOracleComputesWhatIsFinite) {
  const lsaq::CpuKernels& kernels = lsaq::kernels_of(lsaq::Isa::scalar);
  decoder_contract::norms(kernels);
  decoder_contract::rotates(kernels);
  decoder_contract::scores_keys(kernels);
  decoder_contract::weighs_values(kernels);
}

} // namespace decoder_fast_math_test
