// lsaq.importance/1: what is written comes back, what is malformed is refused by name.
#include <lsaq/formats/importance_file.hpp>

#include "make_files.hpp"

namespace importance_file_test {

using lsaq::BadInput;
using lsaq::Importance;
using lsaq::importance_from_json;
using lsaq::importance_to_json;
using lsaq::parse_json;
using make_files::expect_mentions;
using make_files::message_of;
using testing::ElementsAre;
using testing::IsEmpty;

Importance read(std::string_view text) { return importance_from_json(parse_json(text, "i.json"), "i.json"); }

std::string refusal(std::string_view text) {
  return message_of<BadInput>([&] { read(text); });
}

const Importance measured{.metric = "jaccard", .scores = {0.1 + 0.2, 1.0 / 3, 5e-324, 0.7}, .spread = {0.01, 0, 1e-17, 2}, .windows = 32};

TEST(ImportanceFile, IsWrittenAsDocumented) {
  EXPECT_EQ(importance_to_json({.metric = "jaccard", .scores = {0.5, 0.25, 0.75}, .spread = {0, 0.125, 0.5}, .windows = 3}, "a model", 50),
            nlohmann::json::parse(R"({"schema": "lsaq.importance/1", "model": "a model", "metric": "jaccard", "top_k": 50, "windows": 3,
                                      "scores": [0.5, 0.25, 0.75], "spread": [0.0, 0.125, 0.5], "order": [1, 0, 2]})"));
  EXPECT_FALSE(importance_to_json(measured, "m", 0).contains("top_k")) << "metrics without token sets";
  EXPECT_FALSE(importance_to_json(measured, "m", 0).contains("window_scores")) << "not known";
}

const Importance of_two_windows{.metric = "ranked",
                                .scores = {0.2, 0.5, 1.0 / 3},
                                .spread = {0.1, 0, 1e-9},
                                .windows = 2,
                                .window_scores = {0.1, 0.5, 1.0 / 7, 0.30000000000000004, 0.5, 5e-324}};

TEST(ImportanceFile, WindowScoresAreAnArrayForEachWindow) {
  const nlohmann::json json = importance_to_json(of_two_windows, "m", 0);
  EXPECT_EQ(json.at("window_scores"), nlohmann::json::parse("[[0.1, 0.5, 0.14285714285714285], [0.30000000000000004, 0.5, 5e-324]]"));
}

TEST(ImportanceFile, WindowScoresComeBackBitForBit) {
  const Importance back = read(importance_to_json(of_two_windows, "m", 0).dump());
  EXPECT_EQ(back.windows, 2u);
  EXPECT_EQ(back.window_scores, of_two_windows.window_scores);
  EXPECT_EQ(back.scores, of_two_windows.scores);
  EXPECT_THAT(read(importance_to_json(measured, "m", 50).dump()).window_scores, IsEmpty()) << "not known";
}

TEST(ImportanceFile, WindowScoresThatAreNotWindowsTimesLayersAreNotWritten) {
  for (const Importance& torn : {Importance{.scores = {1, 2}, .windows = 2, .window_scores = {1, 2, 3}}, Importance{.scores = {1, 2}, .window_scores = {1, 2}},
                                 Importance{.windows = 2, .window_scores = {1, 2}}})
    expect_mentions(message_of<lsaq::InvalidArgument>([&] { (void)importance_to_json(torn, "m", 0); }), {"windows of ", "layers can't be"});
}

TEST(ImportanceFile, WindowScoresOfNoWindows) {
  EXPECT_THAT(read(R"({"schema": "lsaq.importance/1", "scores": [1, 2], "windows": 0, "window_scores": []})").window_scores, IsEmpty());
  EXPECT_THAT(read(R"({"schema": "lsaq.importance/1", "scores": [1, 2], "window_scores": []})").window_scores, IsEmpty());
}

TEST(ImportanceFile, ComesBackBitForBit) {
  const Importance back = read(importance_to_json(measured, "m", 50).dump());
  EXPECT_EQ(back.metric, measured.metric);
  EXPECT_EQ(back.scores, measured.scores);
  EXPECT_EQ(back.spread, measured.spread);
  EXPECT_EQ(back.windows, measured.windows);
  EXPECT_EQ(back.order(), measured.order());
}

TEST(ImportanceFile, NegativeScoresComeBack) {
  const Importance back = read(importance_to_json({.metric = "outlier", .scores = {-0.25, -1e-3}, .spread = {0, 0}}, "m", 0).dump());
  EXPECT_THAT(back.scores, ElementsAre(-0.25, -1e-3));
  EXPECT_EQ(back.windows, 0u);
}

TEST(ImportanceFile, SchemaAndScoresAreEnough) {
  const Importance importance = read(R"({"schema": "lsaq.importance/1", "scores": [1, 0.5, 0]})"); // whole numbers are numbers
  EXPECT_THAT(importance.scores, ElementsAre(1.0, 0.5, 0.0));
  EXPECT_THAT(importance.spread, ElementsAre(0.0, 0.0, 0.0));
  EXPECT_EQ(importance.metric, "");
  EXPECT_EQ(importance.windows, 0u);
}

TEST(ImportanceFile, UnknownFieldsAndTheOrderAreNotRead) {
  const Importance importance = read(R"({"schema": "lsaq.importance/1", "scores": [0.2, 0.1], "order": [0, 1], "remark": {"any": "thing"}})");
  EXPECT_THAT(importance.order(), ElementsAre(1, 0)) << "follows from the scores";
}

TEST(ImportanceFile, WrongSchemaIsRefused) {
  const std::vector<std::string> sentence{"i.json", "not an importance file", "\"schema\" must be \"lsaq.importance/1\""};
  expect_mentions(refusal(R"({"scores": [1]})"), sentence);
  expect_mentions(refusal(R"({"schema": "lsaq.importance/2", "scores": [1]})"), sentence);
  expect_mentions(refusal(R"({"schema": "lsaq.plan/1", "scores": [1]})"), sentence);
  expect_mentions(refusal(R"({"schema": 1, "scores": [1]})"), sentence);
  expect_mentions(refusal(R"({"schema": null, "scores": [1]})"), sentence);
  expect_mentions(message_of<BadInput>([] { importance_from_json(nlohmann::json::array(), "i.json"); }), sentence);
}

TEST(ImportanceFile, MalformedFieldsAreRefusedByName) {
  const auto with = [](const std::string& fields) { return refusal(R"({"schema": "lsaq.importance/1", )" + fields + "}"); };
  const std::string good = R"("scores": [0.5, 1], )";
  expect_mentions(with(R"("windows": 1)"), {"i.json", "\"scores\" must be an array of numbers"});
  expect_mentions(with(R"("scores": 0.5)"), {"i.json", "\"scores\" must be an array"});
  expect_mentions(with(R"("scores": {"0": 0.5})"), {"i.json", "\"scores\" must be an array"});
  expect_mentions(with(R"("scores": [])"), {"i.json", "\"scores\" is empty"});
  expect_mentions(with(R"("scores": [0.5, "1"])"), {"i.json", "\"scores\" holds \"1\"", "no finite number"});
  expect_mentions(with(R"("scores": [null])"), {"i.json", "\"scores\" holds null", "no finite number"});
  expect_mentions(with(R"("scores": [[0.5]])"), {"i.json", "\"scores\" holds [0.5]"});
  expect_mentions(with(R"("scores": [true])"), {"i.json", "\"scores\" holds true"});
  expect_mentions(with(good + R"("spread": [0.1])"), {"i.json", "\"spread\" and \"scores\" have different lengths"});
  expect_mentions(with(good + R"("spread": [0.1, 0, 0])"), {"i.json", "\"spread\" and \"scores\" have different lengths"});
  expect_mentions(with(good + R"("spread": null)"), {"i.json", "\"spread\" must be an array"});
  expect_mentions(with(good + R"("spread": [0, {}])"), {"i.json", "\"spread\" holds {}"});
  expect_mentions(with(good + R"("metric": 7)"), {"i.json", "\"metric\" must be a string"});
  expect_mentions(with(good + R"("windows": -1)"), {"i.json", "\"windows\" is -1", "whole number"});
  expect_mentions(with(good + R"("windows": "32")"), {"i.json", "\"windows\" is \"32\""});
  expect_mentions(with(good + R"("windows": 1.5)"), {"i.json", "\"windows\" is 1.5"});
}

TEST(ImportanceFile, MalformedWindowScoresAreRefusedByName) {
  const auto with = [](const std::string& fields) { return refusal(R"({"schema": "lsaq.importance/1", "scores": [0.5, 1], )" + fields + "}"); };
  const std::string two = R"("windows": 2, "window_scores": )";
  for (const char* value : {"null", "1", "{}", "\"many\"", "true"})
    expect_mentions(with(two + value), {"i.json", "\"window_scores\" must be an array with an array of numbers for each window"});
  expect_mentions(with(two + "[0.5, 1]"), {"i.json", "\"window_scores\" must be an array of numbers"});
  expect_mentions(with(two + "[[0.5, 1], {}]"), {"i.json", "\"window_scores\" must be an array of numbers"});
  expect_mentions(with(two + "[[0.5, 1], [0.5, \"1\"]]"), {"i.json", "\"window_scores\" holds \"1\"", "no finite number"});
  expect_mentions(with(two + "[[0.5, null], [0.5, 1]]"), {"i.json", "\"window_scores\" holds null", "no finite number"});
  expect_mentions(with(two + "[[[0.5], 1], [0.5, 1]]"), {"i.json", "\"window_scores\" holds [0.5]", "no finite number"});
  for (const char* value : {"[[0.5], [0.5, 1]]", "[[0.5, 1], [0.5, 1, 0]]", "[[], []]", "[[0.5, 1, 1], [0.5]]"}) // the last has as many numbers as it should
    expect_mentions(with(two + value), {"i.json", "\"window_scores\" and \"scores\" have different numbers of layers"});
  expect_mentions(with(two + "[]"), {"i.json", "\"window_scores\" has 0 windows, \"windows\" says 2"});
  expect_mentions(with(two + "[[0.5, 1]]"), {"i.json", "\"window_scores\" has 1 windows, \"windows\" says 2"});
  expect_mentions(with(two + "[[0.5, 1], [0.5, 1], [0.5, 1]]"), {"i.json", "\"window_scores\" has 3 windows, \"windows\" says 2"});
  expect_mentions(with(R"("window_scores": [[0.5, 1]])"), {"i.json", "\"window_scores\" has 1 windows, \"windows\" says 0"});
}

TEST(ImportanceFile, NumbersThatAreNotFiniteAreRefused) {
  nlohmann::json json{{"schema", "lsaq.importance/1"}, {"scores", {0.5, std::numeric_limits<double>::infinity()}}}; // as a caller may build it
  expect_mentions(message_of<BadInput>([&] { importance_from_json(json, "i.json"); }), {"\"scores\" holds", "no finite number"});
  json["scores"][1] = std::numeric_limits<double>::quiet_NaN();
  expect_mentions(message_of<BadInput>([&] { importance_from_json(json, "i.json"); }), {"\"scores\" holds", "no finite number"});
  json["scores"][1] = 0.25;
  json["windows"] = 1u;
  json["window_scores"] = nlohmann::json::array({{0.5, std::numeric_limits<double>::infinity()}});
  expect_mentions(message_of<BadInput>([&] { importance_from_json(json, "i.json"); }), {"\"window_scores\" holds", "no finite number"});
}

TEST(ImportanceFile, NothingATerminalActsOnIsTakenOver) {
  expect_mentions(refusal(R"({"schema": "lsaq.importance/1", "scores": ["\u001b[31m)" + std::string(5000, 'x') + "\"]}"), {"\"scores\" holds", "..."});
  EXPECT_EQ(read(R"({"schema": "lsaq.importance/1", "scores": [1], "metric": "\u001b[31mred"})").metric, "\\x1b[31mred");
}

} // namespace importance_file_test
