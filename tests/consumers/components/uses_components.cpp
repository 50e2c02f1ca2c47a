// Emits code of both components, so that what they need must be there when linking.
#include <lsaq/formats/gguf.hpp>
#include <lsaq/models/tokenizer.hpp>

#include <string>
#include <vector>

lsaq::GgufFile open_file(const std::string& path) { return lsaq::GgufFile::open(path); }
lsaq::Tokenizer make_tokenizer(const lsaq::SentencePieceVocabulary& vocabulary) { return lsaq::Tokenizer(vocabulary); }
auto encode(const lsaq::Tokenizer& tokenizer, const std::string& text) { return tokenizer.encode(text); }
