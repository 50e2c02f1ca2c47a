#include "calibration.hpp"
#include "calibration_text.hpp"
#include "tokens.hpp"

#include <nlohmann/json.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <numeric>

namespace command {

void add_calibration_options(CLI::App& verb, CalibrationOptions& options) {
  CLI::Option* text = verb.add_option("--text", options.text_file, "Text to calibrate on (default: a text that comes with the program)");
  CLI::Option* ids = verb.add_option("--token-ids", options.token_ids_file, "Token ids to calibrate on: a JSON array of arrays, each a window")->excludes(text);
  verb.add_option("--windows", options.windows, "Windows to average over")->capture_default_str()->check(CLI::Range(1, 1 << 20))->excludes(ids);
  verb.add_option("--seed", options.seed, "Draw windows and sampled positions at random by this number (default: the first windows of the text)")
      ->check(CLI::NonNegativeNumber);
  verb.add_option("--window-length", options.window_length, "Tokens of a window")->capture_default_str()->check(CLI::Range(1, 1 << 20))->excludes(ids);
}

Windows read_token_ids(const std::filesystem::path& path, const lsaq::llama::Config& config) {
  const std::string name = lsaq::printable_path(path);
  const nlohmann::json json = nlohmann::json::parse(read_file(path), nullptr, false); // no exceptions: discarded if it is no JSON
  const auto refuse = [&](const std::string& sentence) { lsaq::fail<lsaq::BadInput>(name + ": " + sentence); };
  if (!json.is_array() || json.empty()) refuse("a JSON array of arrays of token ids is wanted");
  Windows windows;
  for (const nlohmann::json& window : json) {
    if (!window.is_array() || window.empty()) refuse(fmt::format("window {} is not an array of token ids", windows.size()));
    std::vector<lsaq::TokenId>& ids = windows.emplace_back();
    for (const nlohmann::json& id : window) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= config.vocabulary)
        refuse(fmt::format("window {} holds {}; token ids of this model are 0 to {}", windows.size() - 1, lsaq::printable(id.dump()), config.vocabulary - 1));
      ids.push_back(id.get<lsaq::TokenId>());
    }
  }
  return windows;
}

Windows cut_windows(const std::vector<lsaq::TokenId>& tokens, std::size_t length, std::size_t most) {
  Windows windows;
  for (auto first = tokens.begin(); windows.size() < most && tokens.end() - first >= static_cast<std::ptrdiff_t>(length);) {
    const auto end = first + static_cast<std::ptrdiff_t>(length);
    windows.emplace_back(first, end);
    first = end;
  }
  return windows;
}

std::vector<std::size_t> draw(std::size_t n, std::size_t count, std::mt19937_64& random) {
  std::vector<std::size_t> numbers(n);
  std::iota(numbers.begin(), numbers.end(), std::size_t{0});
  for (std::size_t i = 0; i < count; ++i) std::swap(numbers[i], numbers[i + random() % (n - i)]);
  numbers.resize(count);
  return numbers;
}

Windows calibration_windows(const Model& model, const CalibrationOptions& options) {
  if (!options.token_ids_file.empty()) return read_token_ids(options.token_ids_file, model.config);
  const std::string text = options.text_file.empty() ? std::string(calibration_text) : read_file(options.text_file);
  const std::string origin = options.text_file.empty() ? "the built-in calibration text" : lsaq::printable(options.text_file);
  const std::vector<lsaq::TokenId> tokens = Tokens(model.source).plain(text);
  const std::size_t whole = tokens.size() / options.window_length;
  if (whole == 0)
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: {} tokens do not fill one window of {}; give a longer text or a smaller --window-length", origin, tokens.size(),
                                           options.window_length));
  if (whole < options.windows && !options.fewer_will_do)
    note(fmt::format("note: {} gives {} windows of {} tokens, not {}", origin, whole, options.window_length, options.windows));
  if (!options.seed) return cut_windows(tokens, options.window_length, options.windows);
  const Windows all = cut_windows(tokens, options.window_length, whole);
  std::mt19937_64 random(*options.seed);
  Windows chosen;
  for (const std::size_t w : draw(whole, std::min(options.windows, whole), random)) chosen.push_back(all[w]);
  return chosen;
}

} // namespace command
