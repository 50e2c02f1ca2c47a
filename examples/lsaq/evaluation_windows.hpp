// The text that accuracy is measured on, cut into windows by a protocol.
#pragma once

#include "calibration.hpp"

#include <lsaq/models/evaluation.hpp>

namespace command {

/// Where the tokens come from and which of them are scored.
struct EvaluationText {
  std::string text_file;      ///< a text; if this and the next are empty: the text that comes with the program
  std::string token_ids_file; ///< a JSON array of arrays of ids, each a window (strided: a text of its own)
  std::optional<std::size_t> context;
  std::optional<std::size_t> stride; ///< of the strided protocol; default: half the context
  std::size_t windows = 0;           ///< only the first; 0: all
  lsaq::llama::Protocol protocol = lsaq::llama::Protocol::every;
};

/// Windows ready to be scored.
struct EvaluationWindows {
  std::vector<lsaq::llama::ScoredWindow> windows = {};
  std::string source = {}; ///< for people: the file's name
  std::size_t longest = 0; ///< tokens of the longest window
  std::size_t targets = 0; ///< tokens scored
  std::size_t stride = 0;  ///< 0: windows do not overlap
};

/// The protocol of this name, or nothing.
std::optional<lsaq::llama::Protocol> protocol_named(std::string_view name);

/// "every token of a window but its first": what a protocol scores, for people.
std::string describe(lsaq::llama::Protocol protocol, std::size_t stride);

/// Reads, tokenizes without special tokens and cuts. A rest that fills no window is left out, unless there is nothing else; the strided protocol scores it.
/// With the second-half protocol a text is treated as llama.cpp's perplexity program does: where the model's vocabulary asks for a BOS token, the text and
/// every window begin with it. Throws BadInput, InvalidArgument.
EvaluationWindows evaluation_windows(const Model& model, const EvaluationText& options);

/// Windows of which all tokens but the first are scored. Throws InvalidArgument, in the name of what needs them, if one has no other.
std::vector<lsaq::llama::ScoredWindow> scored_windows(const Windows& windows, std::string_view needed_by);

} // namespace command
