// Zeros, tiny, huge and broken weights where groups of columns or the whole matrix share a scale; and every 16-bit number there is.
#include <lsaq/quantization/quantizer.hpp>

#include "core/refusal.hpp"
#include "quantization/oracle.hpp"

#include <gmock/gmock.h>

#include <limits>

namespace quantizer_granularity_cases_test {

using lsaq::CodeRange;
using lsaq::Grouping;
using lsaq::MatrixView;
using lsaq::PackedFormat;
using lsaq::PackedMatrix;
using lsaq::QuantizationFault;
using lsaq::ScaleType;
using oracle::codes_of;
using oracle::every_range;
using oracle::every_scale;
using oracle::scale_of;
using test_support::refusal;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float smallest = std::numeric_limits<float>::denorm_min();
constexpr Grouping by_32{.columns = 32}, tensor{.columns = 0, .whole_matrix = true};

/// Three groups of 32, 32 and 6 columns in two rows; `fill` gives the weight of (row, group, column of the group).
template <class Fill> std::vector<float> three_groups(Fill&& fill) {
  std::vector<float> weights;
  for (std::size_t r = 0; r < 2; ++r)
    for (std::size_t c = 0; c < 70; ++c) weights.push_back(fill(r, c / 32, c % 32));
  return weights;
}

std::vector<int> codes_of_group(const PackedMatrix& packed, std::size_t row, std::size_t group) {
  const std::vector<int> codes = codes_of(packed.view(), row);
  const auto end = std::min<std::size_t>(codes.size(), 32 * group + 32);
  return {codes.begin() + static_cast<std::ptrdiff_t>(32 * group), codes.begin() + static_cast<std::ptrdiff_t>(end)};
}

TEST(QuantizerGroups, ZeroGroupsHaveScalePlusZeroAndCodesZero) {
  for (const ScaleType scale : every_scale)
    for (const CodeRange range : every_range)
      for (const unsigned bits : {8u, 4u, 3u})
        for (std::size_t zero = 0; zero < 3; ++zero)
          for (const float nothing : {0.0f, -0.0f}) {
            const PackedFormat format{bits, scale, by_32, range};
            const auto weights = three_groups([&](std::size_t, std::size_t g, std::size_t c) { return g == zero ? nothing : static_cast<float>(c) - 3.5f; });
            const PackedMatrix packed = lsaq::quantize(MatrixView(weights.data(), 2, 70), format);
            for (const std::size_t index : {zero, 3 + zero}) {
              EXPECT_EQ(scale_of(packed.view(), index), 0.0f);
              EXPECT_FALSE(std::signbit(scale_of(packed.view(), index)));
            }
            EXPECT_THAT(codes_of_group(packed, 1, zero), Each(0));
            oracle::expect_quantized(weights, 2, 70, format); // its neighbours are as without it
          }
  const std::vector<float> zeros(2 * 70, -0.0f);
  const PackedMatrix packed = lsaq::quantize(MatrixView(zeros.data(), 2, 70), {8, ScaleType::f16, tensor});
  EXPECT_EQ(oracle::hex(oracle::bytes_of(packed)).find_first_not_of("80"), std::string::npos);
  EXPECT_EQ(oracle::hex(oracle::bytes_of(packed)).substr(2 * 144), "0000");
}

TEST(QuantizerGroups, TinyWeights) {
  for (const float unit : {smallest, 100 * smallest, 1e-42f, 1e-38f, 0x1p-40f, 0x1p-31f, 0x1p-28f, 0x1p-24f, 1e-6f, 6e-5f})
    for (const ScaleType scale : every_scale)
      for (const CodeRange range : every_range)
        for (const unsigned bits : {8u, 4u, 2u})
          for (const Grouping grouping : {by_32, tensor}) {
            const auto weights = three_groups([&](std::size_t r, std::size_t g, std::size_t c) {
              return unit * static_cast<float>(1 + g + 7 * r) * (static_cast<float>(c) - 10.25f); // subnormal scales in F16, some only in some groups
            });
            oracle::expect_quantized(weights, 2, 70, {bits, scale, grouping, range});
          }
}

TEST(QuantizerGroups, EndsOfF16Scales) {
  for (const CodeRange range : every_range)
    for (const unsigned bits : {8u, 4u}) {
      const auto limit = static_cast<float>(lsaq::code_limit(bits));
      for (const Grouping grouping : {by_32, tensor}) {
        const PackedFormat format{bits, ScaleType::f16, grouping, range};
        const float beyond = 65520 * limit;
        std::vector<float> weights = three_groups([](std::size_t, std::size_t, std::size_t c) { return static_cast<float>(c); });
        weights[70 + 66] = std::nextafter(beyond, 0.0f); // row 1, the last group
        weights[70 + 68] = 65504 * limit;
        oracle::expect_quantized(weights, 2, 70, format);
        weights[70 + 66] = beyond;
        EXPECT_THAT(refusal([&] { lsaq::quantize(MatrixView(weights.data(), 2, 70), format); }),
                    AllOf(HasSubstr("row 1, column 66"), HasSubstr("beyond the range of F16")))
            << oracle::name_of(format);
        oracle::expect_quantized(weights, 2, 70, {bits, ScaleType::bf16, grouping, range});
        weights[70 + 66] = -beyond; // the full range has a code more on this side
        if (range == CodeRange::full)
          oracle::expect_quantized(weights, 2, 70, format);
        else
          EXPECT_THAT(refusal([&] { lsaq::quantize(MatrixView(weights.data(), 2, 70), format); }), HasSubstr("row 1, column 66"));
      }
    }
}

TEST(QuantizerGroups, HugeWeights) {
  constexpr float huge = std::numeric_limits<float>::max();
  for (const ScaleType scale : {ScaleType::bf16, ScaleType::f32})
    for (const CodeRange range : every_range)
      for (const unsigned bits : {8u, 4u, 3u})
        for (const Grouping grouping : {by_32, tensor}) {
          const auto weights = three_groups([&](std::size_t, std::size_t g, std::size_t c) {
            return c == 5 ? (g == 1 ? huge : -huge) : huge / static_cast<float>(1 + c * g) * (c % 2 == 0 ? 1.0f : -1.0f);
          });
          oracle::expect_quantized(weights, 2, 70, {bits, scale, grouping, range});
        }
}

TEST(QuantizerGroups, NotFiniteAtEveryPlace) {
  for (const Grouping grouping : {by_32, Grouping{.columns = 64}, tensor})
    for (const float bad : {infinity, -infinity, std::nanf(""), -std::nanf("")})
      for (const CodeRange range : every_range)
        for (std::size_t place = 0; place < 70; ++place) {
          std::vector<float> weights(3 * 70, 0.5f);
          weights[70 + place] = bad;
          weights[2 * 70] = std::nanf(""); // a later row is not the one named
          for (const lsaq::Isa isa : oracle::runnable_paths()) {
            const PackedFormat format{4, ScaleType::f16, grouping, range};
            std::vector<std::byte> room(lsaq::packed_bytes({3, 70}, format));
            const QuantizationFault fault = lsaq::quantize_rows(MatrixView(weights.data(), 3, 70), 0, {3, 70}, format, room, {}, lsaq::kernels_of(isa));
            ASSERT_EQ(fault.kind, QuantizationFault::Kind::not_finite);
            ASSERT_EQ(fault.row, 1u) << grouping.name();
            ASSERT_EQ(fault.column, place) << name_of(isa);
            ASSERT_EQ(std::bit_cast<std::uint32_t>(fault.value), std::bit_cast<std::uint32_t>(bad));
          }
        }
}

TEST(QuantizerGroups, HalvesThatAreNotFinite) {
  for (const unsigned bad : {0x7c00u, 0xfc00u, 0x7c01u, 0xfe00u})
    for (std::size_t place = 0; place < 70; ++place) {
      std::vector<lsaq::f16> halves(70, lsaq::f16{0xbc00});
      halves[place].bits = static_cast<std::uint16_t>(bad);
      const std::string where = "row 0, column " + std::to_string(place) + ": the weight is not finite";
      EXPECT_THAT(refusal([&] { lsaq::quantize(MatrixView(halves.data(), 1, 70), {8, ScaleType::f16, by_32, CodeRange::full}); }), HasSubstr(where));
      EXPECT_THAT(refusal([&] { lsaq::quantize(MatrixView(halves.data(), 1, 70), {4, ScaleType::f16, tensor}); }), HasSubstr(where));
      std::vector<lsaq::bf16> brains(70, lsaq::bf16{0xbf80});
      brains[place].bits = static_cast<std::uint16_t>((bad & 0x8000) | 0x7f80 | (bad & 1));
      EXPECT_THAT(refusal([&] { lsaq::quantize(MatrixView(brains.data(), 1, 70), {8, ScaleType::f32, by_32}); }), HasSubstr(where));
    }
}

TEST(QuantizerGroups, WidthsThatPackedCodesDoNotHave) {
  const std::vector<float> weights(64, 1);
  for (const std::uint32_t width : {1u, 8u, 16u, 31u, 33u, 48u, 100u})
    EXPECT_THAT(refusal([&] {
                  lsaq::quantize(MatrixView(weights.data(), 1, 64), {4, ScaleType::f16, {.columns = width}});
                }),
                AllOf(HasSubstr("groups of " + std::to_string(width) + " columns"), HasSubstr("multiples of 32")));
}

TEST(QuantizerGroups, WidthsBeyondTheRow) {
  std::mt19937 random(61);
  const std::vector<float> weights = oracle::random_weights(3, 45, random);
  for (const std::uint32_t width : {64u, 4096u, 8192u, 0xffffffe0u}) {
    const PackedMatrix packed = lsaq::quantize(MatrixView(weights.data(), 3, 45), {4, ScaleType::f16, {.columns = width}});
    EXPECT_EQ(oracle::bytes_of(packed), oracle::packed(weights, 3, 45, 4, ScaleType::f16)) << width;
  }
}

TEST(QuantizerGroups, EmptyMatrices) {
  const std::vector<float> nothing;
  EXPECT_EQ(lsaq::quantize(MatrixView(nothing.data(), 0, 70), {4, ScaleType::f16, by_32}).bytes(), 0u);
  EXPECT_EQ(lsaq::quantize(MatrixView(nothing.data(), 3, 0), {4, ScaleType::f16, by_32}).bytes(), 0u) << "no columns, no groups";
  EXPECT_EQ(lsaq::quantize(MatrixView(nothing.data(), 0, 70), {4, ScaleType::f16, tensor}).bytes(), 0u);
  EXPECT_EQ(oracle::hex(oracle::bytes_of(lsaq::quantize(MatrixView(nothing.data(), 3, 0), {4, ScaleType::f16, tensor}))), "0000");
}

TEST(QuantizerTensor, APartNeedsTheRangeOfTheWhole) {
  const std::vector<float> weights = {1, 2, -4, 3};
  const PackedFormat format{8, ScaleType::f16, tensor};
  std::vector<std::byte> packed(lsaq::packed_bytes({4, 1}, format));
  const MatrixView view(weights.data(), 4, 1);
  EXPECT_THAT(refusal([&] { lsaq::quantize_rows(view.slice(0, 3), 0, {4, 1}, format, packed); }), HasSubstr("needs the range of the whole matrix"));
  lsaq::WeightRange range;
  ASSERT_FALSE(lsaq::find_range(view, range));
  for (const std::size_t first : {0, 3})
    ASSERT_FALSE(lsaq::quantize_rows(view.slice(first, first == 0 ? 3 : 1), first, {4, 1}, format, packed, {}, lsaq::select_kernels(), range));
  EXPECT_EQ(packed, oracle::packed(weights, 4, 1, format));
}

TEST(QuantizerTensor, ARangeThatNeedsTooLargeAScaleIsAFaultOfEveryBlock) {
  const std::vector<float> weights = {1, -9e6f, 2, 3};
  const PackedFormat format{8, ScaleType::f16, tensor};
  std::vector<std::byte> packed(lsaq::packed_bytes({4, 1}, format));
  const MatrixView view(weights.data(), 4, 1);
  const lsaq::WeightRange range{-9e6f, 3};
  const QuantizationFault here = lsaq::quantize_rows(view.slice(0, 2), 0, {4, 1}, format, packed, {}, lsaq::select_kernels(), range);
  EXPECT_EQ(here.kind, QuantizationFault::Kind::scale_overflow);
  EXPECT_EQ(here.row, 1u);
  EXPECT_EQ(here.value, -9e6f);
  const QuantizationFault elsewhere = lsaq::quantize_rows(view.slice(2, 2), 2, {4, 1}, format, packed, {}, lsaq::select_kernels(), range);
  EXPECT_EQ(elsewhere.kind, QuantizationFault::Kind::scale_overflow);
}

/// All finite numbers of a 16-bit type up to one of several maxima, one row of them, in groups and as a whole.
template <class Half> void expect_every_number(const float_oracle::Format& type, std::initializer_list<unsigned> maxima) {
  for (const unsigned maximum : maxima) {
    std::vector<Half> row;
    std::vector<float> values;
    for (unsigned i = 0; i <= maximum; ++i) // neighbours in the row are far apart, so that groups have large and small ones
      for (const unsigned sign : {0u, 0x8000u}) {
        const unsigned pattern = i * 0x2f35u % (maximum + 1); // a prime: every pattern once, unless the maximum is one of its multiples
        row.push_back({static_cast<std::uint16_t>(pattern | sign)});
        values.push_back(static_cast<float>(float_oracle::value_of(type, static_cast<std::uint16_t>(pattern | sign))));
      }
    const MatrixView view(row.data(), 1, row.size());
    for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
      for (const ScaleType scale : every_scale)
        for (const Grouping grouping : {Grouping{}, by_32}) {
          if (std::is_same_v<Half, lsaq::bf16> && scale == ScaleType::f16 && maximum > 0x4700) continue; // beyond F16's scales
          oracle::expect_quantized(view, values, {bits, scale, grouping, bits % 2 == 0 ? CodeRange::symmetric : CodeRange::full});
          ASSERT_FALSE(testing::Test::HasFatalFailure()) << "maximum " << maximum;
        }
  }
}

TEST(QuantizerExhaustive, EveryF16Number) {
  expect_every_number<lsaq::f16>(float_oracle::binary16, {0x7bffu, 0x5803u, 0x3c00u, 0x3555u, 0x2120u, 0x1fe0u, 0x0400u, 0x0065u});
}

TEST(QuantizerExhaustive, EveryBf16Number) { expect_every_number<lsaq::bf16>(float_oracle::bfloat16, {0x7f70u, 0x46ffu, 0x3f80u, 0x3b55u, 0x0081u, 0x007fu}); }

} // namespace quantizer_granularity_cases_test
