// lsaq inspect and lsaq plan: bytes, the paper's Table IV, budgets that do not suffice.
#include "plan_command.hpp"

namespace command_tests {
namespace plan_test {

std::vector<std::size_t> layers_by_width(const json& plan) {
  std::vector<std::size_t> counts(3);
  for (const json& bits : plan.at("bits")) ++counts.at(bits == 16 ? 0 : bits == 8 ? 1 : bits == 4 ? 2 : 3);
  return counts;
}

TEST_F(Plans, ReproduceTableIV) {
  const struct {
    const char* memory;
    std::vector<std::size_t> layers; // FP16, INT8, INT4
    double average;
  } rows[] = {{"16G", {32, 0, 0}, 16}, {"12G", {0, 32, 0}, 8}, {"8GiB", {0, 32, 0}, 8}, {"6GiB", {0, 22, 10}, 6.75}, {"4G", {0, 1, 31}, 4.125}};
  for (const auto& row : rows) {
    const json plan = run_json({"plan", "--shape", "llama-2-7b", "--memory", row.memory});
    expect_consistent(plan);
    EXPECT_EQ(layers_by_width(plan), row.layers) << row.memory;
    EXPECT_EQ(plan.at("average_bits").get<double>(), row.average) << row.memory;
    EXPECT_EQ(plan.at("model"), "llama-2-7b");
    EXPECT_EQ(plan.at("context"), 0);
    EXPECT_EQ(bytes_of(plan, "kv_cache") + bytes_of(plan, "activations"), 0u);
    EXPECT_EQ(bytes_of(plan, "embedding"), 2u * 2 * 32000 * 4096);
    EXPECT_EQ(bytes_of(plan, "reserve"), 404304936u) << "3% of 2 x 6 738 415 616 bytes";
    EXPECT_FALSE(plan.contains("model_sha256"));
  }
}

TEST_F(Plans, KnowTheSmallestForms) { // Fig. 4 of the paper: all layers INT4
  const std::pair<const char*, double> shapes[] = {{"llama-2-7b", 3.51}, {"llama-2-13b", 6.52}, {"llama-3-8b", 5.21}};
  for (const auto& [shape, gibibytes] : shapes) {
    const std::string message = refusal(does_not_fit, {"plan", "--shape", shape, "--memory", "1GiB", "--reserve", "0"}, {"does not fit", "1.00 GiB"});
    const std::size_t at = message.find("needs ");
    ASSERT_NE(at, std::string::npos);
    EXPECT_NEAR(std::stod(message.substr(at + 6)), gibibytes, 0.005) << message;
  }
}

TEST_F(Plans, UnitsAreBinaryUnlessDecimal) {
  const auto memory = [&](const char* text) { return bytes_of(run_json(with_scores({"--shape", "llama-2-7b", "--memory", text}, 32)), "memory"); };
  EXPECT_EQ(memory("16G"), std::uint64_t{16} << 30);
  EXPECT_EQ(memory("16GiB"), std::uint64_t{16} << 30);
  EXPECT_EQ(memory("16GB"), 16000000000u);
  EXPECT_EQ(memory("17179869184"), 17179869184u);
  EXPECT_EQ(memory("16384 MiB"), std::uint64_t{16} << 30);
  EXPECT_EQ(memory("15.5G"), std::uint64_t{31} << 29);
}

TEST_F(Plans, SayHowMuchIsMissing) {
  for (const std::vector<std::string>& target : {std::vector<std::string>{"--shape", "llama-2-7b"}, {"--shape", "llama-3-8b", "--context", "8192"}}) {
    std::vector<std::string> call = with_scores(target, 32);
    call.insert(call.end(), {"--memory", "3000000000"});
    const std::string message = refusal(does_not_fit, call, {"does not fit", "missing"});
    std::uint64_t missing = 0;
    for (const std::size_t at : {message.find(": ", message.find("available"))}) {
      ASSERT_NE(at, std::string::npos) << message;
      missing = std::stoull(message.substr(message.find('(', at) + 1));
    }
    ASSERT_GT(missing, 0u) << message;
    call.back() = std::to_string(3000000000 + missing - 1);
    refusal(does_not_fit, call, {"1 B (1 bytes) are missing"});
    call.back() = std::to_string(3000000000 + missing);
    const json plan = run_json(call);
    expect_consistent(plan);
    EXPECT_EQ(layers_by_width(plan), (std::vector<std::size_t>{0, 0, 32}));
    EXPECT_EQ(bytes_of(plan, "total"), bytes_of(plan, "memory"));
  }
}

TEST_F(Plans, LowerTheLeastImportantLayersFirst) {
  const std::string importance = scores({0.4, 0.1, 0.9, 0.2});
  const auto plan_within = [&](std::uint64_t memory) {
    return run_json({"plan", model(), "--importance", importance, "--reserve", "0", "--memory", std::to_string(memory)});
  };
  const json all8 = run_json(
      {"plan", model(), "--importance", importance, "--reserve", "0", "--memory", "1G", "--pin", "0=8", "--pin", "1=8", "--pin", "2=8", "--pin", "3=8"});
  EXPECT_EQ(all8.at("bits"), (json{8, 8, 8, 8}));
  const std::uint64_t full = bytes_of(all8, "total");
  EXPECT_EQ(plan_within(full).at("bits"), (json{8, 8, 8, 8}));
  EXPECT_EQ(plan_within(full - 1).at("bits"), (json{8, 4, 8, 8}));
  const std::uint64_t step = full - bytes_of(plan_within(full - 1), "total");
  EXPECT_EQ(plan_within(full - step - 1).at("bits"), (json{8, 4, 8, 4}));
  EXPECT_EQ(plan_within(full - 2 * step - 1).at("bits"), (json{4, 4, 8, 4}));
  EXPECT_EQ(plan_within(full - 3 * step - 1).at("bits"), (json{4, 4, 4, 4}));
  refusal(does_not_fit, {"plan", model(), "--importance", importance, "--reserve", "0", "--memory", std::to_string(full - 4 * step - 1)}, {"1 bytes"});
  EXPECT_EQ(run_json({"plan", model(), "--importance", importance, "--reserve", "0", "--memory", std::to_string(full - 1), "--pin", "1=8"}).at("bits"),
            (json{8, 8, 8, 4}))
      << "pinned layers stay";
}

TEST_F(Plans, CountContextExactly) {
  const json plan = run_json(with_scores({model(), "--memory", "64MiB", "--context", "100"}, 4));
  expect_consistent(plan);
  EXPECT_EQ(plan.at("context"), 100);
  EXPECT_EQ(plan.at("kv_bits"), 16);
  EXPECT_EQ(bytes_of(plan, "kv_cache"), 4u * 2 * 2 * 16 * 100 * 2);
  EXPECT_GT(bytes_of(plan, "activations"), 0u);
  EXPECT_EQ(bytes_of(plan, "reserve"), bytes_of(run_json({"inspect", model()}), "fp16") * 3 / 100);
  EXPECT_EQ(bytes_of(run_json(with_scores({model(), "--memory", "64MiB", "--reserve", "2MiB"}, 4)), "reserve"), 2u << 20);
  EXPECT_EQ(bytes_of(run_json(with_scores({model(), "--memory", "64MiB", "--reserve", "0%"}, 4)), "reserve"), 0u);
  EXPECT_EQ(bytes_of(run_json(with_scores({model(), "--memory", "64MiB", "--reserve", "50%"}, 4)), "reserve"),
            bytes_of(run_json({"inspect", model()}), "fp16") / 2);
}

TEST_F(Plans, AreWrittenAsTheyArePrinted) {
  const std::string file = path("plan.json").string();
  const json printed = run_json(with_scores({model(), "--memory", "64MiB", "-o", file}, 4));
  EXPECT_EQ(json::parse(make_files::content_of(file)), printed);
  EXPECT_EQ(printed.at("model_sha256"), run_json({"inspect", model()}).at("model_sha256"));
  EXPECT_THAT(printed.at("model_sha256").get<std::string>(), testing::MatchesRegex("[0-9a-f]{64}"));
  EXPECT_EQ(printed.at("model"), "Small Llama");
}

TEST_F(Plans, ExplainEveryNumber) {
  for (const char* format : {"packed", "gguf", "compressed-tensors"})
    for (const char* context : {"", "100"}) {
      std::vector<std::string> call = with_scores({model(), "--memory", "780KiB", "--reserve", "1%", "--explain", "--format", format}, 4);
      if (*context != '\0') call.insert(call.end(), {"--context", context, "--memory", "1200KiB"});
      if (*context != '\0') call.erase(std::find(call.begin(), call.end(), "780KiB") - 1, std::find(call.begin(), call.end(), "780KiB") + 1);
      const json plan = run_json(call);
      std::map<std::string, std::uint64_t> sums;
      for (const json& one : plan.at("explain")) {
        EXPECT_FALSE(one.at("text").get<std::string>().empty());
        sums[one.at("part")] += one.at("bytes").get<std::uint64_t>();
      }
      for (const char* part : {"weights", "embedding", "kv_cache", "activations", "reserve"})
        EXPECT_EQ(sums[part], bytes_of(plan, part)) << format << " " << part;
      EXPECT_GT(sums["while_quantizing"], 0u);
      EXPECT_EQ(plan.at("format"), format);
    }
  const auto while_quantizing = [&](const char* rounding) {
    const json plan = run_json(with_scores({model(), "--memory", "64MiB", "--explain", "--rounding", rounding}, 4));
    std::uint64_t sum = 0;
    for (const json& one : plan.at("explain"))
      if (one.at("part") == "while_quantizing") sum += one.at("bytes").get<std::uint64_t>();
    return sum;
  };
  EXPECT_EQ(while_quantizing("gptq"), while_quantizing("clip") + 96 * 96 * 12) << "the widest linear's factor";
  EXPECT_GT(while_quantizing("clip"), while_quantizing("nearest"));
  const Result text = run(with_scores({model(), "--memory", "64MiB", "--explain", "--context", "100", "--rounding", "gptq"}, 4));
  EXPECT_EQ(text.code, done);
  expect_80_columns(text.out);
  EXPECT_THAT(text.out, testing::HasSubstr("the output head is the same matrix"));
}

TEST_F(Plans, CountTheBytesOfOtherFormats) {
  const auto weights = [&](const char* format, const char* pin) {
    std::vector<std::string> call = with_scores({model(), "--memory", "64MiB", "--format", format}, 4);
    for (const char* layer : {"0=", "1=", "2=", "3="}) call.insert(call.end(), {"--pin", std::string(layer) + pin});
    return bytes_of(run_json(call), "weights");
  };
  // 64 x 64, twice 32 x 64, 64 x 64, twice 96 x 64, 64 x 96: all columns are blocks of 32.
  const std::uint64_t elements = 64 * 64 * 2 + 2 * 32 * 64 + 3 * 96 * 64, rows = 64 * 3 + 2 * 32 + 2 * 96;
  EXPECT_EQ(weights("packed", "8"), 4 * (elements + 2 * rows + 2 * 2 * 64) + 2 * 64);
  EXPECT_EQ(weights("gguf", "8"), 4 * (elements / 32 * 34 + 2 * 4 * 64) + 4 * 64) << "norms are F32 there";
  EXPECT_EQ(weights("gguf", "4"), 4 * (elements / 32 * 18 + 2 * 4 * 64) + 4 * 64);
  EXPECT_EQ(weights("compressed-tensors", "4"), 4 * (elements / 2 + 2 * rows + 7 * 16 + 2 * 2 * 64) + 2 * 64);
}

TEST_F(Plans, NameWhatWouldFit) {
  const std::vector<std::string> call = {"plan", "--shape", "llama-2-7b", "--memory", "4GiB", "--context", "4096"};
  refusal(does_not_fit, call, {"are missing; it would fit with ", "--context "});
  const std::string message = refusal(does_not_fit, {"plan", "--shape", "llama-2-7b", "--memory", "3GiB"}, {"--planner optimal"});
  EXPECT_EQ(message.find("--context"), std::string::npos) << "none was asked for";
  EXPECT_EQ(run({"plan", "--shape", "llama-2-7b", "--memory", "3GiB", "--planner", "optimal"}).code, done) << "as it said";
  const std::string longest =
      refusal(does_not_fit, {"plan", "--shape", "llama-3-8b", "--memory", "6GiB", "--context", "8192", "--kv-cache", "q8_0"}, {"--context "});
  const std::string context = std::to_string(std::stoul(longest.substr(longest.find("--context ") + 10)));
  EXPECT_EQ(run({"plan", "--shape", "llama-3-8b", "--memory", "6GiB", "--kv-cache", "q8_0", "--context", context}).code, done);
  EXPECT_EQ(run({"plan", "--shape", "llama-3-8b", "--memory", "6GiB", "--kv-cache", "q8_0", "--context", std::to_string(std::stoul(context) + 1)}).code,
            does_not_fit);
  const std::string hopeless = refusal(does_not_fit, {"plan", "--shape", "llama-3-8b", "--memory", "1GiB"}, {"are missing"});
  EXPECT_EQ(hopeless.find("it would fit"), std::string::npos);
}

TEST_F(Plans, TablesFitATerminal) {
  for (const char* memory : {"16G", "6G", "4G"}) {
    const Result result = run({"plan", "--shape", "llama-2-7b", "--memory", memory});
    EXPECT_EQ(result.code, done);
    expect_80_columns(result.out + result.err);
  }
  std::vector<double> mixed(32);
  for (std::size_t i = 0; i < 32; ++i) mixed[i] = i % 2 == 0 ? 1 : 0; // ranges of one layer each
  const Result wide = run({"plan", "--shape", "llama-2-7b", "--memory", "5G", "--importance", scores(mixed)});
  EXPECT_EQ(wide.code, done);
  expect_80_columns(wide.out + wide.err);
  for (const std::vector<std::string>& call : {std::vector<std::string>{"inspect", model()}, {"inspect", model(), "--tensors"}, {"devices"}}) {
    const Result result = run(call);
    EXPECT_EQ(result.code, done);
    EXPECT_EQ(result.err, "");
    expect_80_columns(result.out);
  }
}

TEST_F(Plans, InspectTellsWhatAModelIs) {
  const json object = run_json({"inspect", model(), "--tensors"});
  EXPECT_EQ(object.at("schema"), "lsaq.inspect/1");
  const std::pair<const char*, json> facts[] = {
      {"model", "Small Llama"}, {"architecture", "llama"}, {"file_format", "gguf"}, {"layers", 4},     {"hidden", 64},          {"ffn", 96}, {"heads", 4},
      {"kv_heads", 2},          {"head_size", 16},         {"vocabulary", 265},     {"context", 1024}, {"tied_embedding", true}};
  for (const auto& [key, value] : facts) EXPECT_EQ(object.at(key), value) << key;
  EXPECT_EQ(object.at("tensors").size(), 2u + 4 * 9);
  EXPECT_EQ(object.at("tensor_types"), (json{{"F16", 1 + 4 * 7}, {"F32", 1 + 4 * 2}}));
  EXPECT_EQ(bytes_of(object, "file"), std::filesystem::file_size(model()));
  const std::uint64_t weights = 4 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 96 * 64), rows = 4 * (64 + 32 + 32 + 64 + 96 + 96 + 64);
  const std::uint64_t rest = 2 * (265 * 64 + (2 * 4 + 1) * 64);
  EXPECT_EQ(bytes_of(object, "fp16"), 2 * weights + rest);
  EXPECT_EQ(bytes_of(object, "int8"), weights + 2 * rows + rest);
  EXPECT_EQ(bytes_of(object, "int4"), weights / 2 + 2 * rows + rest);
}

TEST_F(Plans, AFolderIsAModelToo) {
  const make_files::TemporaryFolder folder;
  small_model().folder().write(folder);
  const json object = run_json({"inspect", folder.path().string()});
  EXPECT_EQ(object.at("file_format"), "safetensors");
  EXPECT_EQ(object.at("model"), "small/llama");
  EXPECT_EQ(object.at("bytes").at("fp16"), run_json({"inspect", model()}).at("bytes").at("fp16"));
  const json plan = run_json(with_scores({folder.path().string(), "--memory", "64MiB"}, 4));
  EXPECT_EQ(plan.at("model_sha256"), object.at("model_sha256"));
}

} // namespace plan_test
} // namespace command_tests
