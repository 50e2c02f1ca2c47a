#include "checkpoint.hpp"
#include "model_files.hpp"

#include <lsaq/formats/atomic_file.hpp>
#include <lsaq/formats/mapped_file.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <cstdlib>
#include <cstring>

namespace command {

namespace {

constexpr const char* checkpoint_schema = "lsaq.checkpoint/1";

} // namespace

double seconds_between_checkpoints() {
  const char* wanted = std::getenv("LSAQ_CHECKPOINT_SECONDS");
  return wanted != nullptr && *wanted != '\0' ? std::strtod(wanted, nullptr) : 20.0;
}

// The file: a line of JSON that says what follows, then the states as FP32, then the scores of each metric as FP64; as the machine has them in memory.

Checkpoint::Checkpoint(const std::string& key) : key_(sha256(key)) {
  if (!key.empty() && !cache_folder().empty()) path_ = cache_folder() / "checkpoints" / key_;
}

std::optional<Checkpoint::Contents> Checkpoint::read() const {
  std::error_code error;
  if (path_.empty() || !std::filesystem::is_regular_file(path_, error)) return std::nullopt;
  try {
    const std::string file = read_file(path_);
    const std::size_t end = file.find('\n');
    if (end == std::string::npos) return std::nullopt;
    const nlohmann::json head = nlohmann::json::parse(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!head.is_object() || head.value("schema", "") != checkpoint_schema || head.value("key", "") != key_) return std::nullopt;
    Contents contents{head.at("boundary").get<std::size_t>(), {}, {}};
    const auto states = head.at("states").get<std::size_t>();
    const auto sizes = head.at("scores").get<std::vector<std::size_t>>();
    std::size_t wanted = end + 1, scores = 0;
    for (std::size_t size : sizes) scores += size;
    if (states > file.size() || scores > file.size()) return std::nullopt;
    wanted += states * sizeof(float) + scores * sizeof(double);
    if (file.size() != wanted) return std::nullopt;
    const char* at = file.data() + end + 1;
    const auto take = [&](auto& values, std::size_t count) {
      values.resize(count);
      if (count != 0) std::memcpy(values.data(), at, count * sizeof(values[0]));
      at += count * sizeof(values[0]);
    };
    take(contents.states, states);
    for (std::size_t size : sizes) take(contents.scores.emplace_back(), size);
    return contents;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

bool Checkpoint::due() const { return !path_.empty() && !failed_ && since_last_.seconds() >= seconds_between_checkpoints(); }

void Checkpoint::write(std::size_t boundary, lsaq::MatrixView states, const std::vector<std::span<const double>>& scores) {
  if (path_.empty()) return;
  std::vector<std::size_t> sizes;
  for (const auto& some : scores) sizes.push_back(some.size());
  const nlohmann::json head{{"schema", checkpoint_schema}, {"key", key_}, {"boundary", boundary}, {"states", states.rows * states.columns}, {"scores", sizes}};
  try {
    std::error_code error;
    std::filesystem::create_directories(path_.parent_path(), error);
    lsaq::AtomicFile file(path_);
    file.write(head.dump() + "\n");
    file.write(std::span(static_cast<const std::byte*>(states.data), states.rows * states.columns * sizeof(float)));
    for (const auto& some : scores) file.write(std::as_bytes(some));
    file.commit();
  } catch (const lsaq::Error& error) {
    note(fmt::format("note: this measurement can't be resumed if it is interrupted: {}", error.what()));
    failed_ = true;
  }
  since_last_ = Stopwatch();
}

void Checkpoint::remove() const {
  std::error_code error;
  if (!path_.empty()) std::filesystem::remove(path_, error);
}

} // namespace command
