#include "console.hpp"

#include <lsaq/formats/atomic_file.hpp>
#include <lsaq/formats/names.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <unistd.h>

namespace command {

namespace {
std::atomic<bool> interrupt_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");
} // namespace

void catch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = [](int) { interrupt_requested.store(true, std::memory_order_relaxed); };
  action.sa_flags = static_cast<int>(SA_RESETHAND); // the second one takes its default effect
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN); // a closed pipe is reported by the write that meets it
}

void check_interrupt() {
  if (interrupt_requested.load(std::memory_order_relaxed)) throw Interrupted{};
}

void add_global_options(CLI::App& verb, Global& global) {
  verb.add_flag("--json", global.json, "Print one JSON object on standard output");
  verb.add_option("--threads", global.threads, "Threads to use (default: one for each core)")->check(CLI::Range(1, 1024));
}

void print_text(const std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    lsaq::fail<lsaq::IoError>(std::string("standard output can't be written: ") + std::strerror(errno));
}

void print_json(const nlohmann::json& json) { print_text(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n"); }

void note(const std::string& line) { fmt::print(stderr, "{}\n", line); }

void write_json(const std::filesystem::path& path, const nlohmann::json& json) {
  lsaq::AtomicFile file(path);
  file.write(json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
  file.commit();
}

Progress::Progress(std::string what, std::size_t total) : what_(std::move(what)), total_(total) { set(0); }

Progress::~Progress() {
  if (shown_) fmt::print(stderr, "\r\x1b[K");
}

void Progress::set(std::size_t done, std::size_t total) {
  total_ = total;
  set(done);
}

void Progress::set(std::size_t done) {
  if (isatty(STDERR_FILENO) == 0) return;
  fmt::print(stderr, "\r\x1b[K{} {}/{}", what_, done, total_);
  std::fflush(stderr);
  shown_ = true;
}

} // namespace command
