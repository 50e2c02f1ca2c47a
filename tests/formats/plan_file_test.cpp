// lsaq.plan/1: what is written comes back, `bits` alone is enough, what is malformed is refused by name.
#include <lsaq/formats/plan_file.hpp>

#include "make_files.hpp"

namespace plan_file_test {

using lsaq::BadInput;
using lsaq::parse_json;
using lsaq::plan_from_json;
using lsaq::plan_to_json;
using lsaq::PlanFile;
using make_files::expect_mentions;
using make_files::message_of;
using testing::ElementsAre;
using testing::Pair;

PlanFile read(std::string_view text) { return plan_from_json(parse_json(text, "p.json"), "p.json"); }

std::string refusal(std::string_view text) {
  return message_of<BadInput>([&] { read(text); });
}

PlanFile complete() {
  PlanFile file;
  file.plan.bits = {16, 8, 4};
  file.plan.tensors = {{"0.mlp.down_proj", 8}, {"2.self_attn.q_proj", 16}};
  file.plan.average_bits = 9.5;
  file.plan.bytes = {.weights = 1, .embedding = 2, .kv_cache = 4, .activations = 8, .reserve = 16, .total = 31, .memory = 6'000'000'000};
  file.model = "a model";
  file.model_sha256 = std::string(64, 'a');
  file.planner = "optimal";
  file.rounding = "gptq";
  file.granularity = "tensor";
  file.scale = "bf16";
  file.codes = "full";
  file.rotation = "residual+ffn";
  file.format = "gguf";
  file.context = 4096;
  file.kv_bits = 8;
  return file;
}

TEST(PlanFileJson, IsWrittenAsDocumented) {
  EXPECT_EQ(plan_to_json(complete()), nlohmann::json::parse(R"({
    "schema": "lsaq.plan/1", "bits": [16, 8, 4], "average_bits": 9.5, "model": "a model",
    "model_sha256": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "planner": "optimal", "rounding": "gptq", "granularity": "tensor",
    "codes": "full", "rotation": "residual+ffn", "scale": "bf16", "format": "gguf", "context": 4096, "kv_bits": 8,
    "tensors": {"model.layers.0.mlp.down_proj": 8, "model.layers.2.self_attn.q_proj": 16},
    "bytes": {"weights": 1, "embedding": 2, "kv_cache": 4, "activations": 8, "reserve": 16, "total": 31, "memory": 6000000000}})"));
}

TEST(PlanFileJson, WritesNothingItDoesNotKnow) {
  const nlohmann::json json = plan_to_json({.plan = {.bits = {8}}});
  EXPECT_FALSE(json.contains("model_sha256"));
  EXPECT_FALSE(json.contains("tensors"));
}

TEST(PlanFileJson, ComesBack) {
  const PlanFile file = complete(), back = read(plan_to_json(file).dump());
  EXPECT_EQ(back.plan.bits, file.plan.bits);
  EXPECT_EQ(back.plan.tensors, file.plan.tensors);
  EXPECT_EQ(back.model, file.model);
  EXPECT_EQ(back.model_sha256, file.model_sha256);
  EXPECT_EQ(back.planner, file.planner);
  EXPECT_EQ(back.rounding, file.rounding);
  EXPECT_EQ(back.granularity, file.granularity);
  EXPECT_EQ(back.scale, file.scale);
  EXPECT_EQ(back.format, file.format);
  EXPECT_EQ(back.context, file.context);
  EXPECT_EQ(back.kv_bits, file.kv_bits);
}

TEST(PlanFileJson, BytesAndAverageFollowFromTheModelAndAreNotTakenOver) {
  const PlanFile back = read(plan_to_json(complete()).dump());
  EXPECT_EQ(back.plan.average_bits, 0);
  EXPECT_EQ(back.plan.bytes.total, 0u);
}

TEST(PlanFileJson, BitsAloneAreEnough) {
  const PlanFile file = read(R"({"bits": [16, 8, 4, 4]})"), expected;
  EXPECT_THAT(file.plan.bits, ElementsAre(16, 8, 4, 4));
  EXPECT_TRUE(file.plan.tensors.empty());
  EXPECT_EQ(file.model_sha256, "");
  EXPECT_EQ(file.planner, expected.planner);
  EXPECT_EQ(file.rounding, "nearest");
  EXPECT_EQ(file.granularity, "channel");
  EXPECT_EQ(file.scale, "f16");
  EXPECT_EQ(file.context, 0u);
  EXPECT_EQ(file.kv_bits, 16u);
}

TEST(PlanFileJson, UnknownFieldsAreNotRead) { EXPECT_THAT(read(R"({"bits": [8], "remark": [1, {"x": null}]})").plan.bits, ElementsAre(8)); }

TEST(PlanFileJson, EveryWidthThatCanBePacked) {
  EXPECT_THAT(read(R"({"bits": [2, 3, 4, 5, 6, 7, 8, 16]})").plan.bits, ElementsAre(2, 3, 4, 5, 6, 7, 8, 16));
  for (const char* width : {"0", "1", "9", "15", "17", "32", "-4", "4.0", "4.5", "\"4\"", "null", "true", "[4]", "{}", "18446744073709551620", "4294967304"})
    expect_mentions(refusal(std::string(R"({"bits": [8, )") + width + "]}"), {"p.json", "\"bits\" holds ", "16 or 2 to 8"});
}

TEST(PlanFileJson, TensorsMayCarryTheirSuffix) {
  const PlanFile file = read(R"({"bits": [8, 4], "tensors": {"model.layers.1.mlp.down_proj.weight": 16, "model.layers.0.x": 2}})");
  EXPECT_THAT(file.plan.tensors, ElementsAre(Pair("0.x", 2u), Pair("1.mlp.down_proj", 16u)));
  EXPECT_EQ(file.plan.bits_of(1, "mlp.down_proj"), 16u);
}

TEST(PlanFileJson, TensorsThatNameNothingAreRefused) {
  for (const char* tensor : {"", "x", "model.layers.", "model.layers.0", "model.layers.0.", "model.layers.x.mlp.down_proj", "model.layers.-1.a", ".weight",
                             "layers.0.mlp.down_proj", "0.mlp.down_proj", "model.layers..a", "model.layers.0a.b", "model.layers.0.weight"})
    expect_mentions(refusal(std::string(R"({"bits": [8], "tensors": {")") + tensor + "\": 4}}"),
                    {"p.json", "\"tensors\" names " + std::string(tensor), "model.layers.3.mlp.down_proj are wanted"});
}

TEST(PlanFileJson, TensorsOfLayersThePlanDoesNotHaveAreRefused) {
  for (const char* layer : {"2", "00", "01", "4294967296", "18446744073709551616", "99999999999999999999999999"})
    expect_mentions(refusal(std::string(R"({"bits": [8, 8], "tensors": {"model.layers.)") + layer + ".a\": 4}}"),
                    {"p.json", "\"tensors\" names model.layers." + std::string(layer) + ".a", "0 to 1"});
}

TEST(PlanFileJson, ATensorNamedTwiceIsRefused) {
  expect_mentions(refusal(R"({"bits": [8], "tensors": {"model.layers.0.a": 4, "model.layers.0.a.weight": 8}})"), {"p.json", "model.layers.0.a.weight twice"});
}

TEST(PlanFileJson, MalformedFieldsAreRefusedByName) {
  expect_mentions(refusal(R"({})"), {"p.json", "\"bits\" must be an array with one width for each layer"});
  expect_mentions(refusal(R"({"schema": "lsaq.plan/1"})"), {"p.json", "\"bits\" must be an array"});
  expect_mentions(refusal(R"({"bits": []})"), {"p.json", "\"bits\" must be an array"});
  expect_mentions(refusal(R"({"bits": 8})"), {"p.json", "\"bits\" must be an array"});
  expect_mentions(refusal(R"({"bits": {"0": 8}})"), {"p.json", "\"bits\" must be an array"});
  expect_mentions(refusal(R"({"bits": [8], "schema": "lsaq.plan/2"})"), {"p.json", "\"schema\" is \"lsaq.plan/2\"", "not \"lsaq.plan/1\""});
  expect_mentions(refusal(R"({"bits": [8], "schema": "lsaq.importance/1"})"), {"p.json", "\"schema\" is \"lsaq.importance/1\""});
  expect_mentions(refusal(R"({"bits": [8], "schema": 1})"), {"p.json", "\"schema\" is 1"});
  expect_mentions(refusal(R"({"bits": [8], "tensors": []})"), {"p.json", "\"tensors\" must map tensor names to bits"});
  expect_mentions(refusal(R"({"bits": [8], "tensors": null})"), {"p.json", "\"tensors\" must map"});
  expect_mentions(refusal(R"({"bits": [8], "tensors": {"model.layers.0.a": 9}})"), {"p.json", "\"tensors\" holds 9", "16 or 2 to 8"});
  for (const char* field : {"model", "model_sha256", "planner", "rounding", "granularity", "scale", "format"})
    for (const char* value : {"7", "null", "[\"x\"]", "{}"})
      expect_mentions(refusal(std::string("{\"bits\": [8], \"") + field + "\": " + value + "}"), {"p.json", "\"" + std::string(field) + "\" must be a string"});
  for (const char* field : {"context", "kv_bits"})
    for (const char* value : {"-1", "1.5", "\"256\"", "null", "[]"})
      expect_mentions(refusal(std::string("{\"bits\": [8], \"") + field + "\": " + value + "}"),
                      {"p.json", "\"" + std::string(field) + "\" is " + value, "whole number"});
  expect_mentions(refusal(R"({"bits": [8], "kv_bits": 4294967304})"), {"p.json", "\"kv_bits\" is 4294967304"}); // 8, if cut to 32 bits
  expect_mentions(message_of<BadInput>([] { plan_from_json(nlohmann::json::array({8}), "p.json"); }), {"p.json", "a JSON object is wanted"});
}

TEST(PlanFileJson, MessagesAreOneLineWithoutControlCharacters) {
  const std::string escape = R"(\u001b[2J\n)";
  expect_mentions(refusal(R"({"bits": [")" + escape + R"("]})"), {"\"bits\" holds"});
  expect_mentions(refusal(R"({"bits": [8], "schema": ")" + escape + R"("})"), {"\"schema\" is"});
  expect_mentions(refusal(R"({"bits": [8], "tensors": {"model.)" + escape + std::string(5000, 'x') + R"(": 8}})"), {"\\x1b[2J\\x0a", "..."});
  expect_mentions(refusal(R"({"bits": [8], "tensors": {"model.layers.7.)" + escape + R"(": 8}})"), {"\\x1b[2J\\x0a", "0 to 0"});
}

} // namespace plan_file_test
