// The model a verb works on: its source, configuration, identity (SHA-256), and the user's cache folder.
#pragma once

#include "console.hpp"

#include <lsaq/models/llama_config.hpp>

#include <filesystem>

namespace command {

/// A model file or folder, opened and checked; no tensor byte is read yet.
struct Model {
  explicit Model(const std::filesystem::path& path); ///< throws BadInput

  lsaq::ModelSource source;
  lsaq::llama::Config config;
};

/// SHA-256 as 64 hexadecimal digits.
std::string sha256(std::string_view text);

/// SHA-256 of a GGUF file, or of the list of a folder's files with theirs. Kept in the cache for files whose size and times have not changed.
std::string model_sha256(const lsaq::ModelSource& source);

/// The user's cache folder for this program: $XDG_CACHE_HOME/lsaq or ~/.cache/lsaq; empty if neither variable is set.
std::filesystem::path cache_folder();

/// The text of a cached file, or nothing.
std::optional<std::string> read_cached(const std::string& folder, const std::string& name);
/// Keeps a text in the cache. A cache that can't be written is noted once and otherwise ignored.
void write_cached(const std::string& folder, const std::string& name, const std::string& text);

/// The whole of a file people give as text. Throws BadInput, IoError.
std::string read_file(const std::filesystem::path& path);

} // namespace command
