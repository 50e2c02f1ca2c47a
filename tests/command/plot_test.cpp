// Pictures: well-formed, whole or not there, whatever the names and numbers are and however gnuplot ends.
#include "plot.hpp"
#include "rank_map.hpp"

#include <formats/make_files.hpp>
#include <resources/scoped_environment.hpp>

#include <algorithm>
#include <csignal>
#include <limits>

namespace plot_test {

using command::draw_accuracy;
using command::draw_importance;
using command::draw_rank_map;
using make_files::content_of;
using make_files::expect_mentions;
using make_files::message_of;
using scoped_environment::ScopedVariable;
using testing::HasSubstr;
using testing::Not;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

std::size_t count_of(const std::string& text, const std::string& part) {
  std::size_t count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++count;
  return count;
}

/// What is wrong with a document as XML: tags that don't match, attributes without quotes, bare ampersands, control characters. Empty: nothing.
std::string xml_problem(const std::string& xml) {
  std::vector<std::string> open;
  bool had_root = false;
  for (std::size_t i = 0; i < xml.size();) {
    const auto rest = [&] { return xml.substr(i, 40); };
    if (static_cast<unsigned char>(xml[i]) < 0x20 && xml[i] != '\n' && xml[i] != '\t' && xml[i] != '\r') return "control character before " + rest();
    if (xml[i] == '&') {
      const std::size_t end = xml.find(';', i);
      const std::string entity = end == std::string::npos ? "" : xml.substr(i + 1, end - i - 1);
      if (entity != "amp" && entity != "lt" && entity != "gt" && entity != "quot" && entity != "apos" && !entity.starts_with("#")) return "bare & at " + rest();
      i = end + 1;
    } else if (xml[i] != '<') {
      if (open.empty() && xml[i] > ' ') return "text outside at " + rest();
      ++i;
    } else if (xml.compare(i, 2, "<?") == 0) {
      i = xml.find("?>", i) + 2;
    } else {
      std::size_t end = i + 1;
      for (char quote = 0; end < xml.size() && (quote != 0 || xml[end] != '>'); ++end) {
        if (quote == 0 && xml[end] == '=')
          if (const std::size_t value = xml.find_first_not_of(" \n\t", end + 1); value == std::string::npos || (xml[value] != '"' && xml[value] != '\''))
            return "attribute without quotes in " + rest();
        if (xml[end] == '<') return "< within " + rest();
        if (quote == 0 && (xml[end] == '"' || xml[end] == '\''))
          quote = xml[end];
        else if (xml[end] == quote)
          quote = 0;
      }
      if (end == xml.size()) return "unfinished tag " + rest();
      const std::string tag = xml.substr(i + 1, end - i - 1), name = tag.substr(0, tag.find_first_of(" \t\n/", 1));
      if (tag.starts_with("/")) {
        if (open.empty() || "/" + open.back() != name) return "</" + tag.substr(1) + "> closes nothing";
        open.pop_back();
      } else if (!tag.ends_with("/")) {
        if (open.empty() && std::exchange(had_root, true)) return "a second root " + tag;
        open.push_back(name);
      }
      i = end + 1;
    }
  }
  return !had_root ? "no element" : open.empty() ? "" : "<" + open.back() + "> is not closed";
}

TEST(XmlProblem, FindsWhatIsWrong) {
  EXPECT_EQ(xml_problem("<?xml version='1.0'?>\n<a b='<' >"), "< within <a b='<' >");
  EXPECT_EQ(xml_problem("<?xml?>\n<svg a='1' b=\"'\"><p q = \"'\"/><g>x &amp; y &#38;</g></svg>\n"), "");
  for (const char* wrong : {"", "x", "<a>", "<a></b>", "<a>&</a>", "<a>&b </a>", "<a b=1/>", "<a/", "</a>", "<a></a><b></b>", "<a>\x01</a>"})
    EXPECT_NE(xml_problem(wrong), "") << wrong;
}

class Plot : public testing::Test {
protected:
  void SetUp() override {
    if (std::system("gnuplot --version > /dev/null 2>&1") != 0) GTEST_SKIP() << "gnuplot is not installed";
  }

  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }

  /// A drawn SVG, checked, and nothing else in the folder.
  std::string svg() const {
    const std::string content = content_of(path("p.svg"));
    EXPECT_TRUE(content.starts_with("<?xml"));
    EXPECT_EQ(xml_problem(content), "");
    EXPECT_EQ(folder_.count(), 1u);
    return content;
  }

  /// Puts a program of this shell script in place of gnuplot; empty: none at all.
  std::string fake_gnuplot(const std::string& script) const {
    const std::filesystem::path folder = programs_.path();
    std::filesystem::remove(folder / "gnuplot");
    if (!script.empty()) std::filesystem::permissions(programs_.write("gnuplot", "#!/bin/sh\n" + script + "\n"), std::filesystem::perms::owner_all);
    return folder.string();
  }

  /// Drawing fails with a message that has these parts, and what was there stays.
  template <class E> void expect_refused(const std::filesystem::path& where, const std::vector<std::string>& mentions) const {
    folder_.write("p.svg", "before");
    const std::size_t files = folder_.count();
    expect_mentions(message_of<E>([&] { draw_importance(where, "title", {{"a", {1, 2, 3}}}); }), mentions);
    EXPECT_EQ(content_of(path("p.svg")), "before");
    EXPECT_EQ(folder_.count(), files);
  }

  make_files::TemporaryFolder folder_, programs_;
};

const std::string circle = "xlink:href='#gpPt6' transform"; // a mark of the first series

TEST_F(Plot, ImportanceOfSeveralModels) {
  const std::vector<double> long_model(80, 0.5);
  draw_importance(path("p.svg"), "Importance of layers",
                  {{"Llama-2-7B", {0.9, 0.2, nan, 0.4, 0.6}, {0.1, 0, 0, 0.1, 0.2}}, {"a model of 80 layers", long_model}});
  const std::string drawn = svg();
  for (const char* text : {"Importance of layers", "Llama-2-7B", "a model of 80 layers", ">importance<", ">layer<"}) EXPECT_THAT(drawn, HasSubstr(text));
  EXPECT_EQ(count_of(drawn, circle), 4u + 1u) << "each finite score, and the legend";
}

TEST_F(Plot, ScoresOfDifferentMagnitude) {
  draw_importance(path("p.svg"), "t", {{"outliers", {1e-5, 3e-5, 2e-5}, {1e-6, 1e-6, 1e-6}}, {"error", {100, 300, 2000}}, {"equal", {7, 7}}},
                  command::ScoreAxis::own_range);
  const std::string drawn = svg();
  for (const char* text : {"outliers (1e-05 to 3e-05)", "error (100 to 2e+03)", "equal (7 to 7)", "each: least 0, greatest 1"})
    EXPECT_THAT(drawn, HasSubstr(text));
}

TEST_F(Plot, WhateverTheScoresAre) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (const auto axis : {command::ScoreAxis::shared, command::ScoreAxis::own_range})
    for (const std::vector<double>& scores :
         std::vector<std::vector<double>>{{0}, {1e-300}, {-3, -2}, {nan, nan}, {infinity, 1, -infinity}, {1e300, -1e300}, {5, 5, 5}}) {
      draw_importance(path("p.svg"), "", {{"s", scores, scores}}, axis);
      svg();
    }
}

TEST_F(Plot, NamesAreTextAndNothingElse) {
  const std::string hostile = "a_b^2 {/Bold x} <svg> & 'quoted' \"double\" `touch p` $x @y %d \xc3\xa9";
  draw_importance(path("p.svg"), hostile + "\ntitle", {{hostile, {1, 2}}, {"broken \xff\x1b[31m \\", {2, 1}}});
  const std::string drawn = svg();
  EXPECT_EQ(count_of(drawn, "a_b^2 {/Bold x} &lt;svg> &amp; 'quoted' \"double\" `touch p` $x @y %d \xc3\xa9"), 2u) << drawn;
  EXPECT_THAT(drawn, HasSubstr("broken \\xff\\x1b[31m \\x5c"));
}

TEST_F(Plot, ManySeriesAndLongNames) {
  std::vector<command::ImportanceSeries> series;
  for (int i = 0; i < 30; ++i)
    series.push_back({std::to_string(i) + std::string(300, 'n') + std::to_string(i), std::vector<double>(80, i), std::vector<double>(80, 1)});
  draw_importance(path("p.svg"), std::string(5000, 't'), series);
  const std::string drawn = svg();
  for (int i = 0; i < 30; ++i) {
    EXPECT_THAT(drawn, HasSubstr(">" + std::to_string(i) + "nn"));
    EXPECT_THAT(drawn, HasSubstr("nn" + std::to_string(i) + "<")) << "names differ at their ends, too";
  }
}

TEST_F(Plot, TheSameInputsGiveTheSameFile) {
  const auto draw = [&] {
    draw_importance(path("p.svg"), "t", {{"a", {1, 3, 2}, {0.1, 0.1, 0.1}}});
    return svg();
  };
  const std::string first = draw();
  EXPECT_EQ(first, draw());
  const ScopedVariable terminal("GNUTERM", "none such"), locale("LC_ALL", "de_DE.UTF-8");
  programs_.write(".gnuplot", "set title 'of the user'\nthis is no command\n");
  const ScopedVariable home("HOME", programs_.path().string());
  EXPECT_EQ(first, draw()) << "nor does it matter who draws it";
}

TEST_F(Plot, RankMap) {
  const std::vector<lsaq::NamedOrder> orders = {
      {"jaccard k=50", {3, 2, 1, 0, 4, 5, 6, 7, 8}}, {"cosine <last>", {0, 1, 2, 3, 4, 5, 6, 7, 8}}, {"", {8, 7, 6, 5, 4, 3, 2, 1, 0}}};
  draw_rank_map(path("p.svg"), "Ranks", orders, {{1, 0.905, -0.5}, {0.905, 1, nan}, {-0.5, nan, 1}});
  const std::string drawn = svg();
  for (const char* text : {"Ranks", "jaccard k=50", "cosine &lt;last>", "least important quarter", ">layer<"}) EXPECT_THAT(drawn, HasSubstr(text));
  EXPECT_EQ(count_of(drawn, ">1.00<"), 3u);
  EXPECT_EQ(count_of(drawn, ">0.91<") + count_of(drawn, ">0.90<"), 2u);
  EXPECT_EQ(count_of(drawn, ">-0.50<"), 2u);
  EXPECT_EQ(count_of(drawn, ">-<"), 2u);
  EXPECT_EQ(count_of(drawn, circle), 3 * 3u + 1u) << "three of nine layers in each row, and the legend";
}

TEST_F(Plot, RankMapsOfAnySize) {
  for (const std::size_t layers : {1u, 2u, 80u, 200u})
    for (const std::size_t count : {1u, 12u}) {
      std::vector<std::size_t> order(layers);
      for (std::size_t l = 0; l < layers; ++l) order[l] = layers - 1 - l;
      draw_rank_map(path("p.svg"), "t", std::vector<lsaq::NamedOrder>(count, {"a " + std::string(60, 'n') + " b", order}),
                    std::vector<std::vector<double>>(count, std::vector<double>(count, 1)));
      EXPECT_EQ(count_of(svg(), circle), count * lsaq::quarter_of(layers) + 1);
    }
}

TEST_F(Plot, RankMapRefusesWhatDoesNotFit) {
  const auto message = [&](const std::vector<lsaq::NamedOrder>& orders, const std::vector<std::vector<double>>& correlations) {
    return message_of<lsaq::InvalidArgument>([&] { draw_rank_map(path("p.svg"), "t", orders, correlations); });
  };
  expect_mentions(message({}, {}), {"no orders"});
  expect_mentions(message({{"a", {}}}, {{1}}), {"no orders"});
  expect_mentions(message({{"a", {0, 1}}}, {}), {"1 orders", "rows of correlations", "not 0"});
  expect_mentions(message({{"a", {0, 1}}}, {{1, 1}}), {"columns of correlations", "not 2"});
  expect_mentions(message({{"a\n", {0, 2}}}, {{1}}), {"'a\\x0a'", "layers 0 to 1 once"});
  expect_mentions(message({{"a", {0, 0}}}, {{1}}), {"'a'", "once"});
  expect_mentions(message({{"a", {0, 1}}, {"b", {0, 1, 2}}}, {{1, 1}, {1, 1}}), {"'b'", "layers 0 to 1 once"});
  expect_mentions(message({{"a", {0, 1}}, {"b", {0}}}, {{1, 1}, {1, 1}}), {"'b'"});
  EXPECT_EQ(folder_.count(), 0u);
}

const std::vector<command::AccuracySeries> accuracy = {{"jaccard", {{7, 34.5, 0.3}, {5, 43.4, 0.6}, {6, 38.4, 0.5}}}, {"random", {{6, 41, 4}, {5, nan, 1}}}};

TEST_F(Plot, Accuracy) {
  for (const auto axis : {command::ValueAxis::linear, command::ValueAxis::logarithmic}) {
    draw_accuracy(path("p.svg"), "WikiText-2", "perplexity", accuracy, {{"FP16", 30.96}, {"INT8", 30.88}}, axis);
    const std::string drawn = svg();
    for (const char* text : {"WikiText-2", "perplexity", "average bits a weight", ">jaccard<", ">random<", "FP16 (30.96)", "INT8 (30.88)"})
      EXPECT_THAT(drawn, HasSubstr(text));
    EXPECT_EQ(count_of(drawn, circle), 3u + 1u);
    EXPECT_THAT(drawn, HasSubstr("> 40<")) << "a perplexity axis has tics between the powers of ten";
  }
}

TEST_F(Plot, ALogarithmicAxisLeavesOutWhatIsNotAboveZero) {
  draw_accuracy(path("p.svg"), "t", "KL divergence", {{"a", {{8, 0, 0}, {7, 0.001, 0.01}, {4, 5, 1}}}}, {{"FP16", 0}}, command::ValueAxis::logarithmic);
  const std::string drawn = svg();
  EXPECT_EQ(count_of(drawn, circle), 2u + 1u);
  for (const char* text : {"FP16 (0)", "> 0.01<", "> 0.1<", "> 1<"}) EXPECT_THAT(drawn, HasSubstr(text));
}

TEST_F(Plot, WhateverTheResultsAre) {
  for (const auto axis : {command::ValueAxis::linear, command::ValueAxis::logarithmic})
    for (const std::vector<command::AccuracyPoint>& points :
         std::vector<std::vector<command::AccuracyPoint>>{{},
                                                          {{6, 30}},
                                                          {{4, 1e300}, {8, 1e-300}},
                                                          {{6.01, 30}, {6.02, 30.1}},
                                                          {{2, nan}},
                                                          {{4, 30, std::numeric_limits<double>::infinity()}},
                                                          {{nan, 1}}}) {
      draw_accuracy(path("p.svg"), "t", "perplexity", {{"a", points}}, {}, axis);
      svg();
    }
}

TEST_F(Plot, Png) {
  draw_accuracy(path("p.png"), "t", "perplexity", accuracy);
  const std::string drawn = content_of(path("p.png"));
  EXPECT_TRUE(drawn.starts_with("\x89PNG\r\n\x1a\n"));
  EXPECT_TRUE(drawn.ends_with("IEND\xae\x42\x60\x82"));
  EXPECT_GT(drawn.size(), 10000u);
  EXPECT_EQ(folder_.count(), 1u);
}

TEST_F(Plot, SeriesThatCannotBeDrawn) {
  const auto message = [&](const std::vector<command::ImportanceSeries>& series) {
    return message_of<lsaq::InvalidArgument>([&] { draw_importance(path("p.svg"), "t", series); });
  };
  expect_mentions(message({}), {"no scores"});
  expect_mentions(message({{"a", {1}}, {"b\t", {}}}), {"'b\\x09'", "no scores"});
  expect_mentions(message({{"a", {1, 2}, {1}}}), {"'a'", "2 scores", "1 standard errors"});
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { draw_accuracy(path("p.svg"), "t", "y", {}); }), {"no results"});
  EXPECT_EQ(folder_.count(), 0u);
}

TEST_F(Plot, OtherSuffixesAreRefused) {
  for (const char* name : {"p.pdf", "p", "p.svg.gz", ".svg"}) expect_refused<lsaq::InvalidArgument>(path(name), {"'", name, ".svg or .png"});
  expect_mentions(message_of<lsaq::InvalidArgument>([&] { command::check_picture("\x1b.gif"); }), {"\\x1b.gif"});
}

TEST_F(Plot, FilesThatCannotBeWritten) {
  expect_refused<lsaq::IoError>(path("missing/p.svg"), {"missing/p.svg", "No such file"});
  expect_mentions(message_of<lsaq::IoError>([&] { command::check_picture(path("missing/p.png")); }), {"missing/p.png", "No such file"});
  std::filesystem::create_directory(path("folder.svg"));
  expect_refused<lsaq::IoError>(path("folder.svg"), {"folder.svg", "it is a folder"});
}

TEST_F(Plot, WithoutGnuplot) {
  const ScopedVariable variable("PATH", fake_gnuplot(""));
  expect_refused<lsaq::IoError>(path("p.svg"), {"gnuplot", "not installed", "gnuplot-nox"});
  expect_mentions(message_of<lsaq::IoError>([&] { command::check_picture(path("q.svg")); }), {"gnuplot-nox"});
}

TEST_F(Plot, GnuplotThatFails) {
  const ScopedVariable variable("PATH",
                                fake_gnuplot("echo '<?xml half'\n"
                                             "printf '\\n\\ngnuplot> set term foo\\n         ^\\n   line 0: unknown or \\033[31m terminal\\n\\n' >&2\nexit 1"));
  expect_refused<lsaq::IoError>(path("p.svg"), {"gnuplot failed: line 0: unknown or \\x1b[31m terminal"});
  expect_mentions(message_of<lsaq::IoError>([&] { command::check_picture(path("q.svg")); }), {"gnuplot failed"});
  fake_gnuplot("exit 3");
  expect_refused<lsaq::IoError>(path("p.svg"), {"gnuplot failed"});
  fake_gnuplot("kill -KILL $$");
  expect_refused<lsaq::IoError>(path("p.svg"), {"gnuplot", "signal 9"});
  fake_gnuplot("echo '<?xml half of it'");
  expect_refused<lsaq::IoError>(path("p.svg"), {"p.svg", "did not draw all"});
  fake_gnuplot("exit 0");
  expect_refused<lsaq::IoError>(path("p.svg"), {"did not draw all"});
}

TEST_F(Plot, CheckingWritesNothing) {
  command::check_picture(path("p.svg"));
  command::check_picture(path("p.png"));
  EXPECT_EQ(folder_.count(), 0u);
}

} // namespace plot_test
