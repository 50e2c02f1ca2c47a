// lsaq importance: the object it prints, its cache, interruption.
#include "command_runner.hpp"

#include <unistd.h>

namespace command_tests {
namespace {

class ImportanceCommand : public Command {
protected:
  std::size_t files_in(const std::filesystem::path& folder) const {
    std::error_code none;
    std::size_t count = 0;
    for (std::filesystem::directory_iterator entry(folder, none), end; !none && entry != end; ++entry) ++count;
    return count;
  }
};

void expect_importance(const json& object, std::size_t layers) {
  EXPECT_EQ(object.value("schema", ""), "lsaq.importance/1");
  ASSERT_EQ(object.at("scores").size(), layers);
  ASSERT_EQ(object.at("spread").size(), layers);
  std::vector<std::size_t> order(layers);
  for (std::size_t i = 0; i < layers; ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return object.at("scores")[a] < object.at("scores")[b]; });
  EXPECT_EQ(object.at("order"), json(order)) << "least important first, ties by layer";
}

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

TEST_F(ImportanceCommand, HasOtherMetricsAndOptions) {
  const std::string ids = token_ids(3, 10);
  json jaccard;
  for (const std::vector<std::string>& options : {std::vector<std::string>{"--metric", "jaccard"},
                                                  {"--metric", "jaccard", "--norm", "final"},
                                                  {"--metric", "cosine"},
                                                  {"--metric", "jaccard", "--top-k", "5"},
                                                  {"--metric", "jaccard", "--head", "output"}}) {
    std::vector<std::string> call = {"importance", model(), "--token-ids", ids};
    call.insert(call.end(), options.begin(), options.end());
    const json object = run_json(call);
    expect_importance(object, 4);
    EXPECT_EQ(object.at("metric"), options[1]);
    EXPECT_EQ(object.at("windows"), 3);
    EXPECT_EQ(object.contains("top_k"), options[1] == "jaccard");
    EXPECT_EQ(object.at("cached"), false) << "each is a result of its own";
    if (jaccard.is_null()) jaccard = object;
    EXPECT_EQ(object.at("scores") == jaccard.at("scores"), options.size() == 2 ? options[1] == "jaccard" : options.back() == "output")
        << "a tied head is the embedding";
  }
  const json outlier = run_json({"importance", model(), "--metric", "outlier"});
  expect_importance(outlier, 4);
  EXPECT_EQ(outlier.at("metric"), "outlier");
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
  for (const char* damage : {"", "{", "[]", R"({"schema":"lsaq.importance/1","scores":[1,2]})"}) {
    std::ofstream(entry, std::ios::trunc) << damage;
    const json again = run_json(call);
    EXPECT_EQ(again.at("cached"), false) << damage;
    EXPECT_EQ(again.at("scores"), first.at("scores"));
  }
  EXPECT_EQ(run_json(call).at("cached"), true) << "mended";
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
    const auto start = std::chrono::steady_clock::now();
    const Setting setting{.environment = {{"LSAQ_ISA", "scalar"}}, .meanwhile = [&](pid_t child) {
                            // The model's hash is cached before measuring begins, long after signals are caught.
                            while (files_in(cache() / "lsaq" / "hashes") == 0 && std::chrono::steady_clock::now() - start < std::chrono::minutes(1))
                              std::this_thread::sleep_for(std::chrono::milliseconds(5));
                            ::kill(child, signal);
                          }};
    const std::string message = refusal(interrupted, {"importance", model(), "--token-ids", ids, "--threads", "2", "-o", output, "--json"}, {}, setting);
    EXPECT_EQ(message, "lsaq: interrupted");
    EXPECT_FALSE(std::filesystem::exists(output));
    EXPECT_EQ(files_in(cache() / "lsaq" / "importance"), 0u) << "nothing half-written";
    for (const auto& entry : std::filesystem::directory_iterator(cache() / "lsaq" / "hashes"))
      EXPECT_EQ(entry.path().filename().string().size(), 64u) << "no temporary file is left: " << entry.path();
  }
}

} // namespace
} // namespace command_tests
