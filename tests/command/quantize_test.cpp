// lsaq quantize, and the options of rounding that eval, run, plan and compare share.
#include "importance_command.hpp"

namespace command_tests {
namespace quantize_test {

class Quantize : public Command {
protected:
  std::string ids() const { return token_ids(6, 24, "calibration.json"); }
  Words calibrated(const Words& more) const { return Words{"--calibration-ids", ids()} + more; }
  Words call(const std::string& out, const Words& options = {}) { return Words{"quantize", model(), "-o", path(out).string()} + options; }
  json evaluated(const Words& options) { return run_json(Words{"eval", model(), "--token-ids", token_ids(3, 40, "text.json"), "--divergence"} + options); }
  std::string content(const std::string& name) const { return make_files::content_of(path(name)); }
};

TEST_F(Quantize, FilesAreWhatEvalRoundsItself) {
  const Words choices[] = {{"--bits", "4"},
                           {"--bits", "3", "--rotate", "--codes", "full"},
                           {"--bits", "4", "--granularity", "group:32", "--rotate-ffn", "--rotate-heads"},
                           {"--bits", "5", "--granularity", "tensor"},
                           calibrated({"--bits", "4", "--rounding", "clip"}),
                           calibrated({"--bits", "4", "--rounding", "gptq", "--rotate"})};
  for (const Words& options : choices) {
    const json made = run_json(call("q.safetensors", options));
    EXPECT_EQ(made.at("schema"), "lsaq.quantize/1");
    EXPECT_EQ(made.at("bytes"), std::filesystem::file_size(path("q.safetensors")));
    const json direct = evaluated(options), file = evaluated({"--quantized", path("q.safetensors").string()});
    EXPECT_EQ(file.at("nll"), direct.at("nll")) << made.at("rounding");
    EXPECT_EQ(file.at("rounding"), made.at("rounding"));
    EXPECT_EQ(file.at("bytes_weights"), direct.at("bytes_weights"));
    EXPECT_EQ(file.at("average_bits"),
              std::stod(options.at(static_cast<std::size_t>(std::find(options.begin(), options.end(), "--bits") - options.begin()) + 1)));
  }
  const json text = run_json({"run", model(), "--quantized", path("q.safetensors").string(), "--tokens", "5"});
  EXPECT_EQ(text.at("plan").at("rounding"), "gptq");
  EXPECT_EQ(text.at("plan").at("rotation"), "residual+heads");
  EXPECT_EQ(text.at("plan").at("codes"), "full") << "gptq's default";
}

TEST_F(Quantize, CalibrationMakesTheModelBetter) {
  const double nearest = evaluated({"--bits", "3"}).at("kl").get<double>();
  const double clip = evaluated(calibrated({"--bits", "3", "--rounding", "clip"})).at("kl").get<double>();
  EXPECT_LT(clip, nearest);
  EXPECT_LT(evaluated(calibrated({"--bits", "3", "--rounding", "gptq"})).at("kl").get<double>(), nearest);
}

/// Statistics are measured once, whatever is rounded with them, and a damaged file of them is measured again.
TEST_F(Quantize, StatisticsAreKept) {
  const std::filesystem::path statistics = cache() / "lsaq" / "statistics";
  const auto rounded = [&](const Words& more) { return evaluated(calibrated(Words{"--rounding", "gptq"} + more)).at("nll"); };
  const json first = rounded({"--bits", "4", "--no-statistics-cache"});
  EXPECT_FALSE(std::filesystem::exists(statistics));
  EXPECT_EQ(rounded({"--bits", "4"}), first);
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(statistics))
    if (entry.is_regular_file()) files.push_back(entry.path());
  ASSERT_EQ(files.size(), 4u) << "one a layer";
  const auto time = std::filesystem::last_write_time(files[0]);
  const std::string whole = make_files::content_of(files[0]);
  (void)rounded({"--bits", "3", "--rotate", "--granularity", "group:32"});
  EXPECT_EQ(std::filesystem::last_write_time(files[0]), time) << "good for every width and basis";
  for (const std::string& damaged : {std::string(), whole.substr(0, whole.size() - 1), whole + "x", "{}" + whole}) {
    std::ofstream(files[0], std::ios::binary | std::ios::trunc) << damaged;
    EXPECT_EQ(rounded({"--bits", "4"}), first);
    EXPECT_EQ(make_files::content_of(files[0]), whole);
  }
}

TEST_F(Quantize, GoesOnWhereItWasInterrupted) {
  const Words once = calibrated({"--bits", "4", "--rounding", "gptq", "--threads", "1"});
  ASSERT_EQ(run(call("whole.safetensors", once)).code, done);
  for (const auto& way : {std::pair(SIGINT, once), std::pair(SIGKILL, once), std::pair(SIGINT, once + Words{"--sequential"})}) {
    const int signal = way.first;
    const Words& options = way.second;
    const Words slow = call("part.safetensors", options);
    const auto is_resumable = [&] { return std::filesystem::exists(path("part.safetensors.partial.json")); };
    const Setting setting{.environment = {{"LSAQ_CHECKPOINT_SECONDS", "0"}, {"LSAQ_ISA", "scalar"}}, .meanwhile = signal_when(is_resumable, signal)};
    Result stopped = run(slow, setting);
    for (int attempt = 1; stopped.code == done && attempt < 5; ++attempt) { // the program may end before the signal reaches it
      std::filesystem::remove(path("part.safetensors"));
      stopped = run(slow, setting);
    }
    ASSERT_NE(stopped.code, done) << "never interrupted in time";
    EXPECT_EQ(stopped.code, signal == SIGKILL ? -1 : interrupted);
    EXPECT_FALSE(std::filesystem::exists(path("part.safetensors")));
    const Result resumed = run(slow, {.environment = {{"LSAQ_ISA", "scalar"}}});
    EXPECT_EQ(resumed.code, done) << resumed.err;
    EXPECT_THAT(resumed.err, testing::HasSubstr("resumed at layer"));
    const Result whole = run(call("scalar.safetensors", options), {.environment = {{"LSAQ_ISA", "scalar"}}});
    EXPECT_EQ(whole.code, done);
    EXPECT_EQ(content("part.safetensors"), content("scalar.safetensors"));
    EXPECT_FALSE(std::filesystem::exists(path("part.safetensors.partial")) || std::filesystem::exists(path("part.safetensors.partial.json")));
    std::filesystem::remove(path("part.safetensors"));
  }
}

TEST_F(Quantize, MayRoundEachLayerOnWhatTheRoundedOnesGive) {
  const Words options = calibrated({"--bits", "3", "--rounding", "gptq"});
  ASSERT_EQ(run(call("all.safetensors", options)).code, done);
  const json made = run_json(call("sequential.safetensors", options + Words{"--sequential", "--rotate"}));
  EXPECT_EQ(made.at("sequential"), true);
  ASSERT_EQ(run(call("sequential.safetensors", options + Words{"--sequential"})).code, done);
  EXPECT_NE(content("all.safetensors"), content("sequential.safetensors"));
  const double nearest = evaluated({"--bits", "3"}).at("kl").get<double>();
  EXPECT_LT(evaluated({"--quantized", path("sequential.safetensors").string()}).at("kl").get<double>(), nearest);
  refusal(wrong_usage, call("q", {"--sequential"}), {"--sequential", "nearest", "--rounding gptq"});
  EXPECT_FALSE(std::filesystem::exists(path("q.partial")));
}

TEST_F(Quantize, ReportsEveryTensor) {
  const std::string report = path("report.json").string();
  for (const Words& options : {Words{"--bits", "4"}, calibrated({"--bits", "4", "--rounding", "gptq"})}) {
    const Result result = run(call("q.safetensors", options + Words{"--report", report}));
    EXPECT_EQ(result.code, done) << result.err;
    expect_80_columns(result.out);
    EXPECT_THAT(result.out, testing::HasSubstr("weight SNR"));
    const json rows = json::parse(make_files::content_of(report)).at("tensors");
    ASSERT_EQ(rows.size(), 4u * 7);
    for (const json& row : rows) {
      EXPECT_GT(row.at("snr_db").get<double>(), 5);
      EXPECT_EQ(row.contains("relative_output_error"), options.size() > 2);
      if (options.size() > 2) {
        EXPECT_LE(row.at("relative_output_error").get<double>(), row.at("tried").at("nearest").get<double>());
      }
    }
    EXPECT_EQ(rows[8].at("tensor"), "model.layers.1.self_attn.k_proj");
  }
}

TEST_F(Quantize, PlansSayHowToRound) {
  const std::string plan = write("plan.json", json{{"bits", {8, 4, 4, 16}}, {"rounding", "clip"}, {"granularity", "group:32"}, {"rotation", "ffn"}}.dump());
  const json by_plan = evaluated(calibrated({"--plan", plan}));
  EXPECT_EQ(by_plan.at("rounding"), "clip, group:32, symmetric codes, rotated ffn");
  EXPECT_EQ(evaluated(calibrated({"--plan", plan, "--rounding", "nearest", "--granularity", "channel"})).at("rounding"),
            "nearest, channel, symmetric codes, rotated ffn");
  const json planned = run_json({"plan", model(), "--memory", "1GiB", "--rounding", "gptq", "--granularity", "group:64", "--rotate"});
  EXPECT_EQ(planned.at("rounding"), "gptq");
  EXPECT_EQ(planned.at("granularity"), "group:64");
  EXPECT_EQ(planned.at("rotation"), "residual+heads");
  for (const auto& [field, value, part] :
       {std::tuple{"rounding", "awq", "nearest, clip and gptq"}, std::tuple{"granularity", "group:33", "multiple of 32"},
        std::tuple{"codes", "half", "symmetric and full"}, std::tuple{"rotation", "head", "residual, heads and ffn"}, std::tuple{"scale", "f32", "f16"}})
    refusal(bad_input, {"eval", model(), "--token-ids", token_ids(1, 8), "--plan", write("bad.json", json{{"bits", {8, 4, 4, 4}}, {field, value}}.dump())},
            {"bad.json", field, value, part});
}

TEST_F(Quantize, RefusesWhatIsNotThere) {
  refusal(wrong_usage, {"quantize", model()}, {"--output"});
  refusal(wrong_usage, call("q", {"--bits", "16"}), {"--bits 16", "2 to 8"});
  refusal(wrong_usage, call("q", {"--granularity", "group:20"}), {"--granularity", "group:20", "multiple of 32"});
  refusal(wrong_usage, call("q", {"--rounding", "awq"}), {"--rounding", "awq"});
  refusal(wrong_usage, {"quantize", model(), "-o", model()}, {"--output", "never overwritten"});
  refusal(bad_input, call("q", {"--rounding", "gptq", "--calibration-ids", write("no.json", "[]")}), {"no.json"});
  EXPECT_FALSE(std::filesystem::exists(path("q")));
  ASSERT_EQ(run(call("q.safetensors")).code, done);
  small_llama::Model changed = small_model();
  changed.tensors.at("model.norm.weight").values[0] += 1;
  const std::string other = write_model("other.gguf", changed);
  refusal(bad_input, {"eval", other, "--token-ids", token_ids(1, 8), "--quantized", path("q.safetensors").string()}, {"q.safetensors", "another model"});
  refusal(bad_input, {"eval", model(), "--token-ids", token_ids(1, 8), "--quantized", ids()}, {"calibration.json"});
  refusal(wrong_usage, {"eval", model(), "--token-ids", token_ids(1, 8), "--quantized", path("q.safetensors").string(), "--bits", "4"},
          {"--quantized", "--bits"});
}

/// An order of a comparison may be rounded its own way.
TEST_F(Quantize, ComparesRoundings) {
  const std::string grid =
      write("grid.toml", "[evaluate]\ntoken_ids = \"" + token_ids(3, 40, "text.json") +
                             "\"\n[plans]\naverage_bits = [4]\n[[order]]\nname = \"nearest\"\nmetric = \"cosine\"\n[[order]]\nname = \"gptq\"\n"
                             "metric = \"cosine\"\nrounding = \"gptq\"\nrotate = true\ncalibration_ids = \"calibration.json\"\n");
  (void)ids();
  const json compared = run_json({"compare", model(), "--grid", grid});
  const auto kl = [&](std::size_t order) { return compared.at("orders")[order].at("results")[0].at("kl").get<double>(); };
  EXPECT_NEAR(kl(0), evaluated({"--bits", "4"}).at("kl").get<double>(), 1e-9);
  EXPECT_NEAR(kl(1), evaluated(calibrated({"--bits", "4", "--rounding", "gptq", "--rotate"})).at("kl").get<double>(), 1e-9);
  EXPECT_EQ(compared.at("orders")[1].at("results")[0].at("plans")[0].at("rounding"), "gptq, channel, full codes, rotated residual+heads");
  refusal(bad_input, {"compare", model(), "--grid", write("bad.toml", "[[order]]\nmetric = \"cosine\"\nrounding = \"awq\"\n")}, {"bad.toml:3", "awq"});
}

} // namespace quantize_test
} // namespace command_tests
