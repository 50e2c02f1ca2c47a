// What the tests of `lsaq importance` share.
#pragma once

#include "command_runner.hpp"

#include <numeric>

namespace command_tests {

using Words = std::vector<std::string>;

inline Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

/// A result as docs/formats.md says it is: scores, their spread, and the order that follows from them.
inline void expect_importance(const json& object, std::size_t layers) {
  EXPECT_EQ(object.value("schema", ""), "lsaq.importance/1");
  ASSERT_EQ(object.at("scores").size(), layers);
  ASSERT_EQ(object.at("spread").size(), layers);
  std::vector<std::size_t> order(layers);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return object.at("scores")[a] < object.at("scores")[b]; });
  EXPECT_EQ(object.at("order"), json(order)) << "least important first, ties by layer";
}

/// The object without what differs from run to run.
inline json lasting(json object) {
  for (const char* key : {"seconds", "cached"}) object.erase(key);
  if (object.contains("results"))
    for (json& result : object["results"]) result = lasting(result);
  return object;
}

class ImportanceCommand : public Command {
protected:
  std::size_t files_in(const std::filesystem::path& folder) const {
    std::error_code none;
    std::size_t count = 0;
    for (std::filesystem::directory_iterator entry(folder, none), end; !none && entry != end; ++entry) ++count;
    return count;
  }
  std::size_t results_kept() const { return files_in(cache() / "lsaq" / "importance"); }

  /// A result with these options; `ids` is a file of token ids.
  json importance(const std::string& ids, const Words& options = {}) { return run_json(Words{"importance", model(), "--token-ids", ids} + options); }
  /// Likewise, whatever the cache has.
  json measured(const std::string& ids, const Words& options = {}) {
    const json object = importance(ids, options + Words{"--no-cache"});
    EXPECT_FALSE(object.value("cached", false));
    return object;
  }
};

} // namespace command_tests
