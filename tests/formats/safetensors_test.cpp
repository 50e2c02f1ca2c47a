#include <lsaq/formats/safetensors.hpp>

#include "make_files.hpp"

namespace safetensors_test {

using lsaq::BadInput;
using lsaq::parse_safetensors;
using lsaq::SafetensorsFolder;
using lsaq::StoredType;
using make_files::content_of;
using make_files::entry;
using make_files::ExactBytes;
using make_files::expect_mentions;
using make_files::message_of;
using make_files::safetensors;
using make_files::TemporaryFolder;

lsaq::SafetensorsHeader parse(const std::string& bytes) { return parse_safetensors(ExactBytes(bytes), "m.safetensors"); }

std::string sample() {
  return safetensors("{\"__metadata__\":{\"format\":\"pt\"}," + entry("b", "BF16", "[2,3]", 16, 28) + "," + entry("a", "F32", "[4]", 0, 16) + "," +
                         entry("ids", "I64", "[2]", 28, 44) + "}   ",
                     std::string(44, 'x'));
}

TEST(Safetensors, ListsTensorsInTheOrderOfTheirBytes) {
  const std::string bytes = sample();
  const auto header = parse(bytes);
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].rows, 1u);
  EXPECT_EQ(header.tensors[0].columns, 4u);
  EXPECT_EQ(header.tensors[0].offset, bytes.size() - 44);
  const lsaq::TensorInfo& b = header.tensors[1];
  EXPECT_EQ(b.type, StoredType::bf16);
  EXPECT_THAT(b.shape, testing::ElementsAre(2, 3));
  EXPECT_EQ(b.rows, 2u);
  EXPECT_EQ(b.columns, 3u);
  EXPECT_EQ(b.bytes, 12u);
  EXPECT_EQ(b.offset, bytes.size() - 28);
  EXPECT_EQ(header.tensors[2].type, StoredType::i64) << "integers are listed";
  ASSERT_EQ(header.metadata.size(), 1u);
  EXPECT_EQ(header.metadata[0].name, "format");
  EXPECT_EQ(header.metadata[0].value, "pt");
}

TEST(Safetensors, AcceptsWhatTheFormatAllows) {
  EXPECT_TRUE(parse(safetensors("{}", "")).tensors.empty());
  EXPECT_EQ(parse(safetensors("{" + entry("s", "F32", "[]", 0, 4) + "}", "1234")).tensors[0].columns, 1u) << "a scalar";
  const auto empty =
      parse(safetensors("{" + entry("t", "F16", "[2]", 0, 4) + "," + entry("e", "F32", "[3,0]", 0, 0) + "," + entry("z", "F32", "[0]", 4, 4) + "}", "1234"));
  EXPECT_EQ(empty.tensors[0].name, "e") << "empty tensors take no room";
  EXPECT_EQ(empty.tensors[0].rows, 3u);
  EXPECT_EQ(empty.tensors[0].columns, 0u);
  EXPECT_EQ(parse(safetensors("{ \"t\" : {\"shape\":[1,2,3,4,1],\"data_offsets\":[0,24],\"dtype\":\"U8\"}}\n", std::string(24, 'x'))).tensors[0].rows, 24u);
  EXPECT_EQ(parse(safetensors("{\"a\\u0062\":{\"dtype\":\"BOOL\",\"shape\":[1],\"data_offsets\":[0,1]}}", "x")).tensors[0].name, "ab");
  EXPECT_EQ(parse(safetensors("{" + entry("%s%n", "F8_E4M3", "[1]", 0, 1) + "}", "x")).tensors[0].name, "%s%n");
  EXPECT_TRUE(parse(safetensors("{\"__metadata__\":{}}", "")).metadata.empty());
}

TEST(Safetensors, ReadsManyTensorsInTime) {
  std::string header = "{";
  for (std::uint64_t i = 0; i < 100000; ++i) header += (i ? "," : "") + entry("t" + std::to_string(i), "U8", "[1]", i, i + 1);
  EXPECT_EQ(parse(safetensors(header + "}", std::string(100000, 'x'))).tensors.size(), 100000u);
}

TEST(Safetensors, SurvivesEveryTruncation) {
  const std::string whole = sample();
  for (std::size_t length = 0; length < whole.size(); ++length) EXPECT_THROW(parse(whole.substr(0, length)), BadInput) << length;
}

TEST(Safetensors, SurvivesEveryFlippedByte) {
  const std::string whole = sample();
  std::size_t accepted = 0;
  for (std::size_t at = 0; at < whole.size() - 44; ++at) {
    for (const int mask : {0x01, 0x02, 0x20, 0x80, 0xff}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ mask);
      try {
        for (const lsaq::TensorInfo& tensor : parse(damaged).tensors) {
          EXPECT_LE(tensor.offset, damaged.size());
          EXPECT_LE(tensor.bytes, damaged.size() - tensor.offset);
          EXPECT_EQ(tensor.bytes, tensor.rows * lsaq::row_bytes(tensor.type, tensor.columns));
        }
        ++accepted;
      } catch (const BadInput& error) {
        expect_mentions(error.what(), {"m.safetensors"});
      }
    }
  }
  EXPECT_GT(accepted, 0u);
}

TEST(SafetensorsFolder, OpensOneFile) {
  const TemporaryFolder folder;
  folder.write("model.safetensors", sample());
  folder.write("model.safetensors.index.json", "ignored: the whole file comes first");
  const auto model = SafetensorsFolder::open(folder.path());
  ASSERT_EQ(model.files.size(), 1u);
  ASSERT_NE(model.tensors.find("ids"), nullptr);
  EXPECT_EQ(model.tensors.find("ids")->file, 0u);
}

/// Two shards with tensors a and b, c.
void write_shards(const TemporaryFolder& folder) {
  folder.write("s1.safetensors", safetensors("{" + entry("a", "F32", "[1]", 0, 4) + "}", "aaaa"));
  folder.write("s2.safetensors", safetensors("{" + entry("b", "F16", "[1]", 0, 2) + "," + entry("c", "F16", "[1]", 2, 4) + "}", "bbcc"));
}

constexpr const char* good_map = R"("weight_map":{"a":"s1.safetensors","b":"s2.safetensors","c":"s2.safetensors"})";

TEST(SafetensorsFolder, OpensShards) {
  for (const char* metadata : {R"("metadata":{"total_size":8},)", R"("metadata":{"total_size":8.0},)", R"("metadata":{},)", ""}) {
    const TemporaryFolder folder;
    write_shards(folder);
    folder.write("model.safetensors.index.json", std::string("{") + metadata + good_map + "}");
    const auto model = SafetensorsFolder::open(folder.path());
    ASSERT_EQ(model.files.size(), 2u);
    const lsaq::TensorInfo* c = model.tensors.find("c");
    ASSERT_NE(c, nullptr);
    EXPECT_EQ(c->file, 1u);
    EXPECT_EQ(std::memcmp(model.files[1].bytes().data() + c->offset, "cc", 2), 0);
  }
}

TEST(SafetensorsFolder, FollowsTheLinksOfTheHuggingFaceCache) {
  const TemporaryFolder folder;
  const auto snapshot = folder.path() / "snapshots" / "0123abcd";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(folder.path() / "blobs");
  folder.write("blobs/hash", safetensors("{" + entry("a", "F32", "[1]", 0, 4) + "}", "aaaa"));
  std::filesystem::create_symlink("../../blobs/hash", snapshot / "s1.safetensors");
  folder.write("snapshots/0123abcd/model.safetensors.index.json", R"({"weight_map":{"a":"s1.safetensors"}})");
  EXPECT_EQ(SafetensorsFolder::open(snapshot).files.size(), 1u);
  folder.write("elsewhere.safetensors", content_of(folder.path() / "blobs/hash"));
  std::filesystem::remove(snapshot / "s1.safetensors");
  std::filesystem::create_symlink("../../elsewhere.safetensors", snapshot / "s1.safetensors");
  expect_mentions(message_of<BadInput>([&] { SafetensorsFolder::open(snapshot); }), {"link out of the folder"});
}

} // namespace safetensors_test
