#include <lsaq/quantization/packed_matrix.hpp>

#include "quantization/oracle.hpp"

#include <gmock/gmock.h>

#include <array>

namespace packed_matrix_test {

using lsaq::AlignedBytes;
using lsaq::PackedMatrix;
using lsaq::PackedView;
using lsaq::ScaleType;

/// Packs the codes into exactly the bytes they take.
std::string pack(const std::vector<int>& codes, unsigned bits) {
  std::vector<std::uint8_t> unsigned_codes;
  for (const int code : codes) unsigned_codes.push_back(static_cast<std::uint8_t>(code + (1 << (bits - 1))));
  std::vector<std::byte> row(lsaq::packed_row_bytes(codes.size(), bits), std::byte{0x55});
  lsaq::pack_codes(unsigned_codes.data(), codes.size(), bits, static_cast<std::uint8_t>(1 << (bits - 1)), row.data());
  return oracle::hex(row);
}

// A change of these bytes is a change of the file format.
TEST(PackedLayout, GoldenBytesOfEveryWidth) {
  EXPECT_EQ(pack({-1, 0, 1, 1, -1}, 2), "f9a9aaaa");
  EXPECT_EQ(pack({-3, -2, -1, 0, 1, 2, 3, 0, 3}, 3), "d1589f27");
  EXPECT_EQ(pack({-7, -6, -5, 0, 7}, 4), "21838f88");
  EXPECT_EQ(pack({-15, 15, 0, 1, -1}, 5), "e1c3f820");
  EXPECT_EQ(pack({-31, 31, 0, 1, -1}, 6), "c10f861f");
  EXPECT_EQ(pack({-63, 63, 0, 1, -1}, 7), "813f30f803028140");
  EXPECT_EQ(pack({-127, 127, 0, 1, -1}, 8), "01ff80817f808080");
}

TEST(PackedLayout, RowsArePaddedToWordsWithCodeZero) {
  EXPECT_EQ(pack({1}, 8), "81808080");
  EXPECT_EQ(pack({1, 1}, 8), "81818080");
  EXPECT_EQ(pack({1, 1, 1}, 8), "81818180");
  EXPECT_EQ(pack({1, 1, 1, 1}, 8), "81818181");
  EXPECT_EQ(pack({1}, 4), "89888888");
  EXPECT_EQ(pack({1, 1, 1}, 4), "99898888");
  EXPECT_EQ(pack({1, 1, 1, 1, 1, 1, 1, 1}, 4), "99999999");
  EXPECT_EQ(pack({1, 1, 1, 1, 1, 1, 1, 1, 1}, 4), "9999999989888888");
  EXPECT_EQ(pack({}, 8), "");
  EXPECT_EQ(pack({}, 4), "");
  EXPECT_EQ(pack({}, 3), "");
}

TEST(PackedLayout, EveryCodeAtEveryPlaceReturns) {
  std::mt19937 random(1);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (std::size_t columns = 1; columns <= 70; ++columns) {
      std::vector<std::uint8_t> codes(columns);
      for (std::uint8_t& code : codes) code = static_cast<std::uint8_t>(random() & ((1u << bits) - 1));
      const std::size_t row_bytes = lsaq::packed_row_bytes(columns, bits);
      const auto row = std::make_unique<std::byte[]>(row_bytes); // ends with its last byte
      lsaq::pack_codes(codes.data(), columns, bits, static_cast<std::uint8_t>(1 << (bits - 1)), row.get());
      const std::vector<int> found = oracle::codes_of({row.get(), 1, columns, bits, ScaleType::f16}, 0);
      for (std::size_t c = 0; c < columns; ++c) {
        ASSERT_EQ(found[c] + (1 << (bits - 1)), codes[c]) << bits << " bits, column " << c << " of " << columns;
        ASSERT_EQ(lsaq::scalar::unpack_code(row.get(), bits, c), codes[c]);
      }
    }
}

TEST(PackedLayout, EveryByteOfTwoNibbles) {
  for (int low = -8; low < 8; ++low)
    for (int high = -8; high < 8; ++high) {
      const std::array<std::uint8_t, 2> codes = {static_cast<std::uint8_t>(low + 8), static_cast<std::uint8_t>(high + 8)};
      std::byte row[4];
      lsaq::pack_codes(codes.data(), 2, 4, 8, row);
      ASSERT_EQ(std::to_integer<int>(row[0]), (low + 8) + 16 * (high + 8));
      ASSERT_EQ(std::to_integer<int>(row[1]), 0x88);
    }
}

TEST(PackedBytes, CountsCodesPaddingAndScales) {
  static_assert(lsaq::packed_row_bytes(32, 4) == 16 && lsaq::packed_row_bytes(33, 4) == 20 && lsaq::packed_row_bytes(0, 4) == 0);
  static_assert(lsaq::packed_row_bytes(1, 2) == 4 && lsaq::packed_row_bytes(16, 2) == 4 && lsaq::packed_row_bytes(17, 2) == 8);
  static_assert(lsaq::packed_row_bytes(32, 3) == 12 && lsaq::packed_row_bytes(33, 3) == 16);
  static_assert(lsaq::packed_bytes({4, 33}, 8) == 4 * (36 + 2));
  static_assert(lsaq::packed_bytes({4, 33}, 8, ScaleType::bf16) == 4 * (36 + 2));
  static_assert(lsaq::packed_bytes({4, 33}, 4, ScaleType::f32) == 4 * (20 + 4));
  static_assert(lsaq::packed_bytes({0, 33}, 4) == 0 && lsaq::packed_bytes({3, 0}, 4) == 6);
  // 2^33 weights: the index arithmetic is 64 bits wide.
  static_assert(lsaq::packed_bytes({std::size_t{1} << 20, 1 << 13}, 8) == (lsaq::Bytes{1} << 33) + (1 << 21));
  EXPECT_EQ(name_of(ScaleType::f16), "F16");
  EXPECT_EQ(name_of(ScaleType::bf16), "BF16");
  EXPECT_EQ(name_of(ScaleType::f32), "F32");
}

TEST(PackedMatrix, OwnsExactlyItsBytes) {
  PackedMatrix packed({3, 10}, 4, ScaleType::f32);
  EXPECT_EQ(packed.rows(), 3u);
  EXPECT_EQ(packed.columns(), 10u);
  EXPECT_EQ(packed.bits(), 4u);
  EXPECT_EQ(packed.scale_type(), ScaleType::f32);
  EXPECT_EQ(packed.bytes(), 3u * (8 + 4));
  EXPECT_EQ(packed.storage().size(), packed.bytes());
  const PackedView view = packed.view();
  EXPECT_EQ(view.bytes(), packed.bytes());
  EXPECT_EQ(view.data, packed.storage().data());
  EXPECT_EQ(view.codes(2) - view.data, 16);
  EXPECT_EQ(view.scale_data() - view.data, 24);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.data) % 64, 0u);
}

TEST(PackedMatrix, MovesWithoutCopying) {
  static_assert(!std::is_copy_constructible_v<PackedMatrix> && !std::is_copy_assignable_v<PackedMatrix>);
  static_assert(std::is_nothrow_move_constructible_v<PackedMatrix> && std::is_nothrow_move_assignable_v<PackedMatrix>);
  static_assert(std::is_trivially_copyable_v<PackedView>);
  PackedMatrix first({2, 4}, 8, ScaleType::f16);
  const std::byte* bytes = first.storage().data();
  PackedMatrix second = std::move(first);
  EXPECT_EQ(second.view().data, bytes);
  PackedMatrix third;
  EXPECT_EQ(third.bytes(), 0u);
  third = std::move(second);
  EXPECT_EQ(third.view().data, bytes);
  EXPECT_EQ(third.rows(), 2u);
}

TEST(AlignedBytes, MovesAndMayBeEmpty) {
  AlignedBytes none(0), some(100);
  EXPECT_EQ(none.data(), nullptr);
  EXPECT_EQ(some.size(), 100u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(some.data()) % AlignedBytes::alignment, 0u);
  const std::byte* data = some.data();
  none = std::move(some);
  EXPECT_EQ(none.data(), data);
  EXPECT_EQ(none.span().size(), 100u);
  const AlignedBytes last = std::move(none);
  EXPECT_EQ(none.size(), 0u); // NOLINT: the state after a move is documented by the destructor's needs
  EXPECT_EQ(last.data(), data);
}

TEST(LoadScale, WidensEveryType) {
  const std::byte bytes[] = {std::byte{0x00}, std::byte{0x3c}, std::byte{0x80}, std::byte{0x3f},
                             std::byte{0x00}, std::byte{0x00}, std::byte{0x20}, std::byte{0x40}};
  EXPECT_EQ(lsaq::load_scale(bytes, ScaleType::f16, 0), 1.0f);
  EXPECT_EQ(lsaq::load_scale(bytes, ScaleType::bf16, 1), 1.0f);
  EXPECT_EQ(lsaq::load_scale(bytes, ScaleType::f32, 1), 2.5f);
}

} // namespace packed_matrix_test
