#include "detect.hpp"

#include <lsaq/formats/importance_file.hpp>
#include <lsaq/importance/metric.hpp>

#include <lsaq/models/layerwise.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

namespace command {

namespace {

namespace llama = lsaq::llama;

/// Everything the result depends on; its hash names the file in the cache.
std::string cache_key(const Model& model, const DetectOptions& options, const Windows& windows) {
  nlohmann::json key{{"schema", "lsaq.importance/1"}, {"model", model_sha256(model.source)}, {"metric", options.metric}};
  if (options.metric != "outlier") {
    key["windows"] = windows;
    key["norm"] = options.norm;
  }
  if (options.metric == "jaccard") {
    key["top_k"] = options.top_k;
    key["head"] = options.head;
  }
  return sha256(key.dump());
}

/// Runs all windows through the model and hands the last position's state at every boundary to `observe(window, boundary, state)`.
template <class Observe>
void observe_last_states(const Model& model, const llama::WeightLoader& loader, const llama::OuterWeights& outer, const DetectOptions& options,
                         const Device& device, const Windows& windows, Observe&& observe) {
  Progress progress("importance: layer", model.config.layers);
  std::vector<float> normed(model.config.hidden), gain(model.config.hidden);
  llama::run_layerwise(
      model.config, loader, outer, device, windows,
      [&](std::size_t boundary, std::size_t window, lsaq::MatrixView states) {
        check_interrupt();
        lsaq::MatrixView last = states.slice(states.rows - 1, 1);
        if (options.norm == "final") {
          llama::rms_norm(model.config, device.kernels(), outer.final_norm, static_cast<const float*>(last.data), 1, gain, normed.data());
          last = lsaq::MatrixView(normed.data(), 1, normed.size());
        }
        observe(window, boundary, last);
      },
      [&](std::size_t layer, const llama::LayerWeights&) { progress.set(layer + 1); });
}

template <class Policy>
lsaq::Importance from_states(const Model& model, const DetectOptions& options, const Device& device, const Windows& windows, typename Policy::Options policy,
                             const llama::WeightLoader& loader, const llama::OuterWeights& outer) {
  lsaq::ImportanceMetric<Policy> metric(model.config.layers, policy);
  std::vector<lsaq::ImportanceWindow> open(windows.size(), metric.begin_window());
  observe_last_states(model, loader, outer, options, device, windows,
                      [&](std::size_t window, std::size_t boundary, lsaq::MatrixView state) { open[window].observe(boundary, state); });
  for (lsaq::ImportanceWindow& window : open) {
    check_interrupt();
    metric.end_window(window, device);
  }
  return metric.importance();
}

lsaq::Importance from_weights(const Model& model, const Device& device, const llama::WeightLoader& loader) {
  lsaq::ImportanceMetric<lsaq::WeightOutliers> metric(model.config.layers);
  Progress progress("importance: layer", model.config.layers);
  for (std::size_t layer = 0; layer < model.config.layers; ++layer) {
    check_interrupt();
    const llama::LayerWeights weights = loader.layer(device, layer, [](std::string_view) { return 16u; });
    std::vector<lsaq::MatrixView> linears;
    for (const lsaq::DeployedMatrix& linear : weights.linears) linears.push_back(linear.floats()->view());
    metric.observe_weights(layer, linears);
    progress.set(layer + 1);
  }
  return metric.importance();
}

} // namespace

void add_detect_options(CLI::App& verb, DetectOptions& options) {
  verb.add_option("--metric", options.metric, "jaccard (token sets), cosine (states) or outlier (weights)")
      ->capture_default_str()
      ->check(CLI::IsMember({"jaccard", "cosine", "outlier"}));
  verb.add_option("--top-k", options.top_k, "Size of the token sets")->capture_default_str()->check(CLI::Range(1, 1 << 20));
  verb.add_option("--norm", options.norm, "raw states, or after the model's final norm")->capture_default_str()->check(CLI::IsMember({"raw", "final"}));
  verb.add_option("--head", options.head, "Project on the embedding or on the output head")
      ->capture_default_str()
      ->check(CLI::IsMember({"embedding", "output"}));
  add_calibration_options(verb, options.calibration);
  verb.add_flag("--no-cache", options.no_cache, "Measure even if the result is in the cache");
}

Detected detect_importance(const Model& model, const DetectOptions& options, const Device& device, TokenSets* token_sets) {
  const Stopwatch watch;
  const Windows windows = options.metric == "outlier" ? Windows{} : calibration_windows(model, options.calibration);
  const std::string name = cache_key(model, options, windows) + ".json";
  if (!options.no_cache && token_sets == nullptr) {
    if (const std::optional<std::string> text = read_cached("importance", name)) {
      try {
        lsaq::Importance known = lsaq::importance_from_json(lsaq::parse_json(*text, name), name);
        if (known.scores.size() == model.config.layers) return {std::move(known), true, watch.seconds()};
      } catch (const lsaq::BadInput&) {
      } // a damaged cache entry is measured again
    }
  }
  llama::WeightLoader loader(model.source, model.config, device.executor());
  loader.keep_as_stored();
  Detected found;
  if (options.metric == "outlier") {
    found.importance = from_weights(model, device, loader);
  } else {
    const llama::OuterWeights outer = loader.outer(device);
    const lsaq::MatrixView projection = options.head == "output" ? outer.head() : outer.embedding.view();
    if (options.metric == "jaccard" && options.top_k > projection.rows)
      lsaq::fail<lsaq::InvalidArgument>(fmt::format("--top-k {}: the model's vocabulary has {} tokens", options.top_k, projection.rows));
    if (options.metric == "cosine") {
      found.importance = from_states<lsaq::Cosine>(model, options, device, windows, {}, loader, outer);
    } else {
      found.importance = from_states<lsaq::Jaccard>(model, options, device, windows, {.embedding = projection, .top_k = options.top_k}, loader, outer);
    }
    if (token_sets != nullptr) {
      token_sets->assign(model.config.layers + 1, std::vector<lsaq::ScoredToken>(options.top_k));
      observe_last_states(model, loader, outer, options, device, {windows.front()}, [&](std::size_t, std::size_t boundary, lsaq::MatrixView state) {
        device.top_tokens(state, projection, options.top_k, (*token_sets)[boundary]);
      });
    }
  }
  const nlohmann::json json = lsaq::importance_to_json(found.importance, model.config.name, options.metric == "jaccard" ? options.top_k : 0);
  write_cached("importance", name, json.dump(2) + "\n");
  found.seconds = watch.seconds();
  return found;
}

lsaq::Importance read_importance(const std::filesystem::path& path, std::size_t layers) {
  const std::string name = lsaq::printable_path(path);
  lsaq::Importance importance = lsaq::importance_from_json(lsaq::parse_json(read_file(path), name), name);
  if (importance.scores.size() != layers)
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: importance of {} layers, the model has {}", name, importance.scores.size(), layers));
  return importance;
}

} // namespace command
