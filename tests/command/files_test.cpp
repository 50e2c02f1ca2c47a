// Files that can't be used: exit code 4 and one line that names the file; files that can't be written: exit code 5.
#include "command_runner.hpp"

#include <sys/stat.h>

namespace command_tests {
namespace files_test {

using Files = Command;

TEST_F(Files, RefusesWhatIsNoModel) {
  const std::string whole = make_files::content_of(model());
  std::filesystem::create_directory(path("empty-folder"));
  ASSERT_EQ(::mkfifo(path("fifo").c_str(), 0600), 0);
  const std::vector<std::pair<std::string, std::string>> bad = {
      {path("missing.gguf").string(), "no such file"},
      {path("empty-folder").string(), "config.json"},
      {write("empty.gguf", ""), "empty"},
      {write("text.gguf", "once upon a time"), "not a GGUF file"},
      {write("magic.gguf", "GGUF"), "version"},
      {write("cut-metadata.gguf", whole.substr(0, 3000)), "tokenizer.ggml.tokens"},
      {write("cut-tensors.gguf", whole.substr(0, whole.size() / 2)), "end beyond the file"},
      {write("pickle.bin", "PK\x03\x04" + std::string(100, 'x')), "pickle"},
      {path("fifo").string(), "not a regular file"},
  };
  const std::string text = write("t.txt", "some text");
  for (const auto& [file, reason] : bad) {
    if (file != path("empty-folder")) {
      for (const char* verb : {"inspect", "importance", "plan", "run"}) refusal(bad_input, {verb, file}, {file, reason});
    } else {
      refusal(bad_input, {"inspect", file}, {file});
    }
    refusal(bad_input, {"eval", file, "--perplexity", text}, {file});
  }
}

TEST_F(Files, RefusesModelsOfOtherKinds) {
  small_llama::GgufParts parts = small_model().gguf();
  parts.set_text("general.architecture", "mamba");
  const std::string file = write("mamba.gguf", parts.build());
  refusal(bad_input, {"inspect", file}, {file, "mamba"});
  const std::string without = write("no-tokenizer.gguf", small_model().gguf().build());
  EXPECT_EQ(run({"inspect", without}).code, done) << "not needed to look at it";
  refusal(bad_input, {"importance", without}, {without, "tokenizer.ggml"});
  refusal(bad_input, {"run", without}, {without, "tokenizer.ggml"});
  EXPECT_EQ(run({"eval", without, "--token-ids", token_ids(1, 4)}).code, done) << "nor to score ids";
}

TEST_F(Files, RefusesWeightsThatAreNotFinite) {
  small_llama::Model drawn = small_model();
  drawn.tensors.at("model.layers.2.mlp.down_proj.weight").values[100] = INFINITY;
  const std::string file = write_model("infinite.gguf", drawn);
  refusal(bad_input, {"eval", file, "--bits", "8", "--token-ids", token_ids(1, 4)}, {"blk.2.ffn_down.weight", "row 1", "column 4"});
}

TEST_F(Files, RefusesTokenIds) {
  const std::pair<const char*, const char*> bad[] = {{"{", "JSON"},
                                                     {"", "JSON"},
                                                     {"[]", "array"},
                                                     {"{\"a\":1}", "array"},
                                                     {"[1,2]", "window 0"},
                                                     {"[[]]", "window 0"},
                                                     {"[[1],[\"a\"]]", "window 1"},
                                                     {"[[1,-2]]", "-2"},
                                                     {"[[1.5]]", "1.5"},
                                                     {"[[1,265]]", "265"},
                                                     {"[[99999999999]]", "99999999999"}};
  for (const auto& [content, reason] : bad) {
    const std::string file = write("bad-ids.json", content);
    refusal(bad_input, {"importance", model(), "--token-ids", file}, {file, reason});
    refusal(bad_input, {"eval", model(), "--token-ids", file}, {file, reason});
  }
  refusal(bad_input, {"eval", model(), "--token-ids", write("single.json", "[[5],[6]]")}, {path("single.json").string(), "two tokens"});
  for (const char* verb : {"importance", "eval"}) refusal(bad_input, {verb, model(), "--token-ids", path("none.json").string()}, {path("none.json").string()});
}

TEST_F(Files, RefusesTexts) {
  const std::string missing = path("none.txt").string(), short_text = write("short.txt", "ab"), empty = write("empty.txt", "");
  refusal(bad_input, {"importance", model(), "--text", missing}, {missing});
  refusal(bad_input, {"eval", model(), "--perplexity", missing}, {missing});
  refusal(bad_input, {"importance", model(), "--text", short_text}, {short_text, "2 tokens", "128"});
  refusal(bad_input, {"eval", model(), "--perplexity", empty}, {empty, "two tokens"});
  refusal(bad_input, {"eval", model(), "--perplexity", path("").string()}, {"folder"});
}

TEST_F(Files, RefusesImportance) {
  const std::pair<const char*, const char*> bad[] = {{"{", "JSON"},
                                                     {"", "JSON"},
                                                     {"[]", "JSON object"},
                                                     {"{\"scores\":[1,2,3,4]}", "schema"},
                                                     {R"({"schema":"lsaq.importance/2","scores":[1,2,3,4]})", "schema"},
                                                     {R"({"schema":"lsaq.importance/1"})", "scores"},
                                                     {R"({"schema":"lsaq.importance/1","scores":[]})", "scores"},
                                                     {R"({"schema":"lsaq.importance/1","scores":[1,"2",3,4]})", "scores"},
                                                     {R"({"schema":"lsaq.importance/1","scores":[1,2,3]})", "3 layers"},
                                                     {R"({"schema":"lsaq.importance/1","scores":[1,2,3,4],"spread":[1]})", "spread"}};
  for (const auto& [content, reason] : bad) {
    const std::string file = write("bad-importance.json", content);
    for (const char* verb : {"plan", "run"}) refusal(bad_input, {verb, model(), "--importance", file}, {file, reason});
  }
  const std::string missing = path("none.json").string();
  refusal(bad_input, {"plan", model(), "--importance", missing}, {missing});
  const std::string four = write("four.json", R"({"schema":"lsaq.importance/1","scores":[1,2,3,4]})");
  refusal(bad_input, {"plan", "--shape", "llama-2-7b", "--memory", "16G", "--importance", four}, {four, "4 layers", "32"});
}

TEST_F(Files, RefusesPlans) {
  const std::pair<const char*, const char*> bad[] = {{"{", "JSON"},
                                                     {"[8,8,8,8]", "JSON object"},
                                                     {"{}", "bits"},
                                                     {R"({"bits":[]})", "bits"},
                                                     {R"({"bits":"8888"})", "bits"},
                                                     {R"({"bits":[8,8,8,9]})", "9"},
                                                     {R"({"bits":[8,8,8,-8]})", "-8"},
                                                     {R"({"bits":[8,8,8]})", "3 layers"},
                                                     {R"({"bits":[8,8,8,8,8]})", "5 layers"},
                                                     {R"({"bits":[8,8,8,8],"model_sha256":"0123"})", "another model"},
                                                     {R"({"schema":"lsaq.plan/9","bits":[8,8,8,8]})", "schema"},
                                                     {R"({"bits":[8,8,8,8],"tensors":{"layer 3":4}})", "layer 3"},
                                                     {R"({"bits":[8,8,8,8],"tensors":{"model.layers.4.mlp.up_proj":4}})", "model.layers.4.mlp.up_proj"},
                                                     {R"({"bits":[8,8,8,8],"tensors":{"model.layers.1.mlp.x_proj":4}})", "model.layers.1.mlp.x_proj"},
                                                     {R"({"bits":[8,8,8,8],"tensors":{"model.layers.1.mlp.up_proj":10}})", "10"}};
  const std::string ids = token_ids(1, 4);
  for (const auto& [content, reason] : bad) {
    const std::string file = write("bad-plan.json", content);
    refusal(bad_input, {"run", model(), "--plan", file}, {file, reason});
    refusal(bad_input, {"eval", model(), "--plan", file, "--token-ids", ids}, {file, reason});
  }
  const std::string missing = path("none.json").string();
  refusal(bad_input, {"run", model(), "--plan", missing}, {missing});
  refusal(bad_input, {"eval", model(), "--plan", missing, "--token-ids", ids}, {missing});
}

TEST_F(Files, FailsWhereOutputCannotBeWritten) {
  const std::string nowhere = path("none/x.json").string(), folder = path("").string();
  for (const std::string& file : {nowhere, folder}) {
    refusal(io_failed,
            {"plan", "--shape", "llama-2-7b", "--memory", "16G", "-o", file, "--importance",
             write("seven.json", json{{"schema", "lsaq.importance/1"}, {"scores", std::vector<double>(32, 0.5)}}.dump())},
            {file});
    refusal(io_failed, {"importance", model(), "--metric", "outlier", "-o", file}, {file});
  }
  EXPECT_FALSE(std::filesystem::exists(path("none")));
}

TEST_F(Files, LeavesAnOldOutputWhereItFails) {
  const std::string plan = write("plan.json", "old");
  refusal(does_not_fit, {"plan", model(), "--memory", "1KiB", "-o", plan}, {});
  EXPECT_EQ(make_files::content_of(plan), "old");
}

TEST_F(Files, FailsWhereStandardOutputCannotBeWritten) {
  const std::string ids = token_ids(1, 4);
  const std::vector<std::vector<std::string>> calls = {{"--help"},
                                                       {"run", "--help"},
                                                       {"--version"},
                                                       {"inspect", model()},
                                                       {"inspect", model(), "--json"},
                                                       {"devices"},
                                                       {"importance", model(), "--metric", "outlier"},
                                                       {"importance", model(), "--metric", "outlier", "--json"},
                                                       {"plan", "--shape", "llama-2-7b", "--memory", "16G", "--json"},
                                                       {"run", model(), "--plan", write("plan.json", R"({"bits":[8,8,8,8]})"), "--tokens", "3", "--json"},
                                                       {"eval", model(), "--token-ids", ids},
                                                       {"eval", model(), "--token-ids", ids, "--json"}};
  for (const auto& call : calls)
    for (const Output output : {Output::full, Output::closed}) {
      const Result result = run(call, {.output = output});
      EXPECT_EQ(result.code, io_failed) << testing::PrintToString(call);
      EXPECT_THAT(result.err, testing::HasSubstr("lsaq: standard output can't be written"));
    }
}

} // namespace files_test
} // namespace command_tests
