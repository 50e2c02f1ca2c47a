#include <lsaq/quantization/dense_products.hpp>

#include "quantization/channel_cases.hpp"

#include <limits>

namespace dense_products_test {

using channel_cases::Device;
using channel_cases::Matrix;
using test_support::refusal;

static_assert(lsaq::product_device<Device>);
static_assert(!lsaq::product_device<int>);

TEST(MultiplyTransposed, IsTheProductOfRows) {
  std::mt19937 random(1);
  const Matrix a = channel_cases::random_matrix(33, 50, random), b = channel_cases::random_matrix(17, 50, random);
  Matrix out(33, 17);
  std::vector<std::byte> workspace;
  lsaq::detail::multiply_transposed(Device(), a.view(), b.view(), out.out(), workspace);
  for (std::size_t i = 0; i < 33; ++i)
    for (std::size_t j = 0; j < 17; ++j) {
      double sum = 0;
      for (std::size_t k = 0; k < 50; ++k) sum += double{a.at(i, k)} * double{b.at(j, k)};
      ASSERT_NEAR(out.at(i, j), sum, 1e-6);
    }
}

TEST(FiniteFloats, NamesTheFirstOtherOne) {
  Matrix matrix(3, 4);
  EXPECT_FALSE(lsaq::find_not_finite(matrix.view()));
  EXPECT_EQ(refusal([&] { lsaq::require_finite_floats(matrix.view(), "channels"); }), "accepted");
  matrix.at(1, 2) = std::numeric_limits<float>::infinity();
  matrix.at(2, 0) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(refusal([&] { lsaq::require_finite_floats(matrix.view(), "channels"); }), "channels, row 1, column 2: the value is not finite (inf)");
  const lsaq::f16 half{};
  EXPECT_EQ(refusal([&] { lsaq::require_finite_floats({&half, 1, 1}, "channels"); }), "channels is of type F16: FP32 is possible");
}

} // namespace dense_products_test
