// How much memory a process on this machine can still get: the kernel's estimate, and the limits of the control groups it runs in.
#pragma once

#include <lsaq/resources/byte_size.hpp>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <vector>

namespace lsaq::inline v0 {

/// Free and total memory of the host as this process sees it.
struct HostMemory {
  Bytes total = 0;
  Bytes free = 0;
  std::string limited_by; ///< "MemAvailable", or the control group whose limit is tighter
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// The whole of a small text file, or nothing if it can't be read.
inline std::optional<std::string> read_text(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return std::nullopt;
  std::string text;
  char buffer[4096];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, n);
  std::fclose(file);
  return text;
}

/// The number after `key` at the start of a line ("MemAvailable:  123 kB", "inactive_file 456").
inline std::optional<Bytes> number_after(std::string_view text, std::string_view key) {
  for (std::size_t line = 0; line < text.size();) {
    const std::size_t end = std::min(text.find('\n', line), text.size());
    const std::string_view content = text.substr(line, end - line);
    if (content.starts_with(key)) {
      std::size_t at = key.size();
      while (at < content.size() && (content[at] == ' ' || content[at] == '\t')) ++at;
      if (at < content.size() && content[at] >= '0' && content[at] <= '9') return std::strtoull(std::string(content.substr(at)).c_str(), nullptr, 10);
    }
    line = end + 1;
  }
  return std::nullopt;
}

/// A file that holds one number; nothing for "max" or a file that is not there.
inline std::optional<Bytes> number_in(const std::string& path) {
  const std::optional<std::string> text = read_text(path);
  return text ? number_after(*text, "") : std::nullopt;
}

/// Narrows `memory` to what the group at `folder` leaves: its limit less what it uses, where file pages that can be dropped at once do not count as used.
inline void apply_group(HostMemory& memory, const std::string& folder, const char* limit_file, const char* usage_file, const char* inactive_key) {
  const std::optional<Bytes> limit = number_in(folder + "/" + limit_file);
  const std::optional<Bytes> usage = number_in(folder + "/" + usage_file);
  if (!limit || !usage || *limit >= memory.total) return; // version 1 writes a huge number for "no limit"
  const std::optional<std::string> stat = read_text(folder + "/memory.stat");
  const Bytes inactive = stat ? number_after(*stat, inactive_key).value_or(0) : 0;
  const Bytes used = *usage - std::min(*usage, inactive);
  const Bytes free = *limit - std::min(*limit, used);
  if (free < memory.free) {
    memory.free = free;
    memory.limited_by = folder + "/" + limit_file;
  }
}

/// Applies the group at `path` below `mount` and every group above it: the tightest wins.
inline void apply_groups(HostMemory& memory, const std::string& mount, std::string path, const char* limit_file, const char* usage_file,
                         const char* inactive_key) {
  while (true) {
    while (!path.empty() && path.back() == '/') path.pop_back();
    apply_group(memory, mount + path, limit_file, usage_file, inactive_key);
    if (path.empty()) return;
    path.resize(path.find_last_of('/') == std::string::npos ? 0 : path.find_last_of('/'));
  }
}

} // namespace detail

/// Reads /proc/meminfo (MemAvailable) and the memory limits of the process's control groups, version 1 and 2, nested ones included.
///
/// `root` is put before /proc and /sys, for tests. Throws IoError where there is no /proc/meminfo. Reads a handful of small files: well under a millisecond.
inline HostMemory host_memory(const std::string& root = "") {
  const std::optional<std::string> meminfo = detail::read_text(root + "/proc/meminfo");
  const std::optional<Bytes> total = meminfo ? detail::number_after(*meminfo, "MemTotal:") : std::nullopt;
  std::optional<Bytes> available = meminfo ? detail::number_after(*meminfo, "MemAvailable:") : std::nullopt;
  if (meminfo && !available) available = detail::number_after(*meminfo, "MemFree:"); // kernels before 3.14
  if (!total || !available) fail<IoError>("can't read the free memory from " + root + "/proc/meminfo; state it instead (--memory, LSAQ_MEMORY)");
  HostMemory memory{*total * 1024, *available * 1024, "MemAvailable"};

  const std::string groups = detail::read_text(root + "/proc/self/cgroup").value_or("");
  for (std::size_t line = 0; line < groups.size();) { // "hierarchy:controllers:path"
    const std::size_t end = std::min(groups.find('\n', line), groups.size());
    const std::string entry = groups.substr(line, end - line);
    line = end + 1;
    const std::size_t first = entry.find(':');
    const std::size_t second = first == std::string::npos ? first : entry.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + entry.substr(first + 1, second - first - 1) + ",";
    const std::string path = entry.substr(second + 1);
    if (controllers == ",,") {
      for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"})
        detail::apply_groups(memory, root + mount, path, "memory.max", "memory.current", "inactive_file");
    } else if (controllers.find(",memory,") != std::string::npos) {
      detail::apply_groups(memory, root + "/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
    }
  }
  return memory;
}

/// The cap that LSAQ_MEMORY sets, if it is set: an amount, or @FILE whose first line holds one and is read again at every call.
/// Throws InvalidArgument on anything else.
inline std::optional<Bytes> memory_from_environment() {
  const char* variable = std::getenv("LSAQ_MEMORY");
  if (variable == nullptr || *variable == '\0') return std::nullopt;
  std::string text = variable;
  std::string origin = "LSAQ_MEMORY";
  if (text[0] == '@') {
    origin += "=" + text;
    const std::optional<std::string> content = detail::read_text(text.substr(1));
    if (!content) fail<InvalidArgument>(origin + ": the file can't be read");
    text = content->substr(0, content->find_first_of("\r\n"));
  }
  const Expected<Bytes> bytes = parse_bytes(text);
  if (!bytes) fail<InvalidArgument>(origin + ": " + bytes.error().message);
  return *bytes;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
