// Changes text before it is cut into words, as a tokenizer.json says: Unicode normalization, prefixes, replaced characters.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/models/vocabulary.hpp>

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Unicode normalization form C of text in UTF-8; bytes that are not UTF-8 stay as they are.
inline std::string normalized_nfc(std::string_view text) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  std::string out;
  icu::StringByteSink<std::string> sink(&out, static_cast<std::int32_t>(std::min<std::size_t>(text.size(), 1u << 30)));
  while (!text.empty() && U_SUCCESS(error)) {
    std::size_t valid = 0;
    for (std::size_t length = 1; valid < text.size() && length != 0; valid += length) length = first_code_point(text.substr(valid)).length;
    nfc->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<std::int32_t>(valid)), sink, nullptr, error);
    text.remove_prefix(valid);
    if (text.empty()) break;
    out.push_back(text.front());
    text.remove_prefix(1);
  }
  if (U_FAILURE(error)) fail<Error>(std::string("ICU can't normalize text: ") + u_errorName(error));
  return out;
}

/// The text after all steps. `at_start`: whether the whole text begins here. At most 2^31 bytes.
inline std::string normalize(std::string_view text, std::span<const NormalizerStep> steps, bool at_start) {
  std::string out(text);
  for (const NormalizerStep& step : steps) {
    switch (step.kind) {
    case NormalizerStep::Kind::nfc: out = normalized_nfc(out); break;
    case NormalizerStep::Kind::prepend:
      if (!out.empty()) out.insert(0, step.to);
      break;
    case NormalizerStep::Kind::prepend_if_absent:
    case NormalizerStep::Kind::prepend_at_start:
      if (!out.starts_with(step.to) && (at_start || step.kind == NormalizerStep::Kind::prepend_if_absent)) out.insert(0, step.to);
      break;
    case NormalizerStep::Kind::replace: {
      std::string replaced;
      std::size_t begin = 0;
      for (std::size_t found = out.find(step.from); found != std::string::npos; found = out.find(step.from, begin)) {
        replaced.append(out, begin, found - begin).append(step.to);
        begin = found + step.from.size();
      }
      out = replaced.append(out, begin);
      break;
    }
    }
  }
  return out;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
