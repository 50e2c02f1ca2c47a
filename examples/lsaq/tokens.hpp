// Text and token ids, for the verbs: a thin front of lsaq::Tokenizer, which is compiled in one place.
#pragma once

#include <lsaq/formats/model_source.hpp>

#include <memory>
#include <string>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {
class Tokenizer;
}

namespace command {

/// The tokenizer of a model.
class Tokens {
public:
  /// Throws BadInput if the model's tokenizer is missing or not understood.
  explicit Tokens(const lsaq::ModelSource& source);
  ~Tokens();

  /// Ids of running text, without special tokens.
  std::vector<lsaq::TokenId> plain(std::string_view text) const;
  /// Ids of a prompt: as a user's message in the model's chat template if it has one we know and `raw` is false, else as running text.
  std::vector<lsaq::TokenId> prompt(std::string_view text, bool raw) const;
  /// A token as it is printed; may be part of a character.
  const std::string& text(lsaq::TokenId token) const;
  bool ends_generation(lsaq::TokenId token) const;

private:
  std::unique_ptr<lsaq::Tokenizer> tokenizer_;
};

} // namespace command
