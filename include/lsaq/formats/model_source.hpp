// A model as the library gets it: a GGUF file or a Hugging Face folder, opened and checked, its tensors read by name.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/compressed_tensors.hpp>
#include <lsaq/formats/gguf.hpp>
#include <lsaq/formats/mapped_file.hpp>
#include <lsaq/formats/safetensors.hpp>
#include <lsaq/formats/stored_tensor.hpp>
#include <lsaq/formats/strict_json.hpp>
#include <lsaq/types.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// An opened model: metadata in memory, tensors mapped and read on demand. Movable; const calls may run in several threads at once.
class ModelSource {
public:
  /// Opens a GGUF file, or a folder with config.json and safetensors (one file, or shards with their index), quantized by compressed-tensors or not. Reads all
  /// metadata, touches no weights.
  ///
  /// Throws BadInput, naming the file and the key or tensor, for whatever is not a well-formed model; pickle files (.bin, .pt) are never read. IoError if the
  /// system fails.
  static ModelSource open(const std::filesystem::path& model) {
    std::error_code error;
    const auto status = std::filesystem::status(model, error);
    if (error) fail_to_open(model, error.value());
    return std::filesystem::is_directory(status) ? open_folder(model) : open_file(model);
  }

  /// The path it was opened by.
  const std::filesystem::path& path() const noexcept { return path_; }

  bool is_gguf() const noexcept { return gguf_.has_value(); }

  /// The metadata of a GGUF file. Throws InvalidArgument for a folder.
  const GgufFile& gguf() const {
    if (!gguf_) fail<InvalidArgument>(printable_path(path_) + ": not a GGUF file: it has no GGUF metadata");
    return *gguf_;
  }

  /// config.json of a folder, an object. Throws InvalidArgument for a GGUF file.
  const nlohmann::json& config() const {
    if (gguf_) fail<InvalidArgument>(printable_path(path_) + ": a GGUF file: it has no config.json");
    return config_;
  }

  std::span<const TensorInfo> tensors() const noexcept { return gguf_ ? gguf_->tensors() : tensors_.items(); }

  /// The tensor of this name, or null.
  const TensorInfo* find(std::string_view name) const noexcept { return gguf_ ? gguf_->find_tensor(name) : tensors_.find(name); }

  /// The tensor of this name. Throws BadInput if the model has none.
  const TensorInfo& at(std::string_view name) const {
    const TensorInfo* tensor = find(name);
    if (tensor == nullptr) fail<BadInput>(printable_path(path_) + ": tensor '" + printable(name) + "' is missing");
    return *tensor;
  }

  /// The files that hold the tensors, in the order of TensorInfo::file.
  std::span<const std::filesystem::path> files() const noexcept { return paths_; }

  /// Sizes of these files together.
  Bytes file_bytes() const noexcept {
    Bytes sum = 0;
    for (const MappedFile& file : files_) sum += file.size();
    return sum;
  }

  /// The stored bytes of a tensor of this model, of any type, valid as long as this object; of packed codes those of the codes.
  std::span<const std::byte> bytes(const TensorInfo& tensor) const noexcept {
    LSAQ_ASSERT(tensor.file < files_.size() && tensor.offset <= files_[tensor.file].size() && tensor.bytes <= files_[tensor.file].size() - tensor.offset);
    return files_[tensor.file].bytes().subspan(tensor.offset, tensor.bytes);
  }

  /// Writes rows [first, first + count) of a tensor of this model as FP32 to out[0] .. out[count * columns - 1].
  ///
  /// Throws InvalidArgument for rows the tensor does not have, BadInput for a type that can't be widened (integers and others).
  void read_rows(const TensorInfo& tensor, std::size_t first, std::size_t count, float* out) const {
    const bool packed = is_packed(tensor.type);
    if (!packed && !is_readable(tensor.type)) {
      fail<BadInput>(printable_path(paths_[tensor.file]) + ": tensor '" + printable(tensor.name) + "' is of type " + std::string(name_of(tensor.type)) +
                     "; F32, F16, BF16, Q8_0, Q4_1, Q4_0 and packed codes can be read as numbers");
    }
    if (first > tensor.rows || count > tensor.rows - first) {
      fail<InvalidArgument>("tensor '" + printable(tensor.name) + "': rows " + std::to_string(first) + " to " + std::to_string(first) + " + " +
                            std::to_string(count) + " of " + std::to_string(tensor.rows));
    }
    if (tensor.columns == 0) return;
    if (packed) return read_packed_rows(tensor, first, count, out);
    const std::size_t stride = row_bytes(tensor.type, tensor.columns);
    const std::byte* const rows = bytes(tensor).data() + first * stride;
    for (std::size_t i = 0; i < count; ++i) dequantize_row(rows + i * stride, tensor.type, tensor.columns, out + i * tensor.columns);
  }

  /// A tensor of this model in place, if it is F32, F16 or BF16 and aligned for that; valid as long as this object.
  std::optional<MatrixView> view(const TensorInfo& tensor) const noexcept {
    const auto type = element_type_of(tensor.type);
    if (!type || tensor.offset % size_of(*type) != 0) return std::nullopt; // the mapping itself begins on a page
    MatrixView matrix;
    matrix.data = bytes(tensor).data();
    matrix.rows = tensor.rows;
    matrix.columns = matrix.stride = tensor.columns;
    matrix.type = *type;
    return matrix;
  }

  /// Gives back the memory that reading has made resident in the tensor's file, which may be read again.
  ///
  /// The whole file's pages, not just the tensor's: a touched page brings in its neighbours, as many as the kernel sees fit.
  void drop(const TensorInfo& tensor) const noexcept { files_[tensor.file].drop(0, files_[tensor.file].size()); }

private:
  ModelSource() = default;

  static ModelSource open_file(const std::filesystem::path& path) {
    ModelSource model;
    model.path_ = path;
    const MappedFile& file = model.files_.emplace_back(MappedFile::open(path));
    const std::string_view start(reinterpret_cast<const char*>(file.bytes().data()), std::min<std::size_t>(file.size(), 16));
    if (!start.starts_with("GGUF")) {
      fail<BadInput>(printable_path(path) + ": not a GGUF file (begins with \"" + printable(start) + "\")" + hint(start));
    }
    model.gguf_ = GgufFile::parse(file.bytes(), printable_path(path));
    file.drop(0, model.gguf_->data_offset()); // copied
    model.paths_.push_back(path);
    return model;
  }

  /// What a file that is no GGUF seems to be.
  static std::string hint(std::string_view start) {
    if (start.starts_with("PK\x03\x04") || start.starts_with("\x80")) {
      return ": it seems to be a pickle (.bin, .pt), which could run any code when it is read; convert it to safetensors";
    }
    if (start.size() > 8 && start[8] == '{') return ": a safetensors file is read with the config.json beside it, give the folder";
    return "";
  }

  static ModelSource open_folder(const std::filesystem::path& folder) {
    require_safetensors(folder);
    ModelSource model;
    model.path_ = folder;
    model.config_ = read_json(folder / "config.json");
    SafetensorsFolder weights = SafetensorsFolder::open(folder);
    if (const auto quantization = model.config_.find("quantization_config"); quantization != model.config_.end() && !quantization->is_null()) {
      PackedFolder packed = read_packed_folder(*quantization, printable_path(folder / "config.json"), weights);
      model.tensors_ = std::move(packed.tensors);
      model.packed_ = std::move(packed.packed);
    } else {
      model.tensors_ = std::move(weights.tensors);
    }
    model.files_ = std::move(weights.files);
    for (const MappedFile& file : model.files_) model.paths_.push_back(file.path());
    return model;
  }

  /// Refuses a folder without safetensors, saying why the weights that are there instead are not read.
  static void require_safetensors(const std::filesystem::path& folder) {
    std::error_code error;
    std::string pickle;
    std::string gguf;
    for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
      const std::filesystem::path name = entry->path().filename();
      if (name == "model.safetensors" || name == "model.safetensors.index.json") return;
      const std::string extension = name.extension().native();
      if (extension == ".bin" || extension == ".pt" || extension == ".pth" || extension == ".ckpt") pickle = printable(name.native());
      if (extension == ".gguf") gguf = printable(name.native());
    }
    if (error) fail_to_open(folder, error.value());
    const std::string found = printable_path(folder) + ": no model.safetensors or model.safetensors.index.json in this folder";
    if (!pickle.empty()) fail<BadInput>(found + "; '" + pickle + "' is a pickle, which could run any code when it is read: convert it to safetensors");
    if (!gguf.empty()) fail<BadInput>(found + "; to use '" + gguf + "', give its path");
    fail<BadInput>(found);
  }

  void read_packed_rows(const TensorInfo& tensor, std::size_t first, std::size_t count, float* out) const noexcept {
    const PackedTensorInfo& info = *packed_.find(tensor.name);
    const std::size_t codes = packed_row_bytes(tensor.columns, info.bits), scales = row_bytes(info.scales.type, info.scales.columns);
    for (std::size_t row = first; row < first + count; ++row, out += tensor.columns)
      dequantize_packed_row(bytes(tensor).data() + row * codes, bytes(info.scales).data() + row * scales, info, tensor.columns, out);
  }

  std::filesystem::path path_;
  std::vector<MappedFile> files_;
  std::vector<std::filesystem::path> paths_;
  std::optional<GgufFile> gguf_;
  nlohmann::json config_;
  NamedList<TensorInfo> tensors_;      // of a folder
  NamedList<PackedTensorInfo> packed_; // of a folder quantized by compressed-tensors
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
