// Output files that appear whole or not at all.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/mapped_file.hpp>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A file that is written beside its destination and renamed onto it by commit(). Without commit() nothing remains of it. Movable, not copyable.
///
/// The destination keeps its old content until then; if it is a symbolic link, the link is replaced and not what it points to.
class AtomicFile {
public:
  /// Creates a temporary file, mode 0666 less the umask, in the folder of `path`. Throws IoError if that fails or `path` is something other than a regular
  /// file.
  explicit AtomicFile(std::filesystem::path path) : path_(std::move(path)), folder_(path_.has_parent_path() ? path_.parent_path() : ".") {
    if (path_.filename().empty()) fail<IoError>("'" + printable_path(path_) + "': cannot write: not the name of a file");
    struct stat status = {};
    if (::stat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
      fail<IoError>(printable_path(path_) + ": cannot write: it is a " + (S_ISDIR(status.st_mode) ? "folder" : "device, pipe or socket"));
    }
    create();
    buffer_.reserve(buffer_size);
  }

  AtomicFile(AtomicFile&& other) noexcept
      : path_(std::move(other.path_)), folder_(std::move(other.folder_)), temporary_(std::exchange(other.temporary_, {})),
        descriptor_(std::exchange(other.descriptor_, -1)), buffer_(std::move(other.buffer_)), written_(other.written_) {}
  AtomicFile& operator=(AtomicFile&&) = delete;

  ~AtomicFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  const std::filesystem::path& path() const noexcept { return path_; }

  /// Bytes passed to write so far: the offset of the next one.
  std::uint64_t size() const noexcept { return written_; }

  /// Appends. Throws IoError with the system's reason (no space left, file too large).
  void write(std::span<const std::byte> bytes) {
    LSAQ_ASSERT(descriptor_ >= 0 && "write after commit");
    const char* const data = reinterpret_cast<const char*>(bytes.data());
    written_ += bytes.size();
    if (buffer_.size() + bytes.size() <= buffer_size) {
      buffer_.append(data, bytes.size());
      return;
    }
    flush();
    if (bytes.size() <= buffer_size) {
      buffer_.append(data, bytes.size());
    } else {
      write_all(data, bytes.size());
    }
  }
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }

  /// Makes the content durable and moves it to its path: fsync, rename, fsync of the folder. Call once, last.
  ///
  /// Throws IoError; the destination is then as it was, except if only the folder's fsync failed: then it is complete but may not survive a power loss.
  void commit() {
    LSAQ_ASSERT(descriptor_ >= 0 && "commit twice");
    flush();
    sync(descriptor_, path_);
    if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) refuse("write", errno);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) refuse("rename the finished file to this path", errno);
    temporary_.clear();
    const int folder = ::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0) {
      if (errno == EACCES) return; // a folder may be writable and not readable
      refuse("open the folder", errno);
    }
    const Closer closer{folder};
    sync(folder, folder_);
  }

private:
  static constexpr std::size_t buffer_size = 1 << 16;

  struct Closer {
    int descriptor;
    ~Closer() { ::close(descriptor); }
  };

  [[noreturn]] void refuse(const char* what, int error) const {
    fail<IoError>(printable_path(path_) + ": cannot " + what + ": " + std::system_category().message(error));
  }

  /// A short name of its own: the destination's may already be as long as the file system allows.
  void create() {
    const auto now = static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
    std::uint64_t tag = now * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(::getpid());
    for (int attempt = 0; attempt < 100; ++attempt) {
      char name[32];
      std::snprintf(name, sizeof name, ".lsaq-%016llx.tmp", static_cast<unsigned long long>(tag));
      std::filesystem::path candidate = folder_ / name;
      descriptor_ = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor_ >= 0) {
        temporary_ = std::move(candidate);
        move_off_standard_streams();
        return;
      }
      if (errno != EEXIST && errno != EINTR) break;
      tag = (tag ^ (tag >> 29)) * 0xbf58476d1ce4e5b9u + 1;
    }
    refuse("create a file in its folder", errno);
  }

  /// If the process was started with a standard stream closed, the file may have got its number, and messages would land in the file.
  void move_off_standard_streams() {
    if (descriptor_ > STDERR_FILENO) return;
    const int higher = ::fcntl(descriptor_, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    const int error = errno;
    if (higher < 0) { // the destructor of an object whose constructor throws does not run
      ::close(std::exchange(descriptor_, -1));
      ::unlink(temporary_.c_str());
      refuse("open", error);
    }
    ::close(std::exchange(descriptor_, higher));
  }

  void flush() {
    write_all(buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  void write_all(const char* data, std::size_t size) {
    while (size > 0) {
      const ::ssize_t count = ::write(descriptor_, data, size);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) refuse("write", count < 0 ? errno : EIO);
      data += count;
      size -= static_cast<std::size_t>(count);
    }
  }

  void sync(int descriptor, const std::filesystem::path& what) const {
    int result;
    do result = ::fsync(descriptor);
    while (result != 0 && errno == EINTR);
    // Some file systems can't sync folders and say so with EINVAL.
    if (result != 0 && !(errno == EINVAL && &what == &folder_)) {
      fail<IoError>(printable_path(what) + ": cannot make it durable: " + std::system_category().message(errno));
    }
  }

  std::filesystem::path path_;
  std::filesystem::path folder_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::string buffer_;
  std::uint64_t written_ = 0;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
