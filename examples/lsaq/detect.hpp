// Layer importance of a model from its file: layer by layer, one layer in memory at a time, kept in the cache.
#pragma once

#include "calibration.hpp"
#include "device.hpp"

#include <lsaq/importance/layer_importance.hpp>

#include <nlohmann/json_fwd.hpp>

namespace command {

/// What to measure.
struct DetectOptions {
  CalibrationOptions calibration;
  std::vector<std::string> metrics = {"jaccard"}; ///< names of metric_names()
  std::vector<std::size_t> top_k = {50};          ///< sizes of the token sets; each gives a result of its own
  std::string positions = "last";                 ///< last, all, or sampled:N
  double first_position = 0;                      ///< weight of a window's first position beside the mean of the others; 0: one like the others
  std::string norm = "raw";                       ///< raw, or final: the model's final norm is applied before states are compared
  std::string head = "embedding";                 ///< embedding, or output: what states are projected on
  double sigmas = 3;                              ///< how far from the mean a weight is an outlier
  std::string outliers = "more";                  ///< more, or fewer: which layers outliers make important
  unsigned error_bits = 4;                        ///< bits of the layer whose quantization is measured
  bool until_stable = false;                      ///< stop when more windows would not change what plans are made of
  bool no_cache = false;
};

/// The words whose embeddings are nearest to a window's last state at each boundary (Fig. 2 of the paper).
using TokenSets = std::vector<std::vector<lsaq::ScoredToken>>;

/// A result, and where it came from.
struct Detected {
  lsaq::Importance importance;
  bool cached = false;
  double seconds = 0;
  std::size_t top_k = 0; ///< 0 for metrics without token sets
  bool stable = false;   ///< --until-stable stopped it
};

/// The metrics there are: jaccard, ranked, cosine, outlier, error, error-nll, output-error, joint.
const std::vector<std::string>& metric_names();

void add_detect_options(CLI::App& verb, DetectOptions& options);

/// How many results these options ask for: one for each metric, or for each of its sizes of token sets.
std::size_t result_count(const DetectOptions& options);

/// Measures, or reads from the cache: one result for each metric and, where it has token sets, each size of them, in the order given. `token_sets`, if given,
/// receives the largest sets of the first window. Throws InvalidArgument, BadInput, Interrupted.
std::vector<Detected> detect_all(const Model& model, const DetectOptions& options, const Device& device, TokenSets* token_sets = nullptr);

/// The same for options that ask for one result.
Detected detect_importance(const Model& model, const DetectOptions& options, const Device& device);

/// A result as JSON: schema lsaq.importance/1, with what it was measured on.
nlohmann::json detected_to_json(const Detected& found, const Model& model, const DetectOptions& options);

/// A JSON importance file with one result. Throws BadInput.
lsaq::Importance read_importance(const std::filesystem::path& path);

/// Likewise, checked against the model's layer count.
lsaq::Importance read_importance(const std::filesystem::path& path, std::size_t layers);

} // namespace command
