// Layer importance of a model from its file: layer by layer, one layer in memory at a time, kept in the cache.
#pragma once

#include "calibration.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/importance/layer_importance.hpp>

namespace command {

using Device = lsaq::Backend<lsaq::Cpu>;

/// What to measure.
struct DetectOptions {
  CalibrationOptions calibration;
  std::string metric = "jaccard"; ///< jaccard, cosine or outlier
  std::size_t top_k = 50;
  std::string norm = "raw";       ///< raw, or final: the model's final norm is applied before the projection
  std::string head = "embedding"; ///< embedding, or output: what states are projected on
  bool no_cache = false;
};

/// The words whose embeddings are nearest to a window's last state at each boundary (Fig. 2 of the paper).
using TokenSets = std::vector<std::vector<lsaq::ScoredToken>>;

/// The result, and whether it came from the cache.
struct Detected {
  lsaq::Importance importance;
  bool cached = false;
  double seconds = 0;
};

void add_detect_options(CLI::App& verb, DetectOptions& options);

/// Measures, or reads from the cache. `token_sets`, if given, receives the sets of the first window and rules the cache out.
Detected detect_importance(const Model& model, const DetectOptions& options, const Device& device, TokenSets* token_sets = nullptr);

/// A JSON importance file, checked against the model's layer count. Throws BadInput.
lsaq::Importance read_importance(const std::filesystem::path& path, std::size_t layers);

} // namespace command
