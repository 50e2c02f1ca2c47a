// safetensors files, alone or as shards with an index: the list of tensors, all of it checked before a tensor is touched.
//
// Format: the README of the safetensors project, read strictly: one object that begins the header, no name twice, tensors that fill the data without holes.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/byte_reader.hpp>
#include <lsaq/formats/mapped_file.hpp>
#include <lsaq/formats/names.hpp>
#include <lsaq/formats/stored_tensor.hpp>
#include <lsaq/formats/strict_json.hpp>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0 {

/// A pair of strings from a safetensors file's `__metadata__`.
struct SafetensorsMetadata {
  std::string name;
  std::string value;
};

/// What the header of one safetensors file says; tensors in the order of their bytes.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;
  std::vector<SafetensorsMetadata> metadata;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Takes the JSON events of a safetensors header; see parse_safetensors.
class SafetensorsHeaderHandler {
public:
  explicit SafetensorsHeaderHandler(std::string file) : file_(std::move(file)) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() { unexpected("null"); }
  bool boolean(bool) { unexpected("a truth value"); }
  bool number_integer(std::int64_t value) { unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) { unexpected(printable(text)); }
  bool binary(nlohmann::json::binary_t&) { unexpected("binary data"); }

  bool number_unsigned(std::uint64_t value) {
    if (place_ != Place::array) unexpected(std::to_string(value));
    std::vector<std::uint64_t>& numbers = field_ == Field::shape ? tensor_.shape : offsets_;
    const std::size_t most = field_ == Field::shape ? most_dimensions : 2;
    if (numbers.size() == most) refuse(name_of(field_) + " has more than " + std::to_string(most) + " numbers");
    numbers.push_back(value);
    return true;
  }

  bool string(std::string& text) {
    if (place_ == Place::metadata) {
      header_.metadata.push_back({std::move(key_), std::move(text)});
    } else if (place_ == Place::tensor && field_ == Field::dtype) {
      tensor_.type = type_of(text);
    } else {
      unexpected("\"" + printable(text) + "\"");
    }
    return true;
  }

  bool start_object(std::size_t) {
    if (place_ == Place::outside) {
      place_ = Place::root;
    } else if (place_ == Place::root) {
      place_ = key_ == "__metadata__" ? Place::metadata : Place::tensor;
      if (place_ == Place::metadata && std::exchange(has_metadata_, true)) refuse("appears twice");
      if (place_ == Place::tensor) start_tensor();
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() {
    if (place_ == Place::tensor) finish_tensor();
    place_ = place_ == Place::root ? Place::outside : Place::root;
    return true;
  }

  bool start_array(std::size_t) {
    if (place_ != Place::tensor || (field_ != Field::shape && field_ != Field::data_offsets)) unexpected("an array");
    place_ = Place::array;
    return true;
  }

  bool end_array() {
    place_ = Place::tensor;
    return true;
  }

  bool key(std::string& name) {
    if (place_ != Place::tensor) {
      key_ = std::move(name);
      return true;
    }
    for (const Field field : {Field::dtype, Field::shape, Field::data_offsets}) {
      if (name != name_of(field)) continue;
      if (std::exchange(seen_[static_cast<std::size_t>(field)], true)) refuse(name + " appears twice");
      field_ = field;
      return true;
    }
    refuse("unknown field '" + printable(name) + "'; dtype, shape and data_offsets are known");
  }

  template <class Exception> bool parse_error(std::size_t position, const std::string&, const Exception&) {
    fail<BadInput>(file_ + ": the header is not valid JSON at its byte " + std::to_string(position) +
                   (key_.empty() ? "" : ", after '" + printable(key_) + "'"));
  }

private:
  enum class Place : std::uint8_t { outside, root, metadata, tensor, array };
  enum class Field : std::uint8_t { dtype, shape, data_offsets };
  static constexpr std::size_t most_dimensions = 8; // models have up to 5; a bound keeps the list of shapes small

  static std::string name_of(Field field) { return field == Field::dtype ? "dtype" : field == Field::shape ? "shape" : "data_offsets"; }

  [[noreturn]] void refuse(const std::string& reason) const {
    const bool metadata = key_ == "__metadata__" || place_ == Place::metadata;
    fail<BadInput>(file_ + ": " + (metadata ? "header entry '" : "tensor '") + printable(key_) + "': " + reason);
  }

  [[noreturn]] void unexpected(const std::string& found) const {
    switch (place_) {
    case Place::tensor: refuse(name_of(field_) + " is " + found + "; it must be " + (field_ == Field::dtype ? "a string" : "an array of whole numbers"));
    case Place::array: refuse(name_of(field_) + " holds " + found + "; only whole numbers below 2^64 are allowed");
    default: refuse("is " + found + "; " + (place_ == Place::metadata ? "metadata must be strings" : "it must be an object"));
    }
  }

  StoredType type_of(const std::string& dtype) const {
    for (std::size_t i = 0; i < stored_types.size(); ++i) {
      const auto type = static_cast<StoredType>(i);
      if (stored_types[i].name == dtype && stored_types[i].block == 1) return type;
    }
    refuse("unknown dtype '" + printable(dtype) + "'");
  }

  void start_tensor() {
    tensor_ = {};
    offsets_.clear();
    seen_[0] = seen_[1] = seen_[2] = false;
    if (!is_clean_name(key_)) refuse("the name is empty or has control characters");
  }

  void finish_tensor() {
    for (const Field field : {Field::dtype, Field::shape, Field::data_offsets}) {
      if (!seen_[static_cast<std::size_t>(field)]) refuse(name_of(field) + " is missing");
    }
    if (offsets_.size() != 2) refuse("data_offsets has " + std::to_string(offsets_.size()) + " numbers; it must have 2");
    if (offsets_[0] > offsets_[1]) refuse("data_offsets end before they begin: " + std::to_string(offsets_[0]) + ", " + std::to_string(offsets_[1]));
    // An extent of 0 after an overflow would make the product fit again: the other extents must fit among themselves.
    std::uint64_t elements = 1;
    bool empty = false;
    for (const std::uint64_t extent : tensor_.shape) {
      empty = empty || extent == 0;
      const auto product = checked_product(elements, std::max<std::uint64_t>(extent, 1));
      if (!product) refuse("the product of shape does not fit into 64 bits");
      elements = *product;
    }
    const auto bytes = checked_product(empty ? 0 : elements, traits_of(tensor_.type).block_bytes);
    if (!bytes) refuse("its size in bytes does not fit into 64 bits");
    if (*bytes != offsets_[1] - offsets_[0]) {
      refuse("shape and dtype " + std::string(lsaq::name_of(tensor_.type)) + " give " + std::to_string(*bytes) + " bytes, data_offsets " +
             std::to_string(offsets_[1] - offsets_[0]));
    }
    tensor_.name = key_;
    tensor_.offset = offsets_[0];
    tensor_.bytes = *bytes;
    if (!tensor_.shape.empty()) {
      tensor_.columns = tensor_.shape.back();
      for (std::size_t i = 0; i + 1 < tensor_.shape.size(); ++i) tensor_.rows *= tensor_.shape[i];
    }
    header_.tensors.push_back(std::move(tensor_));
  }

  std::string file_;
  Place place_ = Place::outside;
  Field field_ = Field::dtype;
  std::string key_; // of the root; inside __metadata__ its own
  TensorInfo tensor_;
  std::vector<std::uint64_t> offsets_;
  bool seen_[3] = {};
  bool has_metadata_ = false;
  SafetensorsHeader header_;
};

/// Reads and checks the header of a safetensors file that lies in memory; touches no tensor. `file` is how messages call it, fit to print.
///
/// Tensors of types that can't be read as FP32 are listed, too. Throws BadInput that names the file and the tensor.
inline SafetensorsHeader parse_safetensors(std::span<const std::byte> bytes, const std::string& file) {
  ByteReader reader(bytes, file);
  const auto length = reader.number<std::uint64_t>("the length of the header");
  if (length > json_size_limit) {
    reader.refuse("not a safetensors file: a header of " + std::to_string(length) + " bytes; at most " + std::to_string(json_size_limit) + " are allowed");
  }
  const auto text = reader.take(length, "the header");
  if (text.empty() || text.front() != std::byte{'{'}) reader.refuse("the header must begin with {");
  SafetensorsHeaderHandler handler(file);
  parse_strict_json({reinterpret_cast<const char*>(text.data()), text.size()}, file, handler);
  SafetensorsHeader header = handler.take();

  if (const TensorInfo* twice = duplicate_name(header.tensors)) fail<BadInput>(file + ": tensor '" + printable(twice->name) + "' appears twice");
  if (const SafetensorsMetadata* twice = duplicate_name(header.metadata)) {
    fail<BadInput>(file + ": header entry '" + printable(twice->name) + "' appears twice in __metadata__");
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::pair(a.offset, a.bytes) < std::pair(b.offset, b.bytes); // empty tensors before the one they share an offset with
  });
  const std::uint64_t data = reader.position();
  const std::uint64_t data_bytes = reader.remaining();
  std::uint64_t end = 0;
  for (TensorInfo& tensor : header.tensors) {
    reader.about("tensor '" + printable(tensor.name) + "'");
    if (tensor.offset > data_bytes || tensor.bytes > data_bytes - tensor.offset) {
      reader.refuse("data_offsets " + std::to_string(tensor.offset) + " to " + std::to_string(tensor.offset + tensor.bytes) + " end beyond the " +
                    std::to_string(data_bytes) + " bytes of data");
    }
    if (tensor.offset != end) {
      reader.refuse("data_offsets begin at " + std::to_string(tensor.offset) + (tensor.offset < end ? ", inside" : ", not at the end of") +
                    " the tensor before, which ends at " + std::to_string(end));
    }
    end += tensor.bytes;
    tensor.offset += data;
  }
  if (end != data_bytes) {
    const std::string last = header.tensors.empty() ? "" : " (tensor '" + printable(header.tensors.back().name) + "')";
    fail<BadInput>(file + ": the tensors end at byte " + std::to_string(end) + " of the data" + last + ", but there are " + std::to_string(data_bytes) +
                   " bytes");
  }
  return header;
}

/// The safetensors files of a model folder, mapped, with their tensors in the order of files and bytes.
struct SafetensorsFolder {
  std::vector<MappedFile> files;
  NamedList<TensorInfo> tensors;

  static SafetensorsFolder open(const std::filesystem::path& folder);
};

/// Whether `target`, a canonical path, is inside the canonical folder, or is a blob of the Hugging Face cache that the folder is a snapshot of
/// (NAME/snapshots/REVISION/file -> NAME/blobs/HASH).
inline bool belongs_to_folder(const std::filesystem::path& target, const std::filesystem::path& folder) {
  if (target.parent_path() == folder) return true;
  return folder.parent_path().filename() == "snapshots" && target.parent_path() == folder.parent_path().parent_path() / "blobs";
}

/// Refuses a shard's name out of an index unless it names a file directly inside the folder.
inline void check_shard(const std::filesystem::path& folder, const std::string& index, const std::string& shard) {
  const std::string subject = index + ": shard '" + printable(shard) + "'";
  if (!is_clean_name(shard) || shard.front() == '.' || shard.find_first_of("/\\") != std::string::npos) {
    fail<BadInput>(subject + ": not the plain name of a file in this folder");
  }
  if (!shard.ends_with(".safetensors")) fail<BadInput>(subject + ": not a .safetensors file");
  std::error_code error;
  const auto target = std::filesystem::canonical(folder / shard, error);
  if (error) fail_to_open(folder / shard, error.value());
  const auto home = std::filesystem::canonical(folder, error);
  if (error) fail_to_open(folder, error.value());
  if (!belongs_to_folder(target, home)) fail<BadInput>(subject + ": a symbolic link out of the folder, to " + printable_path(target));
}

/// Checks that index and shards agree: every tensor of every shard is listed, in that shard, and no other.
inline void check_weight_map(const std::map<std::string, std::string>& shard_of, const SafetensorsFolder& shards, const std::string& index) {
  for (const TensorInfo& tensor : shards.tensors.items()) {
    const std::string found = shards.files[tensor.file].path().filename().native();
    const auto entry = shard_of.find(tensor.name);
    if (entry == shard_of.end()) fail<BadInput>(index + ": tensor '" + printable(tensor.name) + "' of shard '" + printable(found) + "' is not listed");
    if (entry->second != found) {
      fail<BadInput>(index + ": tensor '" + printable(tensor.name) + "' is listed in shard '" + printable(entry->second) + "', but is in '" + printable(found) +
                     "'");
    }
  }
  for (const auto& [name, shard] : shard_of) {
    if (shards.tensors.find(name) != nullptr) continue;
    fail<BadInput>(index + ": tensor '" + printable(name) + "' is not in shard '" + printable(shard) + "'");
  }
}

/// The weight_map of an index: tensor name to shard name.
inline std::map<std::string, std::string> weight_map_of(const nlohmann::json& document, const std::string& index) {
  const auto map = document.find("weight_map");
  if (map == document.end() || !map->is_object()) fail<BadInput>(index + ": key 'weight_map' is " + (map == document.end() ? "missing" : "not an object"));
  std::map<std::string, std::string> shard_of;
  for (const auto& [name, shard] : map->items()) {
    if (!shard.is_string()) fail<BadInput>(index + ": tensor '" + printable(name) + "': the shard's name is not a string");
    shard_of.emplace_hint(shard_of.end(), name, shard.get_ref<const std::string&>());
  }
  if (shard_of.empty()) fail<BadInput>(index + ": key 'weight_map' lists no tensor");
  return shard_of;
}

/// Maps one file of the folder and appends its tensors to `tensors`.
inline void add_safetensors(const std::filesystem::path& path, std::vector<MappedFile>& files, std::vector<TensorInfo>& tensors) {
  const auto number = static_cast<std::uint32_t>(files.size());
  const MappedFile& file = files.emplace_back(MappedFile::open(path));
  for (TensorInfo& tensor : parse_safetensors(file.bytes(), printable_path(path)).tensors) {
    tensor.file = number;
    tensors.push_back(std::move(tensor));
  }
}

/// Opens model.safetensors, or else the shards that model.safetensors.index.json lists. Touches no tensor.
///
/// Fixed names are followed wherever symbolic links lead; names out of the index are confined to the folder (or its Hugging Face cache).
inline SafetensorsFolder SafetensorsFolder::open(const std::filesystem::path& folder) {
  SafetensorsFolder result;
  std::vector<TensorInfo> tensors;
  const auto whole = folder / "model.safetensors";
  const auto index_path = folder / "model.safetensors.index.json";
  std::error_code ignored;
  const bool is_sharded = !std::filesystem::exists(std::filesystem::symlink_status(whole, ignored)) &&
                          std::filesystem::exists(std::filesystem::symlink_status(index_path, ignored));
  if (!is_sharded) {
    add_safetensors(whole, result.files, tensors);
    result.tensors = NamedList(std::move(tensors));
    return result;
  }

  const std::string index = printable_path(index_path);
  const nlohmann::json document = read_json(index_path);
  const auto shard_of = weight_map_of(document, index);
  std::vector<std::string> shards;
  for (const auto& [name, shard] : shard_of) shards.push_back(shard);
  std::sort(shards.begin(), shards.end());
  shards.erase(std::unique(shards.begin(), shards.end()), shards.end());
  for (const std::string& shard : shards) check_shard(folder, index, shard);
  for (const std::string& shard : shards) add_safetensors(folder / shard, result.files, tensors);

  double total = 0; // exact below 2^53
  for (const TensorInfo& tensor : tensors) total += static_cast<double>(tensor.bytes);
  if (const TensorInfo* twice = duplicate_name(tensors)) {
    fail<BadInput>(index + ": tensor '" + printable(twice->name) + "' is in the shards twice");
  }
  result.tensors = NamedList(std::move(tensors));
  check_weight_map(shard_of, result, index);
  if (const auto metadata = document.find("metadata"); metadata != document.end() && metadata->is_object() && metadata->contains("total_size")) {
    const nlohmann::json& announced = (*metadata)["total_size"];
    if (!announced.is_number() || announced.get<double>() != total) {
      fail<BadInput>(index + ": key 'total_size' is " + printable(announced.dump()) + ", but the tensors have " +
                     std::to_string(static_cast<std::uint64_t>(total)) + " bytes");
    }
  }
  return result;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
