#include <lsaq/formats/gguf_writer.hpp>
#include <lsaq/quantization/quantizer.hpp>

#include "make_files.hpp"

#include <random>

namespace gguf_writer_test {

using lsaq::GgufEntry;
using lsaq::StoredType;
using lsaq::TensorEntry;

/// Every type of value, and tensors of sizes that need padding.
TEST(GgufWriter, IsReadBack) {
  const std::vector<GgufEntry> metadata = {{"u8", std::uint8_t{200}},
                                           {"i8", std::int8_t{-3}},
                                           {"u16", std::uint16_t{60000}},
                                           {"i16", std::int16_t{-300}},
                                           {"u32", std::uint32_t{4000000000u}},
                                           {"i32", std::int32_t{-70000}},
                                           {"f32", 1e-5f},
                                           {"bool", true},
                                           {"text", std::string("llama")},
                                           {"u64", ~std::uint64_t{0}},
                                           {"i64", std::int64_t{-1}},
                                           {"f64", 0.1},
                                           {"flags", std::vector<bool>{true, false}},
                                           {"words", std::vector<std::string>{"a", "", "\xff\n"}},
                                           {"ids", std::vector<std::int32_t>{7, 8}},
                                           {"halves", std::vector<float>{0.5f}},
                                           {"none", std::vector<std::uint64_t>{}}};
  const std::vector<TensorEntry> tensors = {{"matrix", StoredType::q8_0, {3, 64}},     {"vector", StoredType::f32, {5}},
                                            {"nibbles", StoredType::q4_0, {1, 2, 32}}, {"halves", StoredType::bf16, {2, 16}},
                                            {"other", StoredType::q4_1, {1, 32}},      {"half", StoredType::f16, {1, 1}}};
  std::string file = lsaq::gguf_header(metadata, tensors);
  EXPECT_EQ(file.size() % lsaq::gguf_alignment, 0u);
  const std::size_t head = file.size();
  for (const TensorEntry& tensor : tensors) file += std::string(tensor.bytes() + lsaq::gguf_padding(tensor.bytes()), 'x');
  const lsaq::GgufFile read = lsaq::GgufFile::parse(make_files::ExactBytes(file), "made.gguf");
  EXPECT_EQ(read.data_offset(), head);
  ASSERT_EQ(read.metadata().size(), metadata.size());
  for (std::size_t i = 0; i < metadata.size(); ++i) {
    EXPECT_EQ(read.metadata()[i].name, metadata[i].name);
    EXPECT_EQ(read.metadata()[i].value, metadata[i].value) << metadata[i].name;
  }
  ASSERT_EQ(read.tensors().size(), tensors.size());
  std::uint64_t offset = head;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(read.tensors()[i].name, tensors[i].name);
    EXPECT_EQ(read.tensors()[i].type, tensors[i].type);
    EXPECT_EQ(read.tensors()[i].shape, tensors[i].shape);
    EXPECT_EQ(read.tensors()[i].offset, offset);
    offset = (offset + tensors[i].bytes() + 31) / 32 * 32;
  }
  const std::string nothing = lsaq::gguf_header({}, {});
  EXPECT_EQ(lsaq::GgufFile::parse(make_files::ExactBytes(nothing), "nothing").tensors().size(), 0u);
}

TEST(GgufWriter, RefusesWhatReadersRefuse) {
  for (const TensorEntry& bad : {TensorEntry{"a", StoredType::q8_0, {2, 48}}, TensorEntry{std::string(65, 'n'), StoredType::f16, {2, 32}},
                                 TensorEntry{"empty", StoredType::f32, {2, 0}}, TensorEntry{"deep", StoredType::f32, {1, 1, 1, 1, 1}}})
    make_files::expect_mentions(make_files::message_of<lsaq::InvalidArgument>([&] { (void)lsaq::gguf_header({}, std::vector{bad}); }), {"GGUF"});
}

/// What a block reader makes of the blocks is code x scale, bit for bit, for every width and every grouping that fits.
TEST(GgufWriter, BlocksHoldCodesAndScalesExactly) {
  std::mt19937 random(3);
  constexpr std::size_t rows = 5, columns = 96;
  std::vector<float> weights(rows * columns);
  for (float& weight : weights) weight = static_cast<float>(random() >> 8) * 0x1p-24f - 0.5f;
  std::fill_n(weights.begin() + columns, columns, 0.0f);                                      // a scale of 0
  for (std::size_t c = 0; c < columns; ++c) weights[2 * columns + c] = weights[c] * 0x1p-20f; // a subnormal one
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const lsaq::Grouping grouping : {lsaq::PerChannel::grouping, lsaq::PerTensor::grouping, lsaq::PerGroup<32>::grouping, lsaq::PerGroup<64>::grouping})
      for (const lsaq::CodeRange range : {lsaq::CodeRange::symmetric, lsaq::CodeRange::full}) {
        const lsaq::PackedFormat format{.bits = bits, .grouping = grouping, .range = range};
        ASSERT_TRUE(lsaq::fits_gguf_blocks(format, columns));
        const lsaq::PackedMatrix packed = lsaq::quantize({weights.data(), rows, columns}, format);
        std::vector<float> expected(weights.size());
        lsaq::dequantize(packed.view(), {expected.data(), rows, columns});
        const StoredType type = lsaq::gguf_block_type(bits);
        EXPECT_EQ(type, bits <= 4 ? StoredType::q4_0 : StoredType::q8_0);
        for (std::size_t r = 0; r < rows; ++r) {
          std::vector<std::byte> blocks(lsaq::row_bytes(type, columns));
          lsaq::write_gguf_blocks(packed.view(), r, blocks.data());
          std::vector<float> read(columns);
          lsaq::dequantize_row(blocks.data(), type, columns, read.data());
          for (std::size_t c = 0; c < columns; ++c) ASSERT_EQ(read[c], expected[r * columns + c]) << bits << " bits, row " << r << ", column " << c;
        }
      }
  EXPECT_FALSE(lsaq::fits_gguf_blocks({.bits = 4}, 48));
  EXPECT_FALSE(lsaq::fits_gguf_blocks({.bits = 4, .scale = lsaq::ScaleType::bf16}, 64));
}

} // namespace gguf_writer_test
