#include "evaluation_windows.hpp"
#include "calibration_text.hpp"
#include "planning.hpp"
#include "tokens.hpp"

#include <fmt/format.h>

namespace command {

namespace llama = lsaq::llama;
using llama::Protocol;

namespace {

std::vector<llama::ScoredWindow> windows_of_text(const Model& model, const EvaluationText& options, std::size_t context, std::size_t stride,
                                                 const std::string& source) {
  const Tokens tokenizer(model.source);
  std::vector<lsaq::TokenId> tokens = tokenizer.plain(options.text_file.empty() ? std::string(calibration_text) : read_file(options.text_file));
  std::optional<lsaq::TokenId> bos;
  if (options.protocol == Protocol::second_half) {
    const std::vector<lsaq::TokenId> special = tokenizer.prompt("", true); // what the vocabulary puts before a text
    if (!special.empty()) bos = special.front();
    tokens.insert(tokens.begin(), special.begin(), special.end());
  }
  if (tokens.size() < 2) lsaq::fail<lsaq::BadInput>(source + ": a text of at least two tokens is wanted");
  if (options.protocol == Protocol::strided) return llama::strided_windows(tokens, context, stride);
  return llama::consecutive_windows(tokens, std::min(context, tokens.size()), options.protocol, bos);
}

} // namespace

std::optional<Protocol> protocol_named(std::string_view name) {
  for (const Protocol protocol : {Protocol::every, Protocol::second_half, Protocol::strided})
    if (name == name_of(protocol)) return protocol;
  return std::nullopt;
}

std::string describe(Protocol protocol, std::size_t stride) {
  switch (protocol) {
  case Protocol::every: return "the first of each not scored";
  case Protocol::second_half: return "tokens of the second half scored";
  case Protocol::strided: return fmt::format("{} tokens apart, each token scored once", stride);
  }
  return "";
}

EvaluationWindows evaluation_windows(const Model& model, const EvaluationText& options) {
  const bool strided = options.protocol == Protocol::strided;
  const std::size_t context = context_of(model.config, options.context, 512);
  const std::size_t stride = options.stride.value_or(std::max<std::size_t>(1, context / 2));
  if (options.stride && !strided) lsaq::fail<lsaq::InvalidArgument>("a stride belongs to the strided protocol");
  if (strided && stride > context)
    lsaq::fail<lsaq::InvalidArgument>(fmt::format("a stride of {} leaves out tokens between windows of {}; the context is the longest", stride, context));
  EvaluationWindows result{.stride = strided ? stride : 0};
  if (!options.token_ids_file.empty()) {
    result.source = lsaq::printable_path(options.token_ids_file);
    for (std::vector<lsaq::TokenId>& ids : read_token_ids(options.token_ids_file, model.config)) {
      if (strided)
        for (llama::ScoredWindow& window : llama::strided_windows(ids, context, stride)) result.windows.push_back(std::move(window));
      else
        result.windows.push_back(llama::scored_window(std::move(ids), options.protocol));
    }
  } else {
    result.source = options.text_file.empty() ? "the built-in text" : lsaq::printable_path(options.text_file);
    result.windows = windows_of_text(model, options, context, stride, result.source);
  }
  if (options.windows != 0 && result.windows.size() > options.windows) result.windows.resize(options.windows);
  for (const llama::ScoredWindow& window : result.windows) {
    result.longest = std::max(result.longest, window.tokens.size());
    result.targets += window.targets();
  }
  if (result.targets == 0) lsaq::fail<lsaq::BadInput>(result.source + ": no window has a token to score: two tokens are the least");
  if (result.longest > model.config.longest_context)
    lsaq::fail<lsaq::BadInput>(
        fmt::format("{}: a window has {} tokens, the model was made for at most {}", result.source, result.longest, model.config.longest_context));
  return result;
}

std::vector<llama::ScoredWindow> scored_windows(const Windows& windows, std::string_view needed_by) {
  std::vector<llama::ScoredWindow> scored;
  for (const std::vector<lsaq::TokenId>& window : windows) {
    if (window.size() < 2) lsaq::fail<lsaq::InvalidArgument>(std::string(needed_by) + " need windows of at least 2 tokens: the first one can't be predicted");
    scored.push_back({window, 1});
  }
  return scored;
}

} // namespace command
