// SentencePiece models: tokenizer.model files as they are, and the vocabularies of GGUF files written back into that format; the library does the work.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/formats/mapped_file.hpp>
#include <lsaq/models/vocabulary.hpp>

#include <sentencepiece_processor.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Writes the few parts of the protobuf wire format that a model file needs (protobuf.dev/programming-guides/encoding).
class ProtobufWriter {
public:
  void number(unsigned field, std::uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void number(unsigned field, float value) {
    varint(field << 3 | 5);
    const auto bits = std::bit_cast<std::uint32_t>(value);
    for (unsigned shift = 0; shift < 32; shift += 8) out_.push_back(static_cast<char>(static_cast<unsigned char>(bits >> shift)));
  }
  void bytes(unsigned field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    out_.append(value);
  }
  const std::string& str() const noexcept { return out_; }

private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_.push_back(static_cast<char>(static_cast<unsigned char>(value | 0x80)));
    out_.push_back(static_cast<char>(value));
  }

  std::string out_;
};

/// The vocabulary as a serialized sentencepiece.ModelProto of type BPE (sentencepiece_model.proto of SentencePiece 0.1.97).
///
/// Throws BadInput if scores or kinds do not go with the tokens, a score is not finite or the kinds make no valid model.
inline std::string serialized_model(const SentencePieceVocabulary& vocabulary) {
  const std::size_t count = vocabulary.tokens.size();
  const auto refuse = [&](const std::string& reason) { fail<BadInput>(vocabulary.source + ": " + reason); };
  if (vocabulary.scores.size() != count) refuse(std::to_string(vocabulary.scores.size()) + " scores for " + std::to_string(count) + " tokens");
  if (vocabulary.kinds.size() != count) refuse(std::to_string(vocabulary.kinds.size()) + " token types for " + std::to_string(count) + " tokens");

  ProtobufWriter model;
  bool byte_fallback = false;
  std::optional<TokenId> unknown;
  for (std::size_t id = 0; id < count; ++id) {
    if (!std::isfinite(vocabulary.scores[id])) refuse("the score of token " + std::to_string(id) + " is not finite");
    byte_fallback |= vocabulary.kinds[id] == TokenKind::byte;
    if (vocabulary.kinds[id] == TokenKind::unknown) unknown = static_cast<TokenId>(id);
    ProtobufWriter piece;
    piece.bytes(1, vocabulary.tokens[id]);
    piece.number(2, vocabulary.scores[id]);
    piece.number(3, static_cast<std::uint64_t>(vocabulary.kinds[id]));
    model.bytes(1, piece.str());
  }
  if (!unknown) refuse("no token is of type unknown, which SentencePiece needs");

  const auto id_or_none = [](std::optional<TokenId> id) { return id ? std::uint64_t{*id} : ~std::uint64_t{0}; }; // an int32 of -1 on the wire
  ProtobufWriter trainer;
  trainer.number(3, std::uint64_t{2}); // model_type BPE
  trainer.number(4, std::uint64_t{count});
  trainer.number(35, std::uint64_t{byte_fallback});
  trainer.number(40, std::uint64_t{*unknown});
  trainer.number(41, id_or_none(vocabulary.special.bos));
  trainer.number(42, id_or_none(vocabulary.special.eos));
  trainer.number(43, id_or_none(std::nullopt));
  model.bytes(2, trainer.str());

  ProtobufWriter normalizer;
  normalizer.bytes(1, "identity");
  normalizer.number(3, std::uint64_t{vocabulary.add_space_prefix});
  normalizer.number(4, std::uint64_t{vocabulary.remove_extra_spaces});
  normalizer.number(5, std::uint64_t{1}); // spaces become U+2581
  model.bytes(3, normalizer.str());
  return model.str();
}

/// A loaded model. Movable; const calls are safe from several threads.
class SentencePieceModel {
public:
  /// Loads a serialized ModelProto. Throws BadInput with `source`, fit to print, in front of what the library objects to.
  static SentencePieceModel load(std::string_view serialized, const std::string& source) {
    SentencePieceModel model;
    const auto status = model.processor_->LoadFromSerializedProto(serialized);
    if (!status.ok()) fail<BadInput>(source + ": not a usable SentencePiece model: " + printable(status.message(), 200));
    if (model.processor_->GetPieceSize() <= 0) fail<BadInput>(source + ": the SentencePiece model has no pieces");
    model.source_ = source;
    return model;
  }

  /// The tokenizer.model of a folder without a tokenizer.json that will do. Throws BadInput if there is none; otherwise as MappedFile::open and load().
  static SentencePieceModel from_folder(const std::filesystem::path& folder) {
    const std::filesystem::path path = folder / "tokenizer.model";
    std::error_code error;
    if (!std::filesystem::exists(path, error)) fail<BadInput>(printable_path(folder) + ": no tokenizer.json or tokenizer.model in this folder");
    const MappedFile file = MappedFile::open(path);
    return load({reinterpret_cast<const char*>(file.bytes().data()), file.size()}, printable_path(path));
  }

  /// What it was loaded from, fit to print.
  const std::string& source() const noexcept { return source_; }

  /// Appends the tokens of the text; bytes that are not UTF-8 are read as U+FFFD.
  void encode(std::string_view text, std::vector<TokenId>& out) const {
    std::vector<int> ids;
    const auto status = processor_->Encode(text, &ids);
    if (!status.ok()) fail<InvalidArgument>(source_ + ": SentencePiece can't encode this text: " + printable(status.message(), 200));
    out.insert(out.end(), ids.begin(), ids.end());
  }

  std::size_t size() const { return static_cast<std::size_t>(processor_->GetPieceSize()); }
  const std::string& piece(TokenId id) const { return processor_->IdToPiece(static_cast<int>(id)); }
  /// Of several merges the one that makes the piece with the highest score comes first.
  float score(TokenId id) const { return processor_->GetScore(static_cast<int>(id)); }

  /// The token of this piece.
  std::optional<TokenId> find(std::string_view piece) const {
    const int id = processor_->PieceToId(piece);
    return id >= 0 && processor_->IdToPiece(id) == piece ? std::optional(static_cast<TokenId>(id)) : std::nullopt; // unknown pieces get the unknown id
  }

  TokenKind kind(TokenId token) const {
    const int id = static_cast<int>(token);
    if (processor_->IsUnknown(id)) return TokenKind::unknown;
    if (processor_->IsControl(id)) return TokenKind::control;
    if (processor_->IsByte(id)) return TokenKind::byte;
    return processor_->IsUnused(id) ? TokenKind::unused : TokenKind::normal;
  }

  std::optional<TokenId> bos() const { return token_or_none(processor_->bos_id()); }
  std::optional<TokenId> eos() const { return token_or_none(processor_->eos_id()); }
  std::optional<TokenId> unknown() const { return token_or_none(processor_->unk_id()); }
  /// These, and that texts begin with bos.
  SpecialTokens special() const {
    SpecialTokens special;
    special.bos = bos();
    special.eos = eos();
    special.unknown = unknown();
    special.add_bos = true;
    return special;
  }

  /// Whether encoding puts a space in front of the text.
  bool adds_space_prefix() const {
    std::vector<std::string> pieces;
    return processor_->Encode("a", &pieces).ok() && !pieces.empty() && pieces.front().starts_with("\u2581");
  }

private:
  SentencePieceModel() : processor_(std::make_unique<sentencepiece::SentencePieceProcessor>()) {}

  static std::optional<TokenId> token_or_none(int id) { return id < 0 ? std::nullopt : std::optional(static_cast<TokenId>(id)); }

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::string source_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
