#include "model_files.hpp"

#include <lsaq/formats/atomic_file.hpp>

#include <fmt/format.h>
#include <openssl/evp.h>

#include <fcntl.h>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>

namespace command {

namespace {

class Sha256 {
public:
  Sha256() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void add(const void* data, std::size_t size) { EVP_DigestUpdate(context_.get(), data, size); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
    return text;
  }

private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(), EVP_MD_CTX_free};
};

/// Reads a file in pieces (not mapped, so that its pages do not count as ours).
template <class OnPiece> void read_pieces(const std::filesystem::path& path, OnPiece&& on_piece) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) lsaq::fail<lsaq::BadInput>(lsaq::printable_path(path) + ": " + std::strerror(errno));
  const std::unique_ptr<const int, void (*)(const int*)> closer(&descriptor, [](const int* d) { ::close(*d); });
  std::vector<char> buffer(std::size_t{1} << 20);
  while (true) {
    check_interrupt();
    const ssize_t got = ::read(descriptor, buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0 && errno == EISDIR) lsaq::fail<lsaq::BadInput>(lsaq::printable_path(path) + ": is a folder, a file is wanted");
    if (got < 0) lsaq::fail<lsaq::IoError>(lsaq::printable_path(path) + ": can't be read: " + std::strerror(errno));
    if (got == 0) return;
    on_piece(buffer.data(), static_cast<std::size_t>(got));
  }
}

/// Changes whenever a file is written or replaced, without reading it.
std::string fingerprint(const std::filesystem::path& path) {
  struct stat info = {};
  if (::stat(path.c_str(), &info) != 0) return "";
  return fmt::format("{}|{}|{}|{}|{}.{}|{}.{}", path.string(), info.st_dev, info.st_ino, info.st_size, info.st_mtim.tv_sec, info.st_mtim.tv_nsec,
                     info.st_ctim.tv_sec, info.st_ctim.tv_nsec);
}

std::string file_sha256(const std::filesystem::path& path) {
  const std::string key = sha256(fingerprint(path));
  if (const std::optional<std::string> known = read_cached("hashes", key); known && known->size() == 64) return *known;
  Sha256 hash;
  read_pieces(path, [&](const char* data, std::size_t size) { hash.add(data, size); });
  const std::string result = hash.hex();
  write_cached("hashes", key, result);
  return result;
}

} // namespace

Model::Model(const std::filesystem::path& path) : source(lsaq::ModelSource::open(path)), config(lsaq::llama::read_config(source)) {}

std::string sha256(std::string_view text) {
  Sha256 hash;
  hash.add(text.data(), text.size());
  return hash.hex();
}

std::string model_sha256(const lsaq::ModelSource& source) {
  if (source.is_gguf()) return file_sha256(std::filesystem::absolute(source.path()));
  std::string list = sha256(source.config().dump()) + "  config.json\n";
  for (const std::filesystem::path& file : source.files()) list += file_sha256(std::filesystem::absolute(file)) + "  " + file.filename().string() + "\n";
  return sha256(list);
}

std::filesystem::path cache_folder() {
  if (const char* folder = std::getenv("XDG_CACHE_HOME"); folder != nullptr && *folder == '/') return std::filesystem::path(folder) / "lsaq";
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') return std::filesystem::path(home) / ".cache" / "lsaq";
  return {};
}

std::optional<std::string> read_cached(const std::string& folder, const std::string& name) {
  const std::filesystem::path cache = cache_folder();
  std::error_code error;
  if (cache.empty() || !std::filesystem::is_regular_file(cache / folder / name, error)) return std::nullopt;
  try {
    return read_file(cache / folder / name);
  } catch (const lsaq::Error&) {
    return std::nullopt;
  } // an unreadable cache is an empty one
}

void write_cached(const std::string& folder, const std::string& name, const std::string& text) {
  static bool noted = false;
  const std::filesystem::path cache = cache_folder();
  if (cache.empty()) return;
  try {
    std::error_code error;
    std::filesystem::create_directories(cache / folder, error);
    lsaq::AtomicFile file(cache / folder / name);
    file.write(text);
    file.commit();
  } catch (const lsaq::Error& error) {
    if (!noted) note(fmt::format("note: results can't be cached: {}", error.what()));
    noted = true;
  }
}

std::string read_file(const std::filesystem::path& path) {
  std::string text;
  read_pieces(path, [&](const char* data, std::size_t size) { text.append(data, size); });
  return text;
}

} // namespace command
