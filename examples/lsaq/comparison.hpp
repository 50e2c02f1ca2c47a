// The work of `lsaq compare`: orders of layers, the plans they give, and the scores of all plans over the same windows, kept as they come.
#pragma once

#include "grid.hpp"

#include <lsaq/models/evaluation_statistics.hpp>
#include <lsaq/models/plan_evaluation.hpp>
#include <lsaq/report.hpp>

namespace command {

/// A way to round, and what tells it from others in the checkpoint.
struct ComparedQuantization {
  Quantization quantization = {};
  RoundingOptions options = {};
  std::string key = {}; ///< empty: nearest codes, one scale a channel
};

/// An order of the grid, found out, and the plans it gives.
struct ComparedOrder {
  std::string name;
  std::string metric;
  nlohmann::json options;
  bool reverse = false;
  std::vector<double> scores = {};                    ///< importance by layer; empty for random orders
  bool cached = false;                                ///< the scores were not measured now
  std::vector<std::vector<std::size_t>> draws = {};   ///< layers, those to be quantized first in front; one order, or one a draw
  std::vector<std::vector<std::size_t>> plan_of = {}; ///< [average bits][draw]: index of a plan

  const std::vector<std::size_t>& layers() const { return draws.front(); }
  bool random() const { return draws.size() > 1 || scores.empty(); }
};

/// All layers at the same bits.
struct UniformPlan {
  unsigned bits = 0;
  std::size_t plan = 0;
};

/// Plans of a grid on a model, and their scores once they are there.
struct Comparison {
  std::string model;
  std::string model_sha256;
  Grid grid = {};
  EvaluationWindows text = {};
  std::vector<ComparedOrder> orders = {};
  std::vector<UniformPlan> uniform = {};
  std::vector<lsaq::Plan> plans = {};                                                     ///< all different, or rounded differently
  std::vector<std::size_t> quantization_of = {};                                          ///< by plan
  std::vector<ComparedQuantization> quantizations = std::vector<ComparedQuantization>(1); ///< the first is the usual one
  lsaq::llama::PlanScores scores = {};                                                    ///< as evaluate_plans gives them
  std::size_t reused = 0;                                                                 ///< scores of a plan on a window that were there from an earlier run
  std::vector<std::vector<double>> correlations = {};                                     ///< Spearman's, between the orders that are not random

  /// Orders that are not random, for tables and pictures.
  std::vector<lsaq::NamedOrder> named_orders() const;
};

/// The plan with `low` bits on as many of the first layers of `order` as bring the average over all weights nearest to `average`; of two as near, the smaller.
lsaq::Plan plan_by_order(const lsaq::ModelShape& shape, const std::vector<std::size_t>& order, unsigned high, unsigned low, double average);

/// Finds out the orders (from the cache where they are) and makes the plans. Throws as detect_importance and read_importance, naming the order.
Comparison prepare_comparison(const Model& model, Grid grid, const Device& device);

/// Scores of a plan on a window, kept in a file between runs. They depend on the model, the plan, the window and the program only, so that a changed grid finds
/// what is still valid.
class KeptScores {
public:
  /// Reads `path` if it is there and belongs to this model and program; with an empty path, nothing is kept.
  KeptScores(std::filesystem::path path, const Comparison& comparison, const Device& device);

  std::optional<lsaq::llama::WindowScore> find(const std::string& window, const std::string& plan) const;
  void add(const std::string& window, const std::string& plan, const lsaq::llama::WindowScore& score);
  /// Writes the file, whole or not at all. Throws IoError.
  void save() const;

  /// Names of a window and of a plan in the file.
  static std::string key_of(const lsaq::llama::ScoredWindow& window);
  static std::string key_of(const Comparison& comparison, std::size_t plan);

private:
  std::filesystem::path path_;
  nlohmann::json content_;
};

/// What is left to compute.
struct RemainingWork {
  std::size_t windows = 0;             ///< with something missing
  std::size_t layer_runs = 0;          ///< one layer on one window
  std::size_t separate_layer_runs = 0; ///< the same if every plan ran on its own
  double operations = 0;               ///< multiplications and additions of weights
};

RemainingWork remaining_work(const Model& model, const Comparison& comparison, const KeptScores& kept);

/// Evaluates what the checkpoint does not have, and fills `comparison.scores`. Shows progress; after each chunk the checkpoint is saved. Throws Interrupted.
void evaluate_comparison(const Model& model, Comparison& comparison, const Device& device, KeptScores& kept);

} // namespace command
