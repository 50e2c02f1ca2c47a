// GGUF files, versions 2 and 3, little-endian: metadata and the list of tensors, all of it checked before a tensor is touched.
//
// Format: docs/gguf.md of the ggml project. Stricter than the format's own readers where they crashed or differed: see the checks in GgufParser.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/byte_reader.hpp>
#include <lsaq/formats/mapped_file.hpp>
#include <lsaq/formats/names.hpp>
#include <lsaq/formats/stored_tensor.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace lsaq::inline v0 {

/// A metadata value: a number, a truth value, a string, or an array of one of these.
using GgufValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t, std::uint32_t, std::int32_t, float, bool, std::string, std::uint64_t,
                               std::int64_t, double, std::vector<std::uint8_t>, std::vector<std::int8_t>, std::vector<std::uint16_t>, std::vector<std::int16_t>,
                               std::vector<std::uint32_t>, std::vector<std::int32_t>, std::vector<float>, std::vector<bool>, std::vector<std::string>,
                               std::vector<std::uint64_t>, std::vector<std::int64_t>, std::vector<double>>;

/// A metadata key with its value.
struct GgufEntry {
  std::string name;
  GgufValue value;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// What a value is, for messages: "uint32", "array of string".
inline std::string type_name(const GgufValue& value) {
  static constexpr std::array<std::string_view, 12> names = {"uint8",   "int8", "uint16", "int16",  "uint32", "int32",
                                                             "float32", "bool", "string", "uint64", "int64",  "float64"};
  static_assert(std::variant_size_v<GgufValue> == 2 * names.size());
  return (value.index() < names.size() ? "" : "array of ") + std::string(names[value.index() % names.size()]);
}

/// The contents of a GGUF file apart from its tensors' bytes. A value that owns all it holds; it needs the file no longer.
class GgufFile {
public:
  /// Reads the whole metadata of the file at `path` and forgets the file. Errors as parse and MappedFile::open.
  static GgufFile open(const std::filesystem::path& path);

  /// Reads and checks the metadata of a GGUF file that lies in memory; touches no tensor. `file` is how messages call it, fit to print.
  ///
  /// Throws BadInput that names the file and the key or tensor. Takes time and memory in proportion to the metadata, whatever the file announces.
  static GgufFile parse(std::span<const std::byte> bytes, const std::string& file);

  std::uint32_t version() const noexcept { return version_; }
  std::uint64_t alignment() const noexcept { return alignment_; }
  /// Where the tensors' bytes begin.
  std::uint64_t data_offset() const noexcept { return data_offset_; }

  /// In the order of the file.
  std::span<const GgufEntry> metadata() const noexcept { return metadata_.items(); }
  std::span<const TensorInfo> tensors() const noexcept { return tensors_.items(); }

  const GgufValue* find(std::string_view key) const noexcept {
    const GgufEntry* entry = metadata_.find(key);
    return entry != nullptr ? &entry->value : nullptr;
  }
  const TensorInfo* find_tensor(std::string_view name) const noexcept { return tensors_.find(name); }

  /// The value of `key` as exactly T, one of GgufValue's alternatives. Throws BadInput if it is missing or of another type, as all that follow.
  template <class T> const T& at(std::string_view key, std::string_view wanted) const {
    const GgufValue& value = require(key, wanted);
    if (const T* exact = std::get_if<T>(&value)) return *exact;
    refuse(key, value, wanted);
  }

  const std::string& string_at(std::string_view key) const { return at<std::string>(key, "string"); }
  bool bool_at(std::string_view key) const { return at<bool>(key, "bool"); }

  /// An integer of any width that is not negative.
  std::uint64_t unsigned_at(std::string_view key) const {
    const GgufValue& value = require(key, "unsigned integer");
    const auto number = std::visit(
        [](const auto& v) -> std::optional<std::uint64_t> {
          using T = std::remove_cvref_t<decltype(v)>;
          if constexpr (std::integral<T> && !std::same_as<T, bool>) {
            if (v >= 0) return static_cast<std::uint64_t>(v);
          }
          return std::nullopt;
        },
        value);
    if (!number) refuse(key, value, "unsigned integer");
    return *number;
  }

  /// A float32 or float64; it may be infinite or NaN.
  double float_at(std::string_view key) const {
    const GgufValue& value = require(key, "float32");
    if (const float* single = std::get_if<float>(&value)) return static_cast<double>(*single);
    if (const double* exact = std::get_if<double>(&value)) return *exact;
    refuse(key, value, "float32");
  }

  /// An array of exactly T: array_at<std::string>("tokenizer.ggml.tokens").
  template <class T> const std::vector<T>& array_at(std::string_view key) const {
    return at<std::vector<T>>(key, type_name(GgufValue(std::in_place_type<std::vector<T>>)));
  }

  /// As above, but `fallback` if the key is missing; a value of another type is an error still.
  std::string string_or(std::string_view key, std::string fallback) const { return find(key) != nullptr ? string_at(key) : std::move(fallback); }
  bool bool_or(std::string_view key, bool fallback) const { return find(key) != nullptr ? bool_at(key) : fallback; }
  std::uint64_t unsigned_or(std::string_view key, std::uint64_t fallback) const { return find(key) != nullptr ? unsigned_at(key) : fallback; }
  double float_or(std::string_view key, double fallback) const { return find(key) != nullptr ? float_at(key) : fallback; }

private:
  friend class GgufParser;

  const GgufValue& require(std::string_view key, std::string_view wanted) const {
    const GgufValue* value = find(key);
    if (value == nullptr) fail<BadInput>(file_ + ": key '" + printable(key) + "' is missing (" + std::string(wanted) + ")");
    return *value;
  }

  [[noreturn]] void refuse(std::string_view key, const GgufValue& value, std::string_view wanted) const {
    std::string found = type_name(value);
    if (const auto* text = std::get_if<std::string>(&value)) found += " \"" + printable(*text) + "\"";
    std::visit(
        [&](const auto& v) {
          if constexpr (std::is_arithmetic_v<std::remove_cvref_t<decltype(v)>>) found += " " + std::to_string(v);
        },
        value);
    fail<BadInput>(file_ + ": key '" + printable(key) + "' is " + found + "; it must be " + std::string(wanted));
  }

  std::string file_;
  std::uint32_t version_ = 0;
  std::uint64_t alignment_ = 32;
  std::uint64_t data_offset_ = 0;
  NamedList<GgufEntry> metadata_;
  NamedList<TensorInfo> tensors_;
};

/// One pass over a GGUF file; see GgufFile::parse.
class GgufParser {
public:
  GgufParser(std::span<const std::byte> bytes, const std::string& file) : reader_(bytes, file), size_(bytes.size()) { result_.file_ = file; }

  GgufFile run() && {
    const auto [tensors, entries] = read_header();
    read_metadata(entries);
    read_alignment();
    read_tensors(tensors);
    return std::move(result_);
  }

private:
  static constexpr std::uint64_t longest_key = 65535;         // of the specification
  static constexpr std::uint64_t longest_tensor_name = 64;    // of the specification
  static constexpr std::uint64_t largest_alignment = 1 << 20; // a guard of ours; files have 32
  static constexpr std::size_t smallest_entry = 8 + 1 + 4 + 1;
  static constexpr std::size_t smallest_tensor = 8 + 1 + 4 + 8 + 4 + 8;
  static constexpr std::uint32_t string_id = 8;
  static constexpr std::uint32_t array_id = 9;

  std::pair<std::uint64_t, std::uint64_t> read_header() {
    if (size_ < 4) reader_.refuse("not a GGUF file: " + std::to_string(size_) + " bytes long");
    const auto magic = reader_.take(4, "magic");
    if (std::memcmp(magic.data(), "GGUF", 4) != 0) {
      reader_.refuse("not a GGUF file: begins with \"" + printable({reinterpret_cast<const char*>(magic.data()), 4}) + "\"");
    }
    reader_.about("header");
    result_.version_ = reader_.number<std::uint32_t>("version");
    if ((result_.version_ & 0xffffu) == 0) reader_.refuse("the file is big-endian; only little-endian files can be read");
    if (result_.version_ != 2 && result_.version_ != 3) {
      reader_.refuse("GGUF version " + std::to_string(result_.version_) + "; versions 2 and 3 can be read");
    }
    const auto tensors = reader_.number<std::uint64_t>("count of tensors");
    const auto entries = reader_.number<std::uint64_t>("count of metadata keys");
    reader_.require_room(entries, smallest_entry, "metadata keys");
    reader_.require_room(tensors, smallest_tensor, "tensors");
    return {tensors, entries};
  }

  void read_metadata(std::uint64_t count) {
    std::vector<GgufEntry> entries;
    entries.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) {
      reader_.about("metadata key " + std::to_string(i));
      const std::string_view key = reader_.string("name", longest_key);
      reader_.about("key '" + printable(key) + "'");
      if (!is_clean_name(key)) reader_.refuse("the name is empty, not UTF-8 or has control characters");
      entries.push_back({std::string(key), read_value()});
    }
    if (const GgufEntry* twice = duplicate_name(entries)) {
      reader_.about("key '" + printable(twice->name) + "'");
      reader_.refuse("appears twice");
    }
    result_.metadata_ = NamedList(std::move(entries));
  }

  /// Calls f with a value of the C++ type that a value type id stands for; strings and arrays are not among them.
  template <class F> GgufValue with_number_type(std::uint32_t id, std::string_view what, F f) {
    switch (id) {
    case 0: return f(std::uint8_t{});
    case 1: return f(std::int8_t{});
    case 2: return f(std::uint16_t{});
    case 3: return f(std::int16_t{});
    case 4: return f(std::uint32_t{});
    case 5: return f(std::int32_t{});
    case 6: return f(float{});
    case 7: return f(bool{});
    case 10: return f(std::uint64_t{});
    case 11: return f(std::int64_t{});
    case 12: return f(double{});
    default: reader_.refuse("unknown " + std::string(what) + " " + std::to_string(id) + "; 0 to 12 are known");
    }
  }

  GgufValue read_value() {
    const auto id = reader_.number<std::uint32_t>("value type");
    if (id == string_id) return std::string(reader_.string("string"));
    if (id == array_id) return read_array();
    return with_number_type(id, "value type", [&]<class T>(T) -> GgufValue {
      if constexpr (std::same_as<T, bool>) {
        return read_bool();
      } else {
        return reader_.number<T>("value");
      }
    });
  }

  GgufValue read_array() {
    const auto id = reader_.number<std::uint32_t>("array element type");
    const auto count = reader_.number<std::uint64_t>("array length");
    if (id == array_id) reader_.refuse("an array of arrays; only arrays of numbers and strings can be read");
    if (id == string_id) {
      reader_.require_room(count, sizeof(std::uint64_t), "array elements");
      std::vector<std::string> strings;
      strings.reserve(static_cast<std::size_t>(count));
      for (std::uint64_t i = 0; i < count; ++i) strings.emplace_back(reader_.string("array element"));
      return strings;
    }
    return with_number_type(id, "array element type", [&]<class T>(T) -> GgufValue {
      if constexpr (std::same_as<T, bool>) {
        reader_.require_room(count, 1, "array elements");
        std::vector<bool> values(static_cast<std::size_t>(count));
        for (std::vector<bool>::reference value : values) value = read_bool();
        return values;
      } else {
        return reader_.numbers<T>(count, "array elements");
      }
    });
  }

  bool read_bool() {
    const auto byte = reader_.number<std::uint8_t>("bool");
    if (byte > 1) reader_.refuse("a bool of value " + std::to_string(byte) + "; 0 and 1 are allowed");
    return byte == 1;
  }

  void read_alignment() {
    static constexpr std::string_view key = "general.alignment";
    result_.alignment_ = result_.unsigned_or(key, 32);
    if (!std::has_single_bit(result_.alignment_) || result_.alignment_ < 8 || result_.alignment_ > largest_alignment) {
      reader_.about("key '" + std::string(key) + "'");
      reader_.refuse("is " + std::to_string(result_.alignment_) + "; it must be a power of two from 8 to " + std::to_string(largest_alignment));
    }
  }

  void read_tensors(std::uint64_t count) {
    reader_.about("list of tensors");
    reader_.require_room(count, smallest_tensor, "records");
    std::vector<TensorInfo> tensors;
    tensors.reserve(static_cast<std::size_t>(count));
    for (std::uint64_t i = 0; i < count; ++i) tensors.push_back(read_tensor(i));

    if (const TensorInfo* twice = duplicate_name(tensors)) {
      reader_.about("tensor '" + printable(twice->name) + "'");
      reader_.refuse("appears twice");
    }
    // The position is inside the file and the alignment small: no overflow.
    result_.data_offset_ = (reader_.position() + result_.alignment_ - 1) / result_.alignment_ * result_.alignment_;
    for (TensorInfo& tensor : tensors) place(tensor);
    refuse_overlap(tensors);
    result_.tensors_ = NamedList(std::move(tensors));
  }

  TensorInfo read_tensor(std::uint64_t index) {
    TensorInfo tensor;
    reader_.about("tensor " + std::to_string(index));
    tensor.name = reader_.string("name", longest_tensor_name);
    reader_.about("tensor '" + printable(tensor.name) + "'");
    if (!is_clean_name(tensor.name)) reader_.refuse("the name is empty, not UTF-8 or has control characters");

    const auto dimensions = reader_.number<std::uint32_t>("count of dimensions");
    if (dimensions < 1 || dimensions > 4) reader_.refuse(std::to_string(dimensions) + " dimensions; 1 to 4 are allowed");
    tensor.shape = reader_.numbers<std::uint64_t>(dimensions, "dimensions");
    std::reverse(tensor.shape.begin(), tensor.shape.end()); // the file has the innermost first
    std::uint64_t elements = 1;
    for (const std::uint64_t extent : tensor.shape) {
      if (extent == 0) reader_.refuse("a dimension is 0" + shown(tensor.shape));
      const auto product = checked_product(elements, extent);
      if (!product) reader_.refuse("the product of the dimensions does not fit into 64 bits" + shown(tensor.shape));
      elements = *product;
    }
    tensor.columns = tensor.shape.back();
    tensor.rows = elements / tensor.columns;

    tensor.type = read_tensor_type();
    const StoredTypeTraits& traits = traits_of(tensor.type);
    if (tensor.columns % traits.block != 0) {
      reader_.refuse("rows of " + std::to_string(tensor.columns) + " elements; " + std::string(traits.name) + " needs a multiple of " +
                     std::to_string(traits.block));
    }
    const auto bytes = checked_product(elements / traits.block, traits.block_bytes);
    if (!bytes) reader_.refuse("its size in bytes does not fit into 64 bits" + shown(tensor.shape));
    tensor.bytes = *bytes;
    tensor.offset = reader_.number<std::uint64_t>("offset");
    return tensor;
  }

  StoredType read_tensor_type() {
    static constexpr std::array<std::string_view, 42> names = {
        "F32",  "F16",   "Q4_0",    "Q4_1",   "",        "",      "Q5_0",   "Q5_1",  "Q8_0",  "Q8_1",   "Q2_K", "Q3_K",  "Q4_K",  "Q5_K",
        "Q6_K", "Q8_K",  "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8",   "I16",   "I32",   "I64",
        "F64",  "IQ1_M", "BF16",    "",       "",        "",      "TQ1_0",  "TQ2_0", "",      "",       "",     "MXFP4", "NVFP4", "Q1_0"};
    const auto id = reader_.number<std::uint32_t>("type");
    switch (id) {
    case 0: return StoredType::f32;
    case 1: return StoredType::f16;
    case 2: return StoredType::q4_0;
    case 3: return StoredType::q4_1;
    case 8: return StoredType::q8_0;
    case 30: return StoredType::bf16;
    default: break;
    }
    const std::string name = id < names.size() && !names[id].empty() ? std::string(names[id]) : "number " + std::to_string(id);
    reader_.refuse("type " + name + " can't be read; F32, F16, BF16, Q8_0, Q4_1 and Q4_0 can");
  }

  /// Checks the offset and makes it one from the start of the file.
  void place(TensorInfo& tensor) {
    reader_.about("tensor '" + printable(tensor.name) + "'");
    if (tensor.offset % result_.alignment_ != 0) {
      reader_.refuse("offset " + std::to_string(tensor.offset) + " is not a multiple of the alignment " + std::to_string(result_.alignment_));
    }
    const auto begin = checked_sum(result_.data_offset_, tensor.offset);
    const auto end = begin ? checked_sum(*begin, tensor.bytes) : std::nullopt;
    if (!end || *end > size_) {
      reader_.refuse("its " + std::to_string(tensor.bytes) + " bytes at offset " + std::to_string(tensor.offset) + " of the data end beyond the file of " +
                     std::to_string(size_) + " bytes");
    }
    tensor.offset = *begin;
  }

  void refuse_overlap(const std::vector<TensorInfo>& tensors) {
    std::vector<const TensorInfo*> by_offset;
    by_offset.reserve(tensors.size());
    for (const TensorInfo& tensor : tensors) by_offset.push_back(&tensor);
    std::sort(by_offset.begin(), by_offset.end(), [](const TensorInfo* a, const TensorInfo* b) { return a->offset < b->offset; });
    for (std::size_t i = 1; i < by_offset.size(); ++i) {
      const TensorInfo& before = *by_offset[i - 1];
      if (before.offset + before.bytes <= by_offset[i]->offset) continue;
      reader_.about("tensor '" + printable(by_offset[i]->name) + "'");
      reader_.refuse("overlaps tensor '" + printable(before.name) + "'");
    }
  }

  static std::string shown(const std::vector<std::uint64_t>& shape) {
    std::string text;
    for (const std::uint64_t extent : shape) text += (text.empty() ? ": " : " x ") + std::to_string(extent);
    return text;
  }

  ByteReader reader_;
  std::uint64_t size_;
  GgufFile result_;
};

inline GgufFile GgufFile::parse(std::span<const std::byte> bytes, const std::string& file) { return GgufParser(bytes, file).run(); }

inline GgufFile GgufFile::open(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  return parse(file.bytes(), printable_path(path));
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
