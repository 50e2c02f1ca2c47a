// Builds model files byte by byte for the tests, well-formed ones and ones that break a single rule.
#pragma once

#include <lsaq/error.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace make_files {

/// A folder of its own that disappears with the object.
class TemporaryFolder {
public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "lsaq-test-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("cannot create " + name);
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }

  std::filesystem::path write(const std::string& name, std::string_view content) const {
    std::ofstream(path_ / name, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
    return path_ / name;
  }

  std::size_t count() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(path_), std::filesystem::directory_iterator()));
  }

private:
  std::filesystem::path path_;
};

inline std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// A copy of the bytes on the heap that ends where they end, so that AddressSanitizer sees the first byte read beyond.
class ExactBytes {
public:
  explicit ExactBytes(std::string_view text) : size_(text.size()), data_(std::make_unique<std::byte[]>(text.size())) {
    if (size_ != 0) std::memcpy(data_.get(), text.data(), size_);
  }
  operator std::span<const std::byte>() const { return {data_.get(), size_}; }

private:
  std::size_t size_;
  std::unique_ptr<std::byte[]> data_;
};

/// The bytes of a number.
template <class T> std::string le(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}
inline std::string u32(std::uint32_t value) { return le(value); }
inline std::string u64(std::uint64_t value) { return le(value); }
/// A GGUF string: length and bytes.
inline std::string text(std::string_view value) { return u64(value.size()) + std::string(value); }

enum GgufType : std::uint32_t { type_f32 = 0, type_f16 = 1, type_q4_0 = 2, type_q4_1 = 3, type_q8_0 = 8, type_q4_k = 12, type_i32 = 26, type_bf16 = 30 };

/// Assembles a GGUF file; nothing is checked.
struct Gguf {
  std::string magic = "GGUF";
  std::uint32_t version = 3;
  std::optional<std::uint64_t> entry_count;
  std::optional<std::uint64_t> tensor_count;
  std::size_t alignment = 32; // of the data section's start
  std::string entries;
  std::string infos;
  std::string data;
  std::uint64_t entries_made = 0;
  std::uint64_t tensors_made = 0;

  /// Any key; `value` is its payload.
  Gguf& key(std::string_view name, std::uint32_t type, std::string_view value) {
    entries += text(name) + u32(type) + std::string(value);
    ++entries_made;
    return *this;
  }
  Gguf& key(std::string_view name, std::uint32_t value) { return key(name, 4, u32(value)); }
  Gguf& array(std::string_view name, std::uint32_t element_type, std::uint64_t count, std::string_view elements) {
    return key(name, 9, u32(element_type) + u64(count) + std::string(elements));
  }
  /// A tensor record; dims innermost first.
  Gguf& tensor(std::string_view name, const std::vector<std::uint64_t>& dims, std::uint32_t type, std::uint64_t offset) {
    infos += text(name) + u32(static_cast<std::uint32_t>(dims.size()));
    for (const std::uint64_t extent : dims) infos += u64(extent);
    infos += u32(type) + u64(offset);
    ++tensors_made;
    return *this;
  }
  Gguf& bytes(std::string_view content) {
    data += content;
    return *this;
  }
  std::string build() const {
    std::string file = magic + u32(version) + u64(tensor_count.value_or(tensors_made)) + u64(entry_count.value_or(entries_made)) + entries + infos;
    if (data.empty()) return file;
    while (file.size() % alignment != 0) file += '\0';
    return file + data;
  }
};

/// A safetensors file of a header text and data bytes.
inline std::string safetensors(std::string_view header, std::string_view data) { return u64(header.size()) + std::string(header) + std::string(data); }

/// One header entry: "name":{"dtype":...}.
inline std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, std::uint64_t begin, std::uint64_t end) {
  return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) + "]}";
}

/// A file that must be refused, and what the message must name.
struct Malformed {
  std::string name;
  std::string bytes;
  std::vector<std::string> mentions;
};

inline void PrintTo(const Malformed& file, std::ostream* out) { *out << file.name; }

inline std::string name_of(const testing::TestParamInfo<Malformed>& info) { return info.param.name; }

/// The message of the E that `action` throws; a test failure if it throws none.
template <class E> std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const E& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another error: " << error.what();
    return "";
  }
  ADD_FAILURE() << "no error";
  return "";
}

/// Expects a one-line printable message that has every one of these parts.
inline void expect_mentions(const std::string& message, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_THAT(message, testing::HasSubstr(part));
  for (const char c : message) EXPECT_GE(static_cast<unsigned char>(c), 0x20u) << message;
  EXPECT_LT(message.size(), 600u) << message;
}

} // namespace make_files
