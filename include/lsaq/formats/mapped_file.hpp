// A file mapped into memory for reading: the one way in which model files are opened.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/names.hpp>

#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <filesystem>
#include <span>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A path for a message: escaped, never cut.
inline std::string printable_path(const std::filesystem::path& path) { return printable(path.native(), std::string::npos); }

/// Throws for a path that open, stat or realpath refused: BadInput where the path is at fault, IoError where the system is.
[[noreturn]] inline void fail_to_open(const std::filesystem::path& path, int error) {
  switch (error) {
  case ENOENT:
  case ENOTDIR: fail<BadInput>(printable_path(path) + ": no such file");
  case EACCES:
  case EPERM: fail<BadInput>(printable_path(path) + ": permission denied");
  case ELOOP: fail<BadInput>(printable_path(path) + ": symbolic links that never end");
  case ENAMETOOLONG: fail<BadInput>(printable_path(path) + ": the name is too long");
  case ENXIO:
  case ENODEV: fail<BadInput>(printable_path(path) + ": not a regular file");
  default: fail<IoError>(printable_path(path) + ": cannot open: " + std::system_category().message(error));
  }
}

/// A whole regular file, mapped read-only and private. Movable, not copyable; its bytes stay where they are when it is moved.
///
/// Pages are read when they are first touched. If another process truncates the file meanwhile, touching the lost pages raises SIGBUS, as with every mapping.
class MappedFile {
public:
  /// Maps the file at `path`; touches none of its pages.
  ///
  /// Throws BadInput if there is no such file, it can't be read by this user, is not a regular file or is empty; IoError if the system fails.
  static MappedFile open(const std::filesystem::path& path) {
    // O_NONBLOCK: opening a FIFO must not wait for a writer.
    const Descriptor file(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY));
    if (file.number < 0) fail_to_open(path, errno);
    struct stat status = {};
    if (::fstat(file.number, &status) != 0) fail<IoError>(printable_path(path) + ": cannot stat: " + std::system_category().message(errno));
    if (S_ISDIR(status.st_mode)) fail<BadInput>(printable_path(path) + ": is a folder, not a file");
    if (!S_ISREG(status.st_mode)) fail<BadInput>(printable_path(path) + ": not a regular file");
    if (status.st_size <= 0) fail<BadInput>(printable_path(path) + ": the file is empty");
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
    if (address == MAP_FAILED) {
      fail<IoError>(printable_path(path) + ": cannot map " + std::to_string(size) + " bytes: " + std::system_category().message(errno));
    }
    return MappedFile(path, address, size);
  }

  MappedFile(MappedFile&& other) noexcept
      : path_(std::move(other.path_)), address_(std::exchange(other.address_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(address_, other.address_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (address_ != nullptr) ::munmap(address_, size_);
  }

  const std::filesystem::path& path() const noexcept { return path_; }
  std::size_t size() const noexcept { return size_; }
  std::span<const std::byte> bytes() const noexcept { return {static_cast<const std::byte*>(address_), size_}; }

  /// Gives back the memory of the pages that lie wholly inside [offset, offset + length); they are read again when touched again.
  void drop(std::size_t offset, std::size_t length) const noexcept {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    if (offset >= size_) return;
    length = std::min(length, size_ - offset);
    const std::size_t begin = (offset + page - 1) / page * page;
    // The last page of the file ends with the file.
    const std::size_t end = offset + length == size_ ? size_ : (offset + length) / page * page;
    if (begin < end) ::madvise(static_cast<std::byte*>(address_) + begin, end - begin, MADV_DONTNEED);
  }

private:
  struct Descriptor {
    int number;
    explicit Descriptor(int n) : number(n) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
      if (number >= 0) ::close(number);
    }
  };

  MappedFile(std::filesystem::path path, void* address, std::size_t size) : path_(std::move(path)), address_(address), size_(size) {}

  std::filesystem::path path_;
  void* address_ = nullptr;
  std::size_t size_ = 0;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
