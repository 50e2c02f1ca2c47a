#include "rank_map.hpp"

#include "gnuplot.hpp"

#include <lsaq/formats/names.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace command {

namespace {

using Align = Picture::Align;

/// Viridis: it brightens all along, for every eye and in print.
Colour rank_colour(double share) { return blend({0x440154, 0x482878, 0x3e4989, 0x31688e, 0x26828e, 0x1f9e89, 0x35b779, 0x6ece58, 0xb5de2b, 0xfde725}, share); }
/// Orange for -1, white for 0, blue for 1.
Colour correlation_colour(double r) { return blend({0xb35806, 0xf1a340, 0xf7f7f7, 0x67a9cf, 0x2166ac}, (r + 1) / 2); }

/// As much of a name as two lines hold.
std::vector<std::string> in_two_lines(const std::string& name, double width) {
  std::vector<std::string> lines;
  double room = 2 * width; // what a line loses at its end is not known before: once the room is `width`, one line holds all of it
  do {
    lines = broken(shortened(lsaq::printable(name, 400), room, Picture::font), width, Picture::font);
    room -= width / 4;
  } while (lines.size() > 2);
  return lines;
}

/// Rectangles in pixels with a hair of white between them, and dots on some.
struct Cells {
  std::string boxes, dots;

  void add(double left, double top, double width, double height, Colour colour, double gap, bool dotted) {
    boxes +=
        fmt::format("{} {} {} {} {} {} {}\n", left + width / 2, top + height / 2, left + gap, left + width - gap, top + gap, top + height - gap, colour.rgb);
    if (dotted) dots += fmt::format("{} {}\n", left + width / 2, top + height / 2);
  }
};

} // namespace

void draw_rank_map(const std::filesystem::path& path, const std::string& title, const std::vector<lsaq::NamedOrder>& orders,
                   const std::vector<std::vector<double>>& correlations) {
  const std::size_t count = orders.size();
  if (count == 0 || orders[0].layers.empty()) refuse_picture("there are no orders of layers");
  if (correlations.size() != count) refuse_picture(fmt::format("{} orders need as many rows of correlations, not {}", count, correlations.size()));
  const std::size_t layers = orders[0].layers.size();
  for (std::size_t i = 0; i < count; ++i) {
    if (correlations[i].size() != count) refuse_picture(fmt::format("{} orders need as many columns of correlations, not {}", count, correlations[i].size()));
    std::vector<std::size_t> sorted = orders[i].layers;
    std::sort(sorted.begin(), sorted.end());
    for (std::size_t l = 0; l < std::max(layers, sorted.size()); ++l)
      if (sorted.size() != layers || sorted[l] != l)
        refuse_picture(fmt::format("the order {} does not hold each of the layers 0 to {} once", quoted_name(orders[i].name), layers - 1));
  }

  // From left to right: names, a cell for each layer, a gap, a cell for each correlation.
  constexpr double row = 30, name_line = 14, number_cell = 38, gap = 28, longest_name = 190, number_right = Picture::margin + 20, name_left = number_right + 6;
  std::vector<std::vector<std::string>> names;
  double name_width = 0;
  for (const lsaq::NamedOrder& order : orders) {
    names.push_back(in_two_lines(order.name, longest_name));
    for (const std::string& part : names.back()) name_width = std::max(name_width, text_width(part, Picture::font));
  }
  const double cell = std::clamp(420 / static_cast<double>(layers), 6.0, 22.0), left = name_left + name_width + 8,
               map_width = cell * static_cast<double>(layers), matrix = left + std::max(map_width, 160.0) + gap, height = row * static_cast<double>(count),
               width = std::max(matrix + std::max(number_cell * static_cast<double>(count), 190.0) + Picture::margin, 620.0);
  Picture picture(path, title, width, 24 + height + 90);
  const double top = picture.top() + 24, bottom = top + height;
  const double hair = cell > 12 ? 0.8 : 0.4;
  Cells cells;
  picture.text(left, top - 12, "rank of each layer", {});
  picture.text(matrix, top - 12, "rank correlation (Spearman)", {});
  const auto centre_of = [&](std::size_t i, double size) { return (static_cast<double>(i) + 0.5) * size; };
  for (std::size_t i = 0; i < count; ++i) {
    const double y = top + row * static_cast<double>(i), middle = y + row / 2;
    picture.text(number_right, middle, std::to_string(i + 1), {.align = Align::right});
    for (std::size_t part = 0; part < names[i].size(); ++part)
      picture.text(name_left, middle + name_line * (static_cast<double>(part) - 0.5 * (static_cast<double>(names[i].size()) - 1)), names[i][part], {});
    for (std::size_t rank = 0; rank < layers; ++rank)
      cells.add(left + cell * static_cast<double>(orders[i].layers[rank]), y, cell, row,
                rank_colour(layers > 1 ? static_cast<double>(rank) / static_cast<double>(layers - 1) : 0), hair, rank < lsaq::quarter_of(layers));
    picture.text(matrix + centre_of(i, number_cell), bottom + 12, std::to_string(i + 1), {.align = Align::centre});
    for (std::size_t j = 0; j < count; ++j) {
      const double r = correlations[i][j];
      const Colour colour = std::isfinite(r) ? correlation_colour(r) : Colour{0xdddddd};
      cells.add(matrix + number_cell * static_cast<double>(j), y, number_cell, row, colour, hair, false);
      picture.text(matrix + centre_of(j, number_cell), middle, std::isfinite(r) ? fmt::format("{:.2f}", r) : "-",
                   {.align = Align::centre, .colour = colour.ink(), .size = Picture::small_font});
    }
  }
  const auto step = static_cast<std::size_t>(round_step(std::max(24 / cell, 1.0)));
  for (std::size_t l = 0; l < layers; l += step) picture.text(left + centre_of(l, cell), bottom + 12, std::to_string(l), {.align = Align::centre});
  picture.text(left + map_width / 2, bottom + 30, "layer", {.align = Align::centre});

  // What the colours mean.
  constexpr double bar_width = 128, bar_height = 12, steps = 32;
  for (double i = 0; i < steps; ++i)
    cells.add(left + bar_width / steps * i, bottom + 50, bar_width / steps, bar_height, rank_colour(i / (steps - 1)), -0.3, false);
  picture.text(left + bar_width + 8, bottom + 56, "from the least to the most important", {.size = Picture::small_font});
  cells.add(left, bottom + 70, 16, 16, rank_colour(0.1), 0, true);
  picture.text(left + 24, bottom + 78, "least important quarter", {.size = Picture::small_font});

  picture.plot_pixels();
  picture.add("$boxes << end\n" + cells.boxes + "end\n$dots << end\n" + cells.dots + "end");
  picture.add(fmt::format("plot $boxes using 1:2:3:4:5:6:7 with boxxyerror fillstyle solid noborder linecolor rgb variable notitle, "
                          "$dots using 1:2 with points pointtype 7 pointsize {} linecolor rgb 'white' notitle",
                          cell < 10 ? 0.3 : 0.45));
  picture.save();
}

} // namespace command
