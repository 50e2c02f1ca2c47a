// lsaq importance: what is interrupted goes on where it was, and only there.
#include "importance_command.hpp"

namespace command_tests {
namespace importance_checkpoint_test {

class ImportanceCheckpoint : public ImportanceCommand {
protected:
  static constexpr std::size_t windows = 12, length = 64;

  std::filesystem::path folder() const { return cache() / "lsaq" / "checkpoints"; }

  /// The checkpoint, if there is one; what a killed program was writing beside it does not count.
  std::filesystem::path checkpoint() const {
    std::error_code none;
    for (std::filesystem::directory_iterator entry(folder(), none), end; !none && entry != end; ++entry)
      if (entry->path().filename().string().size() == 64) return entry->path();
    return {};
  }

  Words call(const Words& options) { return Words{"importance", model(), "--token-ids", path("ids.json").string(), "--no-cache", "--threads", "1"} + options; }

  /// Sends `signal` as soon as there is a checkpoint, and gives the path of it. A program that was too fast to be hit gets more to do.
  std::filesystem::path interrupt(int signal, const Words& options) {
    std::filesystem::path file;
    for (std::size_t count = windows; count <= 64 * windows && file.empty(); count *= 4) {
      (void)token_ids(count, length);
      const Setting setting{.environment = {{"LSAQ_CHECKPOINT_SECONDS", "0"}, {"LSAQ_ISA", "scalar"}},
                            .meanwhile = signal_when([&] { return !checkpoint().empty(); }, signal)};
      const Result stopped = run(call(options), setting);
      if (stopped.code == done) continue;
      EXPECT_EQ(stopped.code, signal == SIGKILL ? -1 : interrupted) << stopped.err;
      EXPECT_EQ(stopped.err, signal == SIGKILL ? "" : "lsaq: interrupted\n");
      EXPECT_EQ(stopped.out, "");
      file = checkpoint();
    }
    EXPECT_FALSE(file.empty()) << "no checkpoint was seen";
    return file;
  }

  /// The whole measurement; standard error is all that was said.
  json finish(const Words& options, std::string& said) {
    const Result result = run(call(options + Words{"--json"}), {.environment = {{"LSAQ_ISA", "scalar"}}});
    EXPECT_EQ(result.code, done) << result.err;
    said = result.err;
    return lasting(json::parse(result.out, nullptr, false));
  }
};

TEST_F(ImportanceCheckpoint, GoesOnWhereItWas) {
  const Words several = {"--metric", "jaccard,cosine,ranked", "--top-k", "5,20", "--positions", "sampled:3"};
  for (const auto& [signal, options] : {std::pair{SIGINT, Words{}}, std::pair{SIGKILL, several}}) {
    ASSERT_FALSE(interrupt(signal, options).empty());
    std::string said;
    const json resumed = finish(options, said);
    EXPECT_THAT(said, testing::MatchesRegex("resumed at layer [123] of 4\n"));
    EXPECT_EQ(checkpoint(), "") << "removed at the end";
    const json whole = finish(options, said);
    EXPECT_EQ(said, "");
    EXPECT_EQ(resumed, whole);
  }
}

TEST_F(ImportanceCheckpoint, IsForItsMeasurementOnly) {
  const Words options = {"--metric", "cosine", "--positions", "all"}, other = options + Words{"--norm", "final"};
  const std::filesystem::path foreign = interrupt(SIGINT, options);
  ASSERT_FALSE(foreign.empty());
  const std::string saved = make_files::content_of(foreign);
  std::string said;
  (void)finish({"--metric", "cosine", "--positions", "last"}, said);
  EXPECT_EQ(said, "") << "not of these positions";
  EXPECT_EQ(checkpoint(), foreign) << "it is still wanted";
  std::filesystem::remove(foreign);

  const std::filesystem::path file = interrupt(SIGINT, other);
  ASSERT_FALSE(file.empty());
  EXPECT_NE(file, foreign);
  const std::string own = make_files::content_of(file);
  std::filesystem::remove(file);
  const json whole = finish(other, said);

  std::string beyond = own, longer = own;
  const std::size_t at = own.find("\"boundary\":");
  ASSERT_NE(at, std::string::npos);
  beyond[at + 11] = '9';
  const std::size_t states = own.find("\"states\":") + 9;
  longer.insert(states, "1");
  const std::pair<const char*, std::string> damages[] = {{"empty", ""},
                                                         {"cut in the states", own.substr(0, own.size() / 2)},
                                                         {"a byte short", own.substr(0, own.size() - 1)},
                                                         {"a byte long", own + "x"},
                                                         {"cut in the first line", own.substr(0, 20)},
                                                         {"no JSON", "resumed\n" + own},
                                                         {"beyond the last layer", beyond},
                                                         {"more states than there are bytes", longer},
                                                         {"of another measurement", saved}};
  for (const auto& [what, content] : damages) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << content;
    EXPECT_EQ(finish(other, said), whole) << what;
    EXPECT_EQ(said, "") << what;
    EXPECT_FALSE(std::filesystem::exists(file)) << what;
  }
  std::ofstream(file, std::ios::binary | std::ios::trunc) << own;
  EXPECT_EQ(finish(other, said), whole);
  EXPECT_THAT(said, testing::HasSubstr("resumed at layer"));
}

TEST_F(ImportanceCheckpoint, MeasuresWhereItCannotBeWritten) {
  (void)token_ids(3, 12);
  std::filesystem::create_directories(cache() / "lsaq");
  std::ofstream(folder()) << "a file where the folder should be";
  const Result result = run(call({"--json"}), {.environment = {{"LSAQ_CHECKPOINT_SECONDS", "0"}}});
  EXPECT_EQ(result.code, done);
  ASSERT_EQ(lines_of(result.err).size(), 1u) << "said once, not at every layer: " << result.err;
  EXPECT_THAT(result.err, testing::HasSubstr("can't be resumed"));
  std::string said;
  EXPECT_EQ(json::parse(result.out).at("windows"), 3);
}

/// Nothing is written before it is due, or where the cache is off.
TEST_F(ImportanceCheckpoint, IsNotWrittenForShortMeasurements) {
  (void)token_ids(3, 12);
  std::string said;
  (void)finish({}, said);
  EXPECT_FALSE(std::filesystem::exists(folder()));
}

} // namespace importance_checkpoint_test
} // namespace command_tests
