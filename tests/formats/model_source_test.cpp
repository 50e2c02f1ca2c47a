#include <lsaq/formats/model_source.hpp>

#include "make_files.hpp"

#include <fstream>
#include <sys/mman.h>
#include <unistd.h>

namespace model_source_test {

using lsaq::BadInput;
using lsaq::InvalidArgument;
using lsaq::ModelSource;
using lsaq::StoredType;
using make_files::entry;
using make_files::expect_mentions;
using make_files::Gguf;
using make_files::le;
using make_files::message_of;
using make_files::safetensors;
using make_files::TemporaryFolder;

std::string refusal(const std::filesystem::path& path) {
  return message_of<BadInput>([&] { ModelSource::open(path); });
}

/// Two rows of Q8_0 with d = 1 and 0.5 and codes 0 .. 31, and a vector of F32.
std::string gguf_model() {
  std::string codes;
  for (int i = 0; i < 32; ++i) codes += static_cast<char>(i);
  Gguf file;
  file.key("general.architecture", 8, make_files::text("llama")).tensor("w", {32, 2}, make_files::type_q8_0, 0).tensor("n", {2}, make_files::type_f32, 96);
  file.bytes(le<std::uint16_t>(0x3c00) + codes + le<std::uint16_t>(0x3800) + codes + std::string(28, '\0') + le(1.5f) + le(-2.0f));
  return file.build();
}

TEST(ModelSource, ReadsAGgufFile) {
  const TemporaryFolder folder;
  const auto path = folder.write("m.gguf", gguf_model());
  const ModelSource model = ModelSource::open(path);
  EXPECT_TRUE(model.is_gguf());
  EXPECT_EQ(model.path(), path);
  EXPECT_EQ(model.gguf().string_at("general.architecture"), "llama");
  EXPECT_THROW(model.config(), InvalidArgument);
  EXPECT_EQ(model.tensors().size(), 2u);
  ASSERT_EQ(model.files().size(), 1u);
  EXPECT_EQ(model.files()[0], path);
  EXPECT_EQ(model.file_bytes(), std::filesystem::file_size(path));

  const lsaq::TensorInfo& w = model.at("w");
  float rows[64];
  model.read_rows(w, 0, 2, rows);
  EXPECT_EQ(rows[31], 31.0f);
  EXPECT_EQ(rows[32 + 31], 15.5f);
  model.read_rows(w, 1, 1, rows);
  EXPECT_EQ(rows[3], 1.5f);
  EXPECT_NO_THROW(model.read_rows(w, 2, 0, nullptr));
  EXPECT_FALSE(model.view(w)) << "blocks are not elements";
  EXPECT_EQ(model.find("v"), nullptr);
  expect_mentions(message_of<BadInput>([&] { model.at("blk.0.\n"); }), {path.string(), "tensor 'blk.0.\\x0a'", "missing"});
}

TEST(ModelSource, ChecksTheRangeOfRows) {
  const TemporaryFolder folder;
  const ModelSource model = ModelSource::open(folder.write("m.gguf", gguf_model()));
  float rows[64];
  expect_mentions(message_of<InvalidArgument>([&] { model.read_rows(model.at("w"), 1, 2, rows); }), {"tensor 'w'", "of 2"});
  EXPECT_THROW(model.read_rows(model.at("w"), 3, 0, rows), InvalidArgument);
  EXPECT_THROW(model.read_rows(model.at("w"), 1, ~std::size_t{0}, rows), InvalidArgument);
}

TEST(ModelSource, StaysValidWhenMoved) {
  const TemporaryFolder folder;
  ModelSource first = ModelSource::open(folder.write("m.gguf", gguf_model()));
  const ModelSource second = std::move(first);
  float n[2];
  second.read_rows(second.at("n"), 0, 1, n);
  EXPECT_EQ(n[0], 1.5f);
  EXPECT_EQ(n[1], -2.0f);
}

void write_folder(const TemporaryFolder& folder) {
  folder.write("config.json", R"({"model_type":"llama"})");
  // A header of odd length puts the tensors at odd addresses unless it is padded.
  std::string header = "{" + entry("f32", "F32", "[2,1]", 0, 8) + "," + entry("bf16", "BF16", "[2]", 8, 12) + "," + entry("u8", "U8", "[1]", 12, 13) + "," +
                       entry("f16", "F16", "[2,0,3]", 13, 13) + "," + entry("odd", "F16", "[1]", 13, 15) + "}";
  while (header.size() % 8 != 0) header += ' ';
  folder.write("model.safetensors",
               safetensors(header, le(1.0f) + le(2.0f) + le<std::uint16_t>(0x3f80) + le<std::uint16_t>(0x4000) + "\7" + le<std::uint16_t>(0x3c00)));
}

TEST(ModelSource, ReadsAFolder) {
  const TemporaryFolder folder;
  write_folder(folder);
  const ModelSource model = ModelSource::open(folder.path());
  EXPECT_FALSE(model.is_gguf());
  EXPECT_EQ(model.config().at("model_type"), "llama");
  EXPECT_THROW(model.gguf(), InvalidArgument);
  ASSERT_EQ(model.files().size(), 1u);
  EXPECT_EQ(model.files()[0], folder.path() / "model.safetensors");

  float values[2];
  model.read_rows(model.at("bf16"), 0, 1, values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_EQ(values[1], 2.0f);
  model.read_rows(model.at("odd"), 0, 1, values);
  EXPECT_EQ(values[0], 1.0f);
  EXPECT_NO_THROW(model.read_rows(model.at("f16"), 0, model.at("f16").rows, nullptr)) << "empty";
}

TEST(ModelSource, ViewsOnlyAlignedFloatsInPlace) {
  const TemporaryFolder folder;
  write_folder(folder);
  const ModelSource model = ModelSource::open(folder.path());
  const auto f32 = model.view(model.at("f32"));
  ASSERT_TRUE(f32);
  EXPECT_EQ(f32->rows, 2u);
  EXPECT_EQ(f32->columns, 1u);
  EXPECT_EQ(f32->type, lsaq::ElementType::f32);
  EXPECT_EQ(lsaq::load_element(f32->row(1), f32->type, 0), 2.0f);
  const auto bf16 = model.view(model.at("bf16"));
  ASSERT_TRUE(bf16);
  EXPECT_EQ(bf16->rows, 1u);
  EXPECT_EQ(lsaq::load_element(bf16->data, bf16->type, 1), 2.0f);
  EXPECT_FALSE(model.view(model.at("odd"))) << "misaligned";
  EXPECT_FALSE(model.view(model.at("u8")));
}

TEST(ModelSource, ListsIntegersButDoesNotReadThemAsNumbers) {
  const TemporaryFolder folder;
  write_folder(folder);
  const ModelSource model = ModelSource::open(folder.path());
  const lsaq::TensorInfo& u8 = model.at("u8");
  ASSERT_EQ(model.bytes(u8).size(), 1u);
  EXPECT_EQ(model.bytes(u8)[0], std::byte{7});
  float value;
  expect_mentions(message_of<BadInput>([&] { model.read_rows(u8, 0, 1, &value); }), {"model.safetensors", "tensor 'u8'", "type U8", "F32, F16, BF16"});
}

TEST(ModelSource, SaysWhatAFileIsThatIsNoModel) {
  const TemporaryFolder folder;
  expect_mentions(refusal(folder.write("t.txt", "Once upon a time there was")), {"t.txt", "not a GGUF file (begins with \"Once upon a time\")"});
  expect_mentions(refusal(folder.write("one", "x")), {"not a GGUF file (begins with \"x\")"});
  expect_mentions(refusal(folder.write("m.bin", "PK\x03\x04zip")), {"m.bin", "pickle", "safetensors"});
  expect_mentions(refusal(folder.write("old.pt", "\x80\x02}q")), {"old.pt", "pickle"});
  expect_mentions(refusal(folder.write("m.safetensors", safetensors("{}", ""))), {"m.safetensors", "give the folder"});
  expect_mentions(refusal(folder.write("empty", "")), {"empty"});
  expect_mentions(refusal(folder.path() / "none"), {"none: no such file"});
}

TEST(ModelSource, SaysWhyAFolderIsNoModel) {
  const TemporaryFolder folder;
  expect_mentions(refusal(folder.path()), {folder.path().string(), "no model.safetensors"});
  folder.write("q.gguf", gguf_model());
  expect_mentions(refusal(folder.path()), {"'q.gguf'", "give its path"});
  folder.write("config.json", "{}");
  folder.write("pytorch_model.bin", "PK\x03\x04");
  expect_mentions(refusal(folder.path()), {"'pytorch_model.bin' is a pickle", "run any code"});
  folder.write("model.safetensors", safetensors("{}", ""));
  EXPECT_NO_THROW(ModelSource::open(folder.path()));
  folder.write("config.json", R"({"a":1,"a":2})");
  expect_mentions(refusal(folder.path()), {"config.json", "key 'a' appears twice"});
  std::filesystem::remove(folder.path() / "config.json");
  expect_mentions(refusal(folder.path()), {"config.json", "no such file"});
}

/// Pages of the file that are in memory, out of those in [begin, end).
std::size_t cached_pages(const std::filesystem::path& path, std::size_t begin, std::size_t end) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const lsaq::MappedFile file = lsaq::MappedFile::open(path);
  std::vector<unsigned char> in_core((file.size() + page - 1) / page);
  if (::mincore(const_cast<std::byte*>(file.bytes().data()), file.size(), in_core.data()) != 0) return ~std::size_t{0};
  std::size_t count = 0;
  for (std::size_t i = begin / page; i < end / page; ++i) count += in_core[i] & 1u;
  return count;
}

TEST(ModelSource, OpeningTouchesNoTensor) {
  constexpr std::uint64_t bytes = 1ull << 30;
  const TemporaryFolder folder;
  const auto path = folder.write("large.gguf", Gguf().tensor("t", {1024, bytes / 4096}, make_files::type_f32, 0).bytes("x").build());
  std::filesystem::resize_file(path, 96 + bytes); // a hole: takes no room on disk and is not cached
  const ModelSource model = ModelSource::open(path);
  EXPECT_EQ(model.at("t").bytes, bytes);
  EXPECT_EQ(model.at("t").offset, 96u);
  EXPECT_EQ(cached_pages(path, 16u << 20, bytes), 0u) << "the kernel may read ahead a little behind the metadata";
}

/// Bytes of mapped files that this process has resident.
std::size_t resident_file_bytes() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word != "RssFile:") continue;
    std::size_t kib = 0;
    status >> kib;
    return kib * 1024;
  }
  return 0;
}

TEST(ModelSource, DropGivesResidentPagesBack) {
  constexpr std::size_t bytes = 16u << 20;
  if (resident_file_bytes() == 0) GTEST_SKIP() << "no RssFile in /proc/self/status";
  const TemporaryFolder folder;
  const auto path = folder.write("m.gguf", Gguf().tensor("t", {1024, bytes / 4096}, make_files::type_f32, 0).bytes(std::string(bytes, '\1')).build());
  const ModelSource model = ModelSource::open(path);
  const lsaq::TensorInfo& t = model.at("t");
  std::vector<float> row(t.columns);
  const std::size_t before = resident_file_bytes();
  for (std::size_t i = 0; i < t.rows; ++i) model.read_rows(t, i, 1, row.data());
  const float last = row.back();
  const std::size_t read = resident_file_bytes();
  model.drop(t);
  const std::size_t dropped = resident_file_bytes();
  EXPECT_GT(read, before + bytes / 2);
  EXPECT_LT(dropped, before + bytes / 8);
  model.read_rows(t, t.rows - 1, 1, row.data());
  EXPECT_EQ(row.back(), last);
}

} // namespace model_source_test
