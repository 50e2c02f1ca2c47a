#include <lsaq/formats/model_source.hpp>

#include "make_files.hpp"

namespace compressed_tensors_test {

using make_files::entry;
using make_files::le;
using nlohmann::json;

/// A folder with one packed linear of 2 x 5, whose parts a test changes.
struct Folder {
  struct Part {
    std::string dtype, shape, bytes;
  };
  std::map<std::string, Part> parts;
  json quantization = {{"quant_method", "compressed-tensors"},
                       {"format", "pack-quantized"},
                       {"config_groups", {{"group_0", {{"weights", {{"num_bits", 4}, {"type", "int"}, {"symmetric", true}, {"strategy", "channel"}}}}}}}};

  explicit Folder(unsigned bits = 4) {
    const std::vector<int> codes = {-7, 3, 0, 7, -1, 1, 2, -3, 4, -8};
    std::string words;
    for (int r = 0; r < 2; ++r) {
      std::uint64_t row = 0;
      for (int c = 0; c < 5; ++c)
        row |= static_cast<std::uint64_t>(codes[static_cast<std::size_t>(5 * r + c)] + (1 << (bits - 1))) << (static_cast<unsigned>(c) * bits);
      words += bits == 4 ? le(static_cast<std::uint32_t>(row)) : le(row);
    }
    parts["x.weight_packed"] = {"I32", bits == 4 ? "[2,1]" : "[2,2]", words};
    parts["x.weight_scale"] = {"BF16", "[2,1]", le(lsaq::to_bf16(0.5f).bits) + le(lsaq::to_bf16(3).bits)};
    parts["x.weight_shape"] = {"I64", "[2]", le(std::int64_t{2}) + le(std::int64_t{5})};
    parts["norm"] = {"BF16", "[1]", le(lsaq::to_bf16(1).bits)};
    quantization["config_groups"]["group_0"]["weights"]["num_bits"] = bits;
  }

  lsaq::ModelSource open(const make_files::TemporaryFolder& folder) const {
    std::string header, data;
    for (const auto& [name, part] : parts) {
      header += (header.empty() ? "{" : ",") + entry(name, part.dtype, part.shape, data.size(), data.size() + part.bytes.size());
      data += part.bytes;
    }
    folder.write("model.safetensors", make_files::safetensors(header + "}", data));
    folder.write("config.json", json{{"quantization_config", quantization}}.dump());
    return lsaq::ModelSource::open(folder.path());
  }
};

TEST(CompressedTensors, ReadsCodesTimesScales) {
  for (const unsigned bits : {4u, 8u}) {
    const make_files::TemporaryFolder folder;
    const lsaq::ModelSource source = Folder(bits).open(folder);
    ASSERT_EQ(source.tensors().size(), 2u) << "three parts are one tensor";
    const lsaq::TensorInfo& weight = source.at("x.weight");
    EXPECT_EQ(weight.type, bits == 4 ? lsaq::StoredType::int4 : lsaq::StoredType::int8);
    EXPECT_EQ(weight.shape, (std::vector<std::uint64_t>{2, 5}));
    EXPECT_EQ(source.view(weight), std::nullopt);
    std::vector<float> values(10);
    source.read_rows(weight, 0, 2, values.data());
    EXPECT_EQ(values, (std::vector<float>{-3.5f, 1.5f, 0, 3.5f, -0.5f, 3, 6, -9, 12, -24}));
    source.read_rows(weight, 1, 1, values.data());
    EXPECT_EQ(values[0], 3);
    EXPECT_THROW(source.read_rows(weight, 1, 2, values.data()), lsaq::InvalidArgument);
  }
}

TEST(CompressedTensors, ReadsGroups) {
  Folder groups;
  groups.parts["x.weight_scale"] = {"F16", "[2,5]", ""};
  for (int i = 1; i <= 10; ++i) groups.parts["x.weight_scale"].bytes += le(lsaq::to_f16(static_cast<float>(i)).bits);
  const make_files::TemporaryFolder folder;
  const lsaq::ModelSource source = groups.open(folder);
  std::vector<float> values(10);
  source.read_rows(source.at("x.weight"), 0, 2, values.data());
  EXPECT_EQ(values, (std::vector<float>{-7, 6, 0, 28, -5, 6, 14, -24, 36, -80}));
}

TEST(CompressedTensors, RefusesWhatDoesNotFitTogether) {
  const auto refused = [](const std::function<void(Folder&)>& change, const std::vector<std::string>& parts) {
    Folder changed;
    change(changed);
    const make_files::TemporaryFolder folder;
    make_files::expect_mentions(make_files::message_of<lsaq::BadInput>([&] { (void)changed.open(folder); }), parts);
  };
  refused([](Folder& f) { f.parts.erase("x.weight_scale"); }, {"x.weight_packed", "x.weight_scale", "missing"});
  refused([](Folder& f) { f.parts.erase("x.weight_shape"); }, {"x.weight_packed", "x.weight_shape", "missing"});
  refused([](Folder& f) { f.parts["x.weight_zero_point"] = {"I32", "[2]", std::string(8, '\0')}; }, {"x.weight_zero_point", "symmetric"});
  refused([](Folder& f) { f.parts["x.weight_g_idx"] = {"I32", "[2]", std::string(8, '\0')}; }, {"x.weight_g_idx"});
  refused([](Folder& f) { f.parts["x.weight"] = {"F32", "[1]", std::string(4, '\0')}; }, {"x.weight", "packed and as it is"});
  refused([](Folder& f) { f.parts["x.weight_shape"].bytes = le(std::int64_t{2}) + le(std::int64_t{50}); }, {"x.weight_packed", "2 x 1 I32", "2 x 50"});
  refused([](Folder& f) { f.parts["x.weight_shape"].bytes = le(std::int64_t{3}) + le(std::int64_t{5}); }, {"x.weight_packed", "3 x 5"});
  refused([](Folder& f) { f.parts["x.weight_shape"].bytes = le(std::int64_t{-2}) + le(std::int64_t{5}); }, {"x.weight_shape", "-2"});
  refused([](Folder& f) { f.parts["x.weight_shape"].bytes = le(std::int64_t{2}) + le(std::int64_t{1} << 62); }, {"x.weight_shape"});
  refused([](Folder& f) { f.parts["x.weight_shape"] = {"F32", "[2]", std::string(8, '\0')}; }, {"x.weight_shape", "whole numbers"});
  refused([](Folder& f) { f.parts["x.weight_scale"] = {"F16", "[1,2]", std::string(4, '\0')}; }, {"x.weight_scale", "1 x 2"});
  refused([](Folder& f) { f.parts["x.weight_scale"] = {"F16", "[2,2]", std::string(8, '\0')}; }, {"x.weight_scale", "2 x 2"});
  refused([](Folder& f) { f.parts["x.weight_scale"] = {"F16", "[2,0]", ""}; }, {"x.weight_scale"});
  refused([](Folder& f) { f.parts["x.weight_scale"] = {"I32", "[2,1]", std::string(8, '\0')}; }, {"x.weight_scale", "I32"});
  refused([](Folder& f) { f.parts["x.weight_scale"] = {"F16", "[2]", std::string(4, '\0')}; }, {"x.weight_scale", "1 dimensions"});
  refused([](Folder& f) { f.quantization["config_groups"]["group_0"]["weights"]["num_bits"] = 8; }, {"x.weight_packed", "2 x 1"});
  refused([](Folder& f) { f.quantization = json::array(); }, {"config.json", "quant_method"});
  refused([](Folder& f) { f.quantization["config_groups"]["group_0"] = "?"; }, {"config.json", "group_0.weights.type"});
}

} // namespace compressed_tensors_test
