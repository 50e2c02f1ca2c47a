// Memory that is planned for but not allocated yet: processes that share a device tell each other, so that two that plan at once don't both take the same
// bytes. Linux only; not part of the umbrella header.
//
// A folder holds one file for each reservation, locked by its process as long as it lives: the kernel gives the lock back even to a process that was killed.
#pragma once

#include <lsaq/resources/host_memory.hpp>

#include <cerrno>
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <system_error>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The folder processes of one user share: $XDG_RUNTIME_DIR/lsaq, else /tmp/lsaq-UID.
inline std::string reservation_folder() {
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  return runtime != nullptr && *runtime == '/' ? std::string(runtime) + "/lsaq" : "/tmp/lsaq-" + std::to_string(::getuid());
}

/// Bytes set aside on a device until they are allocated. Move-only; given back when it ends.
class Reservation {
public:
  Reservation() = default;

  /// Sets aside what choose(bytes others have set aside) asks for: it is called while no other process can reserve, and looks at the free memory itself. 0 asks
  /// for nothing. `device` names a file: letters, digits, "-" and ":". Throws IoError if the folder can't be used, what choose throws.
  template <class Choose> static Reservation make(const std::string& folder, const std::string& device, Choose&& choose) {
    if (::mkdir(folder.c_str(), 0700) != 0 && errno != EEXIST) fail_with(folder, "cannot create the folder");
    struct stat status = {};
    if (::lstat(folder.c_str(), &status) != 0 || !S_ISDIR(status.st_mode) || status.st_uid != ::getuid())
      fail<IoError>(folder + ": is not a folder of this user"); // below /tmp anybody may have made it
    const File turn(folder + "/" + device + ".lock", O_RDWR | O_CREAT);
    if (turn.number < 0 || !turn.lock(LOCK_EX)) fail_with(folder + "/" + device + ".lock", "cannot lock");
    const Bytes wanted = choose(sum_of_others(folder, device, true));
    Reservation reservation;
    if (wanted == 0) return reservation;
    for (unsigned n = 0; reservation.file_.number < 0; ++n) {
      const std::string path = folder + "/" + device + "." + std::to_string(::getpid()) + "-" + std::to_string(n) + ".bytes";
      File file(path, O_RDWR | O_CREAT | O_EXCL);
      if (file.number < 0 && (errno != EEXIST || n == 1000)) fail_with(path, "cannot create");
      if (file.number < 0) continue;
      if (!file.lock(LOCK_EX)) fail_with(path, "cannot lock");
      reservation.file_ = std::move(file);
      reservation.path_ = path;
    }
    reservation.resize(wanted);
    return reservation;
  }

  /// Bytes that other reservations on the device hold.
  static Bytes others(const std::string& folder, const std::string& device) { return sum_of_others(folder, device, false); }

  Reservation(Reservation&& other) noexcept : file_(std::move(other.file_)), path_(std::exchange(other.path_, {})), bytes_(std::exchange(other.bytes_, 0)) {}
  Reservation& operator=(Reservation&& other) noexcept {
    std::swap(file_, other.file_);
    std::swap(path_, other.path_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Reservation() {
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  Bytes bytes() const noexcept { return bytes_; }

  /// What is still to be allocated of it. A number that can't be written leaves the greater one, which does no harm.
  void resize(Bytes bytes) noexcept {
    bytes_ = bytes;
    if (file_.number < 0) return;
    char text[32];
    const int length = std::snprintf(text, sizeof text, "%-20llu\n", static_cast<unsigned long long>(bytes)); // as long as before: never half a number
    if (::pwrite(file_.number, text, static_cast<std::size_t>(length), 0) != length) return;
  }

private:
  struct File {
    int number = -1;

    File() = default;
    File(const std::string& path, int flags) : number(::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, 0600)) {}
    File(File&& other) noexcept : number(std::exchange(other.number, -1)) {}
    File& operator=(File&& other) noexcept {
      std::swap(number, other.number);
      return *this;
    }
    ~File() {
      if (number >= 0) ::close(number);
    }
    bool lock(int how) const noexcept {
      int result = 0;
      do result = ::flock(number, how);
      while (result != 0 && errno == EINTR);
      return result == 0;
    }
  };

  /// With `remove`, files of processes that are gone end. Only for whoever holds the device's turn: at any other time a file that was nobody's when it was looked at
  /// can be a new reservation of the same name when it is removed.
  static Bytes sum_of_others(const std::string& folder, const std::string& device, bool remove) {
    DIR* const entries = ::opendir(folder.c_str());
    if (entries == nullptr) return 0;
    Bytes sum = 0;
    while (const dirent* entry = ::readdir(entries)) {
      const std::string name = entry->d_name;
      if (!name.starts_with(device + ".") || !name.ends_with(".bytes")) continue;
      const std::string path = folder + "/" + name;
      const File file(path, O_RDONLY);
      if (file.number < 0 || !file.lock(LOCK_SH | LOCK_NB))
        sum += detail::number_in(path).value_or(0);
      else if (remove) // nobody's any more
        ::unlink(path.c_str());
    }
    ::closedir(entries);
    return sum;
  }

  [[noreturn]] static void fail_with(const std::string& path, const char* what) {
    fail<IoError>(path + ": " + what + ": " + std::system_category().message(errno));
  }

  File file_;
  std::string path_;
  Bytes bytes_ = 0;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
