// Pictures for papers and reports, drawn by the program gnuplot: lines over axes. Importance by layer, accuracy against bits, expected damage against bytes.
//
// A picture is an SVG or PNG file by the suffix of its name, and appears whole or not at all. Names and titles are shown as they are, nothing in them is
// markup; colours are told apart by colour-blind readers, and series by their marks too.
#pragma once

#include <lsaq/types.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace command {

/// Throws what drawing to `path` would throw, so that hours of measuring don't end in it: InvalidArgument for a suffix other than .svg and .png; IoError if
/// the file can't be written there, or gnuplot is not installed or lacks the format.
void check_picture(const std::filesystem::path& path);

/// The scores of one model by one metric: a line.
struct ImportanceSeries {
  std::string name;
  std::vector<double> scores;      ///< one a layer; where not finite (or above 1e100), the line has a gap
  std::vector<double> spread = {}; ///< their standard errors, drawn as bars; empty: no bars
};

/// What the axis of scores means.
enum class ScoreAxis {
  shared,    ///< the scores themselves
  own_range, ///< each series from its least score (0) to its greatest (1): for metrics whose scores differ in magnitude
};

/// Importance by layer (Fig. 3 of the paper); series may differ in length. Throws InvalidArgument if there is no series, one has no scores, or another number
/// of spreads; otherwise as check_picture.
void draw_importance(const std::filesystem::path& path, const std::string& title, const std::vector<ImportanceSeries>& series,
                     ScoreAxis axis = ScoreAxis::shared);

/// What a model reached at an average number of bits.
struct AccuracyPoint {
  double bits = 0;
  double value = 0;  ///< perplexity or divergence; where not finite, the line has a gap
  double spread = 0; ///< its standard error, drawn as a bar; 0: no bar
};

/// The results of one order of layers: a line, drawn from few to many bits.
struct AccuracySeries {
  std::string name;
  std::vector<AccuracyPoint> points;
};

/// A value to compare with, drawn as a horizontal line: "FP16".
struct Reference {
  std::string name;
  double value = 0;
};

enum class ValueAxis { linear, logarithmic };

/// Accuracy against average bits. Points of several series are moved apart by a hair's breadth so that their bars can be seen. A logarithmic axis leaves out
/// what is not above zero. Throws InvalidArgument if there is no series; otherwise as check_picture.
void draw_accuracy(const std::filesystem::path& path, const std::string& title, const std::string& value_label, const std::vector<AccuracySeries>& series,
                   const std::vector<Reference>& references = {}, ValueAxis axis = ValueAxis::linear);

/// What a plan takes and what it is expected to cost.
struct FrontierDot {
  lsaq::Bytes bytes = 0;
  double cost = 0;
};

/// Plans of one kind, from few to many bytes.
struct FrontierSeries {
  std::string name;
  std::vector<FrontierDot> dots;
  bool joined = true; ///< by a line; false: there is nothing between them
};

/// Expected damage against bytes, on a logarithmic axis, which leaves out what costs nothing. Throws InvalidArgument if there is no series; otherwise as
/// check_picture.
void draw_frontier(const std::filesystem::path& path, const std::string& title, const std::vector<FrontierSeries>& series);

} // namespace command
