// Large output files that are written over several runs and appear whole or not at all.
#pragma once

#include <lsaq/formats/atomic_file.hpp>
#include <lsaq/formats/strict_json.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A file that grows as PATH.partial, with PATH.partial.json beside it that says what it is to become and how much of it is safe; renamed by commit().
///
/// If the program ends in between, both remain, and another run with the same key goes on behind the safe bytes. Not copyable or movable.
class ResumableFile {
public:
  /// Opens or begins the file. `key` is everything its content depends on. Throws IoError if `path` is something other than a regular file, or the folder can't
  /// be written.
  ResumableFile(std::filesystem::path path, std::string key)
      : path_(std::move(path)), partial_(path_.native() + ".partial"), state_(path_.native() + ".partial.json"), key_(std::move(key)) {
    struct stat status = {};
    if (path_.filename().empty() || (::stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)))
      fail<IoError>(printable_path(path_) + ": cannot write: it is a folder, device, pipe or socket");
    safe_ = safe_bytes();
    descriptor_ = ::open(partial_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) refuse("open for writing", errno);
    if (::ftruncate(descriptor_, static_cast<off_t>(safe_)) != 0 || ::lseek(descriptor_, 0, SEEK_END) < 0) refuse("cut to what is safe", errno);
  }
  ~ResumableFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  ResumableFile(const ResumableFile&) = delete;
  ResumableFile& operator=(const ResumableFile&) = delete;

  /// Bytes that an earlier run has left; 0 for a new file.
  std::uint64_t safe() const noexcept { return safe_; }

  /// Drops what an earlier run has left. Call before anything is written. Throws IoError.
  void start_over() {
    ::unlink(state_.c_str());
    safe_ = 0;
    if (::ftruncate(descriptor_, 0) != 0 || ::lseek(descriptor_, 0, SEEK_SET) < 0) refuse("cut to nothing", errno);
  }

  /// Appends. Throws IoError with the system's reason.
  void write(std::span<const std::byte> bytes) {
    const auto* data = reinterpret_cast<const char*>(bytes.data());
    for (std::size_t left = bytes.size(); left > 0;) {
      const ::ssize_t count = ::write(descriptor_, data, left);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) refuse("write", count < 0 ? errno : EIO);
      data += count;
      left -= static_cast<std::size_t>(count);
      written_ += static_cast<std::uint64_t>(count);
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// From here on what was written so far survives an interruption. Throws IoError.
  void mark_safe() {
    if (::fdatasync(descriptor_) != 0) refuse("make durable", errno);
    AtomicFile state(state_);
    state.write(nlohmann::json{{"key", key_}, {"bytes", safe_ + written_}}.dump() + "\n");
    state.commit();
  }

  /// Moves the complete file to its path. Call once, last. Throws IoError.
  void commit() {
    if (::fsync(descriptor_) != 0) refuse("make durable", errno);
    ::close(std::exchange(descriptor_, -1));
    if (::rename(partial_.c_str(), path_.c_str()) != 0) refuse("rename the finished file to this path", errno);
    ::unlink(state_.c_str());
  }

private:
  [[noreturn]] void refuse(const char* what, int error) const {
    fail<IoError>(printable_path(path_) + ": cannot " + what + ": " + std::system_category().message(error));
  }

  /// What the state file vouches for, if it is of this key and the bytes are there.
  std::uint64_t safe_bytes() const {
    std::error_code error;
    if (!std::filesystem::is_regular_file(state_, error) || !std::filesystem::is_regular_file(partial_, error)) return 0;
    try {
      const nlohmann::json state = read_json(state_);
      if (!state.is_object() || state.value("key", "") != key_) return 0;
      const auto bytes = state.at("bytes").get<std::uint64_t>();
      return bytes <= std::filesystem::file_size(partial_) ? bytes : 0;
    } catch (const std::exception&) {
      return 0; // begun again
    }
  }

  std::filesystem::path path_, partial_, state_;
  std::string key_;
  int descriptor_ = -1;
  std::uint64_t safe_ = 0;
  std::uint64_t written_ = 0;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
