#include <lsaq/kernels/cpu/avx512.hpp>

#include "kernels/kernel_contract.hpp"

namespace {

LSAQ_KERNEL_CONTRACT(Avx512, lsaq::Isa::avx512)

#if LSAQ_X86
TEST(Avx512, SharesTheElementwiseFunctionsOfAvx2) {
  EXPECT_EQ(lsaq::avx512::kernels.widen, &lsaq::avx2::widen);
  EXPECT_EQ(lsaq::avx512::kernels.widen_codes, &lsaq::avx2::widen_codes);
  EXPECT_EQ(lsaq::avx512::kernels.narrow_f16, &lsaq::avx2::narrow_f16);
  EXPECT_EQ(lsaq::avx512::kernels.magnitude_bits, &lsaq::avx2::magnitude_bits);
  EXPECT_EQ(lsaq::avx512::kernels.quantize, &lsaq::avx2::quantize);
  EXPECT_EQ(lsaq::avx512::kernels.unpack, &lsaq::avx2::unpack);
}
#endif

} // namespace
