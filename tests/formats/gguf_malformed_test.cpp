// GGUF files that break one rule each: refused, with the file and the culprit named.
#include <lsaq/formats/gguf.hpp>

#include "make_files.hpp"

namespace gguf_malformed_test {

using make_files::Gguf;
using make_files::le;
using make_files::Malformed;
using make_files::type_f32;
using make_files::type_q4_0;
using make_files::type_q4_1;
using make_files::type_q4_k;
using make_files::type_q8_0;
using make_files::u32;
using make_files::u64;

constexpr std::uint64_t huge = ~0ull;

/// A file of one good key and one good tensor, given to `change`.
template <class Change> std::string with(Change change) {
  Gguf file;
  file.key("good.key", 1).tensor("good.tensor", {4}, type_f32, 0).bytes(std::string(16, 'x'));
  change(file);
  return file.build();
}

/// A file of one tensor record.
std::string one_tensor(const std::vector<std::uint64_t>& dims, std::uint32_t type, std::uint64_t offset, std::size_t data = 256) {
  return Gguf().tensor("bad.tensor", dims, type, offset).bytes(std::string(data, 'x')).build();
}

std::vector<Malformed> malformed() {
  std::vector<Malformed> all;
  const auto add = [&](std::string name, std::string bytes, std::vector<std::string> mentions) {
    all.push_back({std::move(name), std::move(bytes), std::move(mentions)});
  };

  // Header.
  add("Empty", "", {"not a GGUF file"});
  add("ThreeBytes", "GGU", {"not a GGUF file", "3 bytes"});
  add("MagicLowerCase", with([](Gguf& f) { f.magic = "gguf"; }), {"not a GGUF file", "gguf"});
  add("MagicControlCharacters", with([](Gguf& f) { f.magic = "\x1b[2J"; }), {"not a GGUF file", "\\x1b[2J"});
  add("Version0", with([](Gguf& f) { f.version = 0; }), {"big-endian"});
  add("Version1", with([](Gguf& f) { f.version = 1; }), {"version 1", "2 and 3"});
  add("Version4", with([](Gguf& f) { f.version = 4; }), {"version 4", "2 and 3"});
  add("BigEndian", with([](Gguf& f) { f.version = 0x03000000; }), {"big-endian"});
  add("HeaderCutInCounts", Gguf().build().substr(0, 20), {"count of metadata keys"});

  // Counts.
  add("TensorCountHuge", with([](Gguf& f) { f.tensor_count = huge; }), {"tensors", "18446744073709551615"});
  add("TensorCountWrapsWhenMultiplied", with([](Gguf& f) { f.tensor_count = huge / 48 + 2; }), {"tensors", "hold at most"});
  add("TensorCountOneTooMany", Gguf().tensor("only", {1}, type_f32, 0).build() + "x", {"bytes at offset 0"});
  add("TensorCountTakesDataForRecords", with([](Gguf& f) { f.tensor_count = 2; }), {"list of tensors", "2 are announced"});
  add("TensorCountReadsDataAsRecord", with([](Gguf& f) { f.bytes(std::string(100, 'x')).tensor_count = 2; }), {"tensor 1", "name", "at most 64"});
  add("KeyCountHuge", with([](Gguf& f) { f.entry_count = huge; }), {"metadata keys", "18446744073709551615"});
  add("KeyCountSignBit", with([](Gguf& f) { f.entry_count = 1ull << 63; }), {"metadata keys", "9223372036854775808"});
  add("KeyCountBeyondTheList", Gguf().key("k", 8, make_files::text(std::string(50, 'v'))).build().replace(16, 8, u64(2)), {"metadata key 1", "name"});

  // Keys.
  add("KeyLengthHuge", with([](Gguf& f) { f.entries = u64(huge) + "k" + u32(4) + u32(1); }), {"metadata key 0", "name", "65535"});
  add("KeyLengthBeyondTheFile", Gguf().key("k", 8, "").build().substr(0, 24) + u64(60000) + std::string(20, 'k'), {"metadata key 0", "60000"});
  add("KeyTooLong", Gguf().key(std::string(65536, 'k'), 1).build(), {"metadata key 0", "65536", "at most 65535"});
  add("KeyEmpty", Gguf().key("", 1).build() + "xxxxxxxx", {"key ''", "empty"});
  add("KeyWithZero", Gguf().key(std::string("a\0b", 3), 1).build(), {"key 'a\\x00b'", "control characters"});
  add("KeyWithNewline", Gguf().key("a\nb", 1).build(), {"key 'a\\x0ab'", "control characters"});
  add("KeyWithEscape", Gguf().key("\x1b]0;t\x07", 1).build(), {"key '\\x1b]0;t\\x07'"});
  add("KeyNotUtf8", Gguf().key("a\xff", 1).build(), {"key 'a\\xff'", "UTF-8"});
  add("KeyTwice", Gguf().key("a", 1).key("twice", 1).key("b", 1).key("twice", 2).build(), {"key 'twice'", "appears twice"});
  add("AlignmentTwice", Gguf().key("general.alignment", 32).key("general.alignment", 64).build(), {"key 'general.alignment'", "twice"});

  // Values.
  add("ValueTypeUnknown", Gguf().key("bad.key", 13, u64(1)).build(), {"key 'bad.key'", "unknown value type 13"});
  add("ValueTypeHuge", Gguf().key("bad.key", 0xffffffffu, u64(1)).build(), {"key 'bad.key'", "4294967295"});
  add("ValueMissing", Gguf().key("bad.key", 4, "").build() + "x", {"key 'bad.key'", "needs 4 bytes", "1 are left"});
  add("ValueCut", Gguf().key("bad.key", 12, "1234567").build(), {"key 'bad.key'", "7 are left"});
  add("BoolOfTwo", Gguf().key("bad.key", 7, "\2").build(), {"key 'bad.key'", "bool of value 2"});
  add("StringLengthHuge", Gguf().key("bad.key", 8, u64(huge) + "abc").build(), {"key 'bad.key'", "18446744073709551615"});
  add("StringLengthWrapsWithTerminator", Gguf().key("bad.key", 8, u64(huge - 1) + "abc").build(), {"key 'bad.key'", "3 are left"});
  add("StringOneByteBeyond", Gguf().key("bad.key", 8, u64(4) + "abc").build(), {"key 'bad.key'", "4 bytes", "3 are left"});
  add("ArrayTypeUnknown", Gguf().array("bad.key", 99, 1, u64(1)).build(), {"key 'bad.key'", "element type 99"});
  add("ArrayOfArrays", Gguf().array("bad.key", 9, 1, u32(4) + u64(1) + u32(5)).build(), {"key 'bad.key'", "array of arrays"});
  std::string nested;
  for (int i = 0; i < 20000; ++i) nested += u32(9) + u64(1);
  add("ArraysNestedDeeply", Gguf().key("bad.key", 9, nested).build(), {"key 'bad.key'", "array of arrays"});
  add("ArrayLengthHuge", Gguf().array("bad.key", 4, huge, u32(1)).build(), {"key 'bad.key'", "hold at most 1"});
  add("ArrayLengthWraps", Gguf().array("bad.key", 10, (1ull << 61) + 1, u64(1)).build(), {"key 'bad.key'", "hold at most 1"});
  add("ArrayLength2To63", Gguf().array("bad.key", 0, 1ull << 63, "x").build(), {"key 'bad.key'", "9223372036854775808"});
  add("ArrayOneElementShort", Gguf().array("bad.key", 6, 3, u32(0) + u32(0)).build(), {"key 'bad.key'", "3 are announced"});
  add("StringArrayLengthHuge", Gguf().array("bad.key", 8, huge / 8, make_files::text("a")).build(), {"key 'bad.key'", "hold at most 1"});
  add("StringArrayElementBeyond", Gguf().array("bad.key", 8, 1, u64(9) + "abc").build(), {"key 'bad.key'", "9 bytes", "3 are left"});
  add("BoolArrayLengthHuge", Gguf().array("bad.key", 7, huge, "\1").build(), {"key 'bad.key'", "hold at most 1"});
  add("BoolArrayOfTwo", Gguf().array("bad.key", 7, 2, "\1\2").build(), {"key 'bad.key'", "bool of value 2"});

  // Alignment.
  const auto alignment = [](std::uint32_t value) { return with([=](Gguf& f) { f.key("general.alignment", value); }); };
  add("Alignment0", alignment(0), {"key 'general.alignment'", "is 0", "power of two"});
  add("Alignment1", alignment(1), {"key 'general.alignment'", "is 1"});
  add("Alignment4", alignment(4), {"key 'general.alignment'", "is 4"});
  add("Alignment33", alignment(33), {"key 'general.alignment'", "is 33"});
  add("Alignment2To31", alignment(1u << 31), {"key 'general.alignment'", "2147483648"});
  add("AlignmentOfText", with([](Gguf& f) { f.key("general.alignment", 8, make_files::text("32")); }), {"key 'general.alignment'", "string \"32\""});
  add("AlignmentNegative", with([](Gguf& f) { f.key("general.alignment", 5, le<std::int32_t>(-32)); }), {"key 'general.alignment'", "int32 -32"});
  add("AlignmentMovesDataBeyondTheEnd", with([](Gguf& f) { f.key("general.alignment", 1u << 20); }), {"tensor 'good.tensor'", "beyond the file"});

  // Tensor records.
  add("TensorNameEmpty", Gguf().tensor("", {4}, type_f32, 0).bytes(std::string(16, 'x')).build(), {"tensor ''", "empty"});
  add("TensorNameTooLong", Gguf().tensor(std::string(65, 'n'), {4}, type_f32, 0).bytes("x").build(), {"tensor 0", "65", "at most 64"});
  add("TensorNameLengthHuge", Gguf().tensor("abcdefgh", {4}, type_f32, 0).build().replace(24, 8, u64(huge)), {"tensor 0", "18446744073709551615"});
  add("TensorNameWithNewline", Gguf().tensor("bad\nname", {4}, type_f32, 0).bytes("x").build(), {"tensor 'bad\\x0aname'", "control"});
  add("TensorNameWithZero", Gguf().tensor(std::string("bad\0", 4), {4}, type_f32, 0).bytes("x").build(), {"tensor 'bad\\x00'", "control"});
  add("TensorNameNotUtf8", Gguf().tensor("bad\xc0\xaf", {4}, type_f32, 0).bytes("x").build(), {"tensor 'bad\\xc0\\xaf'", "UTF-8"});
  add("TensorTwice", with([](Gguf& f) { f.tensor("good.tensor", {4}, type_f32, 32).bytes(std::string(32, 'x')); }), {"tensor 'good.tensor'", "twice"});
  add("NoDimensions", one_tensor({}, type_f32, 0), {"tensor 'bad.tensor'", "0 dimensions", "1 to 4"});
  add("FiveDimensions", one_tensor({1, 1, 1, 1, 1}, type_f32, 0), {"tensor 'bad.tensor'", "5 dimensions"});
  add("DimensionCountHuge", Gguf().tensor("bad.tensor", {4}, type_f32, 0).build().replace(42, 4, u32(0xffffffffu)), {"tensor 'bad.tensor'", "4294967295"});
  add("DimensionZero", one_tensor({4, 0}, type_f32, 0), {"tensor 'bad.tensor'", "dimension is 0", "0 x 4"});
  add("ProductWrapsToZero", one_tensor({1ull << 32, 1ull << 32}, type_f32, 0), {"tensor 'bad.tensor'", "64 bits", "4294967296 x 4294967296"});
  add("ProductWrapsToSmall", one_tensor({(1ull << 62) + 1, 4}, type_f32, 0), {"tensor 'bad.tensor'", "64 bits"});
  add("BytesWrap", one_tensor({1ull << 62}, type_f32, 0), {"tensor 'bad.tensor'", "size in bytes"});
  add("BytesWrapToSmall", one_tensor({(1ull << 62) + 4}, type_f32, 0), {"tensor 'bad.tensor'", "size in bytes"});
  add("QuantizedBytesWrap", one_tensor({32, 1ull << 58}, type_q8_0, 0), {"tensor 'bad.tensor'", "beyond the file"});
  add("QuantizedBytesWrapQ8", one_tensor({32, (1ull << 59) - 1}, type_q8_0, 0), {"tensor 'bad.tensor'", "size in bytes"});
  add("RowNotAMultipleOfQ8Block", one_tensor({33}, type_q8_0, 0), {"tensor 'bad.tensor'", "33", "Q8_0", "multiple of 32"});
  add("RowNotAMultipleOfQ4Block", one_tensor({16, 2}, type_q4_0, 0), {"tensor 'bad.tensor'", "16", "Q4_0", "multiple of 32"});
  add("RowNotAMultipleOfQ41Block", one_tensor({1}, type_q4_1, 0), {"tensor 'bad.tensor'", "Q4_1", "multiple of 32"});
  add("TypeQ4K", one_tensor({256}, type_q4_k, 0), {"tensor 'bad.tensor'", "Q4_K", "F32, F16, BF16, Q8_0, Q4_1 and Q4_0"});
  add("TypeI32", one_tensor({4}, make_files::type_i32, 0), {"tensor 'bad.tensor'", "I32"});
  add("TypeMxfp4", one_tensor({32}, 39, 0), {"tensor 'bad.tensor'", "MXFP4"});
  add("TypeRemoved", one_tensor({32}, 4, 0), {"tensor 'bad.tensor'", "number 4"});
  add("TypeUnknown", one_tensor({4}, 1000, 0), {"tensor 'bad.tensor'", "number 1000"});
  add("TypeNegative", one_tensor({4}, 0xffffffffu, 0), {"tensor 'bad.tensor'", "number 4294967295"});

  // Places.
  add("OffsetMisaligned", one_tensor({4}, type_f32, 4), {"tensor 'bad.tensor'", "offset 4", "alignment 32"});
  add("OffsetBeyondTheFile", one_tensor({4}, type_f32, 1024), {"tensor 'bad.tensor'", "offset 1024", "beyond the file"});
  add("OffsetWraps", one_tensor({4}, type_f32, huge - 31), {"tensor 'bad.tensor'", "beyond the file"});
  add("OffsetAndSizeWrap", one_tensor({1ull << 61}, type_f32, 1ull << 63), {"tensor 'bad.tensor'", "beyond the file"});
  add("SizeBeyondTheFile", one_tensor({65}, type_f32, 0), {"tensor 'bad.tensor'", "260 bytes", "beyond the file"});
  add("LastByteMissing", one_tensor({64}, type_f32, 0, 255), {"tensor 'bad.tensor'", "beyond the file"});
  add("NoData", one_tensor({4}, type_f32, 0, 0), {"tensor 'bad.tensor'", "beyond the file"});
  add("Overlap", with([](Gguf& f) { f.tensor("second", {16}, type_f32, 32).tensor("third", {16}, type_f32, 64).bytes(std::string(200, 'x')); }),
      {"tensor 'third'", "overlaps tensor 'second'"});
  add("SamePlace", with([](Gguf& f) { f.tensor("second", {4}, type_f32, 0); }), {"overlaps", "'good.tensor'", "'second'"});
  return all;
}

class MalformedGguf : public testing::TestWithParam<Malformed> {};

TEST_P(MalformedGguf, IsRefusedByName) {
  const make_files::ExactBytes bytes(GetParam().bytes);
  const std::string message = make_files::message_of<lsaq::BadInput>([&] { lsaq::GgufFile::parse(bytes, "m.gguf"); });
  EXPECT_THAT(message, testing::StartsWith("m.gguf: "));
  make_files::expect_mentions(message, GetParam().mentions);
}

INSTANTIATE_TEST_SUITE_P(All, MalformedGguf, testing::ValuesIn(malformed()), make_files::name_of);

} // namespace gguf_malformed_test
