#include <lsaq/kernels/cpu/avx2.hpp>

#include "kernels/kernel_contract.hpp"

namespace {

using kernel_cases::Exact;
using lsaq::ElementType;
using lsaq::Isa;

LSAQ_KERNEL_CONTRACT(Avx2, lsaq::Isa::avx2)

/// The elementwise functions decide stored bytes, so they have to agree with the oracle in every bit.
class Avx2Bytes : public testing::Test {
protected:
  void SetUp() override {
    SKIP_UNLESS_RUNS(Isa::avx2);
    for (int i = 0; i < 200001; ++i) random_bits_.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random_()))); // every kind of float
  }

  const lsaq::CpuKernels& scalar_ = lsaq::kernels_of(Isa::scalar);
  const lsaq::CpuKernels& vector_ = lsaq::kernels_of(lsaq::cpu_runs(Isa::avx2) ? Isa::avx2 : Isa::scalar);
  std::mt19937 random_{9};
  std::vector<float> random_bits_;
};

TEST_F(Avx2Bytes, Widen) {
  std::vector<std::uint16_t> patterns(0x10007);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  for (const ElementType type : {ElementType::f16, ElementType::bf16}) {
    std::vector<float> a(patterns.size()), b(patterns.size());
    scalar_.widen(patterns.data(), type, patterns.size(), a.data());
    vector_.widen(patterns.data(), type, patterns.size(), b.data());
    for (std::size_t i = 0; i < a.size(); ++i) // signaling NaN becomes quiet in hardware: any NaN is as good
      ASSERT_TRUE(kernel_contract::bits_of(a[i]) == kernel_contract::bits_of(b[i]) || (std::isnan(a[i]) && std::isnan(b[i]))) << i;
  }
  std::vector<float> copy(random_bits_.size());
  vector_.widen(random_bits_.data(), ElementType::f32, copy.size(), copy.data());
  EXPECT_EQ(std::memcmp(copy.data(), random_bits_.data(), copy.size() * sizeof(float)), 0) << "FP32 passes through untouched, NaN included";
}

TEST_F(Avx2Bytes, Narrow) {
  std::vector<lsaq::f16> a(random_bits_.size()), b(a.size());
  scalar_.narrow_f16(random_bits_.data(), a.size(), a.data());
  vector_.narrow_f16(random_bits_.data(), b.size(), b.data());
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(random_bits_[i])) { // payloads are not promised
      ASSERT_GT(a[i].bits & 0x7fff, 0x7c00);
      ASSERT_GT(b[i].bits & 0x7fff, 0x7c00);
      ASSERT_EQ(a[i].bits & 0x8000, b[i].bits & 0x8000);
    } else {
      ASSERT_EQ(a[i].bits, b[i].bits) << std::hexfloat << random_bits_[i];
    }
  }
}

TEST_F(Avx2Bytes, Magnitude) {
  for (std::size_t n = 0; n <= 100; ++n)
    for (std::size_t first = 0; first < 3000; first += 97)
      ASSERT_EQ(scalar_.magnitude_bits(&random_bits_[first], n), vector_.magnitude_bits(&random_bits_[first], n)) << first << ", " << n;
}

TEST_F(Avx2Bytes, Quantize) {
  std::lognormal_distribution<float> magnitudes(0, 2);
  for (unsigned bits = 2; bits <= 8; ++bits)
    for (int round = 0; round < 400; ++round) {
      const int limit = (1 << (bits - 1)) - 1;
      const std::size_t n = random_() % 150;
      const float scale = std::ldexp(magnitudes(random_), static_cast<int>(random_() % 240) - 130); // subnormal ones too
      if (scale == 0) continue;
      const Exact<float> in(n, sizeof(float));
      for (float& value : in) value = scale * static_cast<float>(limit + 2) * std::uniform_real_distribution<float>(-1, 1)(random_);
      if (n > 3) in[n / 2] = scale * 1.5f, in[n / 3] = -0.0f, in[n - 1] = std::numeric_limits<float>::denorm_min() * (scale > 1e-38f ? 1.0f : 0.0f);
      const Exact<std::uint8_t> a(n), b(n);
      scalar_.quantize(in.data(), n, scale, limit, limit + 1, a.data());
      vector_.quantize(in.data(), n, scale, limit, limit + 1, b.data());
      ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin())) << n << " values, scale " << scale;
    }
}

TEST_F(Avx2Bytes, Unpack) {
  for (const lsaq::WeightFormat format : kernel_cases::all_formats())
    for (const std::size_t columns : kernel_cases::all_columns()) {
      const kernel_cases::Weights weights(format, lsaq::panel_rows, columns, kernel_cases::Numbers::any, random_);
      std::vector<float> a(columns * lsaq::panel_rows), b(a.size());
      scalar_.unpack(weights.rows(), lsaq::panel_rows, 0, columns, a.data());
      vector_.unpack(weights.rows(), lsaq::panel_rows, 0, columns, b.data());
      ASSERT_EQ(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)), 0) << kernel_cases::name_of(format) << ", " << columns << " columns";
    }
}

} // namespace
