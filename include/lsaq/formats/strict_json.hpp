// JSON files of a model (config.json, the shard index), read strictly: one object, no key twice, bounded depth and size.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/mapped_file.hpp>
#include <lsaq/formats/names.hpp>

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

inline constexpr std::size_t json_depth_limit = 64;
inline constexpr std::size_t json_size_limit = 100'000'000; // the limit that safetensors sets for its header

/// Runs nlohmann's SAX parser, which does not recurse, over a text that must be one JSON object. `file` is how messages call it, fit to print.
template <class Handler> void parse_strict_json(std::string_view text, const std::string& file, Handler& handler) {
  if (text.size() > json_size_limit) {
    fail<BadInput>(file + ": " + std::to_string(text.size()) + " bytes of JSON; at most " + std::to_string(json_size_limit) + " are allowed");
  }
  // nlohmann takes a zero byte for the end and skips a byte order mark: both would let a file mean different things to different readers.
  if (const std::size_t zero = text.find('\0'); zero != std::string_view::npos) {
    fail<BadInput>(file + ": not valid JSON: a zero byte at byte " + std::to_string(zero));
  }
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos || text[first] != '{') {
    const std::string_view start = first == std::string_view::npos ? std::string_view() : text.substr(first);
    fail<BadInput>(file + ": not a JSON object: begins with \"" + printable(start, 16) + "\" and not with {");
  }
  nlohmann::json::sax_parse(text.begin(), text.end(), &handler);
}

/// Builds a document from SAX events; see parse_json.
class JsonBuilder {
public:
  explicit JsonBuilder(std::string file) : file_(std::move(file)) {}

  nlohmann::json take() { return std::move(root_); }

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(std::int64_t value) { return add(value); }
  bool number_unsigned(std::uint64_t value) { return add(value); }
  bool number_float(double value, const std::string&) { return add(value); }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(nlohmann::json::binary_t&) { return false; }
  bool start_object(std::size_t) { return open(nlohmann::json::object()); }
  bool end_object() { return close(); }
  bool start_array(std::size_t) { return open(nlohmann::json::array()); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (open_.back()->contains(name)) fail<BadInput>(file_ + ": key '" + printable(name) + "' appears twice");
    key_ = std::move(name);
    return true;
  }
  template <class Exception> bool parse_error(std::size_t position, const std::string&, const Exception&) {
    fail<BadInput>(file_ + ": not valid JSON at byte " + std::to_string(position));
  }

private:
  // The pointers stay valid: a container grows only when all that were opened inside it are closed.
  nlohmann::json* place(nlohmann::json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    nlohmann::json& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    return &(parent[key_] = std::move(value));
  }
  bool add(nlohmann::json value) {
    place(std::move(value));
    return true;
  }
  bool open(nlohmann::json container) {
    if (open_.size() == json_depth_limit) fail<BadInput>(file_ + ": nested deeper than " + std::to_string(json_depth_limit) + " levels");
    open_.push_back(place(std::move(container)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string file_;
  nlohmann::json root_;
  std::vector<nlohmann::json*> open_;
  std::string key_;
};

/// The JSON object in `text`. Throws BadInput if it is anything else, has a key twice or is nested deeper than json_depth_limit.
inline nlohmann::json parse_json(std::string_view text, const std::string& file) {
  JsonBuilder builder(file);
  parse_strict_json(text, file, builder);
  return builder.take();
}

/// The JSON object that a file holds; errors as parse_json and MappedFile::open.
inline nlohmann::json read_json(const std::filesystem::path& path) {
  const MappedFile file = MappedFile::open(path);
  return parse_json({reinterpret_cast<const char*>(file.bytes().data()), file.size()}, printable_path(path));
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
