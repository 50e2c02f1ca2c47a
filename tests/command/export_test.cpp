// lsaq quantize --format: models that other engines load, and that this program reads back.
#include "importance_command.hpp"

namespace command_tests {
namespace export_test {

class Export : public Command {
protected:
  Words call(const std::string& out, const std::string& format, const Words& options = {}) {
    return Words{"quantize", model(), "--format", format, "-o", path(out).string()} + options;
  }
  json evaluated(const std::string& of, const Words& options = {}) {
    return run_json(Words{"eval", of, "--token-ids", token_ids(3, 40, "text.json")} + options);
  }
  std::string content(const std::string& name) const { return make_files::content_of(path(name)); }

  /// The names and contents of a folder's files.
  std::map<std::string, std::string> files(const std::string& folder) const {
    std::map<std::string, std::string> all;
    for (const auto& entry : std::filesystem::directory_iterator(path(folder))) all[entry.path().filename()] = make_files::content_of(entry.path());
    return all;
  }
  std::string plan() const { return write("plan.json", json{{"bits", {8, 4, 16, 4}}}.dump()); }
};

TEST_F(Export, IsReadBack) {
  const double expected = evaluated(model(), {"--plan", plan()}).at("nll").get<double>();
  for (const std::string format : {"gguf", "compressed-tensors"}) {
    const std::string out = path("out-" + format).string();
    const json made = run_json(call("out-" + format, format, {"--plan", plan()}));
    EXPECT_EQ(made.at("format"), format);
    EXPECT_EQ(made.at("plan").at("bits"), (json{8, 4, 16, 4}));
    if (format == "gguf") {
      EXPECT_EQ(made.at("bytes"), std::filesystem::file_size(out));
    }
    EXPECT_NEAR(evaluated(out).at("nll").get<double>(), expected, 2e-3) << "16-bit values of codes x scales";
    const json types = run_json({"inspect", out}).at("tensor_types");
    EXPECT_EQ(types.at(format == "gguf" ? "Q8_0" : "INT8"), 7);
    EXPECT_EQ(types.at(format == "gguf" ? "Q4_0" : "INT4"), 14);
    EXPECT_EQ(run_json({"run", out, "--raw", "--prompt", "the end", "--tokens", "3"}).at("schema"), "lsaq.run/1");
  }
  const std::string folder = path("out-compressed-tensors").string();
  ASSERT_EQ(run({"quantize", folder, "--bits", "8", "--format", "gguf", "-o", path("again.gguf").string()}).code, done) << "from a folder of our own";
}

TEST_F(Export, PlansCountTheBytesOfTheFormat) {
  const json plan = run_json({"plan", model(), "--format", "gguf", "--memory", "200KiB", "--reserve", "0", "-o", path("gguf.json").string()});
  EXPECT_EQ(plan.at("format"), "gguf");
  const json made = run_json({"quantize", model(), "--plan", path("gguf.json").string(), "-o", path("out.gguf").string()});
  EXPECT_EQ(made.at("format"), "gguf") << "the plan says so";
  EXPECT_EQ(made.at("plan").at("bits"), plan.at("bits"));
  lsaq::Bytes tensors = 0;
  const json listed = run_json({"inspect", path("out.gguf").string(), "--tensors"});
  for (const json& tensor : listed.at("tensors")) tensors += tensor.at("bytes").get<lsaq::Bytes>();
  EXPECT_EQ(plan.at("bytes").at("weights").get<lsaq::Bytes>() + plan.at("bytes").at("embedding").get<lsaq::Bytes>(), tensors);
  EXPECT_EQ(plan.at("bytes").at("total"), tensors);
  EXPECT_LE(tensors, 200u * 1024);
  EXPECT_NEAR(run_json(call("eight.gguf", "gguf", {"--bits", "8"})).at("stored_bits").get<double>(), 8.5, 1e-9);
  EXPECT_NEAR(run_json(call("three.gguf", "gguf", {"--bits", "3"})).at("stored_bits").get<double>(), 4.5, 1e-9);
}

TEST_F(Export, PlansForSeveralDevices) {
  const auto planned = [&](const std::string& devices) { return Words{"plan", model(), "--format", "gguf", "--reserve", "0", "--devices", devices}; };
  const json plan = run_json(planned("near=120KiB,far=100KiB"));
  const json devices = plan.at("devices");
  ASSERT_EQ(devices.size(), 2u);
  EXPECT_EQ(devices[0].at("name"), "near");
  const auto near = devices[0].at("layers").get<std::size_t>(), far = devices[1].at("layers").get<std::size_t>();
  EXPECT_EQ(near + far, 4u);
  EXPECT_EQ(devices[1].at("first_layer"), near);
  EXPECT_LE(devices[0].at("bytes").get<lsaq::Bytes>(), 120u * 1024);
  EXPECT_LE(devices[1].at("bytes").get<lsaq::Bytes>(), 100u * 1024);
  const std::string split = std::to_string(near) + "," + std::to_string(far + 1);
  EXPECT_EQ(plan.at("flags").at("tensor_split"), split) << "the head counts as a layer";
  EXPECT_THAT(plan.at("flags").at("llama.cpp").get<std::string>(), testing::HasSubstr("--tensor-split " + split));
  EXPECT_THAT(plan.at("flags").at("vllm").get<std::string>(),
              testing::HasSubstr("VLLM_PP_LAYER_PARTITION=" + std::to_string(near) + "," + std::to_string(far) + " "));
  const Result shown = run(planned("near=120KiB,far=100KiB"));
  EXPECT_THAT(shown.out, testing::AllOf(testing::HasSubstr("near"), testing::HasSubstr("--tensor-split")));
  expect_80_columns(shown.out);
  const json more = run_json(planned("near=1MiB,far=1MiB"));
  EXPECT_EQ(more.at("average_bits"), 16.0);
  refusal(does_not_fit, planned("near=50KiB,far=60KiB"), {"does not fit"});
  refusal(wrong_usage, planned("near:50KiB"), {"--devices", "near:50KiB", "NAME=AMOUNT"});
  refusal(wrong_usage, planned("near=1MiB,near=1MiB"), {"--devices", "near", "twice"});
  refusal(wrong_usage, planned("a=8000000TiB,b=8000000TiB,c=8000000TiB"), {"--devices", "memory"});
  refusal(wrong_usage, planned("near=1MiB") + Words{"--explain"}, {"--explain", "--devices"});
}

/// A device with room for no layer has none, whichever it is and whoever plans.
TEST_F(Export, PlansAroundDevicesThatAreTooSmall) {
  for (const std::string planner : {"paper", "optimal"})
    for (const std::string devices : {"near device=1MiB, far=1KiB", " far = 1KiB,near device=1MiB", "far=1KiB,near device=1MiB,third=1KiB"}) {
      const Words words = {"plan", model(), "--format", "gguf", "--reserve", "0", "--planner", planner, "--devices", devices};
      const json plan = run_json(words);
      lsaq::Bytes held = 0;
      for (const json& device : plan.at("devices")) {
        const bool is_near = device.at("name") == "near device";
        EXPECT_TRUE(is_near || device.at("name") == "far" || device.at("name") == "third") << device;
        EXPECT_EQ(device.at("layers"), is_near ? 4 : 0) << devices;
        if (!is_near) {
          EXPECT_EQ(device.at("bytes"), 0);
        }
        held += device.at("bytes").get<lsaq::Bytes>();
      }
      EXPECT_EQ(plan.at("bytes").at("total"), held);
      EXPECT_THAT(plan.at("flags").at("tensor_split").get<std::string>(), testing::HasSubstr("5")) << "all layers and the head";
      EXPECT_THAT(plan.at("flags").at("vllm").get<std::string>(), testing::HasSubstr("PARTITION=4 "));
      expect_80_columns(run(words).out);
    }
}

TEST_F(Export, WritesRecipes) {
  const Result result = run(call("recipe.txt", "recipe", {"--plan", plan(), "--recipe-type", "4=q4_k"}));
  EXPECT_EQ(result.code, done) << result.err;
  EXPECT_THAT(result.out, testing::HasSubstr("--tensor-type-file"));
  EXPECT_EQ(content("recipe.txt"), R"(^blk\.(1|3)\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight$=q4_k
^blk\.(0)\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight$=q8_0
^blk\.(2)\.(attn_(q|k|v|output)|ffn_(gate|up|down))\.weight$=f16
^token_embd\.weight$=f16
^output\.weight$=f16
)");
  const std::string exceptions = write("exceptions.json", json{{"bits", {8, 8, 8, 8}}, {"tensors", {{"model.layers.2.mlp.down_proj", 4}}}}.dump());
  ASSERT_EQ(run(call("recipe.txt", "recipe", {"--plan", exceptions})).code, done);
  EXPECT_TRUE(content("recipe.txt").starts_with("^blk\\.2\\.ffn_down\\.weight$=q4_0\n")) << "what is found first counts";
  refusal(wrong_usage, call("r", "recipe", {"--recipe-type", "4:q4_k"}), {"--recipe-type", "4:q4_k", "BITS=TYPE"});
}

TEST_F(Export, GoesOnWhereItWasInterrupted) {
  for (const std::string format : {"gguf", "compressed-tensors"}) {
    const Words options = {"--bits", "4", "--rounding", "gptq", "--calibration-ids", token_ids(6, 24, "calibration.json"), "--shard-size", "60KB"};
    ASSERT_EQ(run(call("whole-" + format, format, options), {.environment = {{"LSAQ_ISA", "scalar"}}}).code, done);
    for (const int signal : {SIGINT, SIGKILL}) {
      const std::string name = "part-" + format;
      const bool is_folder = format == "compressed-tensors";
      const auto is_resumable = [&] { // a layer is safe
        std::error_code error;
        for (std::filesystem::directory_iterator entry(path(name + ".partial"), error), end; !error && entry != end; entry.increment(error))
          if (entry->path().native().ends_with(".partial.json")) return true;
        return std::filesystem::exists(path(name + ".partial.json"));
      };
      const Setting setting{.environment = {{"LSAQ_CHECKPOINT_SECONDS", "0"}, {"LSAQ_ISA", "scalar"}}, .meanwhile = signal_when(is_resumable, signal)};
      Result stopped = run(call(name, format, options), setting);
      for (int attempt = 1; stopped.code == done && attempt < 5; ++attempt) { // the program may end before the signal reaches it
        std::filesystem::remove_all(path(name));
        stopped = run(call(name, format, options), setting);
      }
      ASSERT_NE(stopped.code, done) << "never interrupted in time";
      EXPECT_FALSE(std::filesystem::exists(path(name)));
      const Result resumed = run(call(name, format, options), {.environment = {{"LSAQ_ISA", "scalar"}}});
      EXPECT_EQ(resumed.code, done) << resumed.err;
      EXPECT_THAT(resumed.err, testing::HasSubstr("resumed at layer"));
      if (is_folder) {
        EXPECT_EQ(files(name), files("whole-" + format));
      } else {
        EXPECT_EQ(content(name), content("whole-" + format));
      }
      EXPECT_FALSE(std::filesystem::exists(path(name + ".partial")) || std::filesystem::exists(path(name + ".partial.json")));
      std::filesystem::remove_all(path(name));
    }
  }
}

/// What an interrupted run of another plan has left is not gone on with.
TEST_F(Export, BeginsAgainForAnotherPlan) {
  std::filesystem::create_directory(path("out.partial"));
  write("out.partial/export.key", "of another");
  write("out.partial/model.safetensors", "damaged");
  ASSERT_EQ(run(call("out", "compressed-tensors", {"--bits", "4"})).code, done);
  EXPECT_EQ(files("out").count("export.key"), 0u);
  (void)evaluated(path("out").string());

  std::filesystem::create_directory(path("again.partial"));
  const Result stopped = run(call("again", "compressed-tensors", {"--bits", "4"}),
                             {.environment = {{"LSAQ_CHECKPOINT_SECONDS", "0"}}, .meanwhile = [&](pid_t child) {
                                const auto is_there = [&] { return std::filesystem::exists(path("again.partial") / "export.key"); };
                                signal_when(is_there, SIGKILL)(child);
                              }});
  if (stopped.code != done) {
    write("again.partial/.lsaq-0123.tmp", "left by a run that was killed");
    ASSERT_EQ(run(call("again", "compressed-tensors", {"--bits", "4"})).code, done);
  }
  EXPECT_EQ(files("again"), files("out"));
}

/// A folder or file of somebody else's where the export would grow.
TEST_F(Export, LeavesOthersFoldersAlone) {
  std::filesystem::create_directory(path("out.partial"));
  write("out.partial/notes.txt", "not ours");
  refusal(io_failed, call("out", "compressed-tensors"), {"out.partial", "in the way", "--output"});
  EXPECT_EQ(content("out.partial/notes.txt"), "not ours");
  write("other.partial", "a file");
  refusal(io_failed, call("other", "compressed-tensors"), {"other.partial", "in the way"});
  EXPECT_EQ(content("other.partial"), "a file");
  ASSERT_EQ(run(call("slash/", "compressed-tensors")).code, done) << "a slash behind a folder's name changes nothing";
  EXPECT_TRUE(std::filesystem::exists(path("slash") / "config.json"));
}

TEST_F(Export, NeverWritesToItsInput) {
  ASSERT_EQ(run(call("model.partial", "compressed-tensors")).code, done);
  const std::string folder = path("model.partial").string();
  const auto before = files("model.partial");
  const auto from_folder = [&](const std::string& out, const std::string& format) {
    refusal(wrong_usage, {"quantize", folder, "--format", format, "-o", path(out).string()}, {"--output", "never overwritten"});
  };
  from_folder("model", "compressed-tensors"); // would grow where the model is
  from_folder("model/", "compressed-tensors");
  from_folder("model.partial/model.safetensors", "packed");
  from_folder("model.partial/config.json", "recipe");
  from_folder("model.partial/tokenizer.json", "gguf");
  EXPECT_EQ(files("model.partial"), before);
  refusal(wrong_usage, {"quantize", model(), "--plan", plan(), "--format", "gguf", "-o", path("plan.json").string()}, {"the plan", "never overwritten"});
  refusal(wrong_usage, call("q", "packed", {"--report", model()}), {"--report", "never overwritten"});
  refusal(wrong_usage, call("q", "packed", {"--report", path("q").string()}), {"--report", "output"});
}

TEST_F(Export, RefusesWhatItCantDo) {
  refusal(wrong_usage, call("q.gguf", "gguf", {"--rotate"}), {"rotated", "--rotate-heads"});
  refusal(wrong_usage, call("q", "compressed-tensors", {"--bits", "6"}), {"6 bits"});
  refusal(wrong_usage, call("q", "compressed-tensors", {"--granularity", "tensor"}), {"whole matrix"});
  refusal(wrong_usage, call("q", "onnx"), {"--format", "onnx"});
  refusal(wrong_usage, call("q", "packed", {"--bits", "16"}), {"--bits 16"});
  refusal(wrong_usage, {"quantize", model(), "--format", "gguf", "-o", model()}, {"never overwritten"});
  std::filesystem::rename(model(), path("model.partial"));
  refusal(wrong_usage, {"quantize", path("model.partial").string(), "--format", "gguf", "-o", path("model").string()}, {"never overwritten"});
  refusal(wrong_usage, {"quantize", path("model.partial").string(), "--format", "compressed-tensors", "-o", path("").string()}, {"is there already"});
  refusal(bad_input,
          {"quantize", path("model.partial").string(), "--plan", write("bad.json", json{{"bits", {8, 4, 4, 4}}, {"format", "awq"}}.dump()), "-o",
           path("q").string()},
          {"bad.json", "format", "awq"});
  EXPECT_FALSE(std::filesystem::exists(path("q")) || std::filesystem::exists(path("q.gguf")));
}

/// Folders that are damaged, or quantized in another way, are refused by name.
TEST_F(Export, RefusesOtherFolders) {
  ASSERT_EQ(run(call("out", "compressed-tensors", {"--bits", "4"})).code, done);
  const std::string folder = path("out").string();
  const json config = json::parse(content("out/config.json"));
  const auto with = [&](const json::json_pointer& key, const json& value, const std::vector<std::string>& parts) {
    json changed = config;
    changed[json::json_pointer("/quantization_config") / key] = value;
    write("out/config.json", changed.dump());
    refusal(bad_input, {"inspect", folder}, parts);
    write("out/config.json", config.dump());
  };
  with(json::json_pointer("/quant_method"), "gptq", {"config.json", "quant_method", "gptq", "compressed-tensors"});
  with(json::json_pointer("/format"), "int-quantized", {"format", "int-quantized"});
  with(json::json_pointer("/config_groups"), json::object(), {"config_groups"});
  with(json::json_pointer("/config_groups/group_0/weights/symmetric"), false, {"group_0.weights.symmetric", "false"});
  with(json::json_pointer("/config_groups/group_0/weights/num_bits"), 8, {"weight_packed", "I32"});
  with(json::json_pointer("/config_groups/group_0/weights/num_bits"), "4", {"num_bits"});
  with(json::json_pointer("/config_groups/group_0/input_activations"), json{{"num_bits", 8}}, {"input_activations"});
}

} // namespace export_test
} // namespace command_tests
