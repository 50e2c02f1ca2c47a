// Output of several parts in one or several files, written over several runs if need be.
#pragma once

#include <lsaq/formats/resumable_file.hpp>

#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace command {

/// One file: its header, then the parts [first_part, end_part).
struct PartFile {
  std::filesystem::path path;
  std::string header;
  std::size_t first_part = 0, end_part = 0;
};

/// Writes the parts of all files in their order. A file gets its name when it is complete; until then, and between files, another run with the same key goes
/// on.
class PartWriter {
public:
  /// `files` cover the parts 0 .. n without gaps, `part_bytes` gives the size of one; `key` is everything the content depends on. Throws IoError.
  PartWriter(std::vector<PartFile> files, std::string key, std::function<lsaq::Bytes(std::size_t)> part_bytes);

  /// The first part that is not safe.
  std::size_t next() const { return next_; }
  std::size_t parts() const { return files_.back().end_part; }
  /// Bytes of all files.
  lsaq::Bytes bytes() const;

  /// Drops what an earlier run has left. Call before anything is written. Throws IoError.
  void start_over();

  /// Appends to the next part. Throws IoError.
  void write(std::span<const std::byte> bytes);
  /// The part is complete; with its last one a file is. `due`: what was written so far is to survive an interruption. Says whether it does. Throws IoError.
  bool end_part(bool due);

private:
  const PartFile& file() const { return files_[file_]; }
  void open();

  std::vector<PartFile> files_;
  std::string key_;
  std::function<lsaq::Bytes(std::size_t)> part_bytes_;
  std::size_t file_ = 0, next_ = 0;
  std::unique_ptr<lsaq::ResumableFile> output_;
};

} // namespace command
