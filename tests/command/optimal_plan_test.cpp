// lsaq plan and lsaq costs where the paper's rule is not all: costs of bits, the cache's bits, several devices; how plans differ, and what memory buys.
#include "plan_command.hpp"

#include <cmath>

namespace command_tests {
namespace optimal_plan_test {

TEST_F(Plans, OfLeastCostAreNeverWorseThanThePapers) {
  std::vector<double> layers;
  for (std::size_t i = 0; i < 32; ++i) layers.push_back(0.2 + static_cast<double>(i * 7 % 32) / 40);
  const std::string importance = scores(layers);
  const auto damage = [&](const json& plan) {
    double sum = 0;
    for (std::size_t l = 0; l < 32; ++l) {
      const unsigned bits = plan.at("bits")[l];
      sum += bits == 16 ? 0 : layers[l] * std::pow(7.0 / ((1u << (bits - 1)) - 1), 2);
    }
    return sum;
  };
  for (const char* memory : {"4GiB", "5GiB", "6GiB", "7GiB", "12GiB", "16GiB"}) {
    const std::vector<std::string> call = {"plan", "--shape", "llama-2-7b", "--importance", importance, "--memory", memory};
    std::vector<std::string> optimal = call;
    optimal.insert(optimal.end(), {"--planner", "optimal"});
    const json best = run_json(optimal), paper = run_json(call);
    expect_consistent(best);
    EXPECT_EQ(best.at("planner"), "optimal");
    EXPECT_NEAR(best.value("cost", 0.0), damage(best), 1e-12);
    EXPECT_LE(damage(best), damage(paper) * (1 + 1e-12)) << memory;
    optimal.insert(optimal.end(), {"--widths", "4,8,16"});
    const json same_widths = run_json(optimal);
    EXPECT_LE(damage(same_widths), damage(paper) * (1 + 1e-12));
    EXPECT_GE(damage(same_widths), damage(best) * (1 - 1e-12));
  }
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "6G", "--widths", "4,8"}, {"--widths", "--planner optimal"});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "6G", "--by-linear"}, {"--by-linear", "--planner optimal"});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "6G", "--kv-cache", "auto"}, {"--kv-cache auto", "--planner optimal"});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "6G", "--planner", "optimal", "--widths", "4,9"}, {"9 bits"});
}

TEST_F(Plans, CostsComeFromAFile) {
  const json table = {{"schema", "lsaq.costs/1"}, {"widths", {4, 8, 16}}, {"layers", {{1, 0.1, 0}, {9, 0.1, 0}, {1, 0.1, 0}, {5, nullptr, 0}}}};
  const std::string costs = write("costs.json", table.dump());
  const std::uint64_t int8 = bytes_of(run_json({"inspect", model()}), "int8");
  const std::vector<std::string> call = {"plan", model(), "--planner", "optimal", "--costs", costs, "--reserve", "0", "--memory"};
  std::vector<std::string> within = call;
  within.push_back(std::to_string(int8));
  const json plan = run_json(within);
  EXPECT_EQ(plan.at("bits"), (json{4, 8, 4, 16})) << "8 bits are forbidden for the last layer, and 16 are worth two others";
  EXPECT_NEAR(plan.at("cost").get<double>(), 2.1, 1e-12);
  EXPECT_FALSE(std::filesystem::exists(cache() / "lsaq" / "importance")) << "nothing is measured";
  const auto refused = [&](const json& other, const std::vector<std::string>& mentions) {
    refusal(bad_input, {"plan", model(), "--planner", "optimal", "--memory", "64MiB", "--costs", write("wrong.json", other.dump())}, mentions);
  };
  refused({{"widths", {4}}}, {"wrong.json", "lsaq.costs/1"});
  refused({{"schema", "lsaq.costs/1"}, {"widths", {4, 9}}, {"layers", json::array()}}, {"\"widths\" holds 9"});
  refused({{"schema", "lsaq.costs/1"}, {"widths", {4}}, {"layers", {{1}, {1}}}}, {"\"layers\"", "4 layers"});
  refused({{"schema", "lsaq.costs/1"}, {"widths", {4}}, {"layers", {{1}, {1, 2}, {1}, {1}}}}, {"layer 1", "1 widths"});
  refused({{"schema", "lsaq.costs/1"}, {"widths", {4}}, {"layers", {{1}, {"x"}, {1}, {1}}}}, {"layer 1", "neither a finite number nor null"});
}

TEST_F(Plans, CostsAreMeasuredOnceForAllBudgets) {
  const std::string ids = token_ids(2, 24), file = path("costs.json").string();
  const json costs = run_json({"costs", model(), "--widths", "8,3", "--token-ids", ids, "-o", file});
  EXPECT_EQ(costs.at("schema"), "lsaq.costs/1");
  EXPECT_EQ(costs.at("widths"), (json{3, 8, 16}));
  EXPECT_EQ(costs.at("windows"), 2);
  ASSERT_EQ(costs.at("layers").size(), 4u);
  for (const json& layer : costs.at("layers")) {
    EXPECT_GT(layer[0], layer[1]) << "3 bits hurt more than 8";
    EXPECT_GE(layer[1], 0);
    EXPECT_EQ(layer[2], 0);
  }
  EXPECT_EQ(json::parse(make_files::content_of(file)), costs);
  const std::uint64_t int8 = bytes_of(run_json({"inspect", model()}), "int8");
  const json plan = run_json({"plan", model(), "--planner", "optimal", "--costs", file, "--reserve", "0", "--memory", std::to_string(int8)});
  EXPECT_EQ(plan.at("bits"), (json{8, 8, 8, 8}));

  const json linears = run_json({"costs", model(), "--widths", "3", "--token-ids", ids, "--by-linear", "--around", "int4", "--measure", "nll"});
  ASSERT_EQ(linears.at("linears").size(), 4u);
  const json& first = linears.at("linears")[0];
  ASSERT_EQ(first.size(), 7u);
  EXPECT_NEAR(first.at("mlp.gate_proj")[0].get<double>(), first.at("mlp.up_proj")[0].get<double>(), 1e-15) << "measured together, of equal size";
  EXPECT_EQ(first.at("mlp.down_proj")[1], 0);
  expect_80_columns(run({"costs", model(), "--token-ids", ids}).out);
  refusal(wrong_usage, {"costs", model(), "--widths", "4,16", "--token-ids", ids}, {"--widths", "2 to 8"});
  refusal(wrong_usage, {"costs", model(), "--widths", "4,4", "--token-ids", ids}, {"--widths", "each once"});
  refusal(wrong_usage, {"costs", model(), "--token-ids", write("short.json", "[[5]]")}, {"at least 2 tokens"});
}

TEST_F(Plans, ChooseTheCacheWithTheWeights) {
  const std::vector<std::string> call = {"plan", "--shape", "llama-3-8b", "--planner", "optimal", "--kv-cache", "auto", "--context", "8192", "--memory"};
  const auto within = [&](const char* memory) {
    std::vector<std::string> words = call;
    words.push_back(memory);
    return run_json(words);
  };
  const json much = within("24GiB"), little = within("6GiB");
  expect_consistent(much);
  expect_consistent(little);
  EXPECT_EQ(much.at("kv_bits"), 16);
  EXPECT_EQ(bytes_of(much, "kv_cache"), std::uint64_t{1} << 30);
  EXPECT_EQ(little.at("kv_bits"), 8);
  EXPECT_EQ(bytes_of(little, "kv_cache"), (std::uint64_t{1} << 30) / 64 * 34);
}

TEST_F(Plans, DivideLayersOverDevices) {
  const json plan = run_json(with_scores({"--shape", "llama-2-7b", "--planner", "optimal", "--devices", "4GiB,2GiB", "--context", "512"}, 32));
  expect_consistent(plan);
  const json& devices = plan.at("devices");
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].at("first_layer"), 0);
  EXPECT_EQ(devices[0].at("layers").get<int>() + devices[1].at("layers").get<int>(), 32);
  EXPECT_EQ(devices[1].at("first_layer"), devices[0].at("layers"));
  EXPECT_LE(devices[0].at("bytes").get<std::uint64_t>(), std::uint64_t{4} << 30);
  EXPECT_LE(devices[1].at("bytes").get<std::uint64_t>(), std::uint64_t{2} << 30);
  EXPECT_EQ(bytes_of(plan, "total"), devices[0].at("bytes").get<std::uint64_t>() + devices[1].at("bytes").get<std::uint64_t>());
  EXPECT_EQ(bytes_of(plan, "embedding"), 2u * 2 * 32000 * 4096);
  expect_80_columns(run(with_scores({"--shape", "llama-2-7b", "--planner", "optimal", "--devices", "4GiB,2GiB"}, 32)).out);
  refusal(does_not_fit, with_scores({"--shape", "llama-2-7b", "--planner", "optimal", "--devices", "1GiB,1GiB"}, 32), {"no division of 32 layers fits"});
  const json paper = run_json(with_scores({"--shape", "llama-2-7b", "--devices", "4GiB,2GiB", "--context", "512"}, 32));
  expect_consistent(paper);
  EXPECT_EQ(bytes_of(paper, "total"), paper.at("devices")[0].at("bytes").get<std::uint64_t>() + paper.at("devices")[1].at("bytes").get<std::uint64_t>());
  EXPECT_LE(paper.at("devices")[1].at("bytes").get<std::uint64_t>(), std::uint64_t{2} << 30);
  refusal(wrong_usage, with_scores({"--shape", "llama-2-7b", "--planner", "optimal", "--devices", "4GiB,x"}, 32), {"--devices", "\"x\""});
}

TEST_F(Plans, AreCompared) {
  const std::string a = write("a.json", R"({"bits":[8,8,4,16],"planner":"paper","bytes":{"weights":100,"total":120}})");
  const std::string b =
      write("b.json", R"({"bits":[8,4,4,8],"planner":"optimal","tensors":{"model.layers.2.mlp.up_proj":6},"bytes":{"weights":90,"total":110}})");
  const json difference = run_json({"plan", "--diff", a, b});
  EXPECT_EQ(difference.at("schema"), "lsaq.plan_difference/1");
  EXPECT_EQ(difference.at("changes"), (json{{{"layer", 1}, {"from", 8}, {"to", 4}},
                                            {{"layer", 2}, {"linear", "mlp.up_proj"}, {"from", 4}, {"to", 6}},
                                            {{"layer", 3}, {"from", 16}, {"to", 8}}}));
  EXPECT_EQ(difference.at("settings"), (json{{"planner", {"paper", "optimal"}}}));
  EXPECT_EQ(difference.at("bytes"), (json{{"weights", {100, 90}}, {"total", {120, 110}}}));
  const Result text = run({"plan", "--diff", a, b});
  EXPECT_EQ(text.code, done);
  expect_80_columns(text.out);
  EXPECT_THAT(text.out, testing::HasSubstr("16 ->  8 bits    1 layer"));
  EXPECT_THAT(run({"plan", "--diff", a, a}).out, testing::HasSubstr("no layer's bits differ"));
  refusal(bad_input, {"plan", "--diff", a, write("c.json", R"({"bits":[8]})")}, {"4 layers", "c.json", "for 1"});
  refusal(bad_input, {"plan", "--diff", a, path("none.json").string()}, {"none.json"});
  refusal(wrong_usage, {"plan", model(), "--diff", a, b}, {"--diff"});
  refusal(wrong_usage, {"plan", "--diff", a}, {"--diff"});
}

TEST_F(Plans, DrawWhatMemoryBuys) {
  const std::string picture = path("frontier.svg").string();
  const std::vector<std::string> call = with_scores({model(), "--memory", "64MiB", "--planner", "optimal", "--frontier", picture}, 4);
  if (std::system("command -v gnuplot > /dev/null 2>&1") != 0) GTEST_SKIP() << "gnuplot is not installed";
  const json plan = run_json(call);
  const json& points = plan.at("frontier");
  ASSERT_GT(points.size(), 10u);
  for (std::size_t p = 1; p < points.size(); ++p) {
    EXPECT_GT(points[p].at("total"), points[p - 1].at("total"));
    EXPECT_LT(points[p].at("cost"), points[p - 1].at("cost"));
  }
  const std::string svg = make_files::content_of(picture);
  for (const char* text : {"<svg", "best plans", "uniform", "paper"}) EXPECT_THAT(svg, testing::HasSubstr(text));
  refusal(wrong_usage, with_scores({model(), "--memory", "64MiB", "--frontier", path("frontier.txt").string()}, 4), {".svg"});
}

} // namespace optimal_plan_test
} // namespace command_tests
