// How the command talks: verbs and their registration, exit codes, progress on a terminal, interruption.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <filesystem>
#include <string>

namespace CLI {
class App;
}

namespace command {

/// Options every verb has.
struct Global {
  bool json = false;       ///< one machine-readable object on standard output
  std::size_t threads = 0; ///< 0: one for each core
};

enum ExitCode : int { done = 0, wrong_usage = 2, does_not_fit = 3, bad_input = 4, io_failed = 5, interrupted = 130 };

/// Thrown where a long computation notices Ctrl-C.
struct Interrupted {};

/// From here on the first Ctrl-C asks long computations to stop, the second ends the program at once.
void catch_interrupts();
/// Throws Interrupted if Ctrl-C was pressed.
void check_interrupt();

/// Adds --json and --threads to a verb.
void add_global_options(CLI::App& verb, Global& global);

/// Prints a JSON object and a newline on standard output. Throws IoError if it can't be written.
void print_json(const nlohmann::json& json);
/// Prints text on standard output. Throws IoError if it can't be written.
void print_text(const std::string& text);
/// Prints a line for people on standard error.
void note(const std::string& line);

/// Writes JSON to a file, whole or not at all. Throws IoError.
void write_json(const std::filesystem::path& path, const nlohmann::json& json);

/// A line on standard error that counts up, shown only on a terminal.
class Progress {
public:
  Progress(std::string what, std::size_t total);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void set(std::size_t done);
  void set(std::size_t done, std::size_t total);

private:
  std::string what_;
  std::size_t total_;
  bool shown_ = false;
};

/// Seconds since it was made.
class Stopwatch {
public:
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void add_inspect(CLI::App& app, Global& global);
void add_devices(CLI::App& app, Global& global);
void add_importance(CLI::App& app, Global& global);
void add_costs(CLI::App& app, Global& global);
void add_plan(CLI::App& app, Global& global);
void add_quantize(CLI::App& app, Global& global);
void add_run(CLI::App& app, Global& global);
void add_eval(CLI::App& app, Global& global);
void add_compare(CLI::App& app, Global& global);

} // namespace command
