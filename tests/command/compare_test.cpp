// lsaq compare: its grid, its object and report, resuming; and what lsaq eval says beside perplexity.
#include "command_runner.hpp"

#include <unistd.h>

namespace command_tests {
namespace compare_test {

class CompareCommand : public Command {
protected:
  /// A grid on ids.json: two orders from files and a random one, so that nothing has to be measured.
  std::string grid(const std::string& more = "", const std::string& name = "grid.toml") const {
    write("up.json", R"({"schema":"lsaq.importance/1","metric":"mine","scores":[0,1,2,3]})");
    write("down.json", R"({"schema":"lsaq.importance/1","scores":[3,2,1,0]})");
    return write(name, R"([evaluate]
token_ids = "ids.json"
[plans]
average_bits = [7, 5.5]
[[order]]
name = "up"
file = "up.json"
[[order]]
file = "down.json"
[[order]]
metric = "random"
draws = 3
seed = 4
)" + more);
  }

  /// What does not depend on when and how often it was run.
  static json lasting(json object) {
    object.erase("seconds");
    object.erase("scores_reused");
    object.erase("pictures");
    return object;
  }
};

void expect_estimate(const json& object, const std::string& key) {
  EXPECT_TRUE(object.at(key).is_number()) << key;
  EXPECT_GT(object.at(key + "_se").get<double>(), 0) << key;
}

TEST_F(CompareCommand, PrintsTheDocumentedObject) {
  (void)token_ids(6, 60);
  const std::string folder = path("out").string();
  const json object = run_json({"compare", model(), "--grid", grid(), "-o", folder});
  EXPECT_EQ(object.at("schema"), "lsaq.compare/1");
  EXPECT_EQ(object.at("model"), "Small Llama");
  EXPECT_EQ(object.at("model_sha256").get<std::string>().size(), 64u);
  EXPECT_EQ(object.at("protocol"), "every");
  EXPECT_EQ(object.at("windows"), 6);
  EXPECT_EQ(object.at("tokens"), 6 * 59);
  EXPECT_EQ(object.at("window_tokens"), json(std::vector<int>(6, 59)));
  EXPECT_EQ(object.at("average_bits"), json({7, 5.5}));
  EXPECT_EQ(json::parse(make_files::content_of(path("out/results.json"))), object);

  ASSERT_EQ(object.at("uniform").size(), 3u);
  const json& fp16 = object.at("uniform")[0];
  EXPECT_EQ(fp16.at("uniform_bits"), 16);
  EXPECT_EQ(fp16.at("kl"), 0);
  EXPECT_EQ(fp16.at("top1"), 1);
  EXPECT_EQ(fp16.at("delta_nll"), 0);
  EXPECT_EQ(object.at("uniform")[2].at("bits"), json({4, 4, 4, 4}));

  ASSERT_EQ(object.at("orders").size(), 3u);
  const json &up = object.at("orders")[0], &down = object.at("orders")[1], &random = object.at("orders")[2];
  EXPECT_EQ(up.at("name"), "up");
  EXPECT_EQ(up.at("metric"), "mine");
  EXPECT_EQ(up.at("order"), json({0, 1, 2, 3}));
  EXPECT_EQ(up.at("least_important_quarter"), json({0}));
  EXPECT_EQ(down.at("name"), "down");
  EXPECT_EQ(down.at("order"), json({3, 2, 1, 0}));
  EXPECT_EQ(up.at("results")[0].at("plans")[0].at("bits"), json({4, 8, 8, 8}));
  EXPECT_EQ(down.at("results")[0].at("plans")[0].at("bits"), json({8, 8, 8, 4}));
  EXPECT_EQ(up.at("results")[1].at("plans")[0].at("bits"), json({4, 4, 4, 8})) << "5.5 is between 6 and 5: the smaller";
  EXPECT_EQ(up.at("results")[1].at("plans")[0].at("average_bits"), 5);
  EXPECT_EQ(random.at("orders").size(), 3u);
  for (const json& order : random.at("orders")) {
    std::set<int> layers(order.begin(), order.end());
    EXPECT_EQ(layers, (std::set<int>{0, 1, 2, 3}));
  }
  for (const json& order : object.at("orders"))
    for (const json& result : order.at("results")) {
      for (const char* key : {"nll", "delta_nll", "kl", "top1"}) expect_estimate(result, key);
      EXPECT_NEAR(std::log(result.at("perplexity").get<double>()), result.at("nll").get<double>(), 1e-12);
      EXPECT_EQ(result.at("delta_to_first") == 0, order == up);
      double nll = 0; // the geometric mean of the draws' perplexities
      for (const json& plan : result.at("plans")) {
        nll += plan.at("nll").get<double>() / static_cast<double>(result.at("plans").size());
        ASSERT_EQ(plan.at("windows").at("nll").size(), 6u);
        double sum = 0;
        for (const json& window : plan.at("windows").at("nll")) sum += window.get<double>();
        EXPECT_NEAR(sum / (6 * 59), plan.at("nll").get<double>(), 1e-12);
      }
      EXPECT_NEAR(result.at("nll").get<double>(), nll, 1e-12);
    }
  EXPECT_EQ(object.at("spearman").at("orders"), json({"up", "down"}));
  EXPECT_EQ(object.at("spearman").at("correlations"), json({{1, -1}, {-1, 1}}));
}

/// Each number is that of `lsaq eval` with the same plan.
TEST_F(CompareCommand, AgreesWithEval) {
  const std::string ids = token_ids(4, 50);
  const json object = run_json({"compare", model(), "--grid", grid()});
  for (const json& order : object.at("orders"))
    for (const json& plan : order.at("results")[0].at("plans")) {
      const std::string file = write("plan.json", json{{"schema", "lsaq.plan/1"}, {"bits", plan.at("bits")}}.dump());
      const json alone = run_json({"eval", model(), "--plan", file, "--token-ids", ids, "--divergence"});
      for (const char* key : {"perplexity", "nll", "nll_se", "kl", "kl_se", "top1", "delta_nll", "delta_nll_se"}) EXPECT_EQ(alone.at(key), plan.at(key)) << key;
      EXPECT_NEAR(run_json({"eval", model(), "--plan", file, "--token-ids", ids}).at("nll").get<double>(), plan.at("nll").get<double>(), 1e-4);
    }
}

TEST_F(CompareCommand, WritesAReport) {
  (void)token_ids(4, 30);
  const std::string folder = path("deep/out").string();
  const Result result = run({"compare", model(), "--grid", grid(), "-o", folder});
  EXPECT_EQ(result.code, done) << result.err;
  expect_80_columns(result.out);
  const std::string report = make_files::content_of(path("deep/out/report.md"));
  for (const char* part : {"Perplexity", "KL divergence", "Rank correlation", "| up ", "| random "}) EXPECT_THAT(report, testing::HasSubstr(part));
  for (const char* part : {"Perplexity", "random", "+-", "Least important quarter"}) EXPECT_THAT(result.out, testing::HasSubstr(part));

  // Without gnuplot the pictures are left out, and everything else is there.
  const Result bare = run({"compare", model(), "--grid", grid(), "-o", path("bare").string()}, {.environment = {{"PATH", path("").string()}}});
  EXPECT_EQ(bare.code, done) << bare.err;
  EXPECT_THAT(bare.err, testing::HasSubstr("perplexity.svg is left out"));
  EXPECT_TRUE(std::filesystem::exists(path("bare/results.json")));
  EXPECT_FALSE(std::filesystem::exists(path("bare/perplexity.svg")));
}

TEST_F(CompareCommand, MeasuresOrders) {
  (void)token_ids(2, 30);
  const std::string file = write("grid.toml", R"([evaluate]
token_ids = "ids.json"
windows = 1
[plans]
average_bits = [6]
[[order]]
metric = "jaccard"
top_k = 7
token_ids = "ids.json"
[[order]]
name = "backwards"
metric = "jaccard"
top_k = 7
token_ids = "ids.json"
reverse = true
)");
  const json object = run_json({"compare", model(), "--grid", file});
  const json importance = run_json({"importance", model(), "--top-k", "7", "--token-ids", path("ids.json").string()});
  EXPECT_EQ(importance.at("cached"), true) << "the same result, known from the comparison";
  EXPECT_EQ(object.at("orders")[0].at("order"), importance.at("order"));
  EXPECT_EQ(object.at("orders")[0].at("scores"), importance.at("scores"));
  EXPECT_EQ(object.at("orders")[0].at("options").at("top_k"), 7);
  EXPECT_THAT(object.at("orders")[0].at("name").get<std::string>(), testing::HasSubstr("top_k=7"));
  std::vector<std::size_t> reversed = importance.at("order");
  std::reverse(reversed.begin(), reversed.end());
  EXPECT_EQ(object.at("orders")[1].at("order"), json(reversed));
  EXPECT_EQ(object.at("windows"), 1);
  EXPECT_TRUE(object.at("orders")[0].at("results")[0].at("nll_se").is_null()) << "one window has no spread";
}

TEST_F(CompareCommand, HasADefaultGrid) {
  const json object = run_json({"compare", model(), "--dry-run"});
  EXPECT_EQ(object.at("dry_run"), true);
  EXPECT_EQ(object.at("orders").size(), 5u);
  EXPECT_EQ(object.at("average_bits"), json({7, 6, 5}));
  EXPECT_EQ(object.at("text"), "the built-in text");
  EXPECT_GT(object.at("work").at("layer_runs").get<int>(), 0);
  EXPECT_LT(object.at("work").at("layer_runs").get<int>(), object.at("work").at("separate_layer_runs").get<int>());
  const Result text = run({"compare", model(), "--dry-run", "-o", path("out").string()});
  EXPECT_EQ(text.code, done);
  expect_80_columns(text.out);
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(CompareCommand, ResumesWhereItWasInterrupted) {
  (void)token_ids(120, 128);
  const std::string file = grid(), whole = path("whole").string(), folder = path("out").string();
  const json uninterrupted = run_json({"compare", model(), "--grid", file, "-o", whole});
  EXPECT_EQ(uninterrupted.at("scores_reused"), 0);

  const Setting setting{.meanwhile = signal_when([&] { return std::filesystem::exists(path("out/checkpoint.json")); }, SIGINT)};
  const Result stopped = run({"compare", model(), "--grid", file, "-o", folder, "--threads", "1"}, setting);
  EXPECT_EQ(stopped.code, interrupted) << stopped.err;
  EXPECT_THAT(stopped.err, testing::HasSubstr("interrupted"));
  EXPECT_FALSE(std::filesystem::exists(path("out/results.json")));

  const json resumed = run_json({"compare", model(), "--grid", file, "-o", folder});
  EXPECT_GT(resumed.at("scores_reused").get<int>(), 0);
  EXPECT_EQ(lasting(resumed), lasting(uninterrupted));
}

TEST_F(CompareCommand, ReusesWhatAChangedGridLeavesValid) {
  (void)token_ids(3, 40);
  const std::string folder = path("out").string();
  const json first = run_json({"compare", model(), "--grid", grid(), "-o", folder});
  const json more = run_json({"compare", model(), "--grid", grid("[[order]]\nname = \"back\"\nfile = \"up.json\"\nreverse = true\n"), "-o", folder});
  EXPECT_EQ(more.at("orders")[3].at("results")[0].at("plans"), more.at("orders")[1].at("results")[0].at("plans")) << "reversed up is down";
  for (std::size_t o = 0; o < 3; ++o) EXPECT_EQ(more.at("orders")[o], first.at("orders")[o]);
  const json again = run_json({"compare", model(), "--grid", grid(), "-o", folder});
  EXPECT_EQ(lasting(again), lasting(first));

  // A plan more on windows that are known, and a window more: only those are computed.
  std::string text = make_files::content_of(grid());
  text.replace(text.find("[7, 5.5]"), 8, "[7, 6.5, 5.5]");
  const std::string wider = write("grid.toml", text);
  const json dry = run_json({"compare", model(), "--grid", wider, "-o", folder, "--dry-run"});
  EXPECT_EQ(dry.at("work").at("windows"), 3) << "6.5 gives one layer at 4 bits, or two: new to the other orders";
  const json wide = run_json({"compare", model(), "--grid", wider, "-o", folder});
  EXPECT_GT(wide.at("scores_reused").get<int>(), 0);
  EXPECT_EQ(wide.at("orders")[0].at("results")[0], first.at("orders")[0].at("results")[0]);

  // What does not belong to this model, or is no checkpoint, is not used.
  small_llama::Model other = small_model();
  other.tensors.at("model.norm.weight").values[0] = 2;
  const json stranger = run_json({"compare", write_model("other.gguf", other), "--grid", grid(), "-o", folder});
  EXPECT_EQ(stranger.at("scores_reused"), 0);
  for (const char* damage : {"", "{", "[]", R"({"schema":5})"}) {
    write("out/checkpoint.json", damage);
    EXPECT_EQ(lasting(run_json({"compare", model(), "--grid", grid(), "-o", folder})), lasting(first)) << damage;
  }
}

TEST_F(CompareCommand, RefusesGridsByLineAndKey) {
  (void)token_ids(2, 20);
  (void)grid(); // the files of orders
  const std::string order = "[[order]]\nfile = \"up.json\"\n";
  struct Case {
    std::string text;
    std::vector<std::string> mentions;
  };
  for (const Case& c : std::vector<Case>{
           {"", {"[[order]]"}},
           {"[plans\n", {":1:"}},
           {"order = 5\n", {":1:", "order = 5", "[[order]]"}},
           {"[extra]\n" + order, {":1:", "\"extra\"", "evaluate", "plans"}},
           {"evaluate = 3\n" + order, {":1:", "evaluate = 3"}},
           {"[evaluate]\ncontxt = 5\n" + order, {":2:", "\"contxt\"", "context", "protocol"}},
           {"[evaluate]\ncontext = \"512\"\n" + order, {":2:", "context = \"512\"", "whole number"}},
           {"[evaluate]\ncontext = 1\n" + order, {":2:", "context = 1", "from 2"}},
           {"[evaluate]\nprotocol = \"half\"\n" + order, {":2:", "half", "every, second-half, strided"}},
           {"[evaluate]\nstride = 8\n" + order, {":2:", "stride = 8", "strided"}},
           {"[evaluate]\nprotocol = \"strided\"\ncontext = 16\nstride = 17\n" + order, {":4:", "stride = 17", "16"}},
           {"[evaluate]\ntext = \"a\"\ntoken_ids = \"b\"\n" + order, {":3:", "token_ids", "one of the two"}},
           {"[evaluate]\ntext = \"none.txt\"\n" + order, {path("none.txt").string()}},
           {"[evaluate]\ntoken_ids = \"ids.json\"\ncontext = 2000\n" + order, {"grid.toml", "2000", "1024"}},
           {"[plans]\nhigh = 4\n" + order, {":2:", "high = 4", "low = 4"}},
           {"[plans]\nlow = 9\n" + order, {":2:", "low = 9", "2 to 8"}},
           {"[plans]\naverage_bits = 7\n" + order, {":2:", "average_bits = 7", "array"}},
           {"[plans]\naverage_bits = []\n" + order, {":2:", "average_bits"}},
           {"[plans]\naverage_bits = [\n7,\n9]\n" + order, {":4:", "9", "low = 4", "high = 8"}},
           {"[plans]\naverage_bits = [7, \"6\"]\n" + order, {":2:", "6"}},
           {"[plans]\naverage_bits = [7, 7]\n" + order, {":2:", "twice"}},
           {"[plans]\nhigh = 6\n" + order, {":1:", "average_bits"}},
           {"[[order]]\nname = \"x\"\n", {":1:", "metric", "file"}},
           {"[[order]]\nmetric = \"random\"\nfile = \"up.json\"\n", {":1:", "metric", "file"}},
           {"[[order]]\nmetric = \"guess\"\n", {":2:", "guess", "jaccard"}},
           {"[[order]]\nmetric = 5\n", {":2:", "metric = 5"}},
           {"[[order]]\nmetric = \"jaccard,cosine\"\n", {":2:", "one metric"}},
           {"[[order]]\nmetric = \"jaccard\"\ntop_k = \"50\"\n", {":3:", "top_k = \"50\"", "number"}},
           {"[[order]]\nmetric = \"jaccard\"\ntop_k = 0\n", {":3:", "top_k = 0"}},
           {"[[order]]\nmetric = \"jaccard\"\ntop_k = [5, 10]\n", {":3:", "top_k", "number"}},
           {"[[order]]\nmetric = \"jaccard\"\ntop-k = 5\n", {":3:", "\"top-k\"", "top_k"}},
           {"[[order]]\nmetric = \"jaccard\"\nno_cache = true\n", {":3:", "\"no_cache\""}},
           {"[[order]]\nmetric = \"jaccard\"\nnorm = \"both\"\n", {":3:", "norm = \"both\"", "raw"}},
           {"[[order]]\nmetric = \"jaccard\"\ntop_k = 400\n", {":1:", "400", "vocabulary"}},
           {"[[order]]\nmetric = \"random\"\ndraws = 0\n", {":3:", "draws = 0", "1"}},
           {"[[order]]\nmetric = \"random\"\nreverse = true\n", {":3:", "\"reverse\""}},
           {"[[order]]\nfile = \"up.json\"\nreverse = 1\n", {":3:", "reverse = 1", "true or false"}},
           {"[[order]]\nfile = \"none.json\"\n", {path("none.json").string()}},
           {order + order, {":3:", "\"up\"", ":1"}},
       }) {
    const bool evaluates = c.text.find("[evaluate]") != std::string::npos || c.text.find("evaluate =") != std::string::npos;
    const std::string text = c.text + (evaluates ? "" : "[evaluate]\ntoken_ids = \"ids.json\"\n");
    refusal(bad_input, {"compare", model(), "--grid", write("grid.toml", text)}, c.mentions);
  }
  refusal(bad_input, {"compare", model(), "--grid", path("no.toml").string()}, {path("no.toml").string()});
  refusal(io_failed, {"compare", model(), "--grid", grid(), "-o", write("plain", "")}, {path("plain").string()});
}

TEST_F(CompareCommand, EvalOfTheUnquantizedModelIsAtNoDistance) {
  const json object = run_json({"eval", model(), "--token-ids", token_ids(3, 40), "--divergence"});
  EXPECT_EQ(object.at("kl"), 0);
  EXPECT_EQ(object.at("kl_se"), 0);
  EXPECT_EQ(object.at("top1"), 1);
  EXPECT_EQ(object.at("delta_nll"), 0);
  EXPECT_EQ(object.at("delta_nll_se"), 0);
  EXPECT_EQ(object.at("perplexity"), object.at("perplexity_fp16"));
  EXPECT_GT(object.at("nll_se").get<double>(), 0);
  const json plain = run_json({"eval", model(), "--token-ids", token_ids(3, 40)});
  EXPECT_NEAR(plain.at("nll").get<double>(), object.at("nll").get<double>(), 1e-4);
  EXPECT_EQ(plain.at("bytes_weights"), object.at("bytes_weights"));
  EXPECT_FALSE(plain.contains("kl"));
  const json low = run_json({"eval", model(), "--bits", "3", "--token-ids", token_ids(3, 40), "--divergence"});
  EXPECT_GT(low.at("kl").get<double>(), 0.001);
  EXPECT_LT(low.at("top1").get<double>(), 1);
  EXPECT_NEAR(low.at("delta_nll").get<double>(), low.at("nll").get<double>() - object.at("nll").get<double>(), 1e-9);
  const Result text = run({"eval", model(), "--bits", "4", "--token-ids", token_ids(3, 40), "--divergence"});
  expect_80_columns(text.out);
  EXPECT_THAT(text.out, testing::HasSubstr("KL divergence"));
}

TEST_F(CompareCommand, EvalKnowsTheProtocols) {
  const std::string ids = token_ids(3, 41);
  const auto tokens = [&](const std::vector<std::string>& options) {
    std::vector<std::string> call = {"eval", model(), "--token-ids", ids};
    call.insert(call.end(), options.begin(), options.end());
    const json object = run_json(call);
    EXPECT_EQ(object.at("protocol"), options.empty() ? "every" : options[1]);
    return object.at("tokens").get<int>();
  };
  EXPECT_EQ(tokens({}), 3 * 40);
  EXPECT_EQ(tokens({"--protocol", "second-half"}), 3 * 20);
  EXPECT_EQ(tokens({"--protocol", "strided", "--context", "16", "--stride", "4"}), 3 * 40) << "each token once";
  EXPECT_EQ(tokens({"--protocol", "strided", "--context", "16", "--divergence"}), 3 * 40);
  const std::string text = write("text.txt", std::string(101, 'q'));
  EXPECT_EQ(run_json({"eval", model(), "--perplexity", text, "--protocol", "strided", "--context", "32", "--stride", "8"}).at("stride"), 8);
  EXPECT_EQ(run_json({"eval", model(), "--perplexity", text, "--protocol", "second-half", "--context", "20"}).at("tokens"), 5 * 9);
  refusal(wrong_usage, {"eval", model(), "--token-ids", ids, "--stride", "4"}, {"--stride", "strided"});
  refusal(wrong_usage, {"eval", model(), "--token-ids", ids, "--protocol", "strided", "--context", "16", "--stride", "17"}, {"17", "16"});
  refusal(wrong_usage, {"eval", model(), "--token-ids", ids, "--protocol", "half"}, {"--protocol"});
}

} // namespace compare_test
} // namespace command_tests
