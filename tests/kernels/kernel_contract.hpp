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

  /// The last n objects.
  template <class T> T* last(std::size_t n) const { return reinterpret_cast<T*>(static_cast<std::byte*>(memory_) + mapped_ - page_) - n; }

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

/// Scale times code is exact: 11 and 8 bits.
inline void widens_every_q8_0_scale(const CpuKernels& kernels) {
  std::vector<std::byte> blocks(0x10000 * 34);
  for (std::size_t scale = 0; scale < 0x10000; ++scale) {
    std::byte* block = blocks.data() + scale * 34;
    block[0] = static_cast<std::byte>(scale & 0xff);
    block[1] = static_cast<std::byte>(scale >> 8);
    for (std::size_t i = 0; i < 32; ++i) block[2 + i] = static_cast<std::byte>(scale * 32 + i * 37 + 128); // all 256 codes, over and over
  }
  std::vector<float> wide(0x10000 * 32);
  kernels.widen(blocks.data(), ElementType::q8_0, wide.size(), wide.data());
  for (std::size_t i = 0; i < wide.size(); ++i) {
    const std::size_t scale = i / 32;
    const int byte = std::to_integer<int>(blocks[scale * 34 + 2 + i % 32]), code = byte < 128 ? byte : byte - 256;
    if ((scale & 0x7c00u) != 0x7c00u) {
      ASSERT_EQ(static_cast<double>(wide[i]), float_oracle::value_of(float_oracle::binary16, static_cast<std::uint16_t>(scale)) * code)
          << scale << " * " << code;
    } else if ((scale & 0x3ffu) == 0 && code != 0) {
      ASSERT_EQ(wide[i], std::numeric_limits<float>::infinity() * (scale > 0x7fff ? -1.0f : 1.0f) * static_cast<float>(code));
    } else {
      ASSERT_TRUE(std::isnan(wide[i])) << scale << " * " << code;
    }
  }
}

inline void widens_any_length_at_any_address(const CpuKernels& kernels) {
  std::mt19937 random(1);
  for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0})
    for (std::size_t n = 0; n <= 70; ++n)
      for (const std::size_t skew : {0, 1, 2, 3}) {
        const Weights source({.element = type, .bits = 0}, 1, n, Numbers::any, random, 0, skew);
        const Exact<float> out(n, sizeof(float));
        kernels.widen(source.rows().data, type, n, out.data());
        for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(static_cast<double>(out[i]), source.at(0, i)) << n << " of " << name_of(type);
      }
}

/// From any multiple of eight on, any number of codes; the row ends at a page nobody may read.
inline void widens_codes(const CpuKernels& kernels) {
  std::mt19937 random(9);
  const Guarded source(8192), target(8192);
  for (unsigned bits = 2; bits <= 8; ++bits)
    for (const std::size_t first : {0, 8, 16, 24, 64, 256})
      for (std::size_t n = 0; n <= 300; n += n < 70 ? 1 : 23) {
        const WeightFormat format{.bits = bits};
        const Weights weights(format, 1, first + n, Numbers::any, random);
        const std::size_t row_bytes = bytes_of_row(format, first + n);
        auto* row = source.last<std::byte>(row_bytes);
        std::memcpy(row, weights.rows().data, row_bytes);
        auto* out = target.last<float>(n);
        kernels.widen_codes(row, bits, first, n, out);
        for (std::size_t i = 0; i < n; ++i)
          ASSERT_EQ(static_cast<double>(out[i]), weights.at(0, first + i)) << bits << " bits, column " << first << " + " << i << " of " << n;
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
    kernels.quantize(in.data(), in.size(), scale, {-limit, limit, offset}, out.data());
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
  const Weights empty({.element = ElementType::f16}, 2, 0, Numbers::whole, random);
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

/// One call of `product` and all memory it may touch. Panels, x and y end at pages nobody may read; what lies between the values is NaN.
class ProductCase {
public:
  /// How the panels lie in memory.
  enum class Layout {
    dense, ///< 16 floats a depth, one panel behind the other
    gaps,  ///< more than 16 floats a depth, and something between the panels
    rows,  ///< all panels side by side: the rows of a matrix
  };

  ProductCase(std::size_t lanes, std::size_t rows, std::size_t depth, Layout layout, Numbers numbers, std::mt19937& random)
      : lanes_(lanes), rows_(rows), depth_(depth), x_stride_(depth + rows % 3), y_stride_(lanes + depth % 3) {
    const std::size_t count = (lanes + lsaq::panel_rows - 1) / lsaq::panel_rows;
    if (layout == Layout::gaps) step_ = 21;
    if (layout == Layout::rows) step_ = count * lsaq::panel_rows;
    panel_stride_ = layout == Layout::rows ? lsaq::panel_rows : depth * step_ + (layout == Layout::gaps ? 5 : 0);
    const std::size_t panel_floats = depth == 0 ? 0 : (count - 1) * panel_stride_ + (depth - 1) * step_ + lsaq::panel_rows;
    panels_ = panels_memory().last<float>(panel_floats);
    x_ = x_memory().last<float>(rows == 0 ? 0 : (rows - 1) * x_stride_ + depth);
    y_ = y_memory().last<float>(y_floats());
    std::fill_n(panels_, panel_floats, std::nanf(""));
    std::fill_n(x_, rows == 0 ? 0 : (rows - 1) * x_stride_ + depth, std::nanf(""));
    std::uniform_real_distribution<float> uniform(-1, 1);
    const auto number = [&] { return numbers == Numbers::whole ? static_cast<float>(static_cast<int>(random() % 17) - 8) : uniform(random); };
    for (std::size_t k = 0; k < depth; ++k)
      for (std::size_t l = 0; l < lanes; ++l) panels_[l / 16 * panel_stride_ + k * step_ + l % 16] = number();
    for (std::size_t i = 0; i < rows; ++i)
      for (std::size_t k = 0; k < depth; ++k) x_[i * x_stride_ + k] = number();
    before_.resize(rows * lanes);
    for (float& value : before_) value = number();
  }

  void run(const CpuKernels& kernels, bool accumulate, const lsaq::Ahead& ahead) const {
    std::fill_n(y_, y_floats(), std::nanf(""));
    for (std::size_t i = 0; accumulate && i < rows_; ++i) std::copy_n(before_.data() + i * lanes_, lanes_, y_ + i * y_stride_);
    kernels.product({panels_, lanes_, panel_stride_, step_}, depth_, x_, x_stride_, rows_, y_, y_stride_, accumulate, ahead);
    for (std::size_t i = 0; i < y_floats(); ++i) ASSERT_TRUE(i % y_stride_ < lanes_ || std::isnan(y_[i])) << "written beyond row " << i / y_stride_;
  }

  float lane(std::size_t l, std::size_t k) const { return panels_[l / 16 * panel_stride_ + k * step_ + l % 16]; }
  float x(std::size_t i, std::size_t k) const { return x_[i * x_stride_ + k]; }
  float before(std::size_t i, std::size_t l) const { return before_[i * lanes_ + l]; }
  float y(std::size_t i, std::size_t l) const { return y_[i * y_stride_ + l]; }

private:
  std::size_t y_floats() const { return rows_ == 0 ? 0 : (rows_ - 1) * y_stride_ + lanes_; }
  static const Guarded& panels_memory() {
    static const Guarded memory(1 << 17);
    return memory;
  }
  static const Guarded& x_memory() {
    static const Guarded memory(1 << 15);
    return memory;
  }
  static const Guarded& y_memory() {
    static const Guarded memory(1 << 14);
    return memory;
  }

  std::size_t lanes_, rows_, depth_, step_ = lsaq::panel_rows, panel_stride_ = 0, x_stride_, y_stride_;
  float *panels_, *x_, *y_;
  std::vector<float> before_;
};

inline constexpr ProductCase::Layout every_layout[] = {ProductCase::Layout::dense, ProductCase::Layout::gaps, ProductCase::Layout::rows};
inline constexpr std::size_t most_rows = 26; ///< two whole tiles and a tail, whatever the path
inline constexpr std::size_t every_depth[] = {0, 1, 2, 15, 16, 17, 19, 33};

inline void multiplies_panels(const CpuKernels& kernels) {
  std::mt19937 random(7);
  const std::vector<std::byte> next(1 << 16); // what is fetched ahead is never used
  for (std::size_t lanes = 1; lanes <= 64; ++lanes)
    for (std::size_t rows = 0; rows <= most_rows; ++rows)
      for (const Numbers numbers : {Numbers::whole, Numbers::any}) {
        const std::size_t depth = every_depth[random() % std::size(every_depth)];
        const bool accumulate = random() % 2 != 0;
        const lsaq::Ahead ahead = random() % 2 != 0 ? lsaq::Ahead{next.data(), 68, 16} : lsaq::Ahead{};
        const ProductCase product(lanes, rows, depth, every_layout[random() % 3], numbers, random);
        product.run(kernels, accumulate, ahead);
        for (std::size_t i = 0; i < rows; ++i)
          for (std::size_t l = 0; l < lanes; ++l) {
            Sum sum;
            if (accumulate) sum.add(1, product.before(i, l));
            for (std::size_t k = 0; k < depth; ++k) sum.add(product.x(i, k), product.lane(l, k));
            expect_sum(product.y(i, l), sum, numbers);
            ASSERT_FALSE(testing::Test::HasFatalFailure())
                << "row " << i << " of " << rows << ", lane " << l << " of " << lanes << ", depth " << depth << (accumulate ? ", added" : "");
          }
      }
}

/// Sums run over k in order, rounded once a step where the machine multiplies and adds in one instruction: a value depends on its row and its lane only.
inline void sums_in_order(const CpuKernels& kernels) {
  std::mt19937 random(10);
  bool fused = true, plain = kernels.isa == Isa::scalar || kernels.isa == Isa::eigen; // these may be either, by the compiler's flags
  for (std::size_t lanes = 1; lanes <= 64; lanes += lanes < 20 ? 1 : 11)
    for (std::size_t rows = 1; rows <= most_rows; ++rows)
      for (const bool accumulate : {false, true}) {
        const std::size_t depth = 30 + rows % 5;
        const ProductCase product(lanes, rows, depth, every_layout[rows % 3], Numbers::any, random);
        product.run(kernels, accumulate, {});
        for (std::size_t i = 0; i < rows; ++i)
          for (std::size_t l = 0; l < lanes; ++l) {
            float once = 0;
            volatile float twice = 0; // volatile: two roundings, whatever the compiler's flags
            for (std::size_t k = 0; k < depth; ++k) {
              once = std::fma(product.x(i, k), product.lane(l, k), once);
              const volatile float term = product.x(i, k) * product.lane(l, k);
              twice = twice + term;
            }
            const float before = accumulate ? product.before(i, l) : 0.0f;
            fused = fused && product.y(i, l) == before + once;
            plain = plain && product.y(i, l) == before + twice;
            ASSERT_TRUE(fused || plain) << "row " << i << " of " << rows << ", lane " << l << " of " << lanes;
          }
      }
}

inline void compares(const CpuKernels& kernels) {
  std::mt19937 random(11);
  const float infinity = std::numeric_limits<float>::infinity();
  const float some[] = {0.0f, -0.0f, 1.0f, -1.0f, std::nextafter(1.0f, 2.0f), infinity, -infinity, std::nanf(""), -std::nanf(""), 1e-45f, -1e-45f};
  const Guarded left(4096), right(4096);
  EXPECT_EQ(kernels.above(nullptr, nullptr, 0), 0u);
  for (std::size_t n = 0; n <= 64; ++n)
    for (int round = 0; round < 50; ++round) {
      float *const values = left.last<float>(n), *const limits = right.last<float>(n);
      std::uint64_t expected = 0;
      for (std::size_t i = 0; i < n; ++i) {
        const bool equal = random() % 4 == 0;
        values[i] = some[random() % std::size(some)];
        limits[i] = equal ? values[i] : some[random() % std::size(some)];
        if (!(values[i] <= limits[i])) expected |= std::uint64_t{1} << i;
      }
      ASSERT_EQ(kernels.above(values, limits, n), expected) << n;
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
      auto* last = source.last<std::byte>(row_bytes);
      if (format.element == ElementType::q8_0 && columns % 32 != 0) { // the last block ends with its last code
        const std::size_t bytes = columns / 32 * 34 + 2 + columns % 32;
        last = static_cast<std::byte*>(std::memmove(source.last<std::byte>(bytes), last, bytes));
      }
      float* const wide = output.last<float>(columns);
      kernels.widen(last, format.element, columns, wide);
      ASSERT_EQ(static_cast<double>(wide[columns - 1]), weights.at(2, columns - 1));
    }
}

} // namespace kernel_contract

/// Defines the tests of the path `isa` in the suite `suite`.
#define LSAQ_KERNEL_CONTRACT(suite, isa)                                                                                                                       \
  LSAQ_KERNEL_TEST(suite, isa, WidensEveryPattern, kernel_contract::widens_every_pattern)                                                                      \
  LSAQ_KERNEL_TEST(suite, isa, WidensEveryQ80Scale, kernel_contract::widens_every_q8_0_scale)                                                                  \
  LSAQ_KERNEL_TEST(suite, isa, WidensAnyLengthAtAnyAddress, kernel_contract::widens_any_length_at_any_address)                                                 \
  LSAQ_KERNEL_TEST(suite, isa, WidensCodes, kernel_contract::widens_codes)                                                                                     \
  LSAQ_KERNEL_TEST(suite, isa, NarrowsToTheNearest, kernel_contract::narrows_to_the_nearest)                                                                   \
  LSAQ_KERNEL_TEST(suite, isa, FindsTheLargestMagnitude, kernel_contract::finds_the_largest_magnitude)                                                         \
  LSAQ_KERNEL_TEST(suite, isa, QuantizesByTheRule, kernel_contract::quantizes_by_the_rule)                                                                     \
  LSAQ_KERNEL_TEST(suite, isa, MultipliesRows, kernel_contract::multiplies_rows)                                                                               \
  LSAQ_KERNEL_TEST(suite, isa, UnpacksPanels, kernel_contract::unpacks_panels)                                                                                 \
  LSAQ_KERNEL_TEST(suite, isa, MultipliesPanels, kernel_contract::multiplies_panels)                                                                           \
  LSAQ_KERNEL_TEST(suite, isa, SumsInOrder, kernel_contract::sums_in_order)                                                                                    \
  LSAQ_KERNEL_TEST(suite, isa, Compares, kernel_contract::compares)                                                                                            \
  LSAQ_KERNEL_TEST(suite, isa, ReadsNothingBeyondTheRows, kernel_contract::reads_nothing_beyond_the_rows)
#define LSAQ_KERNEL_TEST(suite, isa, name, function)                                                                                                           \
  TEST(suite, name) {                                                                                                                                          \
    SKIP_UNLESS_RUNS(isa);                                                                                                                                     \
    function(lsaq::kernels_of(isa));                                                                                                                           \
  }
