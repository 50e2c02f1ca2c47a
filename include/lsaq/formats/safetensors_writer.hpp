// The header of a safetensors file whose tensors are known before their bytes are: files can be written as a stream.
#pragma once

#include <lsaq/formats/stored_tensor.hpp>

#include <nlohmann/json.hpp>

#include <map>
#include <span>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// What precedes the tensors' bytes, which follow in the order given without gaps: length, JSON, and spaces to a multiple of 8 bytes.
inline std::string safetensors_header(std::span<const TensorEntry> tensors, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (!metadata.empty()) json["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    json[tensor.name] = {{"dtype", std::string(name_of(tensor.type))}, {"shape", tensor.shape}, {"data_offsets", {offset, offset + tensor.bytes()}}};
    offset += tensor.bytes();
  }
  std::string text = json.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string header(8, '\0');
  for (std::size_t i = 0; i < 8; ++i) header[i] = static_cast<char>(std::uint64_t{text.size()} >> 8 * i & 0xff);
  return header + text;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
