// What people read: amounts, the chart of importance, metrics compared, the table of a plan; every line within 80 columns.
#include <lsaq/report.hpp>

#include <formats/make_files.hpp>

#include <limits>

namespace report_test {

using lsaq::format_bytes;
using lsaq::format_ranges;
using lsaq::Importance;
using lsaq::importance_chart;
using lsaq::importance_comparison;
using lsaq::NamedOrder;
using lsaq::Plan;
using lsaq::wrap;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;
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
  EXPECT_THAT(importance_chart(sample), Not(HasSubstr("bits")));
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

TEST(QuarterOf, RoundsDownToAtLeastOne) {
  EXPECT_EQ(lsaq::quarter_of(1), 1u);
  EXPECT_EQ(lsaq::quarter_of(7), 2u);
  EXPECT_EQ(lsaq::quarter_of(30), 8u);
  EXPECT_EQ(lsaq::quarter_of(32), 8u);
}

std::vector<std::size_t> layers_down_from(std::size_t last) {
  std::vector<std::size_t> layers(last + 1);
  for (std::size_t l = 0; l <= last; ++l) layers[l] = last - l;
  return layers;
}

TEST(ImportanceComparison, TableTwoAndTheMatrix) {
  // The paper's Table II.
  std::vector<std::size_t> cosine = {27, 26, 28, 25, 24, 29, 23, 22}, jaccard = {27, 26, 28, 24, 23, 25, 22, 29};
  cosine.resize(32);
  jaccard.resize(32);
  const std::vector<NamedOrder> orders = {{"Cosine", cosine}, {"Jaccard", jaccard}};
  EXPECT_EQ(importance_comparison(orders, {{1, 0.984}, {-0.984, std::numeric_limits<double>::quiet_NaN()}}),
            "Least important quarter of 32 layers, least important first\n"
            "  1 Cosine   27, 26, 28, 25, 24, 29, 23, 22\n"
            "  2 Jaccard  27, 26, 28, 24, 23, 25, 22, 29\n"
            "\n"
            "Rank correlation (Spearman)\n"
            "                1     2\n"
            "  1 Cosine   1.00  0.98\n"
            "  2 Jaccard -0.98     -\n");
}

TEST(ImportanceComparison, FitsWhateverTheNamesAreAndHoweverMany) {
  for (const std::size_t count : {1u, 8u, 9u, 20u, 120u}) {
    std::vector<NamedOrder> orders;
    for (std::size_t i = 0; i < count; ++i) orders.push_back({std::string(i % 4 == 3 ? 200 : 5 * i % 31, 'n'), layers_down_from(199)});
    const std::vector<std::vector<double>> correlations(count, std::vector<double>(count, -1.0));
    const std::string table = importance_comparison(orders, correlations);
    expect_80_columns(table);
    EXPECT_EQ(table, importance_comparison(orders, correlations));
    std::size_t cells = 0;
    for (std::size_t at = table.find(" -1.00"); at != std::string::npos; at = table.find(" -1.00", at + 1)) ++cells;
    EXPECT_EQ(cells, count * count) << "every pair is shown";
    for (std::size_t layer = 150; layer < 200; ++layer) EXPECT_THAT(table, testing::ContainsRegex("[ \n]" + std::to_string(layer) + "[,\n]"));
    EXPECT_THAT(table, Not(testing::ContainsRegex("[ ,]149[,\n]")));
  }
}

TEST(ImportanceComparison, NamesAreCountedInCharactersAndCutBetweenThem) {
  std::string name;
  for (int i = 0; i < 30; ++i) name += "\xc3\xa9";
  const std::vector<std::string> lines = lines_of(importance_comparison(std::vector<NamedOrder>{{name, {0}}, {"\xc3\xa9", {0}}}, {{1, 1}, {1, 1}}));
  ASSERT_EQ(lines.size(), 9u);
  EXPECT_EQ(lines[1], "  1 " + name) << "whole above its layers";
  EXPECT_EQ(lines[2], std::string(32, ' ') + "0");
  EXPECT_EQ(lines[3], "  2 \xc3\xa9" + std::string(27, ' ') + "0");
  EXPECT_EQ(lines[7], "  1 " + name.substr(0, 48) + "..  1.00  1.00");
}

TEST(ImportanceComparison, WhatDoesNotFitTogetherIsRefused) {
  const auto message = [](const std::vector<NamedOrder>& orders, const std::vector<std::vector<double>>& correlations) {
    return make_files::message_of<lsaq::InvalidArgument>([&] { importance_comparison(orders, correlations); });
  };
  make_files::expect_mentions(message({{"a", {0}}}, {}), {"1 orders", "0 rows"});
  make_files::expect_mentions(message({{"a", {0, 1}}, {"b", {0}}}, {{1, 1}, {1, 1}}), {"of 2 and of 1 layers"});
  make_files::expect_mentions(message({{"a", {0}}, {"b", {0}}}, {{1, 1}, {1}}), {"row 1", "1 correlations for 2"});
  EXPECT_EQ(importance_comparison({}, {}), "");
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

} // namespace report_test
