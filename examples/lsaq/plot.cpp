#include "plot.hpp"

#include "gnuplot.hpp"

#include <lsaq/formats/names.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

namespace command {

namespace {

using Align = Picture::Align;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();
constexpr double margin = Picture::margin;

/// The rectangle of the axes, and the room left of and below it for their labels.
constexpr double chart_width = 620, chart_height = 300, room_left = 88, room_below = 46;

/// Okabe and Ito's colours, without the yellow that is lost on white.
std::string colour_of(std::size_t series) {
  constexpr std::array colours = {0x0072b2u, 0xd55e00u, 0x009e73u, 0xcc79a7u, 0xe69f00u, 0x56b4e9u, 0x000000u};
  return "linecolor rgb " + Colour{colours[series % colours.size()]}.text();
}
/// Full circle, square, triangle, diamond, triangle downwards, then hollow ones: with seven colours, 70 series differ.
std::string mark_of(std::size_t series) {
  constexpr std::array marks = {7, 5, 9, 13, 11, 4, 6, 8, 12, 10};
  return fmt::format("pointtype {}", marks[series % marks.size()]);
}

/// Black and greys. No two neighbours have the same colour: gnuplot's SVG would draw both with the dashes of the first.
std::string level_style(std::size_t level) {
  constexpr std::array colours = {0x000000u, 0x777777u, 0x333333u, 0x999999u};
  constexpr std::array dashes = {"(8,4)", "(2,3)", "(8,3,2,3)", "(4,2)"};
  return fmt::format("linecolor rgb {} dashtype {} linewidth 1.2", Colour{colours[level % colours.size()]}.text(), dashes[level % dashes.size()]);
}

constexpr double line_width = 1.6;

/// What a line means, and how it is drawn.
struct LegendEntry {
  std::string name;
  std::string line;
  std::string mark; ///< empty: none
};

/// Entries in columns as wide as the widest of them.
class Legend {
public:
  explicit Legend(std::vector<LegendEntry> entries) : entries_(std::move(entries)) {
    for (LegendEntry& entry : entries_) {
      entry.name = shortened(lsaq::printable(entry.name, 400), chart_width + room_left - margin - symbol, Picture::font);
      column_ = std::max(column_, symbol + text_width(entry.name, Picture::font) + 12);
    }
    const auto columns = std::max<std::size_t>(1, static_cast<std::size_t>((chart_width + 12) / column_));
    rows_ = (entries_.size() + columns - 1) / columns;
    left_ = column_ > chart_width ? margin : room_left;
  }

  double height() const { return static_cast<double>(rows_) * row; }

  void draw(Picture& picture) const {
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const double left = left_ + static_cast<double>(i / rows_) * column_, middle = picture.top() + (static_cast<double>(i % rows_) + 0.5) * row,
                   right = left + symbol - 8;
      picture.segment(left, right, middle, entries_[i].line);
      if (!entries_[i].mark.empty()) picture.mark((left + right) / 2, middle, entries_[i].mark);
      picture.text(left + symbol, middle, entries_[i].name, {});
    }
  }

private:
  static constexpr double symbol = 36, row = 18;
  std::vector<LegendEntry> entries_;
  double column_ = 1, left_ = 0;
  std::size_t rows_ = 0;
};

struct Point {
  double x = nan, y = nan, low = nan, high = nan;
};

/// A line with a mark and perhaps a bar at each of its points; what is NaN is a gap.
struct Line {
  std::string name;
  std::vector<Point> points;
};

/// A horizontal line over the whole width.
struct Level {
  std::string name;
  double y = 0;
};

struct Axis {
  std::string label;
  Range range;
  std::string tics; ///< what follows "set xtics"
};

struct Chart {
  Axis x, y;
  std::vector<Line> lines = {};
  std::vector<Level> levels = {};
  bool logarithmic = false; ///< the y axis
  double mark_size = 0.55;
};

void draw_chart(const std::filesystem::path& path, const std::string& title, const Chart& chart) {
  const auto& [x, y, lines, levels, logarithmic, mark_size] = chart;
  std::vector<LegendEntry> entries;
  for (std::size_t i = 0; i < lines.size(); ++i)
    entries.push_back(
        {lines[i].name, fmt::format("{} linewidth {}", colour_of(i), line_width), fmt::format("{} {} pointsize {}", mark_of(i), colour_of(i), mark_size)});
  for (std::size_t i = 0; i < levels.size(); ++i) entries.push_back({levels[i].name, level_style(i), ""});
  const Legend legend(entries);

  Picture picture(path, title, room_left + chart_width + margin, legend.height() + 12 + chart_height + room_below);
  const double top = picture.top() + legend.height() + 12, bottom = top + chart_height, right = room_left + chart_width;
  legend.draw(picture);
  picture.plot_area(room_left, top, right, bottom);
  picture.text((room_left + right) / 2, bottom + 40, x.label, {.align = Align::centre});
  picture.text(margin + 4, (top + bottom) / 2, shortened(lsaq::printable(y.label, 200), chart_height + room_below, Picture::font),
               {.align = Align::centre, .upwards = true});
  picture.add("set border 3 linecolor rgb '#666666'\nset tics nomirror out scale 0.6 textcolor rgb 'black'\nset xtics offset 0,0.3");
  picture.add("set grid ytics linetype 1 linecolor rgb '#dddddd' linewidth 0.7");
  if (logarithmic) picture.add("set logscale y");
  picture.add(fmt::format("set xrange [{}:{}]\nset xtics {}", plot_number(x.range.low), plot_number(x.range.high), x.tics));
  picture.add(fmt::format("set yrange [{}:{}]\nset ytics {}", plot_number(y.range.low), plot_number(y.range.high), y.tics));
  for (std::size_t i = 0; i < levels.size(); ++i)
    if (levels[i].y >= y.range.low && levels[i].y <= y.range.high)
      picture.add(fmt::format("set arrow from graph 0, first {0} to graph 1, first {0} nohead {1}", plot_number(levels[i].y), entries[lines.size() + i].line));

  std::string bars, marks;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::string points, spans;
    for (const Point& p : lines[i].points) {
      points += fmt::format("{} {}\n", plot_number(p.x), plot_number(p.y));
      if (p.high > p.low && can_plot(p.high - p.low)) spans += fmt::format("{} {} {}\n", plot_number(p.x), plot_number(p.low), plot_number(p.high - p.low));
    }
    picture.add(fmt::format("$points{0} << end\n{1}end\n$spans{0} << end\n{2}end", i, points, spans));
    if (!spans.empty()) // gnuplot's own error bars leave a hole for the mark
      bars += fmt::format("$spans{} using 1:2:(0):3 with vectors heads size screen 0.003,90 {} linewidth 1 notitle, ", i, colour_of(i));
    marks += fmt::format("{}$points{} using 1:2 with linespoints {} linewidth {} {} pointsize {} notitle", i == 0 ? "" : ", ", i, colour_of(i), line_width,
                         mark_of(i), mark_size);
  }
  picture.add("plot " + bars + marks);
  picture.save();
}

/// Tics of a logarithmic axis: gnuplot's own are powers of ten, of which a range of perplexities may hold none.
std::string logarithmic_tics(const Range& range) {
  std::string list;
  const auto add = [&](double tic) {
    if (tic >= range.low * (1 - 1e-9) && tic <= range.high * (1 + 1e-9)) list += (list.empty() ? "" : ", ") + plot_number(tic);
  };
  const double decades = std::log10(range.high / range.low);
  if (decades < 0.8) {
    const double step = round_step((range.high - range.low) / 7);
    for (double n = std::floor(range.low / step); n <= range.high / step; ++n) add(n * step);
  } else {
    const int first = static_cast<int>(std::floor(std::log10(range.low))), stride = std::max(1, static_cast<int>(decades / 8));
    for (int power = first; power <= first + static_cast<int>(decades) + 2; power += stride)
      for (const double factor : {1.0, 2.0, 5.0})
        if (factor == 1 || decades < 3) add(factor * std::pow(10.0, power));
  }
  return "(" + list + ")";
}

/// Room for marks at the ends; something where there is nothing.
Range widened(Range range, double share) {
  if (range.empty()) return {0, 1};
  const double room = range.high > range.low ? share * (range.high - range.low) : std::max(0.1 * std::abs(range.high), 1e-12);
  return {range.low - room, range.high + room};
}

/// Moves the points of `series` out of `count` aside, so that bars at one place stand beside each other: three pixels, or less if there are many.
double aside(std::size_t series, std::size_t count, double pixel, double room) {
  const double step = std::min(3 * pixel, room / static_cast<double>(count));
  return (static_cast<double>(series) - 0.5 * static_cast<double>(count - 1)) * step;
}

} // namespace

void check_picture(const std::filesystem::path& path) { Picture(path, "", 100, 100).check(); }

void draw_importance(const std::filesystem::path& path, const std::string& title, const std::vector<ImportanceSeries>& series, ScoreAxis axis) {
  if (series.empty()) refuse_picture("there are no scores");
  std::size_t layers = 0;
  for (const ImportanceSeries& one : series) {
    if (one.scores.empty()) refuse_picture(quoted_name(one.name) + " has no scores");
    if (!one.spread.empty() && one.spread.size() != one.scores.size())
      refuse_picture(fmt::format("{} has {} scores and {} standard errors", quoted_name(one.name), one.scores.size(), one.spread.size()));
    layers = std::max(layers, one.scores.size());
  }
  Range all;
  Chart chart;
  for (std::size_t s = 0; s < series.size(); ++s) {
    const ImportanceSeries& one = series[s];
    Range own;
    for (const double score : one.scores) own.add(score);
    double origin = 0, unit = 1;
    Line line{one.name, {}};
    if (axis == ScoreAxis::own_range && !own.empty()) {
      origin = own.low;
      unit = own.high > own.low ? own.high - own.low : 1;
      line.name += fmt::format(" ({:.3g} to {:.3g})", own.low, own.high);
    }
    const bool bars = std::any_of(one.spread.begin(), one.spread.end(), [](double spread) { return spread > 0; });
    for (std::size_t l = 0; l < one.scores.size(); ++l) {
      const double y = (one.scores[l] - origin) / unit, spread = bars ? one.spread[l] / unit : 0;
      line.points.push_back({static_cast<double>(l) + aside(s, series.size(), static_cast<double>(layers) / chart_width, 0.4), y, y - spread, y + spread});
      for (const double value : {y, y - spread, y + spread}) all.add(value);
    }
    chart.lines.push_back(std::move(line));
  }
  const bool from_zero = axis == ScoreAxis::shared && all.low >= 0 && all.low < all.high / 2;
  all = widened(all, 0.04);
  if (from_zero) all.low = 0;
  const auto count = static_cast<double>(layers);
  const double step = round_step(std::max(count / 16, 1.0));
  chart.x = {"layer", {-0.8, count - 0.2}, fmt::format("0,{}\nset mxtics {}", step, std::min(step, 5.0))};
  chart.y = {axis == ScoreAxis::shared ? "importance" : "importance (each: least 0, greatest 1)", all, "autofreq"};
  chart.mark_size = layers > 40 ? 0.4 : 0.55;
  draw_chart(path, title, chart);
}

void draw_accuracy(const std::filesystem::path& path, const std::string& title, const std::string& value_label, const std::vector<AccuracySeries>& series,
                   const std::vector<Reference>& references, ValueAxis axis) {
  if (series.empty()) refuse_picture("there are no results");
  const bool logarithmic = axis == ValueAxis::logarithmic;
  const auto drawable = [&](double value) { return can_plot(value) && (!logarithmic || value >= 1e-100); };
  Chart chart;
  Range bits, values;
  for (const Reference& one : references) {
    chart.levels.push_back({fmt::format("{} ({:.4g})", one.name, one.value), one.value});
    if (drawable(one.value)) values.add(one.value);
  }
  for (const AccuracySeries& one : series)
    for (const AccuracyPoint& p : one.points)
      if (drawable(p.value)) {
        bits.add(p.bits);
        values.add(p.value);
        values.add(p.value + p.spread);
        if (drawable(p.value - p.spread)) values.add(p.value - p.spread);
      }
  if (logarithmic) {
    if (values.empty()) values = {1, 10};
    const double room = std::max(std::pow(values.high / values.low, 0.05), 1.02);
    values = {values.low / room, values.high * room};
  } else {
    values = widened(values, 0.05);
  }
  bits = bits.high > bits.low || bits.empty() ? widened(bits, 0.05) : Range{bits.low - 1, bits.high + 1};
  const double span = bits.high - bits.low, step = span > 3 ? std::max(round_step(span / 12), 1.0) : round_step(span / 8);
  for (std::size_t s = 0; s < series.size(); ++s) {
    Line line{series[s].name, {}};
    std::vector<AccuracyPoint> sorted = series[s].points;
    std::stable_sort(sorted.begin(), sorted.end(), [](const AccuracyPoint& a, const AccuracyPoint& b) { return a.bits < b.bits; });
    for (const AccuracyPoint& p : sorted) {
      const double x = p.bits + aside(s, series.size(), span / chart_width, 0.1 * span);
      line.points.push_back(drawable(p.value) ? Point{x, p.value, std::max(p.value - p.spread, values.low), p.value + p.spread} : Point{});
    }
    chart.lines.push_back(std::move(line));
  }
  chart.x = {"average bits a weight", bits, plot_number(step)};
  chart.y = {value_label, values, logarithmic ? logarithmic_tics(values) : "autofreq"};
  chart.logarithmic = logarithmic;
  draw_chart(path, title, chart);
}

void draw_frontier(const std::filesystem::path& path, const std::string& title, const std::vector<FrontierSeries>& series) {
  if (series.empty()) refuse_picture("there are no plans");
  Range bytes, costs;
  for (const FrontierSeries& one : series)
    for (const FrontierDot& dot : one.dots) {
      bytes.add(static_cast<double>(dot.bytes));
      if (can_plot(dot.cost) && dot.cost >= 1e-100) costs.add(dot.cost);
    }
  const bool large = bytes.high >= 4.0 * 0x1p30;
  const double unit = large ? 0x1p30 : 0x1p20;
  bytes = widened({bytes.low / unit, bytes.high / unit}, 0.04);
  if (costs.empty()) costs = {1, 10};
  costs.low = std::max(costs.low, costs.high * 1e-9); // what is left of rounding is nothing
  costs = {costs.low / 1.3, costs.high * 1.3};
  Chart chart;
  for (const FrontierSeries& one : series) {
    Line line{one.name, {}};
    for (const FrontierDot& dot : one.dots) {
      const bool drawable = can_plot(dot.cost) && dot.cost >= costs.low;
      line.points.push_back(drawable ? Point{static_cast<double>(dot.bytes) / unit, dot.cost} : Point{});
      if (!one.joined) line.points.push_back(Point{});
    }
    chart.lines.push_back(std::move(line));
  }
  chart.x = {large ? "memory in GiB" : "memory in MiB", bytes, plot_number(round_step((bytes.high - bytes.low) / 10))};
  chart.y = {"expected damage", costs, logarithmic_tics(costs)};
  chart.logarithmic = true;
  chart.mark_size = 0.4;
  draw_chart(path, title, chart);
}

} // namespace command
