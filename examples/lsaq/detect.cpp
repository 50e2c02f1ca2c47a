#include "detect.hpp"
#include "error_metrics.hpp"
#include "number_option.hpp"
#include "state_metrics.hpp"

#include <lsaq/formats/importance_file.hpp>
#include <lsaq/importance/joint.hpp>
#include <lsaq/importance/order_confidence.hpp>

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <charconv>
#include <random>

namespace command {

namespace {

namespace llama = lsaq::llama;

/// Windows measured between two looks at whether the order is stable.
constexpr std::size_t batch = 8;
/// Share of each set of least important layers that as many other windows have to choose again: more takes hundreds of windows.
constexpr double stable_overlap = 0.8;

bool has_token_sets(const std::string& metric) { return metric == "jaccard" || metric == "ranked" || metric == "joint"; }
bool is_error_metric(const std::string& metric) { return metric == "error" || metric == "error-nll" || metric == "output-error"; }

/// One result that was asked for.
struct Request {
  std::string metric;
  std::size_t top_k = 0;
  std::string cache_name = {};
  std::optional<Detected> found = {};
};

/// Everything a result depends on; its hash names the file in the cache.
nlohmann::json cache_key(const Model& model, const DetectOptions& options, const Windows& windows, const std::string& metric, std::size_t top_k) {
  nlohmann::json key{{"schema", "lsaq.importance/1"}, {"model", model_sha256(model.source)}, {"metric", metric}};
  if (metric == "outlier") {
    key["sigmas"] = options.sigmas;
    key["outliers"] = options.outliers;
    return key;
  }
  key["windows"] = windows;
  key["until_stable"] = options.until_stable;
  if (is_error_metric(metric)) {
    key["bits"] = options.error_bits;
    return key;
  }
  key["norm"] = options.norm;
  key["positions"] = options.positions;
  if (options.first_position > 0) key["first_position"] = options.first_position;
  if (options.positions.starts_with("sampled:")) key["seed"] = options.calibration.seed.value_or(1);
  if (has_token_sets(metric)) {
    key["top_k"] = top_k;
    key["head"] = options.head;
  }
  return key;
}

std::optional<Detected> read_result(const std::string& name, const std::string& metric, std::size_t layers, std::size_t top_k) {
  const std::optional<std::string> text = read_cached("importance", name);
  if (!text) return std::nullopt;
  try {
    const nlohmann::json json = lsaq::parse_json(*text, name);
    lsaq::Importance known = lsaq::importance_from_json(json, name);
    if (known.metric == metric && known.scores.size() == layers && known.window_scores.empty() == (metric == "outlier"))
      return Detected{std::move(known), true, 0, top_k, json.value("stable", false)};
  } catch (const std::exception&) {
  } // a damaged cache entry is measured again
  return std::nullopt;
}

/// The result whose windows x layers scores these are; a metric of weights has one row and no windows.
lsaq::Importance importance_of(const std::string& metric, std::size_t layers, const std::vector<double>& scores) {
  lsaq::Importance importance = lsaq::importance_of_windows(metric, scores, layers);
  if (metric == "outlier") {
    importance.windows = 0;
    importance.window_scores.clear();
  }
  return importance;
}

/// Measures the requests that were not found, batch by batch if that may be enough, and fills them in.
void measure(const Model& model, const DetectOptions& options, const Device& device, const Windows& windows, const std::vector<Request*>& missing) {
  const std::size_t layers = model.config.layers;
  std::vector<MetricRequest> grouped; // one a metric, with all its sizes
  for (const Request* request : missing) {
    if (grouped.empty() || grouped.back().metric != request->metric) grouped.push_back({request->metric, {}});
    if (request->top_k != 0) grouped.back().top_k.push_back(request->top_k);
  }
  const bool errors = is_error_metric(grouped.front().metric);
  llama::WeightLoader loader(model.source, model.config, device.executor());
  loader.keep_as_stored();
  const llama::OuterWeights outer = loader.outer(device);
  std::string key;
  for (const Request* request : missing) key += request->cache_name;

  std::vector<std::vector<double>> scores(missing.size());
  std::vector<lsaq::StableOrder> orders(missing.size(), lsaq::StableOrder(layers, {.threshold = stable_overlap}));
  // A result that is stable takes no more windows, so that it does not depend on what else was asked for; one of weights needs none.
  const auto finished = [&](std::size_t i) { return missing[i]->metric == "outlier" ? !scores[i].empty() : orders[i].stable(); };
  bool stable = false;
  std::mt19937_64 random(options.calibration.seed.value_or(1));
  const std::size_t step = options.until_stable ? batch : std::max<std::size_t>(1, windows.size());
  for (std::size_t first = 0; first == 0 || (first < windows.size() && !stable); first += step) {
    const Windows some(windows.begin() + static_cast<std::ptrdiff_t>(first),
                       windows.begin() + static_cast<std::ptrdiff_t>(std::min(first + step, windows.size())));
    const std::vector<MetricScores> measured =
        errors ? measure_errors(model, loader, outer, device, some, options, grouped)
               : measure_states(model, loader, outer, device, some, options, grouped, fmt::format("{} from {}", key, first), random);
    std::size_t i = 0;
    stable = options.until_stable;
    for (const MetricScores& metric : measured)
      for (const std::vector<double>& result : metric) {
        if (!finished(i)) {
          scores[i].insert(scores[i].end(), result.begin(), result.end());
          if (options.until_stable && missing[i]->metric != "outlier") orders[i].add(result);
        }
        stable = stable && finished(i);
        ++i;
      }
  }
  for (std::size_t i = 0; i < missing.size(); ++i)
    missing[i]->found = Detected{importance_of(missing[i]->metric, layers, scores[i]), false, 0, missing[i]->top_k, options.until_stable && finished(i)};
}

void check_positions(const std::string& positions) {
  if (positions == "last" || positions == "all") return;
  std::size_t count = 0;
  const char* const end = positions.data() + positions.size();
  if (positions.starts_with("sampled:")) {
    const auto [rest, error] = std::from_chars(positions.data() + 8, end, count);
    if (error == std::errc() && rest == end && count != 0 && count <= std::size_t{1} << 20) return;
  }
  lsaq::fail<lsaq::InvalidArgument>(
      fmt::format("--positions: \"{}\" is none of last, all and sampled:N, for example sampled:8", lsaq::printable(positions, 40)));
}

} // namespace

const std::vector<std::string>& metric_names() {
  static const std::vector<std::string> names{"jaccard", "ranked", "cosine", "outlier", "error", "error-nll", "output-error", "joint"};
  return names;
}

void add_detect_options(CLI::App& verb, DetectOptions& options) {
  verb.add_option("--metric", options.metrics,
                  "One or more of: jaccard (token sets), ranked (token sets at every depth), cosine (states), outlier (weights), error (KL divergence "
                  "with just this layer quantized), error-nll, output-error (of the layer itself), joint (jaccard times output-error)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->default_str("jaccard")
      ->check(CLI::IsMember(metric_names()));
  verb.add_option("--top-k", options.top_k, "Sizes of the token sets, for example 10,50,200; each gives a result")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->default_str("50")
      ->check(CLI::Range(1, 1 << 20));
  verb.add_option("--positions", options.positions, "States to compare: last, all, or sampled:N of each window")->capture_default_str();
  verb.add_option("--first-position", options.first_position,
                  "With --positions all or sampled:N: weight of a window's first position beside the mean of the others")
      ->check(number_between(0, 1000));
  verb.add_option("--norm", options.norm, "raw states, or after the model's final norm")->capture_default_str()->check(CLI::IsMember({"raw", "final"}));
  verb.add_option("--head", options.head, "Project on the embedding or on the output head")
      ->capture_default_str()
      ->check(CLI::IsMember({"embedding", "output"}));
  verb.add_option("--sigmas", options.sigmas, "Standard deviations beyond which a weight is an outlier")->capture_default_str()->check(number_between(0, 1000));
  verb.add_option("--outlier-direction", options.outliers, "Layers with more, or with fewer outliers are important")
      ->capture_default_str()
      ->check(CLI::IsMember({"more", "fewer"}));
  verb.add_option("--error-bits", options.error_bits, "Bits at which the error metrics quantize a layer")->capture_default_str()->check(CLI::Range(2, 8));
  add_calibration_options(verb, options.calibration);
  verb.add_flag("--until-stable", options.until_stable, "Stop before --windows when as many others would choose at least 80% of the same layers for INT4");
  verb.add_flag("--no-cache", options.no_cache, "Measure even if the result is in the cache");
}

std::size_t result_count(const DetectOptions& options) {
  std::size_t count = 0;
  for (const std::string& metric : options.metrics) count += has_token_sets(metric) ? options.top_k.size() : 1;
  return count;
}

std::vector<Detected> detect_all(const Model& model, const DetectOptions& options, const Device& device, TokenSets* token_sets) {
  check_positions(options.positions);
  if (options.first_position > 0 && options.positions == "last")
    lsaq::fail<lsaq::InvalidArgument>("--first-position: with --positions last the first one is not looked at; use all, or sampled:8");
  if (options.until_stable && std::find(options.metrics.begin(), options.metrics.end(), "joint") != options.metrics.end())
    lsaq::fail<lsaq::InvalidArgument>("--until-stable: the parts of --metric joint would stop at different windows; choose --windows instead");
  std::vector<Request> requests;
  bool needs_windows = token_sets != nullptr;
  for (const std::string& metric : options.metrics) {
    needs_windows = needs_windows || metric != "outlier";
    if (has_token_sets(metric))
      for (const std::size_t k : options.top_k) requests.push_back({metric, k});
    else
      requests.push_back({metric});
  }
  // A joint order is made of these two, measured beside what was asked for.
  const std::size_t asked = requests.size();
  for (std::size_t i = 0; i < asked; ++i)
    if (requests[i].metric == "joint") {
      for (const Request& wanted : {Request{"jaccard", requests[i].top_k}, Request{"output-error"}})
        if (std::none_of(requests.begin(), requests.end(), [&](const Request& other) { return other.metric == wanted.metric && other.top_k == wanted.top_k; }))
          requests.push_back(wanted);
    }
  const Windows windows = needs_windows ? calibration_windows(model, options.calibration) : Windows{};

  std::vector<Request*> states, errors;
  for (Request& request : requests) {
    request.cache_name = sha256(cache_key(model, options, windows, request.metric, request.top_k).dump()) + ".json";
    if (request.metric == "joint") continue;
    if (!options.no_cache) request.found = read_result(request.cache_name, request.metric, model.config.layers, request.top_k);
    if (!request.found) (is_error_metric(request.metric) ? errors : states).push_back(&request);
  }
  for (const std::vector<Request*>& missing : {states, errors}) {
    if (missing.empty()) continue;
    const Stopwatch watch;
    measure(model, options, device, windows, missing);
    for (Request* request : missing) {
      request->found->seconds = watch.seconds();
      write_cached("importance", request->cache_name, detected_to_json(*request->found, model, options).dump(2) + "\n");
    }
  }

  if (token_sets != nullptr) *token_sets = token_sets_of(model, device, {windows.front()}, options);
  const auto part = [&](const std::string& metric, std::size_t top_k) -> const Detected& {
    return *std::find_if(requests.begin(), requests.end(), [&](const Request& other) { return other.metric == metric && other.top_k == top_k; })->found;
  };
  std::vector<Detected> results;
  for (std::size_t i = 0; i < asked; ++i) {
    if (requests[i].metric == "joint") {
      const Detected &change = part("jaccard", requests[i].top_k), &error = part("output-error", 0);
      requests[i].found = Detected{lsaq::joint_importance(change.importance, error.importance), change.cached && error.cached,
                                   std::max(change.seconds, error.seconds), requests[i].top_k};
    }
    results.push_back(*requests[i].found);
  }
  return results;
}

Detected detect_importance(const Model& model, const DetectOptions& options, const Device& device) {
  std::vector<Detected> found = detect_all(model, options, device);
  if (found.size() != 1) lsaq::fail<lsaq::InvalidArgument>("one metric with one --top-k is wanted here");
  return std::move(found.front());
}

nlohmann::json detected_to_json(const Detected& found, const Model& model, const DetectOptions& options) {
  nlohmann::json json = lsaq::importance_to_json(found.importance, model.config.name, found.top_k);
  const std::string& metric = found.importance.metric;
  if (metric == "outlier") {
    json["sigmas"] = options.sigmas;
    json["outliers"] = options.outliers;
  } else {
    if (is_error_metric(metric) || metric == "joint") json["error_bits"] = options.error_bits;
  }
  if (metric != "outlier" && !is_error_metric(metric)) {
    json["positions"] = options.positions;
    if (options.first_position > 0) json["first_position"] = options.first_position;
    json["norm"] = options.norm;
    if (has_token_sets(metric)) json["head"] = options.head;
  }
  if (options.until_stable) json["stable"] = found.stable;
  return json;
}

lsaq::Importance read_importance(const std::filesystem::path& path) {
  const std::string name = lsaq::printable_path(path);
  const nlohmann::json json = lsaq::parse_json(read_file(path), name);
  if (json.is_object() && json.value("schema", nlohmann::json()) == "lsaq.importance_set/1")
    lsaq::fail<lsaq::BadInput>(name + ": holds several results, one is wanted: measure with one --metric and one --top-k");
  return lsaq::importance_from_json(json, name);
}

lsaq::Importance read_importance(const std::filesystem::path& path, std::size_t layers) {
  lsaq::Importance importance = read_importance(path);
  if (importance.scores.size() != layers)
    lsaq::fail<lsaq::BadInput>(fmt::format("{}: importance of {} layers, the model has {}", lsaq::printable_path(path), importance.scores.size(), layers));
  return importance;
}

} // namespace command
