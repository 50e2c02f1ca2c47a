// Windows of token ids, as `lsaq eval --token-ids` reads them: a JSON array of arrays.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/types.hpp>

#include <nlohmann/json.hpp>

#include <fstream>
#include <string>
#include <vector>

/// Throws BadInput naming the file.
inline std::vector<std::vector<lsaq::TokenId>> read_token_ids(const std::string& path) {
  std::ifstream file(path);
  const nlohmann::json ids = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!ids.is_array() || ids.empty()) lsaq::fail<lsaq::BadInput>(path + ": not a JSON array of arrays of token ids");
  return ids.get<std::vector<std::vector<lsaq::TokenId>>>();
}
