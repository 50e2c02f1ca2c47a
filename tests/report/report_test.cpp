// What people read: amounts, the chart of importance, the table of a plan; every line within 80 columns.
#include <lsaq/report.hpp>

#include <formats/make_files.hpp>

#include <limits>

namespace {

using lsaq::format_bytes;
using lsaq::format_ranges;
using lsaq::Importance;
using lsaq::importance_chart;
using lsaq::Plan;
using lsaq::wrap;
using testing::HasSubstr;
using testing::MatchesRegex;
using namespace lsaq::literals;

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text)
    if (c == '\n')
      lines.emplace_back();
    else
      lines.back() += c;
  EXPECT_EQ(lines.back(), "") << "the last line ends too";
  lines.pop_back();
  return lines;
}

void expect_80_columns(const std::string& text) {
  for (const std::string& line : lines_of(text)) EXPECT_LE(line.size(), 80u) << line;
}

TEST(FormatBytes, LargestUnitBelowTheAmount) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(1023), "1023 B");
  EXPECT_EQ(format_bytes(1_KiB), "1.0 KiB");
  EXPECT_EQ(format_bytes(1536), "1.5 KiB");
  EXPECT_EQ(format_bytes(1_MiB), "1.0 MiB");
  EXPECT_EQ(format_bytes(140_MiB), "140.0 MiB");
  EXPECT_EQ(format_bytes(1_GiB), "1.00 GiB");
  EXPECT_EQ(format_bytes(6_GiB), "6.00 GiB");
  EXPECT_EQ(format_bytes(6_GiB + 512_MiB), "6.50 GiB");
  EXPECT_EQ(format_bytes(2048_GiB), "2048.00 GiB");
}

TEST(FormatRanges, AscendingNumbers) {
  EXPECT_EQ(format_ranges({}), "");
  EXPECT_EQ(format_ranges({7}), "7");
  EXPECT_EQ(format_ranges({0, 1, 2, 3, 7}), "0-3, 7");
  EXPECT_EQ(format_ranges({0, 2, 4}), "0, 2, 4");
  EXPECT_EQ(format_ranges({0, 1}), "0-1");
  EXPECT_EQ(format_ranges({3, 4, 5, 9, 10, 30}), "3-5, 9-10, 30");
}

TEST(Wrap, BreaksAtSpaces) {
  EXPECT_EQ(wrap("one two three", 0, 7), "one two\nthree");
  EXPECT_EQ(wrap("one two three", 0, 8), "one two\nthree");
  EXPECT_EQ(wrap("one two three", 0, 13), "one two three");
  EXPECT_EQ(wrap("one two three", 0, 12), "one two\nthree");
  EXPECT_EQ(wrap("", 4), "");
  EXPECT_EQ(wrap("word", 4), "word");
}

TEST(Wrap, CountsAndRepeatsTheIndent) {
  EXPECT_EQ(wrap("aa bb cc dd", 3, 8), "aa bb\n   cc dd"); // the caller has written the first indent
  EXPECT_EQ(wrap("aa bb cc", 3, 7), "aa\n   bb\n   cc");
}

TEST(Wrap, AWordLongerThanTheLineHasOneOfItsOwn) { EXPECT_EQ(wrap("a 1234567890 b", 2, 6), "a\n  1234567890\n  b"); }

TEST(Wrap, KeepsEveryWordOfALongText) {
  std::string text;
  for (int i = 0; i < 200; ++i) text += (i == 0 ? "" : " ") + std::to_string(i * i);
  const std::string wrapped = wrap(text, 5);
  std::string joined;
  for (const std::string& line : lines_of(wrapped + "\n")) {
    EXPECT_LE(line.size() + (joined.empty() ? 5 : 0), 80u);
    joined += (joined.empty() ? line : " " + line.substr(5));
  }
  EXPECT_EQ(joined, text);
}

std::size_t bar_of(const std::string& line) { return static_cast<std::size_t>(std::count(line.begin(), line.end(), '=')); }

const Importance sample{.metric = "jaccard", .scores = {0.5, 0.25, 1.0, 0.0}, .spread = {0.01, 0.02, 0.03, 0}, .windows = 32};

TEST(ImportanceChart, ARowForEachLayer) {
  const std::vector<std::string> lines = lines_of(importance_chart(sample));
  ASSERT_EQ(lines.size(), 6u);
  EXPECT_EQ(lines[0], "Layer importance (jaccard, mean of 32 windows)");
  EXPECT_THAT(lines[2], MatchesRegex(" +0 +0\\.50000 0\\.01000 +3 =+"));
  EXPECT_THAT(lines[3], MatchesRegex(" +1 +0\\.25000 0\\.02000 +2 =+"));
  EXPECT_THAT(lines[4], MatchesRegex(" +2 +1\\.00000 0\\.03000 +4 =+"));
  EXPECT_THAT(lines[5], MatchesRegex(" +3 +0\\.00000 0\\.00000 +1 ")) << "rank 1 is the least important";
  expect_80_columns(importance_chart(sample));
}

TEST(ImportanceChart, BarsAreProportionalToTheScores) {
  const std::vector<std::string> lines = lines_of(importance_chart(sample));
  EXPECT_EQ(bar_of(lines[2]), 20u);
  EXPECT_EQ(bar_of(lines[3]), 10u);
  EXPECT_EQ(bar_of(lines[4]), 40u);
  EXPECT_EQ(bar_of(lines[5]), 0u);
}

TEST(ImportanceChart, NegativeScoresStartAtTheLowest) {
  const std::vector<std::string> lines = lines_of(importance_chart({.metric = "outlier", .scores = {-0.4, -0.1, 0.0}}));
  EXPECT_EQ(bar_of(lines[2]), 0u);
  EXPECT_EQ(bar_of(lines[3]), 30u);
  EXPECT_EQ(bar_of(lines[4]), 40u);
}

TEST(ImportanceChart, EqualScores) {
  for (const double score : {0.0, 0.3})
    for (const std::string& line : lines_of(importance_chart({.metric = "m", .scores = {score, score}}))) EXPECT_TRUE(bar_of(line) == 0 || bar_of(line) == 40);
}

TEST(ImportanceChart, NamesItsWindowsOnlyIfThereAreAny) {
  EXPECT_THAT(importance_chart({.metric = "outlier", .scores = {1}}), testing::StartsWith("Layer importance (outlier)\n"));
  EXPECT_THAT(importance_chart({.metric = "cosine", .scores = {1}, .windows = 1}), testing::StartsWith("Layer importance (cosine, mean of 1 window)\n"));
}

TEST(ImportanceChart, WithAPlanShowsBits) {
  const Plan plan{.bits = {16, 4, 8, 4}};
  const std::vector<std::string> lines = lines_of(importance_chart(sample, &plan));
  EXPECT_THAT(lines[1], HasSubstr("bits"));
  EXPECT_THAT(lines[2], MatchesRegex(".* 3 +16 =+"));
  EXPECT_THAT(lines[3], MatchesRegex(".* 2 +4 =+"));
  EXPECT_THAT(lines[4], MatchesRegex(".* 4 +8 =+"));
  EXPECT_EQ(bar_of(lines[4]), 40u);
  EXPECT_THAT(importance_chart(sample), testing::Not(HasSubstr("bits")));
}

TEST(ImportanceChart, APlanOfAnotherModelIsRefused) {
  const Plan plan{.bits = {8, 8}};
  make_files::expect_mentions(make_files::message_of<lsaq::InvalidArgument>([&] { importance_chart(sample, &plan); }), {"2 layers", "scores for 4"});
}

TEST(ImportanceChart, FitsWhateverTheScoresAre) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Plan plan{.bits = {16, 16, 16, 16}};
  for (const double size : {1e-300, 1e-9, 0.123456789, 9.99999999, 99.999999, 12345.678, 1e9, 1e300, 1.7e308, infinity}) {
    const Importance importance{.metric = "measured", .scores = {size, -size, size / 2, 0}, .spread = {size, size, size / 3, 0}, .windows = 1u << 30};
    expect_80_columns(importance_chart(importance));
    expect_80_columns(importance_chart(importance, &plan));
  }
  Importance many{.metric = "m", .scores = std::vector<double>(1200, 1.0)};
  expect_80_columns(importance_chart(many));
}

TEST(PlanTable, LayersByWidthAndBytes) {
  Plan plan{.bits = {4, 8, 8, 8, 4, 16}, .average_bits = 7.25};
  plan.bytes = {.weights = 1_MiB, .embedding = 2_MiB, .kv_cache = 3_KiB, .activations = 4, .reserve = 5, .total = 3148809, .memory = 6_GiB};
  const std::vector<std::string> lines = lines_of(plan_table(plan));
  ASSERT_EQ(lines.size(), 13u);
  EXPECT_THAT(lines[1], MatchesRegex(" +16 +1  5"));
  EXPECT_THAT(lines[2], MatchesRegex(" +8 +3  1-3"));
  EXPECT_THAT(lines[3], MatchesRegex(" +4 +2  0, 4"));
  EXPECT_EQ(lines[4], "average 7.25 bits a weight");
  EXPECT_THAT(lines[6], MatchesRegex("layers and norms +1048576 bytes +1\\.0 MiB"));
  EXPECT_THAT(lines[7], MatchesRegex("embedding and head +2097152 bytes +2\\.0 MiB"));
  EXPECT_THAT(lines[8], MatchesRegex("KV cache +3072 bytes +3\\.0 KiB"));
  EXPECT_THAT(lines[9], MatchesRegex("activations +4 bytes +4 B"));
  EXPECT_THAT(lines[10], MatchesRegex("reserve +5 bytes +5 B"));
  EXPECT_THAT(lines[11], MatchesRegex("total +3148809 bytes +3\\.0 MiB"));
  EXPECT_THAT(lines[12], MatchesRegex("memory +6442450944 bytes +6\\.00 GiB"));
}

TEST(PlanTable, ShowsEveryWidthAndEveryLayer) {
  Plan plan;
  for (unsigned l = 0; l < 300; ++l) plan.bits.push_back(l % 2 == 0 ? 8u : l % 4 == 1 ? 4u : 2u); // no two neighbours alike
  plan.average_bits = 5.5;
  plan.bytes.memory = std::numeric_limits<lsaq::Bytes>::max();
  const std::string table = plan_table(plan);
  expect_80_columns(table);
  for (unsigned l = 0; l < 300; ++l) EXPECT_THAT(table, testing::ContainsRegex("[ \n]" + std::to_string(l) + "[,\n]"));
}

} // namespace
