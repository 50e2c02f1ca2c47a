// The quantizer in a program compiled with -ffast-math, as some engines are: the same bytes. The golden arrays are compiled into the same program.
#include <lsaq/quantization/quantizer.hpp>

#include "quantization/oracle.hpp"

namespace quantizer_fast_math_test {

#ifndef __FAST_MATH__
#error "this program is to be compiled with -ffast-math"
#endif

TEST(QuantizerWithFastMath, DividesAndDoesNotMultiplyByTheReciprocal) {
  std::mt19937 random(41);
  constexpr std::size_t rows = 200, columns = 45; // whole vectors and a tail
  for (const unsigned bits : {8u, 4u})
    for (const lsaq::ScaleType type : oracle::every_scale) {
      std::vector<float> weights(rows * columns);
      for (std::size_t r = 0; r < rows; ++r) {
        const int limit = lsaq::code_limit(bits);
        const float scale = std::bit_cast<float>(0x3f800000u | static_cast<std::uint32_t>(random() & 0x7fffffu));
        for (std::size_t c = 0; c < columns; ++c) // near ties, where a quotient that is rounded twice shows
          weights[r * columns + c] = scale * (c == 0 ? static_cast<float>(limit) : static_cast<float>(static_cast<int>(random() % limit)) + 0.5f);
      }
      oracle::expect_quantized(weights, rows, columns, bits, type);
      ASSERT_FALSE(HasFatalFailure());
    }
}

TEST(QuantizerWithFastMath, RandomMatrices) {
  std::mt19937 random(42);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const lsaq::ScaleType type : oracle::every_scale) oracle::expect_quantized(oracle::random_weights(40, 301, random), 40, 301, bits, type);
}

TEST(QuantizerWithFastMath, StillRefusesWhatIsNotFinite) {
  for (const std::uint32_t bits : {0x7f800000u, 0xff800000u, 0x7fc00000u, 0x7f800001u}) {
    std::vector<float> weights(40, 1.0f);
    std::memcpy(&weights[37], &bits, sizeof bits);
    EXPECT_THROW((lsaq::Quantizer<lsaq::PerChannel, 8>{}(lsaq::MatrixView(weights.data(), 2, 20))), lsaq::InvalidArgument);
  }
  const std::vector<float> large(40, 8321040.0f);
  EXPECT_THROW((lsaq::Quantizer<lsaq::PerChannel, 8>{}(lsaq::MatrixView(large.data(), 2, 20))), lsaq::InvalidArgument);
}

} // namespace quantizer_fast_math_test
