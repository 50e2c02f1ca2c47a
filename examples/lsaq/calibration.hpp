// Calibration windows: token ids from the built-in text, a text file, or a file of ids.
#pragma once

#include "model_files.hpp"

#include <lsaq/types.hpp>

#include <optional>
#include <random>
#include <vector>

namespace command {

/// Token ids of windows; each is a sequence of its own.
using Windows = std::vector<std::vector<lsaq::TokenId>>;

/// Where windows come from and how they are cut.
struct CalibrationOptions {
  std::string text_file = {};      ///< --text; empty: the built-in text
  std::string token_ids_file = {}; ///< --token-ids; used instead of text if set
  std::size_t windows = 32;
  std::size_t window_length = 128;
  bool fewer_will_do = false;             ///< a text with fewer windows is no surprise
  std::optional<std::uint64_t> seed = {}; ///< --seed: windows are drawn at random from the text; unset: the first ones
};

void add_calibration_options(CLI::App& verb, CalibrationOptions& options);

/// Cuts tokens into consecutive windows; a rest that fills no window is left out.
Windows cut_windows(const std::vector<lsaq::TokenId>& tokens, std::size_t length, std::size_t most);

/// `count` (at most n) different numbers below n in the order drawn: the same on every machine.
std::vector<std::size_t> draw(std::size_t n, std::size_t count, std::mt19937_64& random);

/// A file with a JSON array of arrays of ids, each a window. Throws BadInput naming the window.
Windows read_token_ids(const std::filesystem::path& path, const lsaq::llama::Config& config);

/// Windows of the chosen text, the first ones or drawn by the seed, tokenized without special tokens; or those of the file of ids. Throws BadInput,
/// InvalidArgument.
Windows calibration_windows(const Model& model, const CalibrationOptions& options);

} // namespace command
