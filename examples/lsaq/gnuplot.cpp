#include "gnuplot.hpp"

#include <lsaq/error.hpp>
#include <lsaq/formats/atomic_file.hpp>
#include <lsaq/formats/names.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

extern char** environ;

namespace command {

namespace {

/// A file without a name, gone when it is closed.
using Scratch = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

[[noreturn]] void scratch_failed() { lsaq::fail<lsaq::IoError>(std::string("a temporary file for gnuplot can't be written: ") + std::strerror(errno)); }

Scratch scratch() {
  Scratch file(std::tmpfile(), &std::fclose);
  if (!file) scratch_failed();
  return file;
}

std::string content_of(std::FILE* file) {
  std::string content;
  std::rewind(file);
  char block[1 << 12];
  while (const std::size_t count = std::fread(block, 1, sizeof block, file)) content.append(block, count);
  return content;
}

/// The last line of what gnuplot complained about; those before it repeat the script.
std::string complaint_in(std::string_view errors) {
  constexpr std::string_view blank = " \t\r\n";
  const std::size_t last = errors.find_last_not_of(blank);
  if (last == std::string_view::npos) return "";
  errors = errors.substr(0, last + 1);
  errors.remove_prefix(errors.find_last_of('\n') + 1); // all of it if there is none
  errors.remove_prefix(errors.find_first_not_of(blank));
  return ": " + lsaq::printable(errors, 200);
}

/// Runs gnuplot on a script and gives what it wrote to standard output. Its streams are files without names: there is no pipe to break or to block on.
std::string run_gnuplot(const std::string& script) {
  const Scratch input = scratch(), output = scratch(), errors = scratch();
  if (std::fwrite(script.data(), 1, script.size(), input.get()) != script.size() || std::fflush(input.get()) != 0) scratch_failed();
  std::rewind(input.get());

  std::string program = "gnuplot", option = "--default-settings"; // whatever ~/.gnuplot says
  char* const arguments[] = {program.data(), option.data(), nullptr};
  std::vector<char*> environment;
  for (char** entry = environ; *entry != nullptr; ++entry)
    if (!std::string_view(*entry).starts_with("GNUTERM=")) environment.push_back(*entry); // gnuplot does not survive one it does not know
  environment.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ::fileno(input.get()), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ::fileno(output.get()), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, ::fileno(errors.get()), STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP); // Ctrl-C is for this program alone; the picture takes a moment
  pid_t child = 0;
  const int failed = ::posix_spawnp(&child, program.c_str(), &actions, &attributes, arguments, environment.data());
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  constexpr int not_found = 127; // of shells, and of spawn functions that find out too late
  int status = 0;
  while (failed == 0 && ::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (failed == ENOENT || (failed == 0 && WIFEXITED(status) && WEXITSTATUS(status) == not_found))
    lsaq::fail<lsaq::IoError>("gnuplot, which draws the pictures, is not installed; install the package gnuplot-nox");
  if (failed != 0) lsaq::fail<lsaq::IoError>(std::string("gnuplot can't be run: ") + std::strerror(failed));
  if (WIFSIGNALED(status)) lsaq::fail<lsaq::IoError>(fmt::format("gnuplot was ended by signal {}", WTERMSIG(status)));
  if (WEXITSTATUS(status) != 0) lsaq::fail<lsaq::IoError>("gnuplot failed" + complaint_in(content_of(errors.get())));
  return content_of(output.get());
}

/// The first code point of a text that is not empty: how many bytes, and how wide in a font of size 1.
std::pair<std::size_t, double> first_character(std::string_view text) {
  const lsaq::CodePoint c = lsaq::first_code_point(text);
  return {std::max<std::size_t>(c.length, 1), c.value < 0x1100 ? 0.6 : 1.0}; // from there on mostly East Asian
}

/// A string of gnuplot's: between single quotes only they themselves are special.
std::string quoted(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'') out += c;
    out += c;
  }
  return out + "'";
}

bool is_png(const std::filesystem::path& path) {
  const std::string suffix = path.extension().string();
  if (suffix != ".svg" && suffix != ".png")
    lsaq::fail<lsaq::InvalidArgument>("'" + lsaq::printable_path(path) + "': a picture is a file whose name ends in .svg or .png");
  return suffix == ".png";
}

} // namespace

std::string Colour::text() const { return fmt::format("'#{:06x}'", rgb); }

Colour Colour::ink() const {
  const double luminance = 0.299 * (rgb >> 16) + 0.587 * (rgb >> 8 & 255u) + 0.114 * (rgb & 255u);
  return {luminance < 140 ? 0xffffffu : 0u};
}

Colour blend(std::initializer_list<unsigned> stops, double share) {
  const double at = std::clamp(share, 0.0, 1.0) * static_cast<double>(stops.size() - 1);
  const std::size_t first = std::min(static_cast<std::size_t>(at), stops.size() - 2);
  Colour colour;
  for (const unsigned shift : {16u, 8u, 0u}) {
    const double from = stops.begin()[first] >> shift & 255u, to = stops.begin()[first + 1] >> shift & 255u;
    colour.rgb |= static_cast<unsigned>(from + (to - from) * (at - static_cast<double>(first)) + 0.5) << shift;
  }
  return colour;
}

bool can_plot(double value) { return std::abs(value) <= 1e100; }

void Range::add(double value) {
  if (!can_plot(value)) return;
  low = std::min(low, value);
  high = std::max(high, value);
}

std::string plot_number(double value) { return can_plot(value) ? fmt::format("{:.9g}", value) : "NaN"; }

double round_step(double least) {
  const double power = std::pow(10.0, std::floor(std::log10(least)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (factor * power >= least * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

void refuse_picture(const std::string& why) { lsaq::fail<lsaq::InvalidArgument>("no picture can be drawn: " + why); }

std::string quoted_name(const std::string& name) { return "'" + lsaq::printable(name) + "'"; }

double text_width(std::string_view text, double size) {
  double width = 0;
  while (!text.empty()) {
    const auto [bytes, wide] = first_character(text);
    width += wide * size;
    text.remove_prefix(bytes);
  }
  return width;
}

std::string shortened(std::string_view text, double width, double size) {
  if (text_width(text, size) <= width) return std::string(text);
  const double half = (width - text_width("...", size)) / 2;
  const auto fits = [&](std::string_view part) { return text_width(part, size) <= half; };
  const auto after = [&](std::size_t i) { return i + first_character(text.substr(i)).first; };
  std::size_t head = 0, tail = 0;
  while (fits(text.substr(0, after(head)))) head = after(head);
  while (!fits(text.substr(tail))) tail = after(tail);
  return std::string(text.substr(0, head)) + "..." + std::string(text.substr(tail));
}

std::vector<std::string> broken(std::string_view text, double width, double size) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    std::size_t end = 0, space = 0;
    double used = 0;
    while (end < text.size()) {
      const auto [bytes, wide] = first_character(text.substr(end));
      if (used += wide * size; used > width && end != 0) break;
      if (text[end] == ' ') space = end;
      end += bytes;
    }
    if (end < text.size() && space != 0) end = space;
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
    text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  }
  return lines;
}

Picture::Picture(std::filesystem::path path, const std::string& title, double width, double height)
    : path_(std::move(path)), png_(is_png(path_)), width_(width) {
  constexpr double line = title_font + 6;
  const double room = width - 2 * margin;
  const std::vector<std::string> lines = broken(shortened(lsaq::printable(title, 1000), 2.7 * room, title_font), room, title_font);
  top_ = margin + static_cast<double>(lines.size()) * line + 8;
  height_ = top_ + height + margin;
  for (std::size_t i = 0; i < lines.size(); ++i) text(margin, margin + (static_cast<double>(i) + 0.5) * line, lines[i], {.size = title_font});
}

void Picture::text(double x, double y, std::string_view text, const TextStyle& style) {
  static constexpr std::array names = {"left", "center", "right"};
  add(fmt::format("set label {} at {} {}{} front textcolor rgb {} font ',{}'", quoted(text), at(x, y), names[static_cast<std::size_t>(style.align)],
                  style.upwards ? " rotate by 90" : "", style.colour.text(), points(style.size)));
}

void Picture::segment(double x0, double x1, double y, std::string_view style) {
  add(fmt::format("set arrow from {} to {} nohead {}", at(x0, y), at(x1, y), style));
}

void Picture::mark(double x, double y, std::string_view style) { add(fmt::format("set label '' at {} point {}", at(x, y), style)); }

void Picture::plot_area(double left, double top, double right, double bottom) {
  add(fmt::format("set lmargin at screen {}\nset rmargin at screen {}\nset tmargin at screen {}\nset bmargin at screen {}", left / width_, right / width_,
                  1 - top / height_, 1 - bottom / height_));
}

void Picture::plot_pixels() {
  plot_area(0, 0, width_, height_);
  add(fmt::format("unset border\nunset tics\nset xrange [0:{}]\nset yrange [{}:0]", width_, height_));
}

void Picture::save() const {
  lsaq::AtomicFile file(path_);
  const std::string drawn = run_gnuplot(terminal() + commands_);
  const std::string_view end = png_ ? std::string_view("IEND\xae\x42\x60\x82") : std::string_view("</svg>");
  if (std::string_view(drawn).substr(drawn.size() - std::min<std::size_t>(drawn.size(), 16)).find(end) == std::string_view::npos)
    lsaq::fail<lsaq::IoError>("gnuplot did not draw all of " + lsaq::printable_path(path_) + "; is the folder of temporary files full?");
  file.write(drawn);
  file.commit();
}

void Picture::check() const {
  const lsaq::AtomicFile probe(path_);
  run_gnuplot(terminal());
}

std::string Picture::terminal() const {
  const double dots = png_ ? 2 : 1;
  return fmt::format("set encoding utf8\nset terminal {} noenhanced background '#ffffff' size {:.0f},{:.0f} font '{},{}' {}\nunset key\n",
                     png_ ? "pngcairo" : "svg", dots * width_, dots * height_, png_ ? "sans" : "Helvetica, Arial, sans-serif", points(font),
                     png_ ? "fontscale 2 linewidth 2 dashlength 2 pointscale 2.8" : "");
}

/// pngcairo takes sizes in points of 1/72 inch at 96 pixels an inch, svg in pixels.
double Picture::points(double pixels) const { return png_ ? 0.75 * pixels : pixels; }

std::string Picture::at(double x, double y) const { return fmt::format("screen {:.6f},{:.6f}", x / width_, 1 - y / height_); }

} // namespace command
