#include <lsaq/kernels/cpu/decoder_kernels.hpp>

#include "kernels/decoder_contract.hpp"

namespace decoder_kernels_test {

LSAQ_DECODER_CONTRACT(ScalarDecoder, lsaq::Isa::scalar)
#if LSAQ_X86
LSAQ_DECODER_CONTRACT(Avx2Decoder, lsaq::Isa::avx2)
LSAQ_DECODER_CONTRACT(Avx512Decoder, lsaq::Isa::avx512)
#elif LSAQ_ARM64
LSAQ_DECODER_CONTRACT(NeonDecoder, lsaq::Isa::neon)
#endif

TEST(DecoderKernels, EveryPathIsComplete) {
  for (const lsaq::Isa isa : lsaq::all_isas) {
    if (!lsaq::cpu_runs(isa)) continue;
    const lsaq::DecoderKernels* kernels = lsaq::kernels_of(isa).decoder;
    ASSERT_NE(kernels, nullptr) << name_of(isa);
    EXPECT_TRUE(kernels->softmax_step && kernels->gate && kernels->rms_norm && kernels->rotate && kernels->add && kernels->scale) << name_of(isa);
    EXPECT_TRUE(kernels->narrow_finite_f16 && kernels->score && kernels->weigh) << name_of(isa);
  }
}

} // namespace decoder_kernels_test
