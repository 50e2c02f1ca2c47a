// lsaq importance: --plot, --plot-ranks, and results of files beside those measured.
#include "importance_command.hpp"

namespace command_tests {
namespace importance_pictures_test {

class ImportancePictures : public ImportanceCommand {
protected:
  static bool has_gnuplot() { return std::system("gnuplot --version > /dev/null 2>&1") == 0; }

  /// A file as `lsaq importance -o` writes it.
  std::string result_of(const std::string& name, const std::vector<double>& scores) const {
    return write(name, json{{"schema", "lsaq.importance/1"}, {"metric", "mine"}, {"scores", scores}}.dump());
  }
};

TEST_F(ImportancePictures, DrawsScoresAndRanks) {
  if (!has_gnuplot()) GTEST_SKIP() << "gnuplot is not installed";
  const std::string ids = token_ids(2, 12);
  for (const char* suffix : {"svg", "png"}) {
    const std::string scores = path(std::string("scores.") + suffix).string(), ranks = path(std::string("ranks.") + suffix).string();
    const Result result = run({"importance", model(), "--token-ids", ids, "--metric", "jaccard,cosine", "--plot", scores, "--plot-ranks", ranks});
    EXPECT_EQ(result.code, done) << result.err;
    for (const std::string& file : {scores, ranks}) {
      const std::string content = make_files::content_of(file);
      EXPECT_TRUE(content.starts_with(std::string_view(suffix) == "svg" ? "<?xml" : "\x89PNG")) << file;
      if (!content.starts_with("<?xml")) continue;
      for (const char* part : {"jaccard", "cosine", "Small Llama", "</svg>"}) EXPECT_THAT(content, testing::HasSubstr(part)) << file;
    }
  }
  const std::string one = path("one.svg").string();
  EXPECT_EQ(importance(ids, {"--plot", one}).at("cached"), true) << "drawn from what is known";
  EXPECT_TRUE(make_files::content_of(one).starts_with("<?xml"));
}

TEST_F(ImportancePictures, RefusesBeforeMeasuring) {
  const Words call = {"importance", model(), "--token-ids", token_ids(2, 12)};
  for (const char* option : {"--plot", "--plot-ranks"}) {
    for (const char* name : {"p.pdf", "p", "p.svg.gz", "svg"}) {
      const std::string file = path(name).string();
      refusal(wrong_usage, call + Words{"--metric", "jaccard,cosine", option, file}, {file, ".svg", ".png"});
    }
    refusal(io_failed, call + Words{"--metric", "jaccard,cosine", option, path("none/p.svg").string()}, {"none/p.svg"});
    refusal(wrong_usage, call + Words{option, ""}, {"empty"});
  }
  if (has_gnuplot()) {
    const std::string picture = path("p.svg").string();
    for (const Words& single : {Words{}, Words{"--metric", "cosine", "--top-k", "5,10"}})
      refusal(wrong_usage, call + single + Words{"--plot-ranks", picture}, {"--plot-ranks", "several", "--with"});
    refusal(wrong_usage, call + Words{"--plot-ranks", picture, "--with", result_of("three.json", {1, 2, 3})}, {"--plot-ranks", "one number of layers"});
    EXPECT_FALSE(std::filesystem::exists(picture));
  }
  EXPECT_EQ(results_kept(), 0u);
}

TEST_F(ImportancePictures, ShowsResultsOfFiles) {
  const std::string ids = token_ids(2, 12), mine = result_of("my own.json", {4, 3, 2, 1}), three = result_of("three.json", {1, 2, 3});
  const json measured = importance(ids);
  std::vector<double> opposite;
  for (const json& score : measured.at("scores")) opposite.push_back(-score.get<double>());
  const std::string against = result_of("against.json", opposite), written = path("written.json").string();
  const json object = importance(ids, {"--with", mine, "--with", against, "-o", written});
  EXPECT_EQ(object.at("schema"), "lsaq.importance/1") << "one result was measured";
  EXPECT_EQ(object.at("spearman").at("names"), (json{"jaccard", "my own", "against"}));
  EXPECT_DOUBLE_EQ(object.at("spearman").at("matrix")[0][2].get<double>(), -1);
  EXPECT_EQ(object.at("spearman").at("matrix")[0][1], object.at("spearman").at("matrix")[1][0]);
  EXPECT_EQ(importance(ids, {"--with", written}).at("spearman").at("matrix"), (json{{1, 1}, {1, 1}})) << "what was written is read back";

  const Result text = run({"importance", model(), "--token-ids", ids, "--with", mine});
  EXPECT_EQ(text.code, done);
  expect_80_columns(text.out);
  EXPECT_THAT(text.out, testing::HasSubstr("my own"));

  // Another model's layers are not compared, but may be drawn.
  EXPECT_FALSE(importance(ids, {"--with", three}).contains("spearman"));
  if (!has_gnuplot()) return;
  const std::string picture = path("p.svg").string(), ranks = path("r.svg").string();
  (void)importance(ids, {"--with", three, "--plot", picture});
  EXPECT_THAT(make_files::content_of(picture), testing::HasSubstr("three"));
  (void)importance(ids, {"--with", mine, "--plot-ranks", ranks});
  EXPECT_THAT(make_files::content_of(ranks), testing::HasSubstr("my own"));
}

TEST_F(ImportancePictures, RefusesFilesThatHoldNoResult) {
  const Words call = {"importance", model(), "--token-ids", token_ids(2, 12), "--with"};
  const std::string set = path("set.json").string(), missing = path("missing.json").string();
  (void)importance(token_ids(2, 12), {"--metric", "outlier", "--metric", "cosine", "-o", set, "--no-cache"});
  const std::size_t before = results_kept();
  refusal(bad_input, call + Words{missing}, {missing});
  refusal(bad_input, call + Words{set}, {set, "several results"});
  refusal(bad_input, call + Words{write("bad.json", "{")}, {path("bad.json").string(), "JSON"});
  refusal(bad_input, call + Words{write("bad.json", R"({"schema":"lsaq.importance/1","scores":[]})")}, {path("bad.json").string(), "scores"});
  EXPECT_EQ(results_kept(), before) << "nothing was measured";
}

} // namespace importance_pictures_test
} // namespace command_tests
