// What is asked for wrongly: exit code 2 and one line that says what is wrong; what is asked for rightly: help.
#include "command_runner.hpp"

namespace command_tests {
namespace usage_test {

using Usage = Command;
using Words = std::vector<std::string>;

TEST_F(Usage, EveryVerbHasHelp) {
  const Result program = run({"--help"});
  EXPECT_EQ(program.code, done);
  EXPECT_EQ(program.err, "");
  for (const char* verb : {"inspect", "devices", "importance", "costs", "plan", "run", "eval", "compare"}) {
    EXPECT_THAT(program.out, testing::HasSubstr(verb));
    const Result help = run({verb, "--help"});
    EXPECT_EQ(help.code, done) << verb;
    EXPECT_EQ(help.err, "") << verb;
    EXPECT_THAT(help.out, testing::HasSubstr("--json")) << verb;
    EXPECT_THAT(help.out, testing::HasSubstr(verb));
  }
}

TEST_F(Usage, HasAVersion) {
  const Result result = run({"--version"});
  EXPECT_EQ(result.code, done);
  EXPECT_THAT(result.out, testing::MatchesRegex("lsaq [0-9]+\\.[0-9]+\\.[0-9]+\n"));
}

TEST_F(Usage, RefusesUnknownAndMissingWords) {
  refusal(wrong_usage, {}, {"subcommand"});
  refusal(wrong_usage, {"bogus"}, {"\"bogus\" is no verb", "lsaq --help"});
  refusal(wrong_usage, {"--bogus"}, {"--bogus"});
  for (const char* verb : {"inspect", "importance", "run", "eval", "compare"}) refusal(wrong_usage, {verb}, {"MODEL", std::string("lsaq ") + verb + " --help"});
  refusal(wrong_usage, {"plan"}, {"MODEL", "--shape"});
  refusal(wrong_usage, {"devices", "x"}, {"x"});
  for (const char* verb : {"inspect", "importance", "plan", "run", "eval", "compare"}) {
    refusal(wrong_usage, {verb, "m.gguf", "--bogus"}, {"--bogus"});
    refusal(wrong_usage, {verb, "m.gguf", "more"}, {"more"});
    refusal(wrong_usage, {verb, "m.gguf", "--threads", "0"}, {"--threads", "0"});
    refusal(wrong_usage, {verb, "m.gguf", "--threads", "many"}, {"--threads", "many"});
  }
  refusal(wrong_usage, {"plan", "m.gguf", "--memory"}, {"--memory"});
}

TEST_F(Usage, RefusesEmptyValues) { // of shell variables that were not set
  for (const char* option : {"--memory", "--reserve", "--pin", "--importance", "-o"}) refusal(wrong_usage, {"plan", "m.gguf", option, ""}, {"empty"});
  for (const char* option : {"--plan", "--prompt"}) refusal(wrong_usage, {"run", "m.gguf", option, ""}, {"empty"});
  refusal(wrong_usage, {"inspect", ""}, {"MODEL", "empty"});
}

TEST_F(Usage, ShowsArgumentsEscaped) {
  refusal(wrong_usage, {"a\nb\x1b[2J"}, {"a\\x0ab\\x1b"});
  refusal(wrong_usage, {"plan", "--shape", "a\nb"}, {"a\\x0ab"});
  refusal(wrong_usage, {"inspect", "m", "a\nb"}, {"a\\x0ab"});
  refusal(bad_input, {"inspect", "a\nb"}, {"a\\x0ab"});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "\x1b]0;x\x07"}, {"--memory"});
}

TEST_F(Usage, RefusesAmountsOfMemory) {
  for (const char* amount : {"nonsense", "-5", "6X", "1e9", "6 GiB GiB", "99999999TiB", "0x10", "nan", "G"})
    refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", amount}, {"--memory", amount});
  for (const char* reserve : {"200%", "-1%", "%", "nan%", "3%%", "much", "3 %x", "inf%"})
    refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "16G", "--reserve", reserve}, {"--reserve", reserve});
  refusal(wrong_usage, {"run", model(), "--memory", "nonsense"}, {"--memory", "nonsense"});
  refusal(wrong_usage, {"run", model(), "--reserve", "101%"}, {"--reserve", "101%"});
}

TEST_F(Usage, RefusesPins) {
  for (const char* pin : {"x", "0", "0=", "=8", "0=8x", "0==8", "-1=8", "0=-8", "1.5=8", "99999999999999999999=8", " 0=8"})
    refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "16G", "--pin", pin}, {"--pin", pin});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "16G", "--pin", "0=7"}, {"layer 0", "7 bits", "16, 8 and 4"});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "16G", "--pin", "32=8"}, {"layer 32", "31"});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--memory", "16G", "--pin", "4294967296=8"}, {"layer 4294967296", "31"});
}

TEST_F(Usage, RefusesContextsBeyondTheModel) {
  for (const char* verb : {"plan", "run"}) refusal(wrong_usage, {verb, model(), "--context", "1025"}, {"--context 1025", "1024"});
  refusal(wrong_usage, {"eval", model(), "--perplexity", write("t.txt", "text"), "--context", "1025"}, {"--context 1025", "1024"});
  refusal(wrong_usage, {"plan", "--shape", "llama-2-7b", "--context", "4097"}, {"--context 4097", "4096"});
  refusal(wrong_usage, {"plan", model(), "--context", "0"}, {"--context"});
  refusal(wrong_usage, {"run", model(), "--context", "1"}, {"--context"});
  refusal(wrong_usage, {"run", model(), "--context", "many"}, {"--context"});
}

TEST_F(Usage, RefusesChoicesThatAreNotThere) {
  refusal(wrong_usage, {"plan", "--shape", "llama-4"}, {"--shape", "llama-4", "llama-3-8b"});
  refusal(wrong_usage, {"plan", model(), "--planner", "luck"}, {"--planner", "luck"});
  refusal(wrong_usage, {"importance", model(), "--metric", "taste"}, {"--metric", "taste", "jaccard"});
  refusal(wrong_usage, {"importance", model(), "--norm", "none"}, {"--norm", "none"});
  refusal(wrong_usage, {"importance", model(), "--head", "tail"}, {"--head", "tail"});
  refusal(wrong_usage, {"importance", model(), "--top-k", "0"}, {"--top-k"});
  refusal(wrong_usage, {"importance", model(), "--top-k", "100000"}, {"--top-k 100000", "vocabulary"});
  refusal(wrong_usage, {"importance", model(), "--windows", "0"}, {"--windows"});
  refusal(wrong_usage, {"importance", model(), "--window-length", "0"}, {"--window-length"});
  refusal(wrong_usage, {"eval", model(), "--bits", "9", "--token-ids", token_ids(1, 4)}, {"--bits 9", "16", "2 to 8"});
  refusal(wrong_usage, {"eval", model(), "--bits", "1", "--token-ids", token_ids(1, 4)}, {"--bits 1"});
  for (const char* temperature : {"-1", "101", "nan", "warm"}) refusal(wrong_usage, {"run", model(), "--temperature", temperature}, {"--temperature"});
  refusal(wrong_usage, {"run", model(), "--tokens", "0"}, {"--tokens"});
}

TEST_F(Usage, RefusesBothOrNeitherOfTwo) {
  const std::string ids = token_ids(1, 4), text = write("t.txt", "some text");
  refusal(wrong_usage, {"plan", model(), "--shape", "llama-2-7b"}, {"either", "--shape"});
  refusal(wrong_usage, {"plan", "--memory", "6G"}, {"either", "--shape"});
  refusal(wrong_usage, {"eval", model()}, {"--perplexity", "--token-ids"});
  refusal(wrong_usage, {"eval", model(), "--perplexity", text, "--token-ids", ids}, {"--perplexity", "--token-ids"});
  refusal(wrong_usage, {"eval", model(), "--token-ids", ids, "--bits", "8", "--plan", "p.json"}, {"--bits", "--plan"});
  refusal(wrong_usage, {"importance", model(), "--text", text, "--token-ids", ids}, {"--text", "--token-ids"});
  refusal(wrong_usage, {"importance", model(), "--metric", "cosine", "--show-tokens"}, {"--show-tokens", "cosine"});
}

/// Known before anything is measured.
TEST_F(Usage, RefusesPromptsThatLeaveNoRoom) {
  refusal(wrong_usage, {"run", model(), "--prompt", std::string(40, 'x'), "--context", "40"}, {"40 tokens", "--context 40"});
  EXPECT_FALSE(std::filesystem::exists(cache() / "lsaq" / "importance"));
}

} // namespace usage_test
} // namespace command_tests
