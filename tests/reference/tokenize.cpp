// lsaq_tokenize MODEL FILE: token ids of a text, without special tokens, as a JSON array; what reference.py compares with the tokenizers library.
#include <lsaq/models/tokenizer.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: lsaq_tokenize MODEL FILE\n");
    return 2;
  }
  try {
    const lsaq::Tokenizer tokenizer = lsaq::Tokenizer::open(lsaq::ModelSource::open(argv[1]));
    std::ifstream file(argv[2], std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    if (!file) lsaq::fail<lsaq::IoError>(std::string(argv[2]) + ": can't be read");
    std::puts(nlohmann::json(tokenizer.encode(text, {.add_bos = false})).dump().c_str());
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lsaq_tokenize: %s\n", error.what());
    return 1;
  }
}
