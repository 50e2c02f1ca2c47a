// What every path of CpuKernels must do, each function of the table against plain loops; the tests of the paths run all of it.
#pragma once

#include "kernels/kernel_cases.hpp"

#include <limits>

#include <sys/mman.h>
#include <unistd.h>

namespace kernel_contract {

using namespace kernel_cases;

inline std::uint32_t bits_of(float value) { return std::bit_cast<std::uint32_t>(value); }

/// Bytes that end at a page nobody may read: a read beyond them stops any build, not only one with a sanitizer.
class Guarded {
public:
  explicit Guarded(std::size_t size) : page_(static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))), mapped_((size + page_ - 1) / page_ * page_ + page_) {
    memory_ = ::mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED) throw std::bad_alloc();
    std::byte* end = static_cast<std::byte*>(memory_) + mapped_ - page_;
    if (::mprotect(end, page_, PROT_NONE) != 0) throw std::bad_alloc();
    data_ = end - size;
  }
  ~Guarded() { ::munmap(memory_, mapped_); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  std::byte* data() const { return data_; }

private:
  std::size_t page_, mapped_;
  void* memory_;
  std::byte* data_;
};

inline void widens_every_pattern(const CpuKernels& kernels) {
  std::vector<std::uint16_t> patterns(0x10000);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  std::vector<float> wide(patterns.size());
  for (const auto& [type, format] : {std::pair(ElementType::f16, float_oracle::binary16), std::pair(ElementType::bf16, float_oracle::bfloat16)}) {
    kernels.widen(patterns.data(), type, patterns.size(), wide.data());
    for (std::size_t i = 0; i < patterns.size(); ++i) {
      const unsigned magnitude = patterns[i] & 0x7fffu;
      ASSERT_EQ(std::signbit(wide[i]), i > 0x7fff) << i;
      if (magnitude > format.infinity) {
        ASSERT_TRUE(std::isnan(wide[i])) << i;
      } else if (magnitude == format.infinity) {
        ASSERT_TRUE(std::isinf(wide[i])) << i;
      } else {
        ASSERT_EQ(static_cast<double>(wide[i]), float_oracle::value_of(format, patterns[i])) << i;
      }
    }
  }
}

inline void widens_any_length_at_any_address(const CpuKernels& kernels) {
  std::mt19937 random(1);
  for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16})
    for (std::size_t n = 0; n <= 41; ++n)
      for (const std::size_t skew : {0, 1, 2, 3}) {
        const Weights source({.element = type, .bits = 0}, 1, n, Numbers::any, random, 0, skew);
        const Exact<float> out(n, sizeof(float));
        kernels.widen(source.rows().data, type, n, out.data());
        for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(static_cast<double>(out[i]), source.at(0, i)) << n << " of " << name_of(type);
      }
}

inline void narrows_to_the_nearest(const CpuKernels& kernels) {
  std::vector<float> values;
  const float infinity = std::numeric_limits<float>::infinity();
  for (unsigned bits = 0; bits < 0x7c00; ++bits) {
    const auto low = static_cast<float>(float_oracle::magnitude_of(float_oracle::binary16, bits));
    const auto high = static_cast<float>(float_oracle::magnitude_of(float_oracle::binary16, bits + 1));
    const float tie = (low + high) / 2;
    for (const float value : {low, tie, std::nextafter(tie, 0.0f), std::nextafter(tie, infinity)}) values.insert(values.end(), {value, -value});
  }
  std::mt19937 random(2);
  for (int i = 0; i < 50000; ++i)
    if (const float value = std::bit_cast<float>(static_cast<std::uint32_t>(random())); !std::isnan(value)) values.push_back(value);
  values.insert(values.end(), {infinity, -infinity, std::numeric_limits<float>::max(), std::numeric_limits<float>::denorm_min(), 0.0f, -0.0f});
  std::vector<lsaq::f16> out(values.size());
  kernels.narrow_f16(values.data(), values.size(), out.data());
  for (std::size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(out[i].bits, float_oracle::nearest(float_oracle::binary16, values[i])) << std::hexfloat << values[i];

  for (std::size_t n = 0; n <= 41; ++n) {
    const Rows in(1, n, n, Numbers::any, random);
    const Exact<lsaq::f16> halves(n, sizeof(lsaq::f16));
    kernels.narrow_f16(in.data(), n, halves.data());
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(halves[i].bits, float_oracle::nearest(float_oracle::binary16, in.at(0, i)));
  }
  const std::vector<float> nan(11, -std::nanf("7"));
  kernels.narrow_f16(nan.data(), nan.size(), out.data());
  for (std::size_t i = 0; i < nan.size(); ++i) ASSERT_GT(out[i].bits & 0x7fff, 0x7c00) << "NaN stays NaN";
}

inline void finds_the_largest_magnitude(const CpuKernels& kernels) {
  EXPECT_EQ(kernels.magnitude_bits(nullptr, 0), 0u);
  std::mt19937 random(3);
  for (std::size_t n = 1; n <= 70; ++n)
    for (std::size_t place = 0; place < n; ++place) {
      const Rows in(1, n, n, Numbers::any, random);
      in.at(0, place) = place % 2 == 0 ? -3.5f : 3.5f;
      ASSERT_EQ(kernels.magnitude_bits(in.data(), n), bits_of(3.5f)) << place << " of " << n;
      in.at(0, place) = std::numeric_limits<float>::infinity() * (place % 2 == 0 ? -1.0f : 1.0f);
      ASSERT_EQ(kernels.magnitude_bits(in.data(), n), 0x7f800000u) << place << " of " << n;
      for (const std::uint32_t nan : {0x7f800001u, 0x7fc00000u, 0xffffffffu, 0xff800001u}) {
        in.data()[place] = std::bit_cast<float>(nan);
        ASSERT_GT(kernels.magnitude_bits(in.data(), n), 0x7f800000u) << place << " of " << n;
      }
      for (float& value : in.all()) value = -0.0f;
      ASSERT_EQ(kernels.magnitude_bits(in.data(), n), 0u) << "-0 has no magnitude";
      in.at(0, place) = -std::numeric_limits<float>::denorm_min();
      ASSERT_EQ(kernels.magnitude_bits(in.data(), n), 1u) << "subnormals count";
    }
}

/// Half to even by the definition; |value| small.
inline int half_to_even(double value) {
  const double below = std::floor(value);
  const auto integer = static_cast<int>(below);
  const double rest = value - below; // exact
  if (rest == 0.5) return integer % 2 == 0 ? integer : integer + 1;
  return rest < 0.5 ? integer : integer + 1;
}

inline void quantizes_by_the_rule(const CpuKernels& kernels) {
  std::mt19937 random(4);
  const auto check = [&](const Exact<float>& in, float scale, unsigned bits) {
    const int limit = (1 << (bits - 1)) - 1, offset = limit + 1;
    const Exact<std::uint8_t> out(in.size(), 1);
    kernels.quantize(in.data(), in.size(), scale, limit, offset, out.data());
    for (std::size_t i = 0; i < in.size(); ++i) {
      const float quotient = in[i] / scale;
      const int code = std::clamp(half_to_even(quotient), -limit, limit);
      ASSERT_EQ(out[i], code + offset) << std::hexfloat << in[i] << " / " << scale << ", element " << i << " of " << in.size();
    }
  };
  for (unsigned bits = 2; bits <= 8; ++bits) {
    for (std::size_t n = 0; n <= 70; ++n) check(Rows(1, n, n, Numbers::any, random).all(), 1.03f / 127, bits);
    const int limit = (1 << (bits - 1)) - 1;
    std::vector<float> ties;
    for (int k = -limit - 2; k <= limit + 1; ++k)
      for (const float tie : {static_cast<float>(k) + 0.5f})
        for (const float value : {tie, std::nextafter(tie, -1e9f), std::nextafter(tie, 1e9f)}) ties.push_back(value);
    for (const float scale : {1.0f, 0x1p-20f, 0x1p60f, 0x1p-130f}) { // powers of two: the ties stay ties
      const Exact<float> in(ties.size(), sizeof(float));
      for (std::size_t i = 0; i < ties.size(); ++i) in[i] = ties[i] * scale;
      check(in, scale, bits);
    }
    const Exact<float> beyond(33, sizeof(float)); // clamped, both ends
    for (std::size_t i = 0; i < beyond.size(); ++i) beyond[i] = (i % 2 == 0 ? 1.0f : -1.0f) * static_cast<float>(limit) * (1.0f + static_cast<float>(i));
    check(beyond, 1.0f, bits);
  }
}

inline void multiplies_rows(const CpuKernels& kernels) {
  std::mt19937 random(5);
  for (const Numbers numbers : {Numbers::whole, Numbers::any})
    for (const WeightFormat format : all_formats())
      for (const std::size_t columns : all_columns())
        for (const std::size_t rows : {1, 2, 5}) {
          const Weights weights(format, rows, columns, numbers, random, columns % 3, columns % 4);
          const Rows x(1, columns, columns, numbers, random), y(1, rows, rows);
          kernels.dot_rows(weights.rows(), rows, columns, x.data(), y.data());
          for (std::size_t r = 0; r < rows; ++r) {
            expect_sum(y.at(0, r), product_of(weights, r, x, 0), numbers);
            ASSERT_FALSE(testing::Test::HasFatalFailure()) << name_of(format) << ", row " << r << " of " << rows << " x " << columns;
          }
        }
  const Weights empty({.element = ElementType::f16, .bits = 0}, 2, 0, Numbers::whole, random);
  const Rows y(1, 2, 2);
  kernels.dot_rows(empty.rows(), 2, 0, nullptr, y.data());
  EXPECT_EQ(y.at(0, 0), 0.0f);
  EXPECT_EQ(y.at(0, 1), 0.0f);
}

inline void unpacks_panels(const CpuKernels& kernels) {
  std::mt19937 random(6);
  for (const WeightFormat format : all_formats())
    for (std::size_t rows = 1; rows <= lsaq::panel_rows; ++rows)
      for (const std::size_t first : {0, 1, 3, 8, 256})
        for (const std::size_t columns : {1, 7, 8, 9, 16, 31, 40}) {
          const Weights weights(format, rows, first + columns, Numbers::any, random, rows % 3, rows % 4);
          const Exact<float> panel(columns * lsaq::panel_rows, sizeof(float));
          kernels.unpack(weights.rows(), rows, first, columns, panel.data());
          for (std::size_t k = 0; k < columns; ++k)
            for (std::size_t r = 0; r < rows; ++r)
              ASSERT_EQ(static_cast<double>(panel[k * lsaq::panel_rows + r]), weights.at(r, first + k))
                  << name_of(format) << ", row " << r << " of " << rows << ", column " << k << " of " << first << " + " << columns;
        }
}

inline void multiplies_panels(const CpuKernels& kernels) {
  std::mt19937 random(7);
  for (const Numbers numbers : {Numbers::whole, Numbers::any})
    for (const bool accumulate : {false, true})
      for (const std::size_t gap : {0, 5})
        for (std::size_t rows = 1; rows <= lsaq::panel_rows; ++rows)
          for (std::size_t tokens = 1; tokens <= 13; ++tokens)
            for (const std::size_t depth : {1, 2, 19}) {
              const std::size_t stride = lsaq::panel_rows + gap;
              const Rows panel(depth, lsaq::panel_rows, stride, numbers, random), x(tokens, depth, depth + gap, numbers, random);
              const Rows before(tokens, rows, rows + gap, numbers, random), y(tokens, rows, rows + gap);
              if (accumulate) std::copy(before.all().begin(), before.all().end(), y.data());
              kernels.product(panel.data(), stride, depth, x.data(), x.stride(), tokens, y.data(), y.stride(), rows, accumulate);
              for (std::size_t t = 0; t < tokens; ++t)
                for (std::size_t r = 0; r < rows; ++r) {
                  Sum sum;
                  if (accumulate) sum.add(1, before.at(t, r));
                  for (std::size_t k = 0; k < depth; ++k) sum.add(panel.at(k, r), x.at(t, k));
                  expect_sum(y.at(t, r), sum, numbers);
                  ASSERT_FALSE(testing::Test::HasFatalFailure()) << t << " of " << tokens << " tokens, " << r << " of " << rows << " rows, depth " << depth;
                }
              expect_gaps_untouched(y, tokens, rows);
            }
}

/// Weights and inputs that end at a page nobody may read.
inline void reads_nothing_beyond_the_rows(const CpuKernels& kernels) {
  std::mt19937 random(8);
  for (const WeightFormat format : all_formats())
    for (const std::size_t columns : all_columns()) {
      const std::size_t row_bytes = bytes_of_row(format, columns), rows = 3;
      const Weights weights(format, rows, columns, Numbers::whole, random);
      const Rows x(1, columns, columns, Numbers::whole, random);
      const Guarded source(rows * row_bytes), input(columns * sizeof(float)), output(columns * lsaq::panel_rows * sizeof(float));
      std::memcpy(source.data(), weights.rows().data, rows * row_bytes);
      std::memcpy(input.data(), x.data(), columns * sizeof(float));
      const WeightRows guarded{source.data(), row_bytes, format};
      float y[3];
      kernels.dot_rows(guarded, rows, columns, reinterpret_cast<const float*>(input.data()), y);
      ASSERT_EQ(static_cast<double>(y[2]), product_of(weights, 2, x, 0).value) << name_of(format) << ", " << columns << " columns";
      auto* panel = reinterpret_cast<float*>(output.data());
      kernels.unpack(guarded, rows, 0, columns, panel);
      ASSERT_EQ(static_cast<double>(panel[(columns - 1) * lsaq::panel_rows + 2]), weights.at(2, columns - 1));
      if (format.packed()) continue;
      kernels.widen(source.data(), format.element, rows * columns, panel + columns * (lsaq::panel_rows - rows));
      ASSERT_EQ(static_cast<double>(panel[columns * lsaq::panel_rows - 1]), weights.at(2, columns - 1));
    }
}

/// Defines the tests of the path `isa` in the suite `suite`.
#define LSAQ_KERNEL_CONTRACT(suite, isa)                                                                                                                       \
  LSAQ_KERNEL_TEST(suite, isa, WidensEveryPattern, widens_every_pattern)                                                                                       \
  LSAQ_KERNEL_TEST(suite, isa, WidensAnyLengthAtAnyAddress, widens_any_length_at_any_address)                                                                  \
  LSAQ_KERNEL_TEST(suite, isa, NarrowsToTheNearest, narrows_to_the_nearest)                                                                                    \
  LSAQ_KERNEL_TEST(suite, isa, FindsTheLargestMagnitude, finds_the_largest_magnitude)                                                                          \
  LSAQ_KERNEL_TEST(suite, isa, QuantizesByTheRule, quantizes_by_the_rule)                                                                                      \
  LSAQ_KERNEL_TEST(suite, isa, MultipliesRows, multiplies_rows)                                                                                                \
  LSAQ_KERNEL_TEST(suite, isa, UnpacksPanels, unpacks_panels)                                                                                                  \
  LSAQ_KERNEL_TEST(suite, isa, MultipliesPanels, multiplies_panels)                                                                                            \
  LSAQ_KERNEL_TEST(suite, isa, ReadsNothingBeyondTheRows, reads_nothing_beyond_the_rows)
#define LSAQ_KERNEL_TEST(suite, isa, name, function)                                                                                                           \
  TEST(suite, name) {                                                                                                                                          \
    SKIP_UNLESS_RUNS(isa);                                                                                                                                     \
    kernel_contract::function(lsaq::kernels_of(isa));                                                                                                          \
  }

} // namespace kernel_contract
