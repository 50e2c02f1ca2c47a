// lsaq importance: every metric, several at once, and the options that say what is measured.
#include "importance_command.hpp"

#include <cmath>

namespace command_tests {
namespace importance_metrics_test {

class ImportanceMetrics : public ImportanceCommand {
protected:
  /// `length` characters at random, each a token or part of one.
  std::string text(std::size_t length) const {
    std::mt19937 random(11);
    std::string characters(length, ' ');
    for (char& c : characters) c = static_cast<char>('0' + random() % 10); // digits: no merges
    return write("text.txt", characters);
  }
};

std::vector<double> numbers(const json& array) { return array.get<std::vector<double>>(); }

/// Ranks, ties averaged.
std::vector<double> ranks(const std::vector<double>& scores) {
  std::vector<double> ranks;
  for (const double score : scores) {
    const auto below = std::count_if(scores.begin(), scores.end(), [&](double other) { return other < score; });
    ranks.push_back(static_cast<double>(below) + static_cast<double>(std::count(scores.begin(), scores.end(), score) + 1) / 2);
  }
  return ranks;
}

double rank_correlation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = ranks(a), y = ranks(b);
  const double middle = (static_cast<double>(a.size()) + 1) / 2;
  double xy = 0, xx = 0, yy = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    xy += (x[i] - middle) * (y[i] - middle);
    xx += (x[i] - middle) * (x[i] - middle);
    yy += (y[i] - middle) * (y[i] - middle);
  }
  return xx == 0 || yy == 0 ? (xx == yy ? 1 : 0) : xy / std::sqrt(xx * yy);
}

TEST_F(ImportanceMetrics, SeveralResultsEqualEachAlone) {
  const std::string ids = token_ids(5, 20), file = path("set.json").string();
  const json set =
      importance(ids, {"--metric", "jaccard,cosine,ranked,outlier", "--metric", "error,error-nll,output-error,joint", "--top-k", "20,5", "-o", file});
  EXPECT_EQ(set.at("schema"), "lsaq.importance_set/1");
  EXPECT_EQ(set.at("model"), "Small Llama");
  EXPECT_EQ(json::parse(make_files::content_of(file)), lasting(set));
  const std::pair<const char*, const char*> wanted[] = {{"jaccard", "20"},    {"jaccard", "5"}, {"cosine", ""}, {"ranked", "20"},
                                                        {"ranked", "5"},      {"outlier", ""},  {"error", ""},  {"error-nll", ""},
                                                        {"output-error", ""}, {"joint", "20"},  {"joint", "5"}};
  const json& results = set.at("results");
  ASSERT_EQ(results.size(), std::size(wanted));
  json names;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const auto& [metric, k] = wanted[i];
    const std::string name = metric + std::string(*k != '\0' ? " k=" : "") + k;
    names.push_back(name);
    SCOPED_TRACE(name);
    expect_importance(results[i], 4);
    EXPECT_EQ(results[i].at("metric"), metric);
    EXPECT_EQ(results[i].value("top_k", 0), *k != '\0' ? std::stoi(k) : 0);
    const bool of_weights = results[i].at("metric") == "outlier";
    EXPECT_EQ(results[i].at("windows"), of_weights ? 0 : 5);
    EXPECT_EQ(results[i].contains("window_scores"), !of_weights);
    const json alone = measured(ids, Words{"--metric", metric} + (*k != '\0' ? Words{"--top-k", k} : Words{}));
    EXPECT_EQ(lasting(alone), lasting(results[i]));
  }
  const json& spearman = set.at("spearman");
  EXPECT_EQ(spearman.at("names"), names);
  for (std::size_t i = 0; i < results.size(); ++i)
    for (std::size_t j = 0; j < results.size(); ++j)
      EXPECT_NEAR(spearman.at("matrix").at(i).at(j).get<double>(), rank_correlation(numbers(results[i].at("scores")), numbers(results[j].at("scores"))), 1e-12);

  for (const json& result : results) // means and standard errors over windows
    for (std::size_t l = 0; l < 4 && result.contains("window_scores"); ++l) {
      double sum = 0, squares = 0;
      for (const json& window : result.at("window_scores")) sum += window[l].get<double>() / 5;
      for (const json& window : result.at("window_scores")) squares += std::pow(window[l].get<double>() - sum, 2);
      EXPECT_NEAR(result.at("scores")[l].get<double>(), sum, 1e-12 * std::abs(sum));
      EXPECT_NEAR(result.at("spread")[l].get<double>(), std::sqrt(squares / 4 / 5), 1e-9 * std::abs(sum));
    }
  for (const auto& [joint, jaccard] : {std::pair{9, 0}, std::pair{10, 1}})
    for (std::size_t w = 0; w < 5; ++w)
      for (std::size_t l = 0; l < 4; ++l) {
        const auto part = [&](int i) { return results[static_cast<std::size_t>(i)].at("window_scores")[w][l].get<double>(); };
        EXPECT_DOUBLE_EQ(part(joint), std::sqrt(part(jaccard) * part(8)));
      }
  for (const json& result : results)
    for (const json& score : result.at("scores")) {
      const bool never_negative = result.at("metric") == "error" || result.at("metric") == "output-error"; // divergences and squares
      EXPECT_TRUE(!never_negative || score.get<double>() > 0) << result.at("metric");
    }
}

TEST_F(ImportanceMetrics, TextOfSeveralResultsComparesThem) {
  const Result result = run({"importance", model(), "--token-ids", token_ids(2, 12), "--metric", "cosine,jaccard", "--top-k", "20,5"});
  EXPECT_EQ(result.code, done);
  expect_80_columns(result.out);
  for (const char* part : {"token sets of 20\n", "token sets of 5\n", "jaccard k=20", "jaccard k=5", "cosine", "Rank correlation (Spearman)"})
    EXPECT_THAT(result.out, testing::HasSubstr(part));
  const Result again = run({"importance", model(), "--token-ids", path("ids.json").string(), "--metric", "cosine,jaccard", "--top-k", "20,5"});
  EXPECT_EQ(again.out, result.out);
  EXPECT_EQ(again.err, "from the cache\n");
}

/// In a causal model a position's states are those of the prompt that ends there.
TEST_F(ImportanceMetrics, EveryPositionIsTheLastOfAShorterPrompt) {
  const json window = json::parse(make_files::content_of(token_ids(1, 10)))[0];
  json prefixes = json::array();
  for (std::size_t length = 1; length <= 10; ++length) prefixes.push_back(json(window.begin(), window.begin() + static_cast<std::ptrdiff_t>(length)));
  const std::string whole = write("whole.json", json{window}.dump()), parts = write("parts.json", prefixes.dump());
  const Words metrics = {"--metric", "jaccard,cosine", "--top-k", "9"};
  const json all = importance(whole, metrics + Words{"--positions", "all"}), last = importance(parts, metrics);
  EXPECT_EQ(importance(parts, metrics + Words{"--positions", "last"}).at("results")[0].at("cached"), true) << "the default";
  for (const std::size_t i : {0, 1}) {
    EXPECT_EQ(all.at("results")[i].at("windows"), 1);
    EXPECT_EQ(last.at("results")[i].at("windows"), 10);
    for (std::size_t l = 0; l < 4; ++l)
      EXPECT_NEAR(all.at("results")[i].at("scores")[l].get<double>(), last.at("results")[i].at("scores")[l].get<double>(), 1e-6);
  }
}

TEST_F(ImportanceMetrics, SamplesPositions) {
  const std::string ids = token_ids(4, 16);
  const auto scores = [&](const Words& options) { return measured(ids, Words{"--metric", "cosine"} + options).at("window_scores"); };
  const json all = scores({"--positions", "all"}), some = scores({"--positions", "sampled:5"});
  for (const char* enough : {"sampled:16", "sampled:17", "sampled:1048576"}) EXPECT_EQ(scores({"--positions", enough}), all) << enough;
  EXPECT_NE(scores({"--positions", "sampled:15"}), all);
  EXPECT_NE(some, all);
  EXPECT_NE(some, scores({"--positions", "last"}));
  EXPECT_EQ(scores({"--positions", "sampled:5"}), some) << "the same every time";
  EXPECT_EQ(scores({"--positions", "sampled:5", "--seed", "2"}), scores({"--positions", "sampled:5", "--seed", "2"}));
  EXPECT_NE(scores({"--positions", "sampled:5", "--seed", "2"}), some);
  EXPECT_EQ(measured(ids, {"--positions", "sampled:5"}).at("positions"), "sampled:5");
  for (const char* wrong :
       {"sampled:0", "sampled:x", "sampled:", "sampled:8x", "sampled:-1", "sampled:1048577", "sampled:99999999999999999999", "first", "Last"})
    refusal(wrong_usage, {"importance", model(), "--token-ids", ids, "--positions", wrong}, {"--positions", wrong, "last, all", "sampled:N"});
}

/// With a weight of its own, the first position comes on top of the mean of the others, sampled or not.
TEST_F(ImportanceMetrics, FirstPositionHasItsWeight) {
  const std::size_t length = 6;
  const json window = json::parse(make_files::content_of(token_ids(1, length)))[0];
  const std::string whole = write("whole.json", json{window}.dump()), first = write("first.json", json{{window[0]}}.dump());
  const Words metrics = {"--metric", "jaccard,cosine", "--top-k", "9"};
  const auto scores = [&](const std::string& ids, const Words& options, std::size_t metric) {
    return numbers(importance(ids, metrics + options).at("results")[metric].at("scores"));
  };
  for (const std::size_t m : {0, 1}) {
    const std::vector<double> alone = scores(first, {}, m), mean = scores(whole, {"--positions", "all"}, m);
    const std::vector<double> weighted = scores(whole, {"--positions", "all", "--first-position", "0.25"}, m);
    const std::vector<double> sampled = scores(whole, {"--positions", "sampled:1", "--seed", "3"}, m);
    const std::vector<double> with_first = scores(whole, {"--positions", "sampled:1", "--seed", "3", "--first-position", "2"}, m);
    for (std::size_t l = 0; l < 4; ++l) {
      const double others = (mean[l] * length - alone[l]) / (length - 1);
      EXPECT_NEAR(weighted[l], others + 0.25 * alone[l], 1e-6);
      EXPECT_NEAR(with_first[l], sampled[l] + 2 * alone[l], 1e-6);
    }
  }
  const Words call = {"importance", model(), "--token-ids", whole};
  refusal(wrong_usage, call + Words{"--first-position", "0.5"}, {"--first-position", "--positions last", "sampled:8"});
  for (const char* wrong : {"-1", "x", "nan"}) refusal(wrong_usage, call + Words{"--positions", "all", "--first-position", wrong}, {"--first-position", wrong});
}

TEST_F(ImportanceMetrics, SeedsDrawWindows) {
  const Words call = {"importance", model(), "--text", text(620), "--window-length", "30", "--metric", "cosine"};
  const auto scores = [&](const Words& options) { return run_json(call + options).at("window_scores"); };
  const json all = scores({}); // 20 windows
  ASSERT_EQ(all.size(), 20u);
  const json first = scores({"--windows", "5"}), one = scores({"--windows", "5", "--seed", "1"});
  EXPECT_EQ(first, json(all.begin(), all.begin() + 5));
  EXPECT_NE(one, first);
  EXPECT_EQ(scores({"--windows", "5", "--seed", "1", "--no-cache"}), one);
  EXPECT_NE(scores({"--windows", "5", "--seed", "2"}), one);
  const std::set<json> known(all.begin(), all.end()), drawn(one.begin(), one.end());
  EXPECT_EQ(drawn.size(), 5u) << "no window twice";
  EXPECT_TRUE(std::includes(known.begin(), known.end(), drawn.begin(), drawn.end())) << "windows of the same text";
  const json shuffled = scores({"--seed", "3"});
  EXPECT_EQ(std::set<json>(shuffled.begin(), shuffled.end()), known) << "all that there are";
  refusal(wrong_usage, call + Words{"--seed", "-1"}, {"--seed"});
  refusal(wrong_usage, call + Words{"--seed", "x"}, {"--seed", "x"});
}

TEST_F(ImportanceMetrics, FewerOutliersNegate) {
  const json more = run_json({"importance", model(), "--metric", "outlier", "--sigmas", "1.5"});
  const json fewer = run_json({"importance", model(), "--metric", "outlier", "--sigmas", "1.5", "--outlier-direction", "fewer"});
  expect_importance(fewer, 4);
  EXPECT_EQ(more.at("outliers"), "more");
  EXPECT_EQ(fewer.at("outliers"), "fewer");
  EXPECT_EQ(fewer.at("sigmas"), 1.5);
  for (std::size_t l = 0; l < 4; ++l) {
    EXPECT_GT(more.at("scores")[l].get<double>(), 0);
    EXPECT_EQ(fewer.at("scores")[l].get<double>(), -more.at("scores")[l].get<double>());
  }
  const Result text = run({"importance", model(), "--metric", "outlier", "--sigmas", "1.5", "--outlier-direction", "fewer"});
  EXPECT_EQ(text.err, "from the cache\n");
  expect_80_columns(text.out);
}

TEST_F(ImportanceMetrics, NormAndHeadChangeWhatIsCompared) {
  // A final norm without gains changes the length of states only.
  small_llama::Model drawn = small_model();
  drawn.tensors.at("model.norm.weight").values.assign(64, 1.0f);
  const auto scores = [&](const std::string& file, const Words& options) {
    return numbers(run_json(Words{"importance", file, "--token-ids", token_ids(3, 10), "--no-cache", "--top-k", "9"} + options).at("scores"));
  };
  const std::string plain = write_model("plain.gguf", drawn);
  for (const char* metric : {"cosine", "jaccard"}) {
    const std::vector<double> raw = scores(plain, {"--metric", metric}), normed = scores(plain, {"--metric", metric, "--norm", "final"});
    for (std::size_t l = 0; l < 4; ++l) EXPECT_NEAR(raw[l], normed[l], 1e-6) << metric;
    EXPECT_NE(scores(model(), {"--metric", metric}), scores(model(), {"--metric", metric, "--norm", "final"}));
  }
  EXPECT_EQ(scores(model(), {"--head", "output"}), scores(model(), {"--head", "embedding"})) << "tied";
  EXPECT_EQ(scores(model(), {"--norm", "raw"}), scores(model(), {}));

  small_llama::Model untied = small_model();
  untied.tied = false;
  untied.fill();
  const std::string two = write_model("untied.gguf", untied);
  EXPECT_NE(scores(two, {"--head", "output"}), scores(two, {"--head", "embedding"}));
  EXPECT_EQ(scores(two, {"--head", "embedding"}), scores(two, {}));
  EXPECT_EQ(scores(two, {"--metric", "cosine", "--head", "output"}), scores(two, {"--metric", "cosine"})) << "nothing is projected";
}

TEST_F(ImportanceMetrics, StopsWhereTheOrderIsStable) {
  const std::string many = token_ids(60, 12, "many.json");
  const Words cosine = {"--metric", "cosine", "--positions", "sampled:9"};
  const json stopped = importance(many, cosine + Words{"--until-stable"});
  EXPECT_EQ(stopped.at("stable"), true);
  const auto windows = stopped.at("windows").get<std::size_t>();
  EXPECT_GE(windows, 8u);
  EXPECT_LT(windows, 60u);
  EXPECT_EQ(windows % 8, 0u);
  EXPECT_EQ(stopped.at("window_scores"), importance(token_ids(windows, 12), cosine).at("window_scores")) << "the same as of just these windows";
  EXPECT_FALSE(importance(token_ids(windows, 12), cosine).contains("stable")) << "nobody asked";

  const std::string few = token_ids(7, 12, "few.json");
  const json unsure = importance(few, cosine + Words{"--until-stable"});
  EXPECT_EQ(unsure.at("stable"), false) << "too few to tell";
  EXPECT_EQ(unsure.at("windows"), 7);
  EXPECT_THAT(run(Words{"importance", model(), "--token-ids", many, "--until-stable"} + cosine).err,
              testing::HasSubstr("stable after " + std::to_string(windows) + " windows\n"));
  EXPECT_THAT(run(Words{"importance", model(), "--token-ids", few, "--until-stable"} + cosine).err, testing::HasSubstr("not stable after 7 windows"));

  // Several stop when the last of them is stable; each has the windows it needed itself.
  const Words several = {"--metric", "jaccard,cosine,outlier", "--top-k", "1,20", "--positions", "sampled:9", "--until-stable", "--no-cache"};
  const json set = importance(many, several);
  for (const json& result : set.at("results")) {
    const Words size = result.contains("top_k") ? Words{"--top-k", result.at("top_k").dump()} : Words{};
    const json alone = measured(many, Words{"--metric", result.at("metric"), "--positions", "sampled:9", "--until-stable"} + size);
    EXPECT_EQ(lasting(alone), lasting(result)) << result.at("metric");
  }
  EXPECT_EQ(set.at("results")[3].at("stable"), true) << "weights have no windows";
  refusal(wrong_usage, {"importance", model(), "--metric", "joint", "--until-stable"}, {"--until-stable", "joint", "--windows"});
}

TEST_F(ImportanceMetrics, RefusesWhatIsNotThere) {
  const Words call = {"importance", model()};
  refusal(wrong_usage, call + Words{"--metric", "taste"},
          {"--metric", "taste", "jaccard", "ranked", "cosine", "outlier", "error", "error-nll", "output-error", "joint"});
  refusal(wrong_usage, call + Words{"--metric", "cosine,taste"}, {"--metric", "taste", "joint"});
  for (const char* sizes : {"0", "5,0", "-1", "x", "5,x", "1.5"}) refusal(wrong_usage, call + Words{"--top-k", sizes}, {"--top-k"});
  for (const char* metric : {"jaccard", "ranked", "joint"})
    refusal(wrong_usage, call + Words{"--metric", metric, "--top-k", "5,266"}, {"--top-k 266", "vocabulary", "265"}, {.cache = false});
  for (const char* bits : {"1", "9", "x"}) refusal(wrong_usage, call + Words{"--metric", "error", "--error-bits", bits}, {"--error-bits", bits});
  for (const char* sigmas : {"-1", "x", "nan"}) refusal(wrong_usage, call + Words{"--metric", "outlier", "--sigmas", sigmas}, {"--sigmas", sigmas});
  refusal(wrong_usage, call + Words{"--metric", "outlier", "--outlier-direction", "both"}, {"--outlier-direction", "both", "more", "fewer"});
  for (const char* metric : {"error", "error-nll"}) refusal(wrong_usage, call + Words{"--metric", metric, "--window-length", "1"}, {"at least 2 tokens"});
  for (const char* option : {"--windows", "--window-length"}) // a file has the windows it has
    refusal(wrong_usage, call + Words{"--token-ids", "ids.json", option, "2"}, {option, "--token-ids"});
  EXPECT_EQ(results_kept(), 0u);
}

} // namespace importance_metrics_test
} // namespace command_tests
