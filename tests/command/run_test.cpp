// lsaq run and lsaq eval: from memory to text, chains of files, perplexity at different bits, the environment.
#include "command_runner.hpp"

namespace command_tests {
namespace run_test {

class Runs : public Command {
protected:
  double perplexity(std::vector<std::string> options, const Setting& setting = {}) {
    options.insert(options.begin(), {"eval", model(), "--token-ids", token_ids(3, 80)});
    return run_json(options, setting).at("perplexity").get<double>();
  }

  /// Bytes of the model with half of its layers at INT8 and half at INT4, less one; and what a run of 40 positions needs beside the model.
  std::uint64_t between_8_and_4() {
    const json bytes = run_json({"inspect", model()}).at("bytes");
    return (bytes.at("int8").get<std::uint64_t>() + bytes.at("int4").get<std::uint64_t>()) / 2 - 1;
  }
  std::uint64_t beside() {
    const json bytes = run_json({"plan", model(), "--memory", "64MiB", "--context", "40"}).at("bytes");
    return bytes.at("kv_cache").get<std::uint64_t>() + bytes.at("activations").get<std::uint64_t>() + bytes.at("reserve").get<std::uint64_t>();
  }
};

TEST_F(Runs, AllocateWhatWasPlanned) {
  const std::pair<std::uint64_t, std::set<json>> budgets[] = {{64u << 20, {16}}, {beside() + between_8_and_4(), {4, 8}}};
  for (const auto& [memory, widths] : budgets) {
    const json object = run_json({"run", model(), "--memory", std::to_string(memory), "--tokens", "5", "--context", "40", "--raw", "--prompt", "in the end"});
    EXPECT_EQ(object.at("schema"), "lsaq.run/1");
    const json& plan = object.at("plan");
    EXPECT_EQ(plan.at("schema"), "lsaq.plan/1");
    for (const char* part : {"weights", "embedding", "kv_cache", "activations"}) EXPECT_EQ(bytes_of(object, part), bytes_of(plan, part)) << part;
    EXPECT_EQ(bytes_of(object, "allocated") + bytes_of(plan, "reserve"), bytes_of(plan, "total"));
    EXPECT_LE(bytes_of(plan, "total"), bytes_of(plan, "memory"));
    EXPECT_EQ(bytes_of(plan, "kv_cache"), 4u * 2 * 2 * 16 * 40 * 2);
    EXPECT_EQ(plan.at("context"), 40);
    EXPECT_EQ(std::set<json>(plan.at("bits").begin(), plan.at("bits").end()), widths);
    EXPECT_EQ(bytes_of(plan, "memory"), memory);
    EXPECT_EQ(object.at("device").at("id"), "cpu");
    EXPECT_EQ(object.at("device").at("limited_by"), "--memory");
    EXPECT_EQ(object.at("prompt_tokens"), 6u) << "in, the with its space, and the letters of the end with theirs";
    EXPECT_LE(object.at("generated_tokens"), 5u);
    EXPECT_TRUE(object.at("text").is_string());
    EXPECT_GE(bytes_of(object, "peak_resident"), bytes_of(object, "allocated"));
    for (const char* part : {"importance", "load", "prefill", "decode"}) EXPECT_GE(object.at("seconds").at(part).get<double>(), 0);
  }
}

TEST_F(Runs, KeepKeysAndValuesInEightBits) {
  small_llama::Model long_heads = small_model();
  long_heads.head_size = 32;
  long_heads.fill();
  const std::string other = write_model("heads_of_32.gguf", long_heads);
  const auto call = [&](const std::string& of, const char* type) {
    return std::vector<std::string>{"run", of, "--memory", "64MiB", "--tokens", "8", "--context", "40", "--kv-cache", type};
  };
  const json halves = run_json(call(other, "f16")), blocks = run_json(call(other, "q8_0"));
  EXPECT_EQ(bytes_of(halves, "kv_cache"), 4u * 2 * 2 * 40 * 64);
  EXPECT_EQ(bytes_of(blocks, "kv_cache"), 4u * 2 * 2 * 40 * 34);
  EXPECT_EQ(bytes_of(blocks.at("plan"), "kv_cache"), bytes_of(blocks, "kv_cache"));
  EXPECT_EQ(halves.at("plan").at("kv_bits"), 16);
  EXPECT_EQ(blocks.at("plan").at("kv_bits"), 8);
  EXPECT_EQ(bytes_of(run_json({"plan", other, "--memory", "64MiB", "--context", "40", "--kv-cache", "q8_0"}), "kv_cache"), 4u * 2 * 2 * 40 * 34);

  refusal(wrong_usage, call(model(), "q8_0"), {"Q8_0", "heads of 16", "F16"});
  refusal(wrong_usage, call(other, "q4_0"), {"--kv-cache", "q4_0"});
}

TEST_F(Runs, SayTheSameAgain) {
  const std::vector<std::string> call = {"run", model(), "--memory", "64MiB", "--tokens", "20", "--context", "60"};
  const json first = run_json(call), second = run_json(call);
  EXPECT_EQ(first.at("importance_cached"), false);
  EXPECT_EQ(second.at("importance_cached"), true);
  EXPECT_LT(second.at("seconds").at("importance"), first.at("seconds").at("importance"));
  EXPECT_EQ(second.at("text"), first.at("text"));
  EXPECT_EQ(second.at("plan"), first.at("plan"));
  EXPECT_EQ(second.at("generated_tokens"), first.at("generated_tokens"));

  std::vector<std::string> more = call;
  more.insert(more.end(), {"--threads", "3"});
  EXPECT_EQ(run_json(more).at("text"), first.at("text")) << "threads make no difference";
  const Result plain = run(call);
  EXPECT_EQ(plain.code, done);
  EXPECT_EQ(json::parse(json(plain.out).dump(-1, ' ', false, json::error_handler_t::replace)), first.at("text").get<std::string>() + "\n") << "only the text";
  expect_80_columns(plain.err);
  EXPECT_THAT(plain.err, testing::HasSubstr("importance: from the cache"));
  EXPECT_THAT(plain.err, testing::HasSubstr("as planned to the byte"));
}

TEST_F(Runs, DrawByTemperatureAndSeed) {
  const std::string plan = write("plan.json", R"({"bits":[8,8,8,8]})");
  const auto text = [&](const char* temperature, const char* seed) {
    return run_json({"run", model(), "--plan", plan, "--tokens", "30", "--temperature", temperature, "--seed", seed}).at("text").get<std::string>();
  };
  EXPECT_EQ(text("5", "1"), text("5", "1"));
  EXPECT_NE(text("5", "1"), text("5", "2"));
  EXPECT_EQ(text("0", "1"), text("0", "2"));
}

TEST_F(Runs, FollowTheMemoryWhileTextIsMade) {
  // The amount in the file is changed while the program runs: less, far too little, much again.
  const std::uint64_t beside = bytes_of(run_json({"plan", model(), "--memory", "64MiB", "--context", "1000"}), "total") -
                               bytes_of(run_json({"plan", model(), "--memory", "64MiB", "--context", "1000"}), "weights");
  const std::uint64_t weights = bytes_of(run_json({"plan", model(), "--memory", "64MiB"}), "weights");
  const std::string amount = write("memory", std::to_string(beside + weights + weights / 2));
  const std::uint64_t amounts[] = {beside + weights / 3, 1000, beside + weights * 2};
  const auto change = [&](pid_t child) {
    const auto start = std::chrono::steady_clock::now();
    siginfo_t ended = {};
    for (std::size_t n = 0; std::chrono::steady_clock::now() - start < std::chrono::minutes(2); ++n) {
      std::this_thread::sleep_for(std::chrono::milliseconds(60));
      if (::waitid(P_PID, static_cast<id_t>(child), &ended, WEXITED | WNOHANG | WNOWAIT) != 0 || ended.si_pid != 0) return;
      std::ofstream(amount + ".new") << amounts[n % 3];
      std::filesystem::rename(amount + ".new", amount);
    }
  };
  const std::string plan = write("importance.json", R"({"schema":"lsaq.importance/1","scores":[0.4,0.1,0.3,0.2]})");
  json object;
  for (int attempt = 0; attempt < 20; ++attempt) { // until a text took long enough for the memory to change
    object = run_json({"run", model(), "--context", "1000", "--raw", "--prompt", "in the end", "--ignore-eos", "--importance", plan, "--watch", "--threads", "2"},
                      {.environment = {{"LSAQ_MEMORY", "@" + amount}, {"LSAQ_ISA", "scalar"}}, .meanwhile = change});
    EXPECT_GT(object.at("generated_tokens"), 900);
    write("memory", std::to_string(beside + weights + weights / 2));
    if (object.contains("replans") && !object.at("replans").empty()) break;
  }
  ASSERT_TRUE(object.contains("replans"));
  ASSERT_FALSE(object.at("replans").empty()) << "in twenty texts";
  EXPECT_EQ(object.at("bits_at_end").size(), 4u);
  EXPECT_GE(object.at("seconds").at("longest_token").get<double>(), 0);
  for (const json& replan : object.at("replans")) {
    if (replan.contains("problem"))
      EXPECT_THAT(replan.at("problem").get<std::string>(), testing::AnyOf(testing::HasSubstr("does not fit"), testing::HasSubstr("no room to exchange")));
    else
      EXPECT_GE(replan.at("layers"), 1);
  }
  refusal(wrong_usage, {"run", model(), "--watch", "--plan", write("p.json", R"({"bits":[8,8,8,8]})")}, {"--watch", "--plan"});
}

TEST_F(Runs, WaitForMemory) {
  const std::string amount = write("memory", "1000");
  const std::string plan = write("plan.json", R"({"bits":[8,8,8,8]})");
  const auto give = [&](pid_t) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    std::ofstream(amount + ".new") << (64 << 20);
    std::filesystem::rename(amount + ".new", amount);
  };
  const std::vector<std::string> call = {"run", model(), "--plan", plan, "--tokens", "3", "--context", "40"};
  std::vector<std::string> waiting = call;
  waiting.insert(waiting.end(), {"--wait", "100s"});
  const Result result = run(waiting, {.environment = {{"LSAQ_MEMORY", "@" + amount}}, .meanwhile = give});
  EXPECT_EQ(result.code, done) << result.err;
  EXPECT_THAT(result.err, testing::HasSubstr("waiting for memory: "));

  write("memory", "1000");
  const Setting little{.environment = {{"LSAQ_MEMORY", "@" + amount}}};
  refusal(does_not_fit, call, {"are missing"}, little);
  waiting.back() = "200ms";
  const Result late = run(waiting, little);
  EXPECT_EQ(late.code, does_not_fit);
  EXPECT_THAT(late.err, testing::HasSubstr("are missing"));
  waiting.back() = "100s";
  const auto waits = [&] { return make_files::content_of(path("stderr")).find("waiting for memory") != std::string::npos; };
  EXPECT_EQ(run(waiting, {.environment = little.environment, .meanwhile = signal_when(waits, SIGINT)}).code, interrupted);
  for (const char* time : {"x", "-1s", "5d", "s", "1e9h", "nan"}) refusal(wrong_usage, {"run", model(), "--wait", time}, {"--wait", time});
}

TEST_F(Runs, StopAtTheEndOfTheContext) {
  const std::string plan = write("plan.json", R"({"bits":[16,8,4,3],"tensors":{"model.layers.0.mlp.up_proj":4}})");
  const json object = run_json({"run", model(), "--plan", plan, "--context", "16", "--raw", "--prompt", "abcdefgh"});
  EXPECT_EQ(object.at("prompt_tokens"), 8u);
  EXPECT_LE(object.at("generated_tokens"), 8u);
  EXPECT_FALSE(object.contains("importance_cached"));
  EXPECT_EQ(object.at("plan").at("bits"), (json{16, 8, 4, 3}));
  EXPECT_EQ(object.at("plan").at("tensors"), (json{{"model.layers.0.mlp.up_proj", 4}}));
}

TEST_F(Runs, SayHowMuchIsMissing) {
  const std::vector<std::string> target = {"run", model(), "--tokens", "1", "--context", "40"};
  std::vector<std::string> by_plan = target;
  by_plan.insert(by_plan.end(), {"--plan", write("plan.json", R"({"bits":[8,8,8,8]})")});
  for (std::vector<std::string> call : {target, by_plan}) {
    call.insert(call.end(), {"--memory", "100000"});
    const std::string message = refusal(does_not_fit, call, {"does not fit", "97.7 KiB"});
    const std::size_t end = message.find(" bytes) are missing");
    ASSERT_NE(end, std::string::npos) << message;
    const std::uint64_t missing = std::stoull(message.substr(message.rfind('(', end) + 1));
    call.back() = std::to_string(100000 + missing - 1);
    refusal(does_not_fit, call, {"(1 bytes) are missing"});
    EXPECT_FALSE(std::filesystem::exists(cache() / "lsaq" / "importance")) << "nothing is measured in vain";
    call.back() = std::to_string(100000 + missing);
    EXPECT_EQ(run(call).code, done);
    std::filesystem::remove_all(cache());
  }
}

TEST_F(Runs, ChainThroughFiles) {
  const std::string importance = path("importance.json").string(), plan = path("plan.json").string();
  ASSERT_EQ(run({"importance", model(), "--token-ids", token_ids(2, 30), "-o", importance}).code, done);
  ASSERT_EQ(run({"plan", model(), "--importance", importance, "--memory", std::to_string(between_8_and_4()), "--reserve", "0", "-o", plan}).code, done);
  const json planned = json::parse(make_files::content_of(plan));
  const std::set<json> widths(planned.at("bits").begin(), planned.at("bits").end());
  EXPECT_EQ(widths, (std::set<json>{4, 8})) << planned.at("bits");
  // Layers below the others in importance are the ones at INT4.
  const json order = json::parse(make_files::content_of(importance)).at("order");
  EXPECT_EQ(planned.at("bits")[order[0].get<std::size_t>()], 4);
  EXPECT_EQ(planned.at("bits")[order[3].get<std::size_t>()], 8);

  const json ran = run_json({"run", model(), "--plan", plan, "--tokens", "3", "--context", "30"});
  EXPECT_EQ(ran.at("plan").at("bits"), planned.at("bits"));
  EXPECT_EQ(bytes_of(ran, "weights"), bytes_of(planned, "weights"));
  const json scored = run_json({"eval", model(), "--plan", plan, "--token-ids", token_ids(1, 20)});
  EXPECT_EQ(scored.at("average_bits"), planned.at("average_bits"));
  EXPECT_EQ(scored.at("bytes_weights"), bytes_of(planned, "weights") + bytes_of(planned, "embedding"));

  small_llama::Model other = small_model();
  other.tensors.at("model.norm.weight").values[0] = 2;
  const std::string stranger = write_model("other.gguf", other);
  refusal(bad_input, {"run", stranger, "--plan", plan}, {plan, "another model", planned.at("model_sha256").get<std::string>()});
  refusal(bad_input, {"eval", stranger, "--plan", plan, "--token-ids", token_ids(1, 20)}, {plan, "another model"});
}

// ---- eval

TEST_F(Runs, EvaluationPrintsTheDocumentedObject) {
  const json object = run_json({"eval", model(), "--bits", "8", "--token-ids", token_ids(3, 80)});
  EXPECT_EQ(object.at("schema"), "lsaq.eval/1");
  EXPECT_EQ(object.at("tokens"), 3 * 79);
  EXPECT_EQ(object.at("windows"), 3);
  EXPECT_EQ(object.at("context"), 80);
  EXPECT_EQ(object.at("average_bits"), 8);
  EXPECT_NEAR(object.at("perplexity").get<double>(), std::exp(object.at("nll").get<double>()), 1e-9 * object.at("perplexity").get<double>());
  EXPECT_EQ(object.at("bytes_weights"), run_json({"inspect", model()}).at("bytes").at("int8"));
  EXPECT_EQ(run_json({"eval", model(), "--bits", "4", "--token-ids", token_ids(3, 80)}).at("bytes_weights"),
            run_json({"inspect", model()}).at("bytes").at("int4"));
  EXPECT_EQ(run_json({"eval", model(), "--token-ids", token_ids(3, 80), "--windows", "2"}).at("tokens"), 2 * 79);
  const Result text = run({"eval", model(), "--token-ids", token_ids(3, 80)});
  EXPECT_EQ(text.code, done);
  EXPECT_THAT(text.out, testing::StartsWith("perplexity "));
  EXPECT_EQ(text.err, "");
  expect_80_columns(text.out);
}

TEST_F(Runs, FewerBitsAreFurtherFromTheModel) {
  const double full = perplexity({"--bits", "16"}), eight = perplexity({"--bits", "8"}), four = perplexity({"--bits", "4"}), two = perplexity({"--bits", "2"});
  EXPECT_TRUE(std::isfinite(full) && full > 1);
  EXPECT_NEAR(eight / full, 1, 0.02);
  EXPECT_NE(eight, full);
  EXPECT_LT(std::abs(std::log(eight / full)), std::abs(std::log(four / full)));
  EXPECT_LT(std::abs(std::log(four / full)), std::abs(std::log(two / full)));
  EXPECT_EQ(perplexity({}), full) << "16 unless said";
  EXPECT_EQ(perplexity({"--plan", write("eights.json", R"({"bits":[8,8,8,8]})")}), eight);
}

TEST_F(Runs, EvaluationCutsTextIntoWindows) {
  const std::string text = write("text.txt", std::string(100, 'q'));
  const auto windows = [&](const char* context) {
    const json object = run_json({"eval", model(), "--perplexity", text, "--context", context});
    return std::pair(object.at("windows").get<int>(), object.at("tokens").get<int>());
  };
  EXPECT_EQ(windows("30"), std::pair(3, 3 * 29)) << "a rest of ten is left out";
  EXPECT_EQ(windows("100"), std::pair(1, 99));
  EXPECT_EQ(windows("512"), std::pair(1, 99)) << "a short text is one window";
}

// ---- environment

TEST_F(Runs, EveryCodePathSaysTheSame) {
  const double usual = perplexity({"--bits", "8"});
  for (const char* isa : {"scalar", "eigen", "avx2", "avxvnni", "avx512", "avx512vnni", "amx", "neon", "neondot"}) {
    const Setting setting{.environment = {{"LSAQ_ISA", isa}}};
    const Result devices = run({"devices", "--json"}, setting);
    if (std::string(isa) != "scalar" && std::string(isa) != "eigen" && devices.code == wrong_usage) continue; // not on this machine
    EXPECT_EQ(json::parse(devices.out).at("isa"), isa);
    EXPECT_NEAR(perplexity({"--bits", "8"}, setting) / usual, 1, 1e-4) << isa;
    EXPECT_NEAR(perplexity({"--bits", "16"}, setting) / perplexity({"--bits", "16"}), 1, 1e-4) << isa;
  }
  for (const std::vector<std::string>& call :
       {std::vector<std::string>{"devices"}, {"importance", model()}, {"run", model()}, {"eval", model(), "--token-ids", token_ids(1, 4)}})
    refusal(wrong_usage, call, {"LSAQ_ISA=nonsense", "scalar, eigen, avx2, avxvnni, avx512, avx512vnni, amx, neon or neondot"},
            {.environment = {{"LSAQ_ISA", "nonsense"}}});
}

TEST_F(Runs, MemoryMayComeFromTheEnvironment) {
  const std::vector<std::string> call = {"run", model(), "--tokens", "1", "--context", "40"};
  const auto memory = [&](const std::string& variable, std::vector<std::string> more = {}) {
    std::vector<std::string> words = call;
    words.insert(words.end(), more.begin(), more.end());
    return run_json(words, {.environment = {{"LSAQ_MEMORY", variable}}});
  };
  const json capped = memory("5MiB");
  EXPECT_EQ(bytes_of(capped.at("plan"), "memory"), 5u << 20);
  EXPECT_EQ(capped.at("device").at("limited_by"), "LSAQ_MEMORY");
  EXPECT_EQ(bytes_of(memory("5MiB", {"--memory", "4MiB"}).at("plan"), "memory"), 4u << 20) << "the tighter one";
  EXPECT_EQ(bytes_of(memory("5MiB", {"--memory", "6MiB"}).at("plan"), "memory"), 5u << 20);
  const std::string file = write("memory", "3MiB\nand a comment\n");
  EXPECT_EQ(bytes_of(memory("@" + file).at("plan"), "memory"), 3u << 20);
  (void)write("memory", "2MiB");
  EXPECT_EQ(bytes_of(memory("@" + file).at("plan"), "memory"), 2u << 20);
  (void)write("memory", "100KiB\n");
  refusal(does_not_fit, call, {"does not fit", "100.0 KiB"}, {.environment = {{"LSAQ_MEMORY", "@" + file}}});

  const json plan = run_json({"plan", model(), "--importance", write("i.json", R"({"schema":"lsaq.importance/1","scores":[1,2,3,4]})")},
                             {.environment = {{"LSAQ_MEMORY", "5MiB"}}});
  EXPECT_EQ(bytes_of(plan, "memory"), 5u << 20);
  EXPECT_EQ(bytes_of(run_json({"plan", model(), "--memory", "7MiB"}, {.environment = {{"LSAQ_MEMORY", "5MiB"}}}), "memory"), 7u << 20)
      << "--memory replaces it";
  EXPECT_EQ(run_json({"devices"}, {.environment = {{"LSAQ_MEMORY", "5MiB"}}}).at("chosen").at("free"), 5u << 20);

  for (const std::string& variable : {std::string("nonsense"), "@" + path("none").string(), "@" + write("empty", "")})
    for (const char* verb : {"run", "plan"}) refusal(wrong_usage, {verb, model()}, {"LSAQ_MEMORY"}, {.environment = {{"LSAQ_MEMORY", variable}}});
}

TEST_F(Runs, TheDeviceMayComeFromTheEnvironment) {
  EXPECT_EQ(run_json({"devices"}, {.environment = {{"LSAQ_DEVICE", "cpu"}}}).at("chosen").at("reason"), "LSAQ_DEVICE=cpu");
  for (const std::vector<std::string>& call : {std::vector<std::string>{"devices"}, {"run", model()}})
    for (const char* device : {"nonsense", "cuda:7"}) refusal(wrong_usage, call, {device, "cpu"}, {.environment = {{"LSAQ_DEVICE", device}}});
  const json devices = run_json({"devices"});
  EXPECT_EQ(devices.at("schema"), "lsaq.devices/1");
  ASSERT_GE(devices.at("devices").size(), 1u);
  EXPECT_EQ(devices.at("devices")[0].at("id"), "cpu");
  EXPECT_GT(devices.at("devices")[0].at("total"), 0u);
  EXPECT_LE(devices.at("devices")[0].at("free"), devices.at("devices")[0].at("total"));
}

TEST_F(Runs, GpusAreListedByTheirDriver) {
  const auto with_driver = [](const std::string& visible) {
    return Setting{.environment = {{"LD_LIBRARY_PATH", LSAQ_FAKE_DRIVER}, {"CUDA_VISIBLE_DEVICES", visible}}};
  };
  const json devices = run_json({"devices"}, with_driver("1,0")).at("devices");
  ASSERT_EQ(devices.size(), 3u);
  EXPECT_EQ(devices[0].at("id"), "cpu");
  EXPECT_FALSE(devices[0].contains("uuid"));
  EXPECT_EQ(devices[1], json({{"id", "cuda:0"}, {"name", "B"}, {"total", 8 * 1024}, {"free", 7 * 1024}, {"limited_by", "NVML"}, {"uuid", "GPU-b"}}));
  EXPECT_EQ(devices[2].at("uuid"), "GPU-a");
  EXPECT_EQ(run_json({"devices"}, with_driver("GPU-a")).at("devices").size(), 2u);
  const json chosen = run_json({"devices"}, with_driver("0")).at("chosen");
  EXPECT_EQ(chosen.at("id"), "cpu");
  EXPECT_EQ(chosen.at("reason"), "this program computes on the CPU");
  expect_80_columns(run({"devices"}, with_driver("0,1")).out);
  refusal(wrong_usage, {"run", model()}, {"\"cuda\"", "cpu"}, {.environment = {{"LD_LIBRARY_PATH", LSAQ_FAKE_DRIVER}, {"LSAQ_DEVICE", "cuda"}}});
}

} // namespace run_test
} // namespace command_tests
