#include "tokens.hpp"
#include "console.hpp"

#include <lsaq/models/chat_template.hpp>
#include <lsaq/models/tokenizer.hpp>

#include <array>

namespace command {

Tokens::Tokens(const lsaq::ModelSource& source) : tokenizer_(std::make_unique<lsaq::Tokenizer>(lsaq::Tokenizer::open(source))) {}
Tokens::~Tokens() = default;

std::vector<lsaq::TokenId> Tokens::plain(std::string_view text) const { return tokenizer_->encode(text, {.add_bos = false}); }

std::vector<lsaq::TokenId> Tokens::prompt(std::string_view text, bool raw) const {
  if (!raw && !tokenizer_->chat_template().empty()) {
    const std::array messages{lsaq::ChatMessage{"user", std::string(text)}};
    const auto word = [&](std::optional<lsaq::TokenId> token) { return token ? tokenizer_->token_text(*token) : std::string(); };
    const lsaq::Expected<std::string> chat =
        lsaq::apply_chat_template(tokenizer_->chat_template(), messages, {.bos = word(tokenizer_->bos()), .eos = word(tokenizer_->eos())});
    if (chat) return tokenizer_->encode(*chat, {.add_bos = false, .parse_special = true});
    note("note: " + chat.error().message + "; the prompt is used as it is");
  }
  return tokenizer_->encode(text);
}

const std::string& Tokens::text(lsaq::TokenId token) const { return tokenizer_->token_text(token); }
bool Tokens::ends_generation(lsaq::TokenId token) const { return tokenizer_->ends_generation(token); }

} // namespace command
