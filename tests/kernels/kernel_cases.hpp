// Weights, inputs and plain double loops for the tests of the CPU kernels. Nothing here calls the library's conversions or packing.
#pragma once

#include "core/float_oracle.hpp"

#include <lsaq/kernels/cpu/select.hpp>

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace kernel_cases {

using lsaq::CpuKernels;
using lsaq::ElementType;
using lsaq::Isa;
using lsaq::WeightFormat;
using lsaq::WeightRows;

/// The paths of this processor family, whether or not this machine runs them.
inline std::vector<Isa> family_paths() {
  std::vector<Isa> paths = {Isa::scalar, Isa::eigen};
  if (LSAQ_X86 != 0) paths.insert(paths.end(), {Isa::avx2, Isa::avxvnni, Isa::avx512, Isa::avx512vnni, Isa::amx});
  if (LSAQ_ARM64 != 0) paths.insert(paths.end(), {Isa::neon, Isa::neon_dotprod});
  return paths;
}

/// Skips the test by the path's name where this machine can't run it.
#define SKIP_UNLESS_RUNS(isa)                                                                                                                                  \
  if (!lsaq::cpu_runs(isa)) GTEST_SKIP() << name_of(isa) << ": not on this machine"

/// n objects that end with their heap block, `skew` bytes behind the alignment of new: AddressSanitizer sees the first byte beyond them.
template <class T> class Exact {
public:
  explicit Exact(std::size_t n, std::size_t skew = 0) : size_(n), skew_(skew), block_(std::make_unique<std::byte[]>(n * sizeof(T) + skew)) {}

  T* data() const { return reinterpret_cast<T*>(block_.get() + skew_); }
  std::size_t size() const { return size_; }
  T& operator[](std::size_t i) const { return data()[i]; }
  T* begin() const { return data(); }
  T* end() const { return data() + size_; }

private:
  std::size_t size_, skew_;
  std::unique_ptr<std::byte[]> block_;
};

/// Every format the kernels read.
inline std::vector<WeightFormat> all_formats() {
  std::vector<WeightFormat> formats;
  for (const ElementType element : {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0})
    formats.push_back({.element = element, .bits = 0});
  for (unsigned bits = 2; bits <= 8; ++bits) formats.push_back({.element = ElementType::f32, .bits = bits});
  return formats;
}

inline std::string name_of(WeightFormat format) { return format.packed() ? std::to_string(format.bits) + " bits" : std::string(name_of(format.element)); }

/// Columns with every tail of every loop: 1 to 70, and around one and two panels.
inline std::vector<std::size_t> all_columns() {
  std::vector<std::size_t> columns;
  for (std::size_t c = 1; c <= 70; ++c) columns.push_back(c);
  columns.insert(columns.end(), {255, 256, 257, 258, 511, 512, 513});
  return columns;
}

/// What the numbers of a case are: small integers, whose sums of products are exact in any order, or anything.
enum class Numbers { whole, any };

/// Bytes of a row with its padding: packed codes fill words of 32 bits, Q8_0 blocks of 32 elements.
inline std::size_t bytes_of_row(WeightFormat format, std::size_t columns) {
  if (format.packed()) return (columns * format.bits + 31) / 32 * 4;
  return format.element == ElementType::q8_0 ? (columns + 31) / 32 * 34 : columns * size_of(format.element);
}

/// Random weights in one format, `gap` bytes between the rows, `skew` bytes off alignment; the block ends with the last row.
class Weights {
public:
  Weights(WeightFormat format, std::size_t rows, std::size_t columns, Numbers numbers, std::mt19937& random, std::size_t gap = 0, std::size_t skew = 0)
      : format_(format), columns_(columns), row_bytes_(bytes_of_row(format, columns) + gap), values_(rows * columns),
        bytes_(rows == 0 ? 0 : rows * row_bytes_ - gap, skew) {
    for (std::byte& byte : bytes_) byte = std::byte{0xff}; // between rows: NaN
    for (std::size_t r = 0; r < rows; ++r) fill_row(bytes_.data() + r * row_bytes_, values_.data() + r * columns, numbers, random);
  }

  WeightRows rows() const { return {bytes_.data(), row_bytes_, format_}; }
  std::size_t columns() const { return columns_; }
  double at(std::size_t row, std::size_t column) const { return values_[row * columns_ + column]; }

private:
  void fill_row(std::byte* row, double* values, Numbers numbers, std::mt19937& random) const {
    if (format_.packed()) {
      for (std::size_t i = 0; i < bytes_of_row(format_, columns_); ++i) row[i] = static_cast<std::byte>(random()); // padding: anything
      for (std::size_t c = 0; c < columns_; ++c) {
        int code = -(1 << (format_.bits - 1));
        for (std::size_t b = 0; b < format_.bits; ++b) { // bit b of code c is bit c * bits + b of the row
          const std::size_t bit = c * format_.bits + b;
          code += static_cast<int>(std::to_integer<unsigned>(row[bit / 8]) >> bit % 8 & 1u) << b;
        }
        values[c] = code;
      }
      return;
    }
    if (format_.element == ElementType::q8_0) {
      for (std::size_t block = 0; block < columns_; block += 32) {
        const std::uint16_t scale =
            numbers == Numbers::whole ? float_oracle::nearest(float_oracle::binary16, random() % 2 == 0 ? 1.0f : -2.0f) : any_f16(random);
        std::memcpy(row + block / 32 * 34, &scale, 2);
        for (std::size_t i = 0; i < 32; ++i) { // the last block's padding: anything
          const int code = numbers == Numbers::whole ? static_cast<int>(random() % 17) - 8 : static_cast<int>(random() % 256) - 128;
          row[block / 32 * 34 + 2 + i] = static_cast<std::byte>(code);
          if (block + i < columns_) values[block + i] = float_oracle::value_of(float_oracle::binary16, scale) * code;
        }
      }
      return;
    }
    for (std::size_t c = 0; c < columns_; ++c) {
      const float whole = static_cast<float>(static_cast<int>(random() % 17) - 8);
      if (format_.element == ElementType::f32) {
        const float value = numbers == Numbers::whole ? whole : std::uniform_real_distribution<float>(-2, 2)(random);
        std::memcpy(row + 4 * c, &value, 4);
        values[c] = value;
        continue;
      }
      const float_oracle::Format half = format_.element == ElementType::f16 ? float_oracle::binary16 : float_oracle::bfloat16;
      std::uint16_t bits = float_oracle::nearest(half, whole);
      if (numbers == Numbers::any) // BF16 between 2^-40 and 2^10
        bits = format_.element == ElementType::f16 ? any_f16(random) : static_cast<std::uint16_t>((random() & 0x807fu) | (87 + random() % 50) << 7);
      std::memcpy(row + 2 * c, &bits, 2);
      values[c] = float_oracle::value_of(half, bits);
    }
  }

  /// Any finite pattern, subnormals too.
  static std::uint16_t any_f16(std::mt19937& random) {
    const auto bits = static_cast<std::uint16_t>(random());
    return static_cast<std::uint16_t>((bits & 0x7c00u) == 0x7c00u ? bits & 0x83ffu : bits);
  }

  WeightFormat format_;
  std::size_t columns_, row_bytes_;
  std::vector<double> values_;
  Exact<std::byte> bytes_;
};

/// Rows of FP32 values, `stride` floats apart, NaN between them; the block ends with the last value and starts off vector alignment.
class Rows {
public:
  Rows(std::size_t rows, std::size_t columns, std::size_t stride) : stride_(stride), values_(rows == 0 ? 0 : (rows - 1) * stride + columns, sizeof(float)) {
    for (float& value : values_) value = std::nanf("");
  }

  Rows(std::size_t rows, std::size_t columns, std::size_t stride, Numbers numbers, std::mt19937& random) : Rows(rows, columns, stride) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (std::size_t r = 0; r < rows; ++r)
      for (std::size_t c = 0; c < columns; ++c)
        at(r, c) = numbers == Numbers::whole ? static_cast<float>(static_cast<int>(random() % 17) - 8) : uniform(random);
  }

  float* data() const { return values_.data(); }
  std::size_t stride() const { return stride_; }
  float& at(std::size_t row, std::size_t column) const { return values_[row * stride_ + column]; }
  const Exact<float>& all() const { return values_; }

private:
  std::size_t stride_;
  Exact<float> values_;
};

/// Hidden states of some tokens in a block of memory that ends where they end, so that sanitizers see what is read behind them.
inline std::vector<float> states(std::size_t tokens, std::size_t columns, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(tokens * columns);
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = normal(random);
    if (i % 97 == 13) x[i] *= 40; // a few large ones, as decoders have them
    if (i % 389 == 200) x[i] *= 3000;
  }
  return x;
}

/// A sum of products in double, and the bound any order of FP32 summation stays within: gamma(n + 1) times the sum of magnitudes (Higham, 2002, 3.1).
struct Sum {
  double value = 0, magnitude = 0;
  std::size_t terms = 0;

  void add(double weight, double input) {
    value += weight * input;
    magnitude += std::fabs(weight * input);
    ++terms;
  }
  double bound() const {
    const double n = static_cast<double>(terms + 1) * 0x1p-24;
    return magnitude * (n / (1 - n) + 0x1p-40) + 0x1p-126;
  }
};

inline Sum product_of(const Weights& weights, std::size_t row, const Rows& x, std::size_t token) {
  Sum sum;
  for (std::size_t c = 0; c < weights.columns(); ++c) sum.add(weights.at(row, c), x.at(token, c));
  return sum;
}

inline void expect_sum(float found, const Sum& expected, Numbers numbers) {
  if (numbers == Numbers::whole) {
    ASSERT_EQ(static_cast<double>(found), expected.value);
  } else {
    ASSERT_NEAR(static_cast<double>(found), expected.value, expected.bound());
  }
}

/// The floats between the rows of `y` still hold what was there before.
inline void expect_gaps_untouched(const Rows& y, std::size_t rows, std::size_t columns) {
  for (std::size_t i = 0; i < y.all().size(); ++i)
    ASSERT_TRUE(i % y.stride() < columns || std::isnan(y.all()[i])) << "written beyond row " << i / y.stride() << " of " << rows;
}

} // namespace kernel_cases
