// Small vocabularies for the tests of tokenizers, complete in themselves.
#pragma once

#include <lsaq/models/bpe.hpp>
#include <lsaq/models/vocabulary.hpp>

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace small_vocabularies {

/// Control tokens <|end|> = 0 and <|start|> = 1, the 256 bytes from 2 on in the order of their values, then a token for each merge "a b".
inline lsaq::BpeVocabulary byte_level(std::initializer_list<std::string_view> merges, std::vector<lsaq::SplitRule> splits = {lsaq::SplitRule::gpt2}) {
  lsaq::BpeVocabulary vocabulary;
  vocabulary.source = "small.json";
  vocabulary.tokens = {"<|end|>", "<|start|>"};
  for (const char32_t c : lsaq::byte_level_alphabet()) lsaq::append_utf8(vocabulary.tokens.emplace_back(), c);
  for (const std::string_view merge : merges) {
    const std::size_t space = merge.find(' ');
    vocabulary.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
    vocabulary.tokens.push_back(vocabulary.merges.back().first + vocabulary.merges.back().second);
  }
  vocabulary.kinds.assign(vocabulary.tokens.size(), lsaq::TokenKind::normal);
  vocabulary.kinds[0] = vocabulary.kinds[1] = lsaq::TokenKind::control;
  vocabulary.added = {{.text = "<|end|>", .id = 0, .special = true}, {.text = "<|start|>", .id = 1, .special = true}};
  vocabulary.special.eos = 0;
  vocabulary.special.bos = 1;
  vocabulary.splits = std::move(splits);
  return vocabulary;
}

/// <unk> = 0, <s> = 1, </s> = 2, the 256 bytes from 3 on, then pieces in the order of their merges.
inline lsaq::SentencePieceVocabulary sentencepiece() {
  lsaq::SentencePieceVocabulary vocabulary;
  vocabulary.source = "small.gguf";
  const auto add = [&](std::string piece, lsaq::TokenKind kind) {
    vocabulary.scores.push_back(-static_cast<float>(vocabulary.tokens.size()));
    vocabulary.tokens.push_back(std::move(piece));
    vocabulary.kinds.push_back(kind);
  };
  add("<unk>", lsaq::TokenKind::unknown);
  add("<s>", lsaq::TokenKind::control);
  add("</s>", lsaq::TokenKind::control);
  for (unsigned byte = 0; byte < 256; ++byte) add(lsaq::byte_token(static_cast<unsigned char>(byte)), lsaq::TokenKind::byte);
  for (const char* piece : {"he", "ll", "\u2581t", "hell", "\u2581hell", "\u2581hello", "\u2581", "h", "e", "l", "o", "t"}) add(piece, lsaq::TokenKind::normal);
  add("<user>", lsaq::TokenKind::user_defined);
  vocabulary.special.bos = 1;
  vocabulary.special.eos = 2;
  vocabulary.special.unknown = 0;
  vocabulary.special.add_bos = true;
  return vocabulary;
}

} // namespace small_vocabularies
