// One scale for a matrix, a row or a group of columns, and the full range of codes: against the oracle, and against each other.
#include <lsaq/quantization/quantizer.hpp>

#include "quantization/oracle.hpp"

#include <lsaq/thread_pool.hpp>

#include <gmock/gmock.h>

#include <limits>

namespace quantizer_granularity_test {

using lsaq::CodeRange;
using lsaq::Grouping;
using lsaq::MatrixView;
using lsaq::PackedFormat;
using lsaq::PackedMatrix;
using lsaq::ScaleType;
using oracle::codes_of;
using oracle::every_grouping;
using oracle::every_range;
using oracle::every_scale;
using testing::Each;
using testing::ElementsAre;

constexpr Grouping tensor{.columns = 0, .whole_matrix = true};

/// Every format there is, with groups of 32 to 128 columns.
std::vector<PackedFormat> every_format() {
  std::vector<PackedFormat> formats;
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const ScaleType scale : every_scale)
      for (const Grouping grouping : every_grouping)
        for (const CodeRange range : every_range) formats.push_back({bits, scale, grouping, range});
  return formats;
}

/// 16-bit numbers of random magnitude, and their values.
template <class Half> struct Halves {
  std::vector<Half> bits;
  std::vector<float> values;

  Halves(std::size_t n, float_oracle::Format format, std::mt19937& random) {
    for (std::size_t i = 0; i < n; ++i) {
      // F16: anything finite. BF16: 2^-40 and up, so that some scales are subnormal in F16 and none overflows.
      const auto pattern = static_cast<std::uint16_t>(std::is_same_v<Half, lsaq::f16> ? random() & (i % 5 == 0 ? 0xbfffu : 0xabffu)
                                                                                      : (random() & 0x807fu) | (87 + random() % 45) << 7);
      bits.push_back({pattern});
      values.push_back(static_cast<float>(float_oracle::value_of(format, pattern)));
    }
  }
};

TEST(QuantizerGranularity, RandomMatricesInEveryFormat) {
  std::mt19937 random(51);
  for (const PackedFormat& format : every_format())
    for (const auto& [rows, columns] : {std::pair<std::size_t, std::size_t>(3, 1), {2, 31}, {1, 32}, {4, 33}, {3, 97}, {2, 257}, {1, 640}, {2, 2111}}) {
      oracle::expect_quantized(oracle::random_weights(rows, columns, random), rows, columns, format);
      const Halves<lsaq::f16> halves(rows * columns, float_oracle::binary16, random);
      oracle::expect_quantized(MatrixView(halves.bits.data(), rows, columns), halves.values, format);
      const Halves<lsaq::bf16> brains(rows * columns, float_oracle::bfloat16, random);
      oracle::expect_quantized(MatrixView(brains.bits.data(), rows, columns), brains.values, format);
      ASSERT_FALSE(HasFatalFailure());
    }
}

TEST(QuantizerGranularity, EveryWidthOfTheLastGroup) {
  std::mt19937 random(52);
  for (const unsigned bits : {8u, 4u, 3u})
    for (const CodeRange range : every_range)
      for (std::size_t columns = 1; columns <= 300; ++columns) {
        const PackedFormat format{bits, ScaleType::f16, {.columns = columns % 2 == 0 ? 32u : 64u}, range};
        oracle::expect_quantized(oracle::random_weights(2, columns, random), 2, columns, format);
        const Halves<lsaq::f16> halves(2 * columns, float_oracle::binary16, random);
        oracle::expect_quantized(MatrixView(halves.bits.data(), 2, columns), halves.values, format);
        ASSERT_FALSE(HasFatalFailure());
      }
}

/// Codes and scales of columns [first, first + count), quantized as a matrix of their own, are those of the group.
void expect_the_group_to_be_a_channel(const MatrixView& view, const PackedMatrix& whole, const PackedFormat& format, std::size_t first, std::size_t count) {
  MatrixView slice = view;
  slice.data = view.row(0) + lsaq::bytes_of(view.type, first);
  slice.columns = count;
  const PackedMatrix part = lsaq::quantize(slice, {format.bits, format.scale, {}, format.range});
  const std::size_t bytes = lsaq::packed_row_bytes(count, format.bits), scale_size = size_of(format.scale);
  for (std::size_t r = 0; r < view.rows; ++r) {
    ASSERT_EQ(std::memcmp(whole.view().codes(r) + first * format.bits / 8, part.view().codes(r), bytes), 0)
        << oracle::name_of(format) << ", row " << r << ", columns from " << first << " of " << view.columns;
    ASSERT_EQ(std::memcmp(whole.view().scale_data() + whole.view().scale_index(r, first) * scale_size, part.view().scale_data() + r * scale_size, scale_size),
              0);
  }
}

TEST(QuantizerGranularity, GroupsAreChannelsOfTheirColumns) {
  std::mt19937 random(53);
  for (PackedFormat format : every_format()) {
    if (format.grouping.columns == 0) continue;
    for (const std::size_t columns : {1, 45, 127, 128, 129, 333, 2113}) {
      const std::vector<float> weights = oracle::random_weights(3, columns, random);
      const MatrixView view(weights.data(), 3, columns);
      const PackedMatrix whole = lsaq::quantize(view, format);
      const std::size_t width = format.grouping.columns;
      EXPECT_EQ(whole.bytes(), 3 * (lsaq::packed_row_bytes(columns, format.bits) + (columns + width - 1) / width * size_of(format.scale)));
      for (std::size_t first = 0; first < columns; first += width) {
        expect_the_group_to_be_a_channel(view, whole, format, first, std::min(width, columns - first));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(QuantizerGranularity, ATensorIsTheChannelOfAllItsWeights) {
  std::mt19937 random(54);
  for (PackedFormat format : every_format()) {
    if (!format.grouping.whole_matrix) continue;
    constexpr std::size_t rows = 5, columns = 64; // rows of whole words: one row of all weights has the same bytes
    const std::vector<float> weights = oracle::random_weights(rows, columns, random);
    const PackedMatrix matrix = lsaq::quantize(MatrixView(weights.data(), rows, columns), format);
    const PackedMatrix row = lsaq::quantize(MatrixView(weights.data(), 1, rows * columns), {format.bits, format.scale, {}, format.range});
    ASSERT_EQ(oracle::bytes_of(matrix), oracle::bytes_of(row)) << oracle::name_of(format);
  }
}

TEST(QuantizerGranularity, FrontDoorsAgree) {
  std::mt19937 random(55);
  const std::vector<float> weights = oracle::random_weights(7, 150, random);
  const MatrixView view(weights.data(), 7, 150);
  const auto check = [&](const PackedMatrix& packed, const PackedFormat& format) {
    EXPECT_EQ(oracle::bytes_of(packed), oracle::packed(weights, 7, 150, format)) << oracle::name_of(format);
    EXPECT_EQ(packed.grouping(), format.grouping);
  };
  check(lsaq::Quantizer<lsaq::PerTensor, 8>{}(view), {8, ScaleType::f16, tensor});
  check(lsaq::Quantizer<lsaq::PerGroup<32>, 4>{}(view), {4, ScaleType::f16, {.columns = 32}});
  check(lsaq::Quantizer<lsaq::PerGroup<64>, 4, lsaq::bf16>{}(view), {4, ScaleType::bf16, {.columns = 64}});
  check(lsaq::Quantizer<lsaq::PerGroup<128>, 3, float, CodeRange::full>{}(view), {3, ScaleType::f32, {.columns = 128}, CodeRange::full});
  check(lsaq::quantize<lsaq::PerGroup<96>>(view, 5), {5, ScaleType::f16, {.columns = 96}});
  check(lsaq::quantize<lsaq::PerTensor>(view, 2, ScaleType::f32), {2, ScaleType::f32, tensor});
  check(*lsaq::Quantizer<lsaq::PerTensor, 6>{}.try_quantize(view), {6, ScaleType::f16, tensor});
}

TEST(QuantizerGranularity, BlocksOfRowsAndThreadsGiveTheBytesOfTheWhole) {
  std::mt19937 random(56);
  constexpr std::size_t rows = 75, columns = 301;
  const std::vector<float> weights = oracle::random_weights(rows, columns, random);
  const MatrixView view(weights.data(), rows, columns);
  for (const unsigned bits : {8u, 4u, 3u})
    for (const Grouping grouping : every_grouping)
      for (const CodeRange codes : every_range) {
        const PackedFormat format{bits, ScaleType::f16, grouping, codes};
        const std::vector<std::byte> expected = oracle::packed(weights, rows, columns, format);
        for (std::size_t threads = 1; threads <= 8; ++threads) {
          lsaq::ThreadPool pool(threads);
          ASSERT_TRUE(oracle::bytes_of(lsaq::quantize(view, format, pool)) == expected) << threads << " threads, " << oracle::name_of(format);
        }
        for (const std::size_t block : {1, 16, 33, 75}) {
          std::optional<lsaq::WeightRange> range;
          if (grouping.whole_matrix) {
            range.emplace();
            for (std::size_t first = 0; first < rows; first += block) ASSERT_FALSE(lsaq::find_range(view.slice(first, std::min(block, rows - first)), *range));
          }
          std::vector<std::byte> found(expected.size(), std::byte{0xee});
          for (std::size_t first = (rows - 1) / block * block + block; first > 0;) { // the last block first: their order does not matter
            first -= block;
            ASSERT_FALSE(lsaq::quantize_rows(view.slice(first, std::min(block, rows - first)), first, {rows, columns}, format, found, {},
                                             lsaq::select_kernels(), range));
          }
          ASSERT_TRUE(found == expected) << "blocks of " << block << ", " << oracle::name_of(format);
        }
      }
}

TEST(FindRange, IsTheSameOnEveryPathAndKeepsWhatWasThere) {
  std::mt19937 random(57);
  const Halves<lsaq::f16> halves(9 * 77, float_oracle::binary16, random);
  const auto [least, most] = std::minmax_element(halves.values.begin(), halves.values.end());
  for (const lsaq::Isa isa : oracle::runnable_paths()) {
    lsaq::WeightRange range;
    ASSERT_FALSE(lsaq::find_range(MatrixView(halves.bits.data(), 9, 77), range, lsaq::kernels_of(isa)));
    EXPECT_EQ(range.lowest, *least) << name_of(isa);
    EXPECT_EQ(range.highest, *most);
    const float inside[] = {0.5f * *least, -0.0f, 0.5f * *most};
    ASSERT_FALSE(lsaq::find_range(MatrixView(inside, 1, 3), range, lsaq::kernels_of(isa)));
    EXPECT_EQ(range.lowest, *least) << "blocks of a matrix add up";
    EXPECT_EQ(range.highest, *most);
    lsaq::WeightRange positive;
    const float above[] = {1, 2};
    ASSERT_FALSE(lsaq::find_range(MatrixView(above, 2, 1), positive, lsaq::kernels_of(isa)));
    EXPECT_EQ(positive.lowest, 0.0f);
    EXPECT_EQ(positive.highest, 2.0f);
  }
}

TEST(QuantizerFullRange, UsesTheLowestCode) {
  const PackedFormat eight{8, ScaleType::f16, {}, CodeRange::full}, four{4, ScaleType::f16, {}, CodeRange::full};
  const auto codes = [](const std::vector<float>& row, const PackedFormat& format) {
    return codes_of(lsaq::quantize(MatrixView(row.data(), 1, row.size()), format).view(), 0);
  };
  EXPECT_THAT(codes({-128, 127, 0.5f, -1.5f}, eight), ElementsAre(-128, 127, 0, -2)); // scale 1, ties to even
  EXPECT_THAT(codes({-8, 3.5f, 7, -0.0f}, four), ElementsAre(-8, 4, 7, 0));
  EXPECT_THAT(codes({127, -127}, eight), ElementsAre(127, -127)) << "the positive end decides";
  EXPECT_THAT(codes({-3, 1}, {2, ScaleType::f32, {}, CodeRange::full}), ElementsAre(-2, 1)) << "a scale of 1.5; 0.67 steps are 1";
  EXPECT_THAT(codes({5, 5, 5}, four), Each(7));
  EXPECT_THAT(codes({-5, -5, -5}, four), Each(-8));
  EXPECT_THAT(codes({-4, 0, -2}, four), ElementsAre(-8, 0, -4)) << "nothing positive";
}

TEST(QuantizerFullRange, ClipsNothingAndItsScaleIsTheSmallestThatDoesNot) {
  std::mt19937 random(58);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const Grouping grouping : every_grouping) {
      constexpr std::size_t rows = 6, columns = 130;
      const std::vector<float> weights = oracle::random_weights(rows, columns, random);
      const PackedMatrix full = lsaq::quantize(MatrixView(weights.data(), rows, columns), {bits, ScaleType::f32, grouping, CodeRange::full});
      const PackedMatrix symmetric = lsaq::quantize(MatrixView(weights.data(), rows, columns), {bits, ScaleType::f32, grouping});
      for (std::size_t r = 0; r < rows; ++r)
        for (std::size_t c = 0; c < columns; ++c) {
          const double scale = lsaq::scale_at(full.view(), r, c), back = scale * lsaq::code_at(full.view(), r, c);
          ASSERT_LE(std::fabs(back - static_cast<double>(weights[r * columns + c])), scale / 2 * (1 + 0x1p-20)) << bits << " bits, " << grouping.name();
          ASSERT_LE(scale, lsaq::scale_at(symmetric.view(), r, c));
        }
    }
}

} // namespace quantizer_granularity_test
