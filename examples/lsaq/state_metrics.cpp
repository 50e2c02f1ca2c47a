#include "state_metrics.hpp"
#include "checkpoint.hpp"

#include <lsaq/importance/metric.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <variant>

namespace command {

namespace {

namespace llama = lsaq::llama;

/// Rows of all windows' tokens that are looked at, window by window.
struct Positions {
  std::vector<std::size_t> rows;       ///< ascending
  std::vector<std::size_t> per_window; ///< how many of them each window has
  bool all = false;
};

Positions choose_positions(const Windows& windows, const DetectOptions& options, std::mt19937_64& random) {
  Positions chosen;
  chosen.all = options.positions == "all";
  const std::size_t samples = options.positions.starts_with("sampled:") ? std::stoul(options.positions.substr(8)) : 0;
  std::size_t first = 0;
  for (const auto& window : windows) {
    std::vector<std::size_t> rows{window.size() - 1};
    if (chosen.all || samples >= window.size()) {
      rows.resize(window.size());
      std::iota(rows.begin(), rows.end(), std::size_t{0});
    } else if (samples != 0) {
      rows = draw(window.size(), samples, random);
      std::sort(rows.begin(), rows.end());
      if (options.first_position > 0 && rows.front() != 0) rows.insert(rows.begin(), 0);
    }
    for (std::size_t row : rows) chosen.rows.push_back(first + row);
    chosen.per_window.push_back(rows.size());
    first += window.size();
  }
  return chosen;
}

using Sweep = std::variant<lsaq::ImportanceSweep<lsaq::Jaccard>, lsaq::ImportanceSweep<lsaq::RankedJaccard>, lsaq::ImportanceSweep<lsaq::Cosine>>;

Sweep make_sweep(const MetricRequest& request, std::size_t layers, lsaq::MatrixView projection, double first, const Positions& positions) {
  lsaq::TopK top_k;
  top_k.sizes = request.top_k;
  if (request.metric == "jaccard")
    return lsaq::ImportanceSweep<lsaq::Jaccard>(layers, {.embedding = projection, .top_k = top_k, .first_position = first}, positions.per_window);
  if (request.metric == "ranked")
    return lsaq::ImportanceSweep<lsaq::RankedJaccard>(layers, {.embedding = projection, .top_k = top_k, .first_position = first}, positions.per_window);
  return lsaq::ImportanceSweep<lsaq::Cosine>(layers, {.first_position = first}, positions.per_window);
}

/// The rows looked at, after the final norm if that is wanted; the view is valid until the next call.
class StateView {
public:
  StateView(const Model& model, const llama::OuterWeights& outer, const Device& device, const Positions& positions, bool norm)
      : model_(model), outer_(outer), device_(device), positions_(positions), norm_(norm) {}

  lsaq::MatrixView operator()(lsaq::MatrixView states) {
    if (positions_.all && !norm_) return states;
    const std::size_t hidden = states.columns;
    rows_.resize(positions_.rows.size() * hidden);
    for (std::size_t r = 0; r < positions_.rows.size(); ++r) {
      const auto* row = static_cast<const float*>(states.data) + positions_.rows[r] * states.stride;
      if (norm_)
        llama::rms_norm(model_.config, device_.kernels(), outer_.final_norm, row, 1, rows_.data() + r * hidden);
      else
        std::copy_n(row, hidden, rows_.data() + r * hidden);
    }
    return {rows_.data(), positions_.rows.size(), hidden};
  }

private:
  const Model& model_;
  const llama::OuterWeights& outer_;
  const Device& device_;
  const Positions& positions_;
  bool norm_;
  std::vector<float> rows_;
};

/// What states are projected on.
lsaq::MatrixView projection_of(const llama::OuterWeights& outer, const DetectOptions& options) {
  return options.head == "output" ? outer.head() : outer.embedding.view();
}

/// windows x layers of one of a sweep's results.
std::vector<double> result_of(std::span<const double> scores, std::size_t results, std::size_t result) {
  std::vector<double> one;
  for (std::size_t i = result; i < scores.size(); i += results) one.push_back(scores[i]);
  return one;
}

} // namespace

std::vector<MetricScores> measure_states(const Model& model, const llama::WeightLoader& loader, const llama::OuterWeights& outer, const Device& device,
                                         const Windows& windows, const DetectOptions& options, const std::vector<MetricRequest>& requests,
                                         const std::string& key, std::mt19937_64& random) {
  const std::size_t layers = model.config.layers;
  const Positions positions = choose_positions(windows, options, random);
  const lsaq::MatrixView projection = projection_of(outer, options);
  std::vector<Sweep> sweeps;
  std::vector<std::size_t> sweep_of(requests.size());
  lsaq::ImportanceMetric<lsaq::WeightOutliers> outliers(layers, {.sigmas = options.sigmas, .more_is_important = options.outliers == "more"});
  bool look_at_weights = false;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    for (const std::size_t k : requests[i].top_k)
      if (k > projection.rows) lsaq::fail<lsaq::InvalidArgument>(fmt::format("--top-k {}: the model's vocabulary has {} tokens", k, projection.rows));
    sweep_of[i] = sweeps.size();
    if (requests[i].metric == "outlier")
      look_at_weights = true;
    else
      sweeps.push_back(make_sweep(requests[i], layers, projection, options.first_position, positions));
  }
  const bool run = !sweeps.empty();

  Progress progress("importance: layer", layers);
  const auto observe_weights = [&](std::size_t layer, const llama::LayerWeights& weights) {
    check_interrupt();
    progress.set(layer + 1);
    if (!look_at_weights) return;
    std::vector<lsaq::MatrixView> linears;
    for (const lsaq::DeployedMatrix& linear : weights.linears) linears.push_back(linear.floats()->view());
    outliers.observe_weights(layer, linears);
  };

  if (run) {
    StateView view(model, outer, device, positions, options.norm == "final");
    llama::LayerwisePass<Device> pass(model.config, loader, outer, device, windows);
    Checkpoint checkpoint(look_at_weights ? "" : key); // weights of the layers before it would be missing after a resumption
    const auto scores_of = [](const Sweep& sweep) { return std::visit([](const auto& s) { return s.scores(); }, sweep); };
    const auto fits = [&](const Checkpoint::Contents& saved) {
      bool same = saved.boundary < layers && saved.states.size() == pass.states().rows * pass.states().columns && saved.scores.size() == sweeps.size();
      for (std::size_t i = 0; same && i < sweeps.size(); ++i) same = saved.scores[i].size() == scores_of(sweeps[i]).size();
      return same;
    };
    if (const std::optional<Checkpoint::Contents> saved = checkpoint.read(); saved && fits(*saved)) {
      pass.resume_at(saved->boundary, saved->states);
      for (std::size_t i = 0; i < sweeps.size(); ++i) std::visit([&](auto& sweep) { sweep.resume_at(saved->boundary, saved->scores[i]); }, sweeps[i]);
      note(fmt::format("resumed at layer {} of {}", saved->boundary, layers));
    }
    const auto observe_states = [&] {
      const lsaq::MatrixView states = view(pass.states());
      for (Sweep& sweep : sweeps) std::visit([&](auto& s) { s.observe(states, device); }, sweep);
    };
    observe_states();
    while (!pass.complete()) {
      pass.run_layer(observe_weights, [](std::size_t) { check_interrupt(); });
      observe_states();
      if (!pass.complete() && checkpoint.due()) {
        std::vector<std::span<const double>> scores;
        for (const Sweep& sweep : sweeps) scores.push_back(scores_of(sweep));
        checkpoint.write(pass.boundary(), pass.states(), scores);
      }
    }
    checkpoint.remove();
  } else {
    for (std::size_t layer = 0; layer < layers; ++layer) observe_weights(layer, loader.layer(device, layer, [](std::string_view) { return 16u; }));
  }

  std::vector<MetricScores> scores(requests.size());
  for (std::size_t i = 0; i < requests.size(); ++i) {
    if (requests[i].metric == "outlier")
      scores[i].push_back(outliers.importance().scores);
    else
      std::visit(
          [&](const auto& sweep) {
            for (std::size_t r = 0; r < sweep.results(); ++r) scores[i].push_back(result_of(sweep.scores(), sweep.results(), r));
          },
          sweeps[sweep_of[i]]);
  }
  return scores;
}

TokenSets token_sets_of(const Model& model, const Device& device, const Windows& one, const DetectOptions& options) {
  const llama::WeightLoader loader = llama::WeightLoader(model.source, model.config, device.executor()).keep_as_stored();
  const llama::OuterWeights outer = loader.outer(device);
  const Positions last{.rows = {one.front().size() - 1}, .per_window = {1}};
  StateView view(model, outer, device, last, options.norm == "final");
  llama::LayerwisePass<Device> pass(model.config, loader, outer, device, one);
  TokenSets sets;
  const auto project = [&] {
    std::vector<lsaq::ScoredToken>& set = sets.emplace_back(*std::max_element(options.top_k.begin(), options.top_k.end()));
    device.top_tokens(view(pass.states()), projection_of(outer, options), set.size(), set);
  };
  project();
  while (!pass.complete()) {
    pass.run_layer([](std::size_t, const llama::LayerWeights&) { check_interrupt(); }, [](std::size_t) {});
    project();
  }
  return sets;
}

} // namespace command
