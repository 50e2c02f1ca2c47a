#include <lsaq/formats/byte_reader.hpp>

#include "make_files.hpp"

namespace byte_reader_test {

using lsaq::BadInput;
using lsaq::ByteReader;
using make_files::ExactBytes;
using make_files::expect_mentions;
using make_files::message_of;
using make_files::u32;
using make_files::u64;

TEST(ByteReader, CheckedArithmeticStopsAt64Bits) {
  EXPECT_EQ(lsaq::checked_product(1ull << 32, (1ull << 32) - 1), ((1ull << 32) - 1) << 32);
  EXPECT_FALSE(lsaq::checked_product(1ull << 32, 1ull << 32));
  EXPECT_EQ(lsaq::checked_sum(~0ull - 5, 5), ~0ull);
  EXPECT_FALSE(lsaq::checked_sum(~0ull - 5, 6));
}

TEST(ByteReader, ReadsInOrderAtAnyAlignment) {
  const ExactBytes bytes("x" + u32(0x12345678u) + make_files::text("abc") + u64(5) + "zz");
  ByteReader reader(bytes, "F");
  EXPECT_EQ(reader.number<std::uint8_t>("n"), 'x');
  EXPECT_EQ(reader.number<std::uint32_t>("n"), 0x12345678u);
  EXPECT_EQ(reader.string("s"), "abc");
  EXPECT_THAT(reader.numbers<std::uint64_t>(1, "n"), testing::ElementsAre(5u));
  EXPECT_EQ(reader.remaining(), 2u);
  EXPECT_EQ(reader.position(), 24u);
  EXPECT_TRUE(reader.numbers<std::uint64_t>(0, "n").empty());
}

TEST(ByteReader, RefusesToReadBeyondTheEnd) {
  const ExactBytes bytes(u64(~0ull) + "abc");
  ByteReader reader(bytes, "some.file");
  reader.about("key 'k'");
  EXPECT_EQ(ByteReader(bytes, "F").number<std::uint64_t>("n"), ~0ull);
  expect_mentions(message_of<BadInput>([&] { reader.string("string"); }), {"some.file", "key 'k'", "18446744073709551615", "3 are left"});
  expect_mentions(message_of<BadInput>([&] { reader.number<std::uint32_t>("offset"); }), {"offset needs 4 bytes", "3 are left"});
  expect_mentions(message_of<BadInput>([&] { reader.numbers<double>(~0ull / 4, "array"); }), {"array", "hold at most 0"});
  EXPECT_NO_THROW(reader.require_room(3, 1, "r"));
  EXPECT_THROW(reader.require_room(4, 1, "r"), BadInput);
}

TEST(ByteReader, RefusesStringsLongerThanAllowed) {
  const ExactBytes bytes(make_files::text("abcdef"));
  EXPECT_EQ(ByteReader(bytes, "F").string("s", 6), "abcdef");
  expect_mentions(message_of<BadInput>([&] { ByteReader(bytes, "F").string("name", 5); }), {"name is 6 bytes long", "at most 5"});
}

} // namespace byte_reader_test
