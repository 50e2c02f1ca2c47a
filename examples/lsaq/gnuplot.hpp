// A canvas for pictures that the program gnuplot draws. The only place that starts gnuplot or knows its language's traps.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace command {

struct Colour {
  unsigned rgb = 0; ///< 0xrrggbb

  /// As gnuplot reads it.
  std::string text() const;
  /// Black or white, whichever can be read on it.
  Colour ink() const;
};

/// The colour at `share` (0 to 1) of the way along a row of colours.
Colour blend(std::initializer_list<unsigned> stops, double share);

/// Whether gnuplot can draw it: finite, and not so large that its own arithmetic overflows.
bool can_plot(double value);

/// Smallest and largest of the values it has seen that can be plotted.
struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void add(double value);
  bool empty() const { return low > high; }
};

/// A number as gnuplot reads it; what can't be plotted is a gap.
std::string plot_number(double value);

/// The smallest of 1, 2, 5, 10, 20, ... (and of their tenths) that is at least `least`: what tics are apart.
double round_step(double least);

/// Throws InvalidArgument: what a picture is to show does not make one.
[[noreturn]] void refuse_picture(const std::string& why);

/// A name as messages show it.
std::string quoted_name(const std::string& name);

/// Pixels a text takes at most; a generous guess, since readers' fonts differ.
double text_width(std::string_view text, double size);

/// A text of at most `width` pixels: where it is longer, its middle gives way to dots, for names often differ at their ends.
std::string shortened(std::string_view text, double width, double size);

/// Breaks a text into lines of at most `width` pixels: at spaces, or anywhere in a word that is too long.
std::vector<std::string> broken(std::string_view text, double width, double size);

/// A picture in the making: commands of gnuplot's for a white canvas. Positions are pixels, (0, 0) in the upper left corner; a PNG has two dots a pixel.
class Picture {
public:
  static constexpr double font = 12, small_font = 11, title_font = 14, margin = 16;

  /// The title goes on top, shortened to about three lines; `height` is what is wanted below. Throws InvalidArgument unless the suffix is .svg or .png.
  Picture(std::filesystem::path path, const std::string& title, double width, double height);

  /// Where there is room below the title.
  double top() const { return top_; }

  enum class Align { left, centre, right };
  struct TextStyle {
    Align align = Align::left;
    Colour colour = {};
    double size = font;
    bool upwards = false;
  };
  /// A text beside or around (x, y), at half its height. Nothing in it is markup.
  void text(double x, double y, std::string_view text, const TextStyle& style);
  void segment(double x0, double x1, double y, std::string_view style);
  void mark(double x, double y, std::string_view style);

  /// The rectangle in which plots appear; labels of axes are outside of it.
  void plot_area(double left, double top, double right, double bottom);
  /// Plots are without axes, over the whole canvas, their data pixels.
  void plot_pixels();

  /// Any other command.
  void add(std::string_view command) { commands_.append(command) += '\n'; }

  /// Draws it; the file appears when all of it is there. Throws IoError.
  void save() const;
  /// Throws what save() would, as far as it can be known before there is anything to draw.
  void check() const;

private:
  std::string terminal() const;
  double points(double pixels) const;
  std::string at(double x, double y) const;

  std::filesystem::path path_;
  bool png_;
  double width_, height_, top_;
  std::string commands_;
};

} // namespace command
