#include <lsaq/formats/safetensors.hpp>
#include <lsaq/formats/safetensors_writer.hpp>

#include "make_files.hpp"

namespace safetensors_writer_test {

using lsaq::StoredType;
using lsaq::TensorEntry;

TEST(SafetensorsWriter, IsReadBack) {
  const std::vector<TensorEntry> tensors = {
      {"b.weight_packed", StoredType::i32, {3, 5}}, {"a.scale", StoredType::f16, {3, 1}}, {"empty", StoredType::f32, {0, 7}}, {"one", StoredType::i64, {}}};
  const std::vector<std::uint64_t> bytes = {60, 6, 0, 8};
  std::string file = lsaq::safetensors_header(tensors, {{"format", "pt"}, {"lsaq", "{\"quoted\": \"\\\"\"}"}});
  const std::size_t head = file.size();
  EXPECT_EQ(head % 8, 0u);
  file += std::string(74, 'x');
  const lsaq::SafetensorsHeader read = lsaq::parse_safetensors(std::as_bytes(std::span(file)), "made.safetensors");
  ASSERT_EQ(read.tensors.size(), tensors.size());
  std::uint64_t offset = head;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(tensors[i].bytes(), bytes[i]);
    EXPECT_EQ(read.tensors[i].name, tensors[i].name);
    EXPECT_EQ(read.tensors[i].type, tensors[i].type);
    EXPECT_EQ(read.tensors[i].shape, tensors[i].shape);
    EXPECT_EQ(read.tensors[i].bytes, bytes[i]);
    EXPECT_EQ(read.tensors[i].offset, offset);
    offset += bytes[i];
  }
  ASSERT_EQ(read.metadata.size(), 2u);
  EXPECT_EQ(read.metadata[1].value, "{\"quoted\": \"\\\"\"}");
  const std::string nothing = lsaq::safetensors_header({}, {});
  EXPECT_EQ(lsaq::parse_safetensors(std::as_bytes(std::span(nothing)), "nothing").tensors.size(), 0u);
}

} // namespace safetensors_writer_test
