#include <lsaq/formats/gguf.hpp>

#include "make_files.hpp"

#include <cmath>
#include <limits>

namespace gguf_test {

using lsaq::BadInput;
using lsaq::GgufFile;
using lsaq::StoredType;
using make_files::ExactBytes;
using make_files::expect_mentions;
using make_files::Gguf;
using make_files::le;
using make_files::message_of;
using make_files::u32;
using make_files::u64;

GgufFile parse(const std::string& bytes) { return GgufFile::parse(ExactBytes(bytes), "m.gguf"); }

/// One of every value type and two tensors.
Gguf sample() {
  return Gguf()
      .key("u8", 0, le<std::uint8_t>(200))
      .key("i8", 1, le<std::int8_t>(-3))
      .key("u16", 2, le<std::uint16_t>(60000))
      .key("i16", 3, le<std::int16_t>(-300))
      .key("u32", 4, u32(4000000000u))
      .key("i32", 5, le<std::int32_t>(-70000))
      .key("f32", 6, le(1e-5f))
      .key("bool", 7, "\1")
      .key("text", 8, make_files::text("llama"))
      .key("u64", 10, u64(~0ull))
      .key("i64", 11, le<std::int64_t>(1))
      .key("f64", 12, le(0.1))
      .array("bytes", 0, 3, "abc")
      .array("ids", 5, 2, u32(7) + u32(8))
      .array("flags", 7, 2, std::string("\1\0", 2))
      .array("words", 8, 3, make_files::text("a") + make_files::text("") + make_files::text("\xff\n"))
      .array("none", 6, 0, "")
      .tensor("matrix", {64, 3}, make_files::type_q8_0, 0)
      .tensor("vector", {5}, make_files::type_f32, 224)
      .bytes(std::string(204, 'q') + std::string(20, '\0') + std::string(20, 'v'));
}

TEST(Gguf, ReadsEveryValueType) {
  const GgufFile file = parse(sample().build());
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.alignment(), 32u);
  EXPECT_EQ(file.metadata().size(), 17u);
  EXPECT_EQ(file.metadata()[0].name, "u8");
  EXPECT_EQ(file.unsigned_at("u8"), 200u);
  EXPECT_EQ(file.unsigned_at("u16"), 60000u);
  EXPECT_EQ(file.unsigned_at("u32"), 4000000000u);
  EXPECT_EQ(file.unsigned_at("u64"), ~0ull);
  EXPECT_EQ(file.unsigned_at("i64"), 1u);
  EXPECT_EQ(std::get<std::int8_t>(*file.find("i8")), -3);
  EXPECT_EQ(std::get<std::int16_t>(*file.find("i16")), -300);
  EXPECT_EQ(std::get<std::int32_t>(*file.find("i32")), -70000);
  EXPECT_EQ(file.float_at("f32"), static_cast<double>(1e-5f));
  EXPECT_EQ(file.float_at("f64"), 0.1);
  EXPECT_TRUE(file.bool_at("bool"));
  EXPECT_EQ(file.string_at("text"), "llama");
  EXPECT_THAT(file.array_at<std::uint8_t>("bytes"), testing::ElementsAre('a', 'b', 'c'));
  EXPECT_THAT(file.array_at<std::int32_t>("ids"), testing::ElementsAre(7, 8));
  EXPECT_THAT(file.array_at<bool>("flags"), testing::ElementsAre(true, false));
  EXPECT_THAT(file.array_at<std::string>("words"), testing::ElementsAre("a", "", "\xff\n")) << "values may hold any bytes";
  EXPECT_TRUE(file.array_at<float>("none").empty());
  EXPECT_EQ(file.find("nothing"), nullptr);
}

TEST(Gguf, DefaultsStandInForMissingKeysOnly) {
  const GgufFile file = parse(sample().build());
  EXPECT_EQ(file.unsigned_or("u8", 5), 200u);
  EXPECT_EQ(file.unsigned_or("nothing", 5), 5u);
  EXPECT_EQ(file.float_or("nothing", 1.5), 1.5);
  EXPECT_EQ(file.string_or("nothing", "x"), "x");
  EXPECT_FALSE(file.bool_or("nothing", false));
  EXPECT_THROW(file.unsigned_or("text", 5), BadInput);
}

TEST(Gguf, AccessorsNameFileKeyAndTypeFound) {
  const GgufFile file = parse(sample().build());
  expect_mentions(message_of<BadInput>([&] { file.unsigned_at("llama.block_count"); }), {"m.gguf", "'llama.block_count'", "missing"});
  expect_mentions(message_of<BadInput>([&] { file.unsigned_at("text"); }), {"m.gguf", "'text'", "string \"llama\"", "unsigned integer"});
  expect_mentions(message_of<BadInput>([&] { file.unsigned_at("i32"); }), {"'i32'", "int32 -70000"});
  expect_mentions(message_of<BadInput>([&] { file.unsigned_at("bool"); }), {"'bool'", "bool 1"});
  expect_mentions(message_of<BadInput>([&] { file.unsigned_at("f32"); }), {"'f32'", "float32"});
  expect_mentions(message_of<BadInput>([&] { file.float_at("u32"); }), {"'u32'", "uint32 4000000000"});
  expect_mentions(message_of<BadInput>([&] { file.string_at("words"); }), {"'words'", "array of string", "must be string"});
  expect_mentions(message_of<BadInput>([&] { file.array_at<float>("ids"); }), {"'ids'", "array of int32", "must be array of float32"});
  expect_mentions(message_of<BadInput>([&] { file.array_at<float>("f32"); }), {"'f32'", "must be array of float32"});
}

TEST(Gguf, ListsTensorsWithOuterDimensionsFirst) {
  const std::string bytes = sample().build();
  const GgufFile file = parse(bytes);
  ASSERT_EQ(file.tensors().size(), 2u);
  const lsaq::TensorInfo& matrix = file.tensors()[0];
  EXPECT_EQ(matrix.name, "matrix");
  EXPECT_THAT(matrix.shape, testing::ElementsAre(3, 64));
  EXPECT_EQ(matrix.rows, 3u);
  EXPECT_EQ(matrix.columns, 64u);
  EXPECT_EQ(matrix.type, StoredType::q8_0);
  EXPECT_EQ(matrix.bytes, 204u);
  EXPECT_EQ(matrix.offset, file.data_offset());
  EXPECT_EQ(bytes[matrix.offset], 'q');
  const lsaq::TensorInfo* vector = file.find_tensor("vector");
  ASSERT_NE(vector, nullptr);
  EXPECT_EQ(vector->rows, 1u);
  EXPECT_EQ(vector->columns, 5u);
  EXPECT_EQ(vector->bytes, 20u);
  EXPECT_EQ(bytes[vector->offset], 'v');
  EXPECT_EQ(file.find_tensor("u8"), nullptr);
}

TEST(Gguf, ReadsEveryTensorType) {
  const std::vector<std::pair<std::uint32_t, StoredType>> types = {{0, StoredType::f32},  {1, StoredType::f16},  {2, StoredType::q4_0},
                                                                   {3, StoredType::q4_1}, {8, StoredType::q8_0}, {30, StoredType::bf16}};
  for (const auto& [id, type] : types) {
    const auto file = parse(Gguf().tensor("t", {32, 2, 2, 2}, id, 0).bytes(std::string(8 * lsaq::row_bytes(type, 32), 'x')).build());
    EXPECT_EQ(file.tensors()[0].type, type);
    EXPECT_EQ(file.tensors()[0].rows, 8u);
  }
}

TEST(Gguf, AcceptsWhatTheFormatAllows) {
  Gguf version2 = sample();
  version2.version = 2;
  EXPECT_EQ(parse(version2.build()).version(), 2u);
  EXPECT_TRUE(parse(Gguf().build()).tensors().empty()) << "neither keys nor tensors";
  EXPECT_EQ(parse(Gguf().key("k", 1).build()).metadata().size(), 1u) << "a vocabulary only";

  Gguf aligned;
  aligned.alignment = 4096;
  EXPECT_EQ(parse(aligned.key("general.alignment", 4096).tensor("t", {1}, 0, 4096).bytes(std::string(4100, 'x')).build()).data_offset(), 4096u);
  Gguf narrow;
  narrow.alignment = 8;
  EXPECT_EQ(parse(narrow.key("general.alignment", 8).tensor("t", {1}, 0, 8).bytes(std::string(12, 'x')).build()).alignment(), 8u);

  EXPECT_NO_THROW(parse(Gguf().tensor("b", {1}, 0, 32).tensor("a", {1}, 0, 0).bytes(std::string(36, 'x')).build())) << "offsets in any order";
  EXPECT_NO_THROW(parse(Gguf().tensor("a", {1}, 0, 64).bytes(std::string(68, 'x')).build())) << "a gap";
  EXPECT_NO_THROW(parse(Gguf().tensor("a", {1}, 0, 0).bytes(std::string(32, 'x')).build())) << "padding at the end";
  EXPECT_NO_THROW(parse(Gguf().tensor("a", {8}, 0, 0).tensor("b", {1}, 0, 32).bytes(std::string(36, 'x')).build())) << "adjacent tensors";
  EXPECT_NO_THROW(parse(Gguf().tensor(std::string(64, 'n'), {1}, 0, 0).bytes("1234").build())) << "the longest name";
  EXPECT_NO_THROW(parse(Gguf().key(std::string(65535, 'k'), 1).build())) << "the longest key";
  EXPECT_NO_THROW(parse(Gguf().key("%s%n{}", 1).tensor("%n%s", {1}, 0, 0).bytes("1234").build())) << "format directives mean nothing";
  EXPECT_NO_THROW(parse(Gguf().key("same", 1).tensor("same", {1}, 0, 0).bytes("1234").build())) << "keys and tensors are apart";
  EXPECT_TRUE(std::isnan(parse(Gguf().key("nan", 6, le(std::numeric_limits<float>::quiet_NaN())).build()).float_at("nan"))) << "judged by whoever uses it";
}

TEST(Gguf, ReadsManyTensorsInTime) {
  Gguf many;
  for (int i = 0; i < 100000; ++i) many.tensor("t" + std::to_string(i), {1}, 0, static_cast<std::uint64_t>(i) * 32);
  const GgufFile file = parse(many.bytes(std::string(100000 * 32, 'x')).build());
  EXPECT_EQ(file.tensors().size(), 100000u);
  EXPECT_EQ(file.find_tensor("t99999")->offset, file.data_offset() + 99999 * 32);
}

TEST(Gguf, OpensAFileAndNamesItsPath) {
  const make_files::TemporaryFolder folder;
  EXPECT_EQ(GgufFile::open(folder.write("good.gguf", sample().build())).tensors().size(), 2u);
  const auto bad = folder.write("bad.gguf", "GGUF");
  expect_mentions(message_of<BadInput>([&] { GgufFile::open(bad); }), {bad.string(), "version"});
}

// Whatever a damaged file says, it is refused or read; AddressSanitizer and UndefinedBehaviorSanitizer watch.
TEST(Gguf, SurvivesEveryTruncation) {
  const std::string whole = sample().build();
  for (std::size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THROW(parse(whole.substr(0, length)), BadInput) << length;
  }
}

TEST(Gguf, SurvivesEveryFlippedByte) {
  const std::string whole = sample().build();
  std::size_t accepted = 0;
  const std::size_t metadata = parse(whole).data_offset();
  for (std::size_t at = 0; at < metadata; ++at) {
    for (const int mask : {0x01, 0x80, 0xff}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ mask);
      try {
        const GgufFile file = parse(damaged);
        for (const lsaq::TensorInfo& tensor : file.tensors()) {
          EXPECT_LE(tensor.offset, damaged.size());
          EXPECT_LE(tensor.bytes, damaged.size() - tensor.offset);
          EXPECT_EQ(tensor.bytes, tensor.rows * lsaq::row_bytes(tensor.type, tensor.columns));
        }
        ++accepted;
      } catch (const BadInput& error) {
        expect_mentions(error.what(), {"m.gguf"});
      }
    }
  }
  EXPECT_GT(accepted, 0u) << "a letter of a key may change";
}

} // namespace gguf_test
