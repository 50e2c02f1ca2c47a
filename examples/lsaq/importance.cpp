// lsaq importance: a score for each layer, its order, and the words behind it.
#include "detect.hpp"
#include "plot.hpp"
#include "rank_map.hpp"
#include "tokens.hpp"

#include <lsaq/formats/names.hpp>
#include <lsaq/importance/order_confidence.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

namespace command {

namespace {

struct ImportanceOptions {
  std::string model;
  DetectOptions detect;
  bool show_tokens = false;
  std::string output;
  std::string plot;                ///< --plot: scores by layer
  std::string ranks;               ///< --plot-ranks: ranks of several results
  std::vector<std::string> others; ///< --with: results shown beside those measured
};

/// The highest words at every boundary of the first window, as many as fit a line.
std::string words_table(const TokenSets& sets, const Tokens& tokens) {
  std::string text = "Highest words at each layer boundary, first window, last position\n";
  for (std::size_t boundary = 0; boundary < sets.size(); ++boundary) {
    std::string line = fmt::format("{:5} ", boundary);
    for (const lsaq::ScoredToken& token : sets[boundary]) {
      const std::string word = " " + lsaq::printable(tokens.text(token.id), 20);
      if (line.size() + word.size() > 80) break;
      line += word;
    }
    text += line + "\n";
  }
  return text;
}

/// "jaccard", "jaccard k=10", as results are told apart.
std::string name_of(const Detected& found, bool with_k) {
  return with_k && found.top_k != 0 ? fmt::format("{} k={}", found.importance.metric, found.top_k) : found.importance.metric;
}

nlohmann::json confidence_to_json(const lsaq::OrderConfidence& confidence) {
  nlohmann::json json{{"agreement", confidence.agreement}, {"windows", confidence.windows}, {"trusted", confidence.trusted()}};
  for (const lsaq::OrderConfidence::Set& set : confidence.sets)
    json["sets"].push_back({{"count", set.count}, {"overlap", set.overlap}, {"probabilities", set.probabilities}});
  return json;
}

/// What people want to know of the order: how much of it other windows would repeat.
std::string confidence_text(const lsaq::OrderConfidence& confidence) {
  std::string text = fmt::format("confidence: as many other windows would give an order with rank correlation {:.2f}, and choose again {:.0f}% of the least "
                                 "important quarter, {:.0f}% of the half, {:.0f}% of three quarters",
                                 confidence.agreement, 100 * confidence.sets[0].overlap, 100 * confidence.sets[1].overlap, 100 * confidence.sets[2].overlap);
  if (!confidence.trusted()) text += fmt::format(" (a rough estimate: it takes {} windows to tell)", lsaq::OrderConfidence::trusted_windows);
  return lsaq::wrap(text, 2) + "\n";
}

/// A measured result, or one read from a file, to be shown beside the others.
struct Shown {
  std::string name;
  lsaq::Importance importance;
};

std::vector<Shown> read_others(const std::vector<std::string>& files) {
  std::vector<Shown> others;
  for (const std::string& file : files) others.push_back({std::filesystem::path(file).stem().string(), read_importance(file)});
  return others;
}

std::vector<Shown> shown_results(const std::vector<Detected>& found, const std::vector<Shown>& others) {
  std::vector<Shown> shown;
  const bool several_k = std::count_if(found.begin(), found.end(), [](const Detected& one) { return one.top_k != 0; }) > 1;
  for (const Detected& one : found) shown.push_back({name_of(one, several_k), one.importance});
  shown.insert(shown.end(), others.begin(), others.end());
  return shown;
}

std::vector<std::vector<double>> correlations_of(const std::vector<Shown>& shown) {
  std::vector<std::vector<double>> matrix(shown.size(), std::vector<double>(shown.size()));
  for (std::size_t i = 0; i < shown.size(); ++i)
    for (std::size_t j = 0; j < shown.size(); ++j) matrix[i][j] = lsaq::spearman(shown[i].importance.scores, shown[j].importance.scores);
  return matrix;
}

std::vector<lsaq::NamedOrder> orders_of(const std::vector<Shown>& shown) {
  std::vector<lsaq::NamedOrder> orders;
  for (const Shown& one : shown) orders.push_back({one.name, one.importance.order()});
  return orders;
}

/// Whether all results are of models with the same number of layers, so that their orders can be compared.
bool comparable(const std::vector<Shown>& shown) {
  return shown.size() > 1 &&
         std::all_of(shown.begin(), shown.end(), [&](const Shown& one) { return one.importance.scores.size() == shown.front().importance.scores.size(); });
}

void draw_scores(const ImportanceOptions& options, const std::string& model, const std::vector<Shown>& shown) {
  std::vector<ImportanceSeries> series;
  bool one_metric = true;
  for (const Shown& one : shown) {
    series.push_back({one.name, one.importance.scores, one.importance.spread});
    one_metric = one_metric && one.importance.metric == shown.front().importance.metric;
  }
  draw_importance(options.plot, "Layer importance, " + model, series, one_metric ? ScoreAxis::shared : ScoreAxis::own_range);
}

nlohmann::json words_json(const TokenSets& sets, const Tokens& tokens) {
  nlohmann::json json = nlohmann::json::array();
  for (const auto& set : sets) {
    nlohmann::json words = nlohmann::json::array();
    for (const lsaq::ScoredToken& token : set) words.push_back(tokens.text(token.id));
    json.push_back(words);
  }
  return json;
}

void check(const ImportanceOptions& options) {
  const std::vector<std::string>& metrics = options.detect.metrics;
  if (options.show_tokens && std::find(metrics.begin(), metrics.end(), "jaccard") == metrics.end() &&
      std::find(metrics.begin(), metrics.end(), "ranked") == metrics.end())
    lsaq::fail<lsaq::InvalidArgument>("--show-tokens shows the token sets of --metric jaccard and ranked; " + metrics.front() + " has none");
  for (const std::string& picture : {options.plot, options.ranks})
    if (!picture.empty()) check_picture(picture);
}

/// Whether there will be several results, all of models with `layers` layers, beside one another.
bool ranks_compare(const ImportanceOptions& options, const std::vector<Shown>& others, std::size_t layers) {
  return result_count(options.detect) + others.size() > 1 &&
         std::all_of(others.begin(), others.end(), [&](const Shown& other) { return other.importance.scores.size() == layers; });
}

void importance(const ImportanceOptions& options, const Global& global) {
  check(options);
  const Model model(options.model);
  const std::vector<Shown> others = read_others(options.others); // what is wrong with them is said before anything is measured
  if (!options.ranks.empty() && !ranks_compare(options, others, model.config.layers))
    lsaq::fail<lsaq::InvalidArgument>("--plot-ranks compares several results of one number of layers: give more metrics or sizes, or --with FILE");
  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  TokenSets sets;
  const std::vector<Detected> found = detect_all(model, options.detect, device, options.show_tokens ? &sets : nullptr);
  const std::vector<Shown> shown = shown_results(found, others);

  std::vector<std::optional<lsaq::OrderConfidence>> confidences;
  nlohmann::json results = nlohmann::json::array();
  for (const Detected& one : found) {
    confidences.push_back(lsaq::order_confidence(one.importance.window_scores, model.config.layers));
    nlohmann::json& json = results.emplace_back(detected_to_json(one, model, options.detect));
    if (confidences.back()) json["confidence"] = confidence_to_json(*confidences.back());
  }
  const bool compared = comparable(shown);
  const std::vector<lsaq::NamedOrder> orders = orders_of(shown);
  const std::vector<std::vector<double>> correlations = compared ? correlations_of(shown) : std::vector<std::vector<double>>();
  const bool one = found.size() == 1;
  nlohmann::json json = one ? results[0] : nlohmann::json{{"schema", "lsaq.importance_set/1"}, {"model", model.config.name}, {"results", results}};
  if (compared) {
    std::vector<std::string> names;
    for (const Shown& result : shown) names.push_back(result.name);
    json["spearman"] = {{"names", names}, {"matrix", correlations}};
  }
  if (!options.output.empty()) write_json(options.output, json);
  if (!options.plot.empty()) draw_scores(options, model.config.name, shown);
  if (!options.ranks.empty()) draw_rank_map(options.ranks, "Ranks of layers, " + model.config.name, orders, correlations);

  if (global.json) {
    for (std::size_t i = 0; i < found.size(); ++i) {
      nlohmann::json& printed = one ? json : json["results"][i];
      printed["seconds"] = found[i].seconds;
      printed["cached"] = found[i].cached;
    }
    if (options.show_tokens) json["tokens"] = words_json(sets, Tokens(model.source));
    return print_json(json);
  }
  std::string text;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const lsaq::Importance& importance = found[i].importance;
    text += lsaq::importance_chart(importance);
    if (found[i].top_k != 0 && shown[i].name != importance.metric) text += "token sets of " + std::to_string(found[i].top_k) + "\n";
    text += lsaq::wrap("least important quarter: " + lsaq::format_quarter(importance.order()), 2) + "\n";
    if (confidences[i]) text += confidence_text(*confidences[i]);
    text += "\n";
  }
  if (compared) text += lsaq::importance_comparison(orders, correlations) + "\n";
  if (options.show_tokens) text += words_table(sets, Tokens(model.source));
  print_text(text);
  double seconds = 0;
  for (const Detected& result : found) seconds = std::max(seconds, result.seconds);
  const bool cached = std::all_of(found.begin(), found.end(), [](const Detected& result) { return result.cached; });
  note(cached ? "from the cache" : fmt::format("measured in {:.2f} s", seconds));
  if (options.detect.until_stable && one)
    note(found.front().stable
             ? fmt::format("stable after {} windows", found.front().importance.windows)
             : fmt::format("not stable after {} windows: more would still change the least important layers", found.front().importance.windows));
}

} // namespace

void add_importance(CLI::App& app, Global& global) {
  auto options = std::make_shared<ImportanceOptions>();
  CLI::App* verb = app.add_subcommand("importance", "Measure how important each decoder layer is");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  add_detect_options(*verb, options->detect);
  verb->add_flag("--show-tokens", options->show_tokens, "Show the words of the token sets at each layer boundary");
  verb->add_option("--with", options->others, "Show this importance file beside the results: another model or metric; may be repeated")
      ->allow_extra_args(false);
  verb->add_option("--plot", options->plot, "Draw importance by layer into this .svg or .png file");
  verb->add_option("--plot-ranks", options->ranks, "Draw the ranks of several results and their correlations into this .svg or .png file");
  verb->add_option("-o,--output", options->output, "Write the result to this JSON file");
  add_global_options(*verb, global);
  verb->callback([options, &global] { importance(*options, global); });
}

} // namespace command
