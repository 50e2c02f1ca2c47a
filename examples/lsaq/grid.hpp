// What `lsaq compare` compares: the text, the average bits and the orders of layers, from a TOML file or as built in. Format: docs/formats.md.
#pragma once

#include "detect.hpp"
#include "evaluation_windows.hpp"
#include "rounding_options.hpp"

#include <nlohmann/json.hpp>

namespace command {

/// One order of layers: measured, read from a file, or drawn.
struct GridOrder {
  std::string name;
  std::string where;                                 ///< "grid.toml:12", or empty: for messages
  std::string metric;                                ///< of detect_importance, or "random", or "file"
  nlohmann::json options = nlohmann::json::object(); ///< as written, for the report
  DetectOptions detect;                              ///< of a measured order
  RoundingOptions rounding;                          ///< how the plans of this order are rounded
  std::string file;                                  ///< of an order read from an importance file
  std::size_t draws = 1;                             ///< random orders drawn
  std::uint64_t seed = 0;                            ///< of the drawing
  bool reverse = false;                              ///< most important layers are quantized first
};

/// Everything a comparison is made of.
struct Grid {
  std::string where = {}; ///< the file's name, for messages; empty: built in
  EvaluationText text = {};
  std::vector<double> average_bits = {7, 6, 5};
  unsigned high = 8; ///< bits of the more important layers
  unsigned low = 4;  ///< bits of the less important ones
  std::vector<GridOrder> orders = {};
};

/// Jaccard with k = 50, cosine, weight outliers in both directions and three random orders, at 7, 6 and 5 bits on the built-in text.
Grid default_grid();

/// Reads a grid. Throws BadInput naming file, line, key, the value found and what is allowed.
Grid read_grid(const std::filesystem::path& path);

} // namespace command
