// lsaq importance: the object it prints, its cache, how sure it is, interruption.
#include "importance_command.hpp"

#include <unistd.h>

namespace command_tests {
namespace importance_test {

TEST_F(ImportanceCommand, PrintsTheDocumentedObject) {
  const std::string file = path("importance.json").string();
  const json printed = run_json({"importance", model(), "-o", file});
  expect_importance(printed, 4);
  EXPECT_EQ(printed.at("model"), "Small Llama");
  EXPECT_EQ(printed.at("metric"), "jaccard");
  EXPECT_EQ(printed.at("top_k"), 50);
  EXPECT_EQ(printed.at("windows"), 32);
  EXPECT_EQ(printed.at("cached"), false);
  for (const json& score : printed.at("scores")) {
    EXPECT_GT(score.get<double>(), 0);
    EXPECT_LE(score.get<double>(), 1);
  }
  const json written = json::parse(make_files::content_of(file));
  expect_importance(written, 4);
  EXPECT_EQ(written.at("scores"), printed.at("scores"));
}

TEST_F(ImportanceCommand, DoesNotDependOnThreads) {
  const std::string ids = token_ids(4, 70);
  const json one = run_json({"importance", model(), "--token-ids", ids, "--threads", "1", "--no-cache"});
  EXPECT_EQ(run_json({"importance", model(), "--token-ids", ids, "--threads", "4", "--no-cache"}).at("scores"), one.at("scores"));
}

TEST_F(ImportanceCommand, IsKeptInTheCache) {
  const std::string ids = token_ids(2, 20), file = path("a.json").string(), again = path("b.json").string();
  const std::vector<std::string> call = {"importance", model(), "--token-ids", ids};
  const json first = run_json(call), second = run_json(call);
  EXPECT_EQ(first.at("cached"), false);
  EXPECT_EQ(second.at("cached"), true);
  EXPECT_EQ(second.at("scores"), first.at("scores"));
  EXPECT_EQ(second.at("order"), first.at("order"));
  EXPECT_EQ(files_in(cache() / "lsaq" / "importance"), 1u);
  EXPECT_EQ(run_json({"importance", model(), "--token-ids", ids, "--no-cache"}).at("cached"), false);
  EXPECT_EQ(run_json({"importance", model(), "--token-ids", token_ids(2, 21, "other.json")}).at("cached"), false) << "other windows";
  EXPECT_EQ(run_json({"importance", model(), "--token-ids", ids, "--top-k", "10"}).at("cached"), false) << "another k";

  // The file's contents count, not its name.
  std::filesystem::copy_file(model(), path("copy.gguf"));
  EXPECT_EQ(run_json({"importance", path("copy.gguf").string(), "--token-ids", ids}).at("cached"), true);
  small_llama::Model other = small_model();
  other.tensors.at("model.norm.weight").values[0] = 2;
  EXPECT_EQ(run_json({"importance", write_model("copy.gguf", other), "--token-ids", ids}).at("cached"), false);
}

TEST_F(ImportanceCommand, MeasuresAgainWhereTheCacheIsDamaged) {
  const std::vector<std::string> call = {"importance", model(), "--token-ids", token_ids(2, 20)};
  const json first = run_json(call);
  const auto folder = cache() / "lsaq" / "importance";
  ASSERT_EQ(files_in(folder), 1u);
  const auto entry = std::filesystem::directory_iterator(folder)->path();
  for (const char* damage :
       {"", "{", "[]", R"({"schema":"lsaq.importance/1","scores":[1,2]})", R"({"schema":"lsaq.importance/1","metric":"jaccard","scores":[1,2,3,4]})",
        R"({"schema":"lsaq.importance/1","metric":"cosine","windows":1,"scores":[1,2,3,4],"window_scores":[[1,2,3,4]]})"}) {
    std::ofstream(entry, std::ios::trunc) << damage;
    const json again = run_json(call);
    EXPECT_EQ(again.at("cached"), false) << damage;
    EXPECT_EQ(again.at("scores"), first.at("scores"));
  }
  EXPECT_EQ(run_json(call).at("cached"), true) << "mended";
}

/// Every option that changes a result, or may: each is measured once, and nothing is mistaken for anything else.
TEST_F(ImportanceCommand, KeepsResultsOfOtherOptionsApart) {
  const std::string ids = token_ids(9, 12);
  const Words options[] = {{},
                           {"--top-k", "7"},
                           {"--metric", "ranked"},
                           {"--metric", "cosine"},
                           {"--metric", "cosine", "--norm", "final"},
                           {"--metric", "cosine", "--positions", "all"},
                           {"--metric", "cosine", "--positions", "sampled:3"},
                           {"--metric", "cosine", "--positions", "sampled:3", "--seed", "2"},
                           {"--metric", "cosine", "--positions", "sampled:4"},
                           {"--metric", "cosine", "--until-stable"},
                           {"--head", "output"},
                           {"--metric", "outlier"},
                           {"--metric", "outlier", "--sigmas", "1"},
                           {"--metric", "outlier", "--sigmas", "1", "--outlier-direction", "fewer"},
                           {"--metric", "output-error"},
                           {"--metric", "output-error", "--error-bits", "3"}};
  std::vector<json> first;
  for (const Words& some : options) {
    first.push_back(importance(ids, some));
    EXPECT_EQ(first.back().at("cached"), false) << testing::PrintToString(some);
    EXPECT_EQ(results_kept(), first.size());
  }
  for (std::size_t i = 0; i < first.size(); ++i) {
    const json again = importance(ids, options[i]);
    EXPECT_EQ(again.at("cached"), true) << testing::PrintToString(options[i]);
    EXPECT_EQ(lasting(again), lasting(first[i])) << testing::PrintToString(options[i]);
    // The head is tied, and an order may be stable with all windows; everything else changes scores.
    const bool may_be_equal = options[i] == Words{"--head", "output"} || (i > 0 && options[i].back() == "--until-stable");
    for (std::size_t j = 0; j < i && !may_be_equal; ++j)
      EXPECT_NE(first[i].at("scores"), first[j].at("scores")) << testing::PrintToString(options[i]) << " and " << testing::PrintToString(options[j]);
  }
  EXPECT_EQ(importance(ids, {"--metric", "cosine", "--seed", "2"}).at("cached"), true) << "a seed draws nothing from windows that are given";
  EXPECT_EQ(results_kept(), first.size());
}

/// Of several results only those that are missing are measured; a joint order is made of what is known of its parts.
TEST_F(ImportanceCommand, MeasuresOnlyWhatIsMissing) {
  const std::string ids = token_ids(3, 12);
  const json jaccard = importance(ids, {"--top-k", "7"});
  const json set = importance(ids, {"--top-k", "7,9", "--metric", "cosine,jaccard"});
  ASSERT_EQ(set.at("results").size(), 3u);
  EXPECT_EQ(set.at("results")[1].at("cached"), true);
  EXPECT_EQ(lasting(set.at("results")[1]), lasting(jaccard));
  for (const std::size_t i : {0, 2}) {
    EXPECT_EQ(set.at("results")[i].at("cached"), false);
    EXPECT_GE(set.at("results")[i].at("seconds").get<double>(), 0);
  }
  EXPECT_EQ(results_kept(), 3u);
  EXPECT_EQ(importance(ids, {"--top-k", "9", "--metric", "joint"}).at("cached"), false) << "its output error was not known";
  EXPECT_EQ(results_kept(), 4u);
  EXPECT_EQ(importance(ids, {"--top-k", "9", "--metric", "joint"}).at("cached"), true);
  EXPECT_EQ(importance(ids, {"--metric", "output-error"}).at("cached"), true);
}

TEST_F(ImportanceCommand, SaysHowSureTheOrderIs) {
  const auto expect_confidence = [](const json& result, std::size_t windows) {
    const json& confidence = result.at("confidence");
    EXPECT_EQ(confidence.at("windows"), windows);
    EXPECT_EQ(confidence.at("trusted"), windows >= 8);
    EXPECT_GE(confidence.at("agreement").get<double>(), -1);
    EXPECT_LE(confidence.at("agreement").get<double>(), 1);
    ASSERT_EQ(confidence.at("sets").size(), 3u);
    for (std::size_t s = 0; s < 3; ++s) { // a quarter, half and three quarters of four layers
      const json& set = confidence.at("sets")[s];
      EXPECT_EQ(set.at("count"), s + 1);
      EXPECT_GE(set.at("overlap").get<double>(), 0);
      EXPECT_LE(set.at("overlap").get<double>(), 1);
      const auto probabilities = set.at("probabilities").get<std::vector<double>>();
      ASSERT_EQ(probabilities.size(), 4u);
      for (const double probability : probabilities) EXPECT_TRUE(probability >= 0 && probability <= 1 + 1e-9) << probability;
      EXPECT_NEAR(std::accumulate(probabilities.begin(), probabilities.end(), 0.0), static_cast<double>(s + 1), 1e-9);
      double chosen = 0;
      for (std::size_t i = 0; i <= s; ++i) chosen += probabilities[result.at("order")[i].get<std::size_t>()];
      EXPECT_NEAR(set.at("overlap").get<double>(), chosen / static_cast<double>(s + 1), 1e-9) << "the layers of this order, as probable as each is";
    }
  };
  const std::string file = path("written.json").string();
  const json nine = importance(token_ids(9, 12, "nine.json"), {"-o", file});
  expect_confidence(nine, 9);
  EXPECT_EQ(json::parse(make_files::content_of(file)), lasting(nine)) << "the file has all but what belongs to this run";
  expect_confidence(importance(token_ids(9, 12, "nine.json"), {"--metric", "cosine", "--top-k", "5"}), 9);
  expect_confidence(importance(token_ids(2, 12, "two.json")), 2);
  EXPECT_FALSE(importance(token_ids(1, 12, "one.json")).contains("confidence")) << "one window says nothing of others";
  EXPECT_FALSE(importance(token_ids(9, 12, "nine.json"), {"--metric", "outlier"}).contains("confidence"));

  const auto text_of = [&](const char* ids) { return run({"importance", model(), "--token-ids", path(ids).string()}); };
  const Result sure = text_of("nine.json"), rough = text_of("two.json"), none = text_of("one.json");
  EXPECT_THAT(sure.out, testing::HasSubstr("confidence: as many other windows would give an order with rank correlation"));
  EXPECT_THAT(sure.out, testing::Not(testing::HasSubstr("rough")));
  EXPECT_THAT(rough.out, testing::HasSubstr("rough"));
  EXPECT_THAT(none.out, testing::Not(testing::HasSubstr("confidence")));
  for (const Result& result : {sure, rough, none}) {
    expect_80_columns(result.out);
    EXPECT_EQ(result.err, "from the cache\n");
  }
}

TEST_F(ImportanceCommand, PlansUseOneResult) {
  const std::string ids = token_ids(3, 12), one = path("one.json").string(), several = path("several.json").string();
  const json result = importance(ids, {"--metric", "cosine", "-o", one});
  const json plan =
      run_json({"plan", model(), "--importance", one, "--memory", "1G", "--reserve", "0", "--pin", "0=8", "--pin", "1=8", "--pin", "2=8", "--pin", "3=8"});
  const auto full = plan.at("bytes").at("total").get<std::uint64_t>();
  const json smaller = run_json({"plan", model(), "--importance", one, "--memory", std::to_string(full - 1), "--reserve", "0"});
  for (std::size_t layer = 0; layer < 4; ++layer)
    EXPECT_EQ(smaller.at("bits")[layer], layer == result.at("order")[0] ? 4 : 8) << "the least important layer pays";

  EXPECT_EQ(importance(ids, {"--top-k", "5,10", "-o", several}).at("schema"), "lsaq.importance_set/1");
  for (const char* verb : {"plan", "run"}) refusal(bad_input, {verb, model(), "--importance", several}, {several, "several results", "one --metric"});
}

TEST_F(ImportanceCommand, WorksWithoutACache) {
  const std::vector<std::string> call = {"importance", model(), "--token-ids", token_ids(2, 20)};
  const json first = run_json(call, {.cache = false}); // neither HOME nor XDG_CACHE_HOME
  EXPECT_EQ(run_json(call, {.cache = false}).at("cached"), false);
  EXPECT_FALSE(std::filesystem::exists(cache()));
  const json below_home = run_json(call, {.environment = {{"HOME", path("home").string()}}, .cache = false});
  EXPECT_TRUE(std::filesystem::exists(path("home/.cache/lsaq/importance")));
  EXPECT_EQ(below_home.at("scores"), first.at("scores"));
  (void)write("file", "");
  const Result blocked = run(call, {.environment = {{"XDG_CACHE_HOME", path("file").string()}}, .cache = false}); // a file where the folder should be
  EXPECT_EQ(blocked.code, done);
  EXPECT_THAT(blocked.err, testing::HasSubstr("note: results can't be cached"));
}

TEST_F(ImportanceCommand, ShowsTheWordsOfTheTokenSets) {
  const std::string ids = token_ids(2, 12);
  const json object = run_json({"importance", model(), "--token-ids", ids, "--top-k", "7", "--show-tokens"});
  ASSERT_EQ(object.at("tokens").size(), 5u) << "one set at each boundary";
  for (const json& set : object.at("tokens")) EXPECT_EQ(set.size(), 7u);
  const json plain = run_json({"importance", model(), "--token-ids", ids, "--top-k", "7"});
  EXPECT_EQ(plain.at("scores"), object.at("scores"));

  const Result text = run({"importance", model(), "--token-ids", ids, "--show-tokens"});
  EXPECT_EQ(text.code, done);
  EXPECT_THAT(text.out, testing::HasSubstr("Highest words"));
  expect_80_columns(text.out);
  for (const char c : text.out) EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << "words are escaped";
}

TEST_F(ImportanceCommand, DrawsAChart) {
  const Result result = run({"importance", model(), "--token-ids", token_ids(2, 20)});
  EXPECT_EQ(result.code, done);
  expect_80_columns(result.out);
  EXPECT_THAT(result.out, testing::HasSubstr("jaccard"));
  EXPECT_THAT(result.out, testing::HasSubstr("least important quarter: "));
  EXPECT_EQ(lines_of(result.err).size(), 1u) << "how long it took";
}

/// A text of `length` characters has as many tokens or fewer.
TEST_F(ImportanceCommand, CutsTextIntoWindows) {
  const std::string text = write("text.txt", std::string(100, 'q'));
  const std::vector<std::string> call = {"importance", model(), "--text", text, "--window-length", "30"};
  const json all = run_json(call);
  EXPECT_EQ(all.at("windows"), 3) << "a rest of ten is left out";
  std::vector<std::string> two = call;
  two.insert(two.end(), {"--windows", "2"});
  EXPECT_EQ(run_json(two).at("windows"), 2);
  EXPECT_THAT(run(call).err, testing::HasSubstr("3 windows of 30 tokens, not 32"));
}

TEST_F(ImportanceCommand, StopsWhenInterrupted) {
  const std::string ids = token_ids(400, 128), output = path("out.json").string(); // far more than is ever waited for
  (void)model();
  for (const int signal : {SIGINT, SIGTERM}) {
    std::filesystem::remove_all(cache());
    // The model's hash is cached before measuring begins, long after signals are caught.
    const Setting setting{.environment = {{"LSAQ_ISA", "scalar"}},
                          .meanwhile = signal_when([&] { return files_in(cache() / "lsaq" / "hashes") != 0; }, signal)};
    const std::string message = refusal(interrupted, {"importance", model(), "--token-ids", ids, "--threads", "2", "-o", output, "--json"}, {}, setting);
    EXPECT_EQ(message, "lsaq: interrupted");
    EXPECT_FALSE(std::filesystem::exists(output));
    EXPECT_EQ(files_in(cache() / "lsaq" / "importance"), 0u) << "nothing half-written";
    for (const auto& entry : std::filesystem::directory_iterator(cache() / "lsaq" / "hashes"))
      EXPECT_EQ(entry.path().filename().string().size(), 64u) << "no temporary file is left: " << entry.path();
  }
}

} // namespace importance_test
} // namespace command_tests
