// How much memory a process on this machine can still get: the kernel's estimate, and the limits of the control groups, memory nodes and address space it has.
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
  std::string limited_by; ///< "MemAvailable", or what is tighter: a control group's limit, "memory nodes 0-1", "address space (ulimit -v)"
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

/// The numbers of a list like "0-2,5"; those beyond 1023 are left out.
inline std::vector<unsigned> numbers_of(std::string_view list) {
  std::vector<unsigned> numbers;
  while (!list.empty()) {
    const std::string range(list.substr(0, list.find(',')));
    list.remove_prefix(std::min(list.size(), range.size() + 1));
    char* end = nullptr;
    const unsigned long first = std::strtoul(range.c_str(), &end, 10);
    if (end == range.c_str()) continue;
    const unsigned long last = *end == '-' ? std::strtoul(end + 1, nullptr, 10) : first;
    for (unsigned long n = first; n <= last && n < 1024; ++n) numbers.push_back(static_cast<unsigned>(n));
  }
  return numbers;
}

/// The rest of the line that begins with `key`, without blanks at its ends.
inline std::string text_after(std::string_view text, std::string_view key) {
  for (std::size_t line = 0; line < text.size();) {
    const std::size_t end = std::min(text.find('\n', line), text.size());
    std::string_view content = text.substr(line, end - line);
    line = end + 1;
    if (!content.starts_with(key)) continue;
    content.remove_prefix(key.size());
    const std::size_t first = content.find_first_not_of(" \t");
    return first == std::string_view::npos ? "" : std::string(content.substr(first, content.find_last_not_of(" \t") + 1 - first));
  }
  return "";
}

/// Narrows `memory` to the nodes a process may take memory from (cpuset, numactl), where those are not all: what is free there and what can be dropped at once.
inline void apply_nodes(HostMemory& memory, const std::string& root, std::string_view status) {
  const std::string allowed = text_after(status, "Mems_allowed_list:");
  const std::vector<unsigned> nodes = numbers_of(allowed), online = numbers_of(read_text(root + "/sys/devices/system/node/online").value_or(""));
  const auto is_allowed = [&](unsigned node) { return std::find(nodes.begin(), nodes.end(), node) != nodes.end(); };
  if (nodes.empty() || std::all_of(online.begin(), online.end(), is_allowed)) return;
  Bytes free = 0;
  for (const unsigned node : online) {
    if (!is_allowed(node)) continue;
    const std::string name = "Node " + std::to_string(node) + " ";
    const std::string text = read_text(root + "/sys/devices/system/node/node" + std::to_string(node) + "/meminfo").value_or("");
    for (const char* key : {"MemFree:", "Inactive(file):", "SReclaimable:"}) free += number_after(text, name + key).value_or(0) * 1024;
  }
  if (free < memory.free) {
    memory.free = free;
    memory.limited_by = "memory nodes " + allowed;
  }
}

/// Narrows `memory` to what is left of the address space (RLIMIT_AS).
inline void apply_address_space(HostMemory& memory, std::string_view limits, std::string_view status) {
  const std::optional<Bytes> limit = number_after(limits, "Max address space"), size = number_after(status, "VmSize:");
  if (!limit || !size) return; // "unlimited"
  const Bytes left = *limit - std::min(*limit, *size * 1024);
  if (left < memory.free) {
    memory.free = left;
    memory.limited_by = "address space (ulimit -v)";
  }
}

} // namespace detail

/// Reads /proc/meminfo (MemAvailable), the memory limits of the process's control groups, version 1 and 2, nested ones included, the memory nodes it may use
/// and what is left of its address space: the tightest wins.
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
        for (const char* limit : {"memory.max", "memory.high"}) // beyond the second a group is throttled until it is as good as stopped
          detail::apply_groups(memory, root + mount, path, limit, "memory.current", "inactive_file");
    } else if (controllers.find(",memory,") != std::string::npos) {
      detail::apply_groups(memory, root + "/sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
    }
  }
  const std::string status = detail::read_text(root + "/proc/self/status").value_or("");
  detail::apply_nodes(memory, root, status);
  detail::apply_address_space(memory, detail::read_text(root + "/proc/self/limits").value_or(""), status);
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
