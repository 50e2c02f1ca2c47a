// Runs the built `lsaq` on a small random model, with a cache folder of its own, and keeps what it wrote and how it ended.
#pragma once

#include "models/small_llama.hpp"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <set>
#include <spawn.h>
#include <sstream>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace command_tests {

using nlohmann::json;

/// How the program ended and what it wrote.
struct Result {
  int code = -1; ///< -1: killed by a signal
  std::string out = {};
  std::string err = {};
};

/// Where standard output goes.
enum class Output { captured, full, closed };

/// How to run it, beside its arguments.
struct Setting {
  std::vector<std::pair<std::string, std::string>> environment = {}; ///< added to a clean one
  Output output = Output::captured;
  bool cache = true;                                   ///< XDG_CACHE_HOME is set
  std::function<void(pid_t)> meanwhile = [](pid_t) {}; ///< called once it runs
};

/// For Setting::meanwhile: sends `signal` as soon as `ready()`, or after a minute; a program that ended before gets none.
template <class Ready> std::function<void(pid_t)> signal_when(Ready ready, int signal) {
  return [ready, signal](pid_t child) {
    const auto start = std::chrono::steady_clock::now();
    siginfo_t ended = {}; // it stays a child: the process id is not given to another
    while (!ready() && ::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid == 0 &&
           std::chrono::steady_clock::now() - start < std::chrono::minutes(1))
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::kill(child, signal);
  };
}

/// What a plan or result says of one part's bytes.
inline std::uint64_t bytes_of(const json& object, const char* part) { return object.at("bytes").at(part).get<std::uint64_t>(); }

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// A vocabulary of three control tokens, the 256 bytes and a few merges, as GGUF metadata.
inline std::size_t add_tokenizer(small_llama::GgufParts& parts) {
  std::vector<std::string> tokens = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
  const std::size_t control = tokens.size();
  unsigned next = 0x100; // bytes that are not printable are written as the characters from there on (GPT-2's table)
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte != 0xad);
    const unsigned c = printable ? byte : next++;
    tokens.push_back(c < 0x80 ? std::string{static_cast<char>(c)} : std::string{static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))});
  }
  const std::vector<std::pair<std::string, std::string>> merges = {{"t", "h"}, {"th", "e"}, {"\u0120", "the"}, {"i", "n"}, {"\u0120", "a"}, {"e", "r"}};
  std::string merge_list, token_list, kinds;
  for (const auto& [left, right] : merges) {
    merge_list += make_files::text(left + " " + right);
    tokens.push_back(left + right);
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    token_list += make_files::text(tokens[i]);
    kinds += make_files::le<std::int32_t>(i < control ? 3 : 1);
  }
  const auto array = [&](const char* key, std::uint32_t type, std::size_t count, const std::string& elements) {
    parts.keys[key] = {9, make_files::u32(type) + make_files::u64(count) + elements};
  };
  parts.set_text("tokenizer.ggml.model", "gpt2");
  parts.set_text("tokenizer.ggml.pre", "gpt-2");
  array("tokenizer.ggml.tokens", 8, tokens.size(), token_list);
  array("tokenizer.ggml.token_type", 5, tokens.size(), kinds);
  array("tokenizer.ggml.merges", 8, merges.size(), merge_list);
  parts.set_unsigned("tokenizer.ggml.bos_token_id", 1);
  parts.set_unsigned("tokenizer.ggml.eos_token_id", 2);
  parts.keys["tokenizer.ggml.add_bos_token"] = {7, std::string(1, '\0')};
  return tokens.size();
}

/// Four layers, grouped-query attention, tied embedding, in GGUF.
inline small_llama::Model small_model() {
  small_llama::GgufParts counted;
  const std::size_t vocabulary = add_tokenizer(counted);
  return small_llama::Model{.layers = 4, .hidden = 64, .ffn = 96, .heads = 4, .kv_heads = 2, .head_size = 16, .vocabulary = vocabulary}.fill();
}

/// A folder with a model and a cache, and the program to run on them.
class Command : public testing::Test {
protected:
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }
  std::string write(const std::string& name, const std::string& content) const { return folder_.write(name, content).string(); }
  const std::filesystem::path cache() const { return path("cache"); }

  /// The model's path; the file is made when it is first asked for.
  std::string model() {
    if (!std::filesystem::exists(path("model.gguf"))) write_model("model.gguf", small_model());
    return path("model.gguf").string();
  }

  std::string write_model(const std::string& name, const small_llama::Model& drawn) const {
    small_llama::GgufParts parts = drawn.gguf();
    add_tokenizer(parts);
    return write(name, parts.build());
  }

  /// A file of `windows` windows of token ids, as --token-ids takes them.
  std::string token_ids(std::size_t windows, std::size_t length, const std::string& name = "ids.json") const {
    std::mt19937 random(5);
    json list = json::array();
    for (std::size_t w = 0; w < windows; ++w) {
      std::vector<unsigned> ids(length);
      for (unsigned& id : ids) id = static_cast<unsigned>(random() % 256);
      list.push_back(ids);
    }
    return write(name, list.dump());
  }

  Result run(const std::vector<std::string>& arguments, const Setting& setting = {}) const {
    std::vector<std::string> words = arguments;
    words.insert(words.begin(), LSAQ_COMMAND);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);

    std::vector<std::string> environment;
    std::set<std::string> ours = {"HOME", "XDG_CACHE_HOME", "LSAQ_MEMORY", "LSAQ_DEVICE", "LSAQ_ISA"};
    for (const auto& [name, value] : setting.environment) ours.insert(name);
    for (char** entry = environ; *entry != nullptr; ++entry)
      if (const std::string text = *entry; !ours.contains(text.substr(0, text.find('=')))) environment.push_back(text);
    if (setting.cache) environment.push_back("XDG_CACHE_HOME=" + cache().string());
    for (const auto& [name, value] : setting.environment) environment.push_back(name + "=" + value);
    std::vector<char*> envp;
    for (std::string& entry : environment) envp.push_back(entry.data());
    envp.push_back(nullptr);

    const std::string out = path("stdout").string(), err = path("stderr").string();
    constexpr int fresh = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    if (setting.output == Output::closed)
      posix_spawn_file_actions_addclose(&actions, 1);
    else
      posix_spawn_file_actions_addopen(&actions, 1, setting.output == Output::full ? "/dev/full" : out.c_str(), fresh, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), fresh, 0600);
    pid_t child = 0;
    const int failed = ::posix_spawn(&child, LSAQ_COMMAND, &actions, nullptr, argv.data(), envp.data());
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) {
      ADD_FAILURE() << LSAQ_COMMAND << " can't be run: " << std::strerror(failed);
      return {};
    }
    setting.meanwhile(child);
    Result result;
    int status = 0;
    const auto patience = std::chrono::steady_clock::now() + std::chrono::minutes(5);
    while (::waitpid(child, &status, WNOHANG) == 0) {
      if (std::chrono::steady_clock::now() > patience) {
        ADD_FAILURE() << "the program does not end";
        ::kill(child, SIGKILL);
        ::waitpid(child, &status, 0);
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
    if (setting.output == Output::captured) result.out = make_files::content_of(out);
    result.err = make_files::content_of(err);
    return result;
  }

  /// Runs with --json and gives the object; standard output holds nothing else.
  json run_json(std::vector<std::string> arguments, const Setting& setting = {}) const {
    arguments.push_back("--json");
    const Result result = run(arguments, setting);
    EXPECT_EQ(result.code, 0) << result.err;
    json object = json::parse(result.out, nullptr, false);
    EXPECT_TRUE(object.is_object()) << result.out;
    EXPECT_TRUE(result.out.ends_with("}\n"));
    return object.is_object() ? object : json::object();
  }

  /// Runs and expects this exit code, nothing on standard output, and one line on standard error that begins with "lsaq: " and has all these parts.
  std::string refusal(int code, const std::vector<std::string>& arguments, const std::vector<std::string>& mentions, const Setting& setting = {}) const {
    const Result result = run(arguments, setting);
    EXPECT_EQ(result.code, code) << testing::PrintToString(arguments) << "\n" << result.err;
    EXPECT_EQ(result.out, "");
    const std::vector<std::string> lines = lines_of(result.err);
    EXPECT_EQ(lines.size(), 1u) << result.err;
    if (lines.empty()) return "";
    EXPECT_TRUE(lines[0].starts_with("lsaq: ")) << result.err;
    for (const std::string& part : mentions) EXPECT_THAT(lines[0], testing::HasSubstr(part));
    for (const char c : lines[0]) EXPECT_GE(static_cast<unsigned char>(c), 0x20u) << lines[0];
    return lines[0];
  }

private:
  make_files::TemporaryFolder folder_;
};

enum ExitCode : int { done = 0, wrong_usage = 2, does_not_fit = 3, bad_input = 4, io_failed = 5, interrupted = 130 };

/// No line is wider than a terminal. Characters are counted, not bytes.
inline void expect_80_columns(const std::string& text) {
  for (const std::string& line : lines_of(text)) {
    const auto columns = std::count_if(line.begin(), line.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80; });
    EXPECT_LE(columns, 80) << line;
  }
}

} // namespace command_tests
