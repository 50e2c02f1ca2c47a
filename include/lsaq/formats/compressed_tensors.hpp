// Folders of compressed-tensors with "pack-quantized" weights: the three tensors of a linear as one that can be read as numbers.
//
// Contract: compressed-tensors' quantization_config and its pack-quantized compressor. X.weight_packed holds code + 2^(bits-1) in 32-bit words, first column in
// the lowest bits; X.weight_scale has one scale a row or a group of columns; X.weight_shape says how many columns there are.
#pragma once

#include <lsaq/formats/safetensors.hpp>
#include <lsaq/quantization/packed_matrix.hpp>
#include <lsaq/quantization/scale.hpp>

#include <set>

namespace lsaq::inline v0 {

/// Codes and scales of one packed linear; `name` is that of the weight they stand for.
struct PackedTensorInfo {
  std::string name;
  TensorInfo scales;
  unsigned bits = 0;
  std::size_t group = 0; ///< columns that share a scale
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The tensors of a folder with packed ones in the place of their parts: type int8 or int4, the range of the codes.
struct PackedFolder {
  NamedList<TensorInfo> tensors;
  NamedList<PackedTensorInfo> packed;
};

/// One pass over the tensors of a folder; see read_packed_folder.
class PackedFolderReader {
public:
  PackedFolderReader(const nlohmann::json& quantization, std::string config, const SafetensorsFolder& folder)
      : quantization_(quantization), config_(std::move(config)), folder_(folder) {}

  PackedFolder run() && {
    read_groups();
    std::vector<TensorInfo> tensors;
    std::vector<PackedTensorInfo> packed;
    constexpr std::string_view codes_suffix = "_packed";
    std::set<std::string> parts;
    for (const TensorInfo& tensor : folder_.tensors.items()) {
      if (!tensor.name.ends_with(".weight_packed")) continue;
      const std::string name = tensor.name.substr(0, tensor.name.size() - codes_suffix.size());
      for (const char* unknown : {"_zero_point", "_g_idx"})
        if (folder_.tensors.find(name + unknown) != nullptr) refuse(name + unknown, "can't be read; symmetric codes in the order of their columns can");
      PackedTensorInfo info;
      tensors.push_back(join(name, tensor, info));
      packed.push_back(std::move(info));
      for (const char* part : {"_packed", "_scale", "_shape"}) parts.insert(name + part);
    }
    for (const TensorInfo& tensor : folder_.tensors.items())
      if (!parts.contains(tensor.name)) tensors.push_back(tensor);
    if (const TensorInfo* twice = duplicate_name(tensors)) refuse(twice->name, "is there packed and as it is");
    return {NamedList(std::move(tensors)), NamedList(std::move(packed))};
  }

private:
  [[noreturn]] void refuse(const std::string& tensor, const std::string& reason) const {
    const TensorInfo* info = folder_.tensors.find(tensor);
    const std::string file = info != nullptr ? printable_path(folder_.files[info->file].path()) : config_;
    fail<BadInput>(file + ": tensor '" + printable(tensor) + "' " + reason);
  }

  [[noreturn]] void refuse_config(const std::string& key, const nlohmann::json& found, const std::string& wanted) const {
    fail<BadInput>(config_ + ": quantization_config: \"" + key + "\" is " + printable(found.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)) +
                   "; this program reads " + wanted);
  }

  /// A field, or null.
  static nlohmann::json field(const nlohmann::json& object, const char* key) { return object.is_object() && object.contains(key) ? object[key] : nullptr; }

  void expect(const std::string& group, const nlohmann::json& object, const char* key, std::initializer_list<nlohmann::json> values, const char* wanted) const {
    const nlohmann::json found = field(object, key);
    if (std::find(values.begin(), values.end(), found) == values.end()) refuse_config(group + key, found, wanted);
  }

  void read_groups() {
    expect("", quantization_, "quant_method", {"compressed-tensors"}, "compressed-tensors");
    expect("", quantization_, "format", {"pack-quantized"}, "pack-quantized");
    const nlohmann::json groups = field(quantization_, "config_groups");
    if (!groups.is_object() || groups.empty()) refuse_config("config_groups", groups, "an object of groups");
    for (const auto& [name, group] : groups.items()) {
      const std::string place = printable(name) + ".";
      expect(place, group, "format", {"pack-quantized", nullptr}, "pack-quantized");
      expect(place, group, "input_activations", {nullptr}, "null");
      const nlohmann::json weights = field(group, "weights");
      expect(place + "weights.", weights, "type", {"int"}, "int");
      expect(place + "weights.", weights, "symmetric", {true}, "true");
      expect(place + "weights.", weights, "num_bits", {4, 8}, "4 and 8");
      expect(place + "weights.", weights, "strategy", {"channel", "group"}, "channel and group");
      bits_.insert(weights["num_bits"].get<unsigned>());
    }
  }

  const TensorInfo& part(const std::string& name, const char* suffix, std::size_t dimensions) const {
    const TensorInfo* found = folder_.tensors.find(name + suffix);
    if (found == nullptr) refuse(name + "_packed", "needs '" + printable(name) + suffix + "', which is missing");
    if (found->shape.size() != dimensions)
      refuse(found->name, "has " + std::to_string(found->shape.size()) + " dimensions; it must have " + std::to_string(dimensions));
    return *found;
  }

  /// Rows and columns as weight_shape says.
  std::array<std::uint64_t, 2> shape_of(const TensorInfo& tensor) const {
    if (tensor.columns != 2 || (tensor.type != StoredType::i64 && tensor.type != StoredType::i32)) refuse(tensor.name, "must be two whole numbers, I64 or I32");
    const std::byte* const bytes = folder_.files[tensor.file].bytes().data() + tensor.offset;
    std::array<std::uint64_t, 2> shape = {};
    for (std::size_t i = 0; i < 2; ++i) {
      std::int64_t number = 0;
      std::int32_t narrow = 0;
      if (tensor.type == StoredType::i64) std::memcpy(&number, bytes + 8 * i, sizeof number);
      if (tensor.type == StoredType::i32) std::memcpy(&narrow, bytes + 4 * i, sizeof narrow);
      number += narrow;
      if (number < 1 || number > std::int64_t{1} << 31) refuse(tensor.name, "holds " + std::to_string(number) + "; rows and columns are at least 1");
      shape[i] = static_cast<std::uint64_t>(number);
    }
    return shape;
  }

  TensorInfo join(const std::string& name, const TensorInfo& codes, PackedTensorInfo& info) const {
    const auto [rows, columns] = shape_of(part(name, "_shape", 1));
    (void)part(name, "_packed", 2);
    const auto words = [columns = columns](unsigned bits) { return packed_row_bytes(columns, bits) / 4; };
    for (const unsigned bits : bits_)
      if (codes.type == StoredType::i32 && codes.rows == rows && codes.columns == words(bits)) info.bits = bits;
    if (info.bits == 0)
      refuse(codes.name, "is " + std::to_string(codes.rows) + " x " + std::to_string(codes.columns) + " " + std::string(name_of(codes.type)) + "; " +
                             std::to_string(rows) + " x " + std::to_string(columns) + " codes of the widths in config.json are rows of I32 words");
    info.name = name;
    info.scales = part(name, "_scale", 2);
    const std::size_t groups = info.scales.columns;
    if (!element_type_of(info.scales.type) || info.scales.rows != rows || groups == 0 || columns % groups != 0)
      refuse(info.scales.name, "is " + std::to_string(info.scales.rows) + " x " + std::to_string(groups) + " " + std::string(name_of(info.scales.type)) +
                                   "; one float a row, or a group of columns, is wanted");
    info.group = static_cast<std::size_t>(columns) / groups;
    TensorInfo joined = codes;
    joined.name = name;
    joined.shape = {rows, columns};
    joined.columns = static_cast<std::size_t>(columns);
    joined.type = info.bits == 8 ? StoredType::int8 : StoredType::int4;
    return joined;
  }

  const nlohmann::json& quantization_;
  std::string config_;
  const SafetensorsFolder& folder_;
  std::set<unsigned> bits_;
};

/// The tensors of a folder whose config.json has this "quantization_config"; `config` is how messages call that file.
///
/// Throws BadInput naming file and tensor, or the field of the configuration, for whatever is not packed like this.
inline PackedFolder read_packed_folder(const nlohmann::json& quantization, const std::string& config, const SafetensorsFolder& folder) {
  return PackedFolderReader(quantization, config, folder).run();
}

/// Writes code x scale of one row as FP32. `codes` and `scales` are the row's own; any alignment.
inline void dequantize_packed_row(const std::byte* codes, const std::byte* scales, const PackedTensorInfo& info, std::size_t columns, float* out) noexcept {
  const std::size_t scale_bytes = row_bytes(info.scales.type, 1);
  for (std::size_t first = 0, group = 0; first < columns; first += info.group, ++group) {
    float scale = 0;
    dequantize_row(scales + group * scale_bytes, info.scales.type, 1, &scale);
    for (std::size_t c = first; c < first + info.group; ++c)
      out[c] = static_cast<float>(static_cast<int>(scalar::unpack_code(codes, info.bits, c)) - (1 << (info.bits - 1))) * scale;
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
