// safetensors files and sharded folders that break one rule each: refused, with the file and the culprit named.
#include <lsaq/formats/safetensors.hpp>

#include "make_files.hpp"

#include <sys/stat.h>

namespace safetensors_malformed_test {

using make_files::entry;
using make_files::expect_mentions;
using make_files::Malformed;
using make_files::message_of;
using make_files::safetensors;
using make_files::TemporaryFolder;
using make_files::u64;

/// A file of the one tensor 'bad' with these fields and four bytes of data.
std::string fields(const std::string& text) { return safetensors("{\"bad\":{" + text + "}}", "1234"); }

std::vector<Malformed> malformed() {
  std::vector<Malformed> all;
  const auto add = [&](std::string name, std::string bytes, std::vector<std::string> mentions) {
    all.push_back({std::move(name), std::move(bytes), std::move(mentions)});
  };
  const std::string good = entry("good", "F32", "[1]", 0, 4);

  // Length of the header.
  add("SevenBytes", "1234567", {"length of the header", "7 are left"});
  add("LengthZero", u64(0) + "{}", {"must begin with {"});
  add("LengthBeyondTheFile", u64(3) + "{}", {"header needs 3 bytes", "2 are left"});
  add("LengthHuge", u64(100'000'001) + "{}", {"100000001", "at most 100000000"});
  add("LengthWraps", u64(~0ull - 7) + "{}", {"18446744073709551608"});
  add("LengthCutsTheHeader", u64(5) + "{" + good + "}1234", {"not valid JSON"});

  // JSON.
  add("NotJson", safetensors("{hello}", ""), {"not valid JSON"});
  add("LeadingSpace", safetensors(" {" + good + "}", "1234"), {"must begin with {"});
  add("ByteOrderMark", safetensors("\xef\xbb\xbf{" + good + "}", "1234"), {"must begin with {"});
  add("ListAsRoot", safetensors("[1]", ""), {"must begin with {"});
  add("TrailingText", safetensors("{" + good + "}x", "1234"), {"not valid JSON", "'good'"});
  add("TrailingObject", safetensors("{" + good + "}{}", "1234"), {"not valid JSON"});
  add("TrailingZero", safetensors("{" + good + "}" + std::string(3, '\0'), "1234"), {"zero byte"});
  add("TrailingZeroAndText", safetensors("{" + good + "}" + std::string(1, '\0') + "{}", "1234"), {"zero byte"});
  add("TrailingComma", safetensors("{" + good + ",}", "1234"), {"not valid JSON"});
  add("Comment", safetensors("{/**/" + good + "}", "1234"), {"not valid JSON"});
  add("NotUtf8", safetensors("{" + entry("a\xff", "F32", "[1]", 0, 4) + "}", "1234"), {"not valid JSON"});
  add("NestedArrays", safetensors("{\"bad\":" + std::string(1'000'000, '['), ""), {"'bad'", "an array", "must be an object"});
  add("NestedObjects", safetensors("{\"bad\":{\"dtype\":{\"dtype\":{", ""), {"tensor 'bad'", "dtype is an object"});
  add("NestedShape", fields(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), {"tensor 'bad'", "shape holds an array"});

  // Names.
  add("NameTwice", safetensors("{" + good + "," + good + "}", "1234"), {"tensor 'good'", "twice"});
  add("NameTwiceEscaped", safetensors("{" + good + "," + entry("g\\u006fod", "F32", "[1]", 4, 8) + "}", "12345678"), {"tensor 'good'", "twice"});
  add("NameEmpty", safetensors("{" + entry("", "F32", "[1]", 0, 4) + "}", "1234"), {"tensor ''", "empty"});
  add("NameWithZero", safetensors("{" + entry("a\\u0000b", "F32", "[1]", 0, 4) + "}", "1234"), {"tensor 'a\\x00b'", "control"});
  add("NameWithNewline", safetensors("{" + entry("a\\nb", "F32", "[1]", 0, 4) + "}", "1234"), {"tensor 'a\\x0ab'", "control"});
  add("NameWithEscape", safetensors("{" + entry("\\u001b[2J", "F32", "[1]", 0, 4) + "}", "1234"), {"tensor '\\x1b[2J'", "control"});
  add("LongNameIsCut", safetensors("{" + entry(std::string(100000, 'n'), "F99", "[1]", 0, 4) + "}", "1234"), {"nnn...", "F99"});

  // Fields.
  add("TensorIsNumber", safetensors("{\"bad\":5}", ""), {"tensor 'bad'", "5", "object"});
  add("TensorIsNull", safetensors("{\"bad\":null}", ""), {"tensor 'bad'", "null"});
  add("TensorIsEmpty", safetensors("{\"bad\":{}}", ""), {"tensor 'bad'", "dtype is missing"});
  add("NoShape", fields(R"("dtype":"F32","data_offsets":[0,4])"), {"tensor 'bad'", "shape is missing"});
  add("NoOffsets", fields(R"("dtype":"F32","shape":[1])"), {"tensor 'bad'", "data_offsets is missing"});
  add("UnknownField", fields(R"("dtype":"F32","shape":[1],"data_offsets":[0,4],"strides":[1])"), {"tensor 'bad'", "'strides'"});
  add("FieldTwice", fields(R"("dtype":"F32","shape":[1],"dtype":"F32","data_offsets":[0,4])"), {"tensor 'bad'", "dtype appears twice"});
  add("FieldTwiceEscaped", fields(R"("dtype":"F32","shape":[1],"sh\u0061pe":[1],"data_offsets":[0,4])"), {"tensor 'bad'", "shape appears twice"});
  add("DtypeUnknown", fields(R"("dtype":"F33","shape":[1],"data_offsets":[0,4])"), {"tensor 'bad'", "'F33'"});
  add("DtypeLowerCase", fields(R"("dtype":"f32","shape":[1],"data_offsets":[0,4])"), {"tensor 'bad'", "'f32'"});
  add("DtypeOfGguf", fields(R"("dtype":"Q8_0","shape":[32],"data_offsets":[0,34])"), {"tensor 'bad'", "'Q8_0'"});
  add("DtypeIsNumber", fields(R"("dtype":32,"shape":[1],"data_offsets":[0,4])"), {"tensor 'bad'", "dtype is 32", "string"});
  add("ShapeIsText", fields(R"("dtype":"F32","shape":"1","data_offsets":[0,4])"), {"tensor 'bad'", "shape is \"1\""});
  add("ShapeNegative", fields(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), {"tensor 'bad'", "shape holds -1"});
  add("ShapeFraction", fields(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), {"tensor 'bad'", "shape holds 1.0"});
  add("ShapeHoldsText", fields(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"), {"tensor 'bad'", "shape holds \"1\""});
  add("NineDimensions", fields(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4])"), {"tensor 'bad'", "more than 8"});
  add("ShapeWraps", fields(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"), {"tensor 'bad'", "64 bits"});
  add("ShapeWrapsBesideZero", fields(R"("dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0])"), {"tensor 'bad'", "64 bits"});
  add("BytesWrap", fields(R"("dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4])"), {"tensor 'bad'", "size in bytes"});
  add("ShapeTooSmall", fields(R"("dtype":"F16","shape":[1],"data_offsets":[0,4])"), {"tensor 'bad'", "2 bytes", "data_offsets 4"});
  add("ShapeTooLarge", fields(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"), {"tensor 'bad'", "8 bytes", "data_offsets 4"});

  // Offsets.
  add("OneOffset", fields(R"("dtype":"F32","shape":[1],"data_offsets":[4])"), {"tensor 'bad'", "1 numbers", "must have 2"});
  add("ThreeOffsets", fields(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,8])"), {"tensor 'bad'", "more than 2"});
  add("OffsetsReversed", fields(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), {"tensor 'bad'", "end before they begin"});
  add("OffsetNegative", fields(R"("dtype":"F32","shape":[1],"data_offsets":[-4,0])"), {"tensor 'bad'", "data_offsets holds -4"});
  add("OffsetFraction", fields(R"("dtype":"F32","shape":[1],"data_offsets":[0,4.0])"), {"tensor 'bad'", "data_offsets holds 4.0"});
  add("OffsetAbove64Bits", fields(R"("dtype":"F32","shape":[1],"data_offsets":[0,18446744073709551616])"), {"tensor 'bad'", "18446744073709551616"});
  add("OffsetsAbove63Bits", fields(R"("dtype":"F32","shape":[1],"data_offsets":[9223372036854775808,9223372036854775812])"),
      {"tensor 'bad'", "beyond the 4 bytes"});
  add("OffsetsAtTheTop", fields(R"("dtype":"F32","shape":[1],"data_offsets":[18446744073709551611,18446744073709551615])"), {"tensor 'bad'", "beyond"});
  add("OffsetsAreObject", fields(R"("dtype":"F32","shape":[1],"data_offsets":{})"), {"tensor 'bad'", "data_offsets is an object"});
  add("BeyondTheFile", safetensors("{" + entry("bad", "F32", "[2]", 0, 8) + "}", "1234567"), {"tensor 'bad'", "7 bytes of data"});
  add("Overlap", safetensors("{" + good + "," + entry("bad", "F32", "[1]", 2, 6) + "}", "123456"), {"tensor 'bad'", "inside the tensor before"});
  add("SamePlace", safetensors("{" + good + "," + entry("bad", "F32", "[1]", 0, 4) + "}", "1234"), {"inside the tensor before"});
  add("Gap", safetensors("{" + good + "," + entry("bad", "F32", "[1]", 5, 9) + "}", "123456789"), {"tensor 'bad'", "not at the end"});
  add("GapAtTheStart", safetensors("{" + entry("bad", "F32", "[1]", 1, 5) + "}", "12345"), {"tensor 'bad'", "begin at 1"});
  add("EmptyTensorInsideAnother", safetensors("{" + good + "," + entry("bad", "F32", "[0]", 2, 2) + "}", "1234"), {"tensor 'bad'", "inside"});
  add("BytesAfterTheLast", safetensors("{" + good + "}", "12345"), {"'good'", "end at byte 4", "5 bytes"});
  add("BytesWithoutTensors", safetensors("{}", "1"), {"1 bytes"});

  // __metadata__.
  add("MetadataIsList", safetensors("{\"__metadata__\":[]}", ""), {"'__metadata__'", "an array"});
  add("MetadataIsText", safetensors("{\"__metadata__\":\"pt\"}", ""), {"'__metadata__'", "\"pt\""});
  add("MetadataHoldsNumber", safetensors("{\"__metadata__\":{\"bad\":1}}", ""), {"'bad'", "strings"});
  add("MetadataHoldsObject", safetensors("{\"__metadata__\":{\"bad\":{}}}", ""), {"'bad'", "strings"});
  add("MetadataTwice", safetensors("{\"__metadata__\":{},\"__metadata__\":{}}", ""), {"'__metadata__'", "twice"});
  add("MetadataKeyTwice", safetensors("{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", ""), {"'k'", "twice"});
  add("MetadataAsTensor", safetensors("{" + entry("__metadata__", "F32", "[1]", 0, 4) + "}", "1234"), {"'shape'", "strings"});
  return all;
}

class MalformedSafetensors : public testing::TestWithParam<Malformed> {};

TEST_P(MalformedSafetensors, IsRefusedByName) {
  const make_files::ExactBytes bytes(GetParam().bytes);
  const std::string message = message_of<lsaq::BadInput>([&] { lsaq::parse_safetensors(bytes, "m.safetensors"); });
  EXPECT_THAT(message, testing::StartsWith("m.safetensors: "));
  expect_mentions(message, GetParam().mentions);
}

INSTANTIATE_TEST_SUITE_P(All, MalformedSafetensors, testing::ValuesIn(malformed()), make_files::name_of);

/// A sharded folder: shard s1.safetensors holds 'a', s2.safetensors holds 'b'; the index and more are up to the case.
struct BadShards {
  std::string name;
  std::string index;
  std::function<void(const TemporaryFolder&)> arrange;
  std::vector<std::string> mentions;
};

void PrintTo(const BadShards& shards, std::ostream* out) { *out << shards.name; }

std::string shard(const std::string& tensor) { return safetensors("{" + entry(tensor, "F32", "[1]", 0, 4) + "}", "1234"); }

/// An index that puts 'a' into s1 and 'b' into the given shard.
std::string index_with(const std::string& b) { return R"({"weight_map":{"a":"s1.safetensors","b":")" + b + "\"}}"; }

std::vector<BadShards> bad_shards() {
  const auto nothing = [](const TemporaryFolder&) {};
  const auto path = [](const TemporaryFolder& folder, const char* name) { return folder.path() / name; };
  return {
      {"ParentFolder", index_with("../s2.safetensors"), nothing, {"shard '../s2.safetensors'", "plain name"}},
      {"InnerParentFolder", index_with("x/../../s2.safetensors"), nothing, {"shard 'x/../../s2.safetensors'", "plain name"}},
      {"Absolute", index_with("/etc/passwd"), nothing, {"shard '/etc/passwd'", "plain name"}},
      {"Backslash", index_with("..\\\\s2.safetensors"), nothing, {"shard '..\\x5c", "plain name"}},
      {"Subfolder", index_with("sub/s2.safetensors"), nothing, {"shard 'sub/s2.safetensors'", "plain name"}},
      {"Dot", index_with("."), nothing, {"shard '.'", "plain name"}},
      {"DotDot", index_with(".."), nothing, {"shard '..'", "plain name"}},
      {"EmptyName", index_with(""), nothing, {"shard ''", "plain name"}},
      {"ZeroInName", index_with("s2.safetensors\\u0000.safetensors"), nothing, {"s2.safetensors\\x00", "plain name"}},
      {"Pickle", index_with("pytorch_model.bin"), nothing, {"shard 'pytorch_model.bin'", "not a .safetensors"}},
      {"LinkOut",
       index_with("out.safetensors"),
       [=](const TemporaryFolder& f) {
         std::filesystem::create_directory(path(f, "outside"));
         f.write("outside/x.safetensors", shard("b"));
         std::filesystem::create_symlink("outside/x.safetensors", path(f, "out.safetensors"));
       },
       {"shard 'out.safetensors'", "link out of the folder"}},
      {"LinkLoop",
       index_with("loop.safetensors"),
       [=](const TemporaryFolder& f) { std::filesystem::create_symlink("loop.safetensors", path(f, "loop.safetensors")); },
       {"loop.safetensors", "symbolic links"}},
      {"LinkToNothing",
       index_with("gone.safetensors"),
       [=](const TemporaryFolder& f) { std::filesystem::create_symlink("nowhere", path(f, "gone.safetensors")); },
       {"gone.safetensors", "no such file"}},
      {"Fifo",
       index_with("fifo.safetensors"),
       [=](const TemporaryFolder& f) { ASSERT_EQ(::mkfifo(path(f, "fifo.safetensors").c_str(), 0600), 0); },
       {"fifo.safetensors", "not a regular file"}},
      {"Folder",
       index_with("dir.safetensors"),
       [=](const TemporaryFolder& f) { std::filesystem::create_directory(path(f, "dir.safetensors")); },
       {"dir.safetensors", "is a folder"}},
      {"EmptyShard", index_with("empty.safetensors"), [](const TemporaryFolder& f) { f.write("empty.safetensors", ""); }, {"empty.safetensors", "empty"}},
      {"MissingShard", index_with("s3.safetensors"), nothing, {"s3.safetensors", "no such file"}},
      {"WrongShard", R"({"weight_map":{"a":"s2.safetensors","b":"s1.safetensors"}})", nothing, {"tensor 'a'", "'s2.safetensors'", "'s1.safetensors'"}},
      {"NotInItsShard", R"({"weight_map":{"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors"}})", nothing, {"tensor 'c'", "not in shard"}},
      {"NotListed",
       R"({"weight_map":{"b":"s2.safetensors","a":"s1.safetensors"}})",
       [](const TemporaryFolder& f) {
         f.write("s2.safetensors", safetensors("{" + entry("b", "U8", "[2]", 0, 2) + "," + entry("extra", "U8", "[2]", 2, 4) + "}", "1234"));
       },
       {"tensor 'extra'", "'s2.safetensors'", "not listed"}},
      {"InBothShards",
       index_with("s2.safetensors"),
       [](const TemporaryFolder& f) {
         f.write("s2.safetensors", safetensors("{" + entry("a", "U8", "[2]", 0, 2) + "," + entry("b", "U8", "[2]", 2, 4) + "}", "1234"));
       },
       {"tensor 'a'", "twice"}},
      {"ListedTwice", R"({"weight_map":{"a":"s1.safetensors","a":"s2.safetensors","b":"s2.safetensors"}})", nothing, {"key 'a'", "twice"}},
      {"NoWeightMap", R"({"metadata":{}})", nothing, {"'weight_map'", "missing"}},
      {"WeightMapIsList", R"({"weight_map":["a"]})", nothing, {"'weight_map'", "not an object"}},
      {"WeightMapIsEmpty", R"({"weight_map":{}})", nothing, {"'weight_map'", "no tensor"}},
      {"ShardIsNumber", R"({"weight_map":{"a":1}})", nothing, {"tensor 'a'", "not a string"}},
      {"TotalSizeWrong",
       R"({"metadata":{"total_size":9},"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})",
       nothing,
       {"'total_size'", "9", "8 bytes"}},
      {"TotalSizeIsText", R"({"metadata":{"total_size":"8"},"weight_map":{"a":"s1.safetensors","b":"s2.safetensors"}})", nothing, {"'total_size'", "8 bytes"}},
      {"IndexIsNotJson", "{", nothing, {"not valid JSON"}},
      {"IndexIsList", "[]", nothing, {"not a JSON object"}},
      {"IndexNestedDeeply", "{\"a\":" + std::string(100000, '['), nothing, {"nested deeper"}},
  };
}

class MalformedShards : public testing::TestWithParam<BadShards> {};

TEST_P(MalformedShards, AreRefusedByName) {
  const TemporaryFolder folder;
  folder.write("s1.safetensors", shard("a"));
  folder.write("s2.safetensors", shard("b"));
  folder.write("model.safetensors.index.json", GetParam().index);
  GetParam().arrange(folder);
  const std::string message = message_of<lsaq::BadInput>([&] { lsaq::SafetensorsFolder::open(folder.path()); });
  EXPECT_THAT(message, testing::StartsWith(folder.path().string()));
  expect_mentions(message, GetParam().mentions);
}

INSTANTIATE_TEST_SUITE_P(All, MalformedShards, testing::ValuesIn(bad_shards()), [](const auto& shards) { return shards.param.name; });

} // namespace safetensors_malformed_test
