#include <lsaq/kernels/cpu/eigen.hpp>

#include "kernels/kernel_contract.hpp"

namespace eigen_test {

LSAQ_KERNEL_CONTRACT(EigenPath, lsaq::Isa::eigen)

TEST(EigenPath, SharesTheElementwiseFunctionsOfTheOracle) {
  EXPECT_EQ(lsaq::eigen::kernels.widen, &lsaq::scalar::widen);
  EXPECT_EQ(lsaq::eigen::kernels.widen_codes, &lsaq::scalar::widen_codes);
  EXPECT_EQ(lsaq::eigen::kernels.narrow_f16, &lsaq::scalar::narrow_f16);
  EXPECT_EQ(lsaq::eigen::kernels.magnitude_bits, &lsaq::scalar::magnitude_bits);
  EXPECT_EQ(lsaq::eigen::kernels.quantize, &lsaq::scalar::quantize);
  EXPECT_EQ(lsaq::eigen::kernels.extremes, &lsaq::scalar::extremes);
  EXPECT_EQ(lsaq::eigen::kernels.quantize_packed, &lsaq::scalar::quantize_packed);
  EXPECT_EQ(lsaq::eigen::kernels.above, &lsaq::scalar::above);
}

} // namespace eigen_test
