// lsaq importance: a score for each layer, its order, and the words behind it.
#include "detect.hpp"
#include "tokens.hpp"

#include <lsaq/formats/importance_file.hpp>
#include <lsaq/report.hpp>
#include <lsaq/thread_pool.hpp>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

namespace command {

namespace {

struct Options {
  std::string model;
  DetectOptions detect;
  bool show_tokens = false;
  std::string output;
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

void importance(const Options& options, const Global& global) {
  if (options.show_tokens && options.detect.metric != "jaccard")
    lsaq::fail<lsaq::InvalidArgument>("--show-tokens shows the token sets of --metric jaccard; " + options.detect.metric + " has none");
  const Model model(options.model);
  lsaq::ThreadPool pool(global.threads);
  const Device device(pool);
  TokenSets sets;
  const Detected found = detect_importance(model, options.detect, device, options.show_tokens ? &sets : nullptr);
  nlohmann::json json = lsaq::importance_to_json(found.importance, model.config.name, options.detect.metric == "jaccard" ? options.detect.top_k : 0);
  if (!options.output.empty()) write_json(options.output, json);
  if (global.json) {
    json["seconds"] = found.seconds;
    json["cached"] = found.cached;
    if (options.show_tokens) {
      const Tokens tokens(model.source);
      for (const auto& set : sets) {
        nlohmann::json words = nlohmann::json::array();
        for (const lsaq::ScoredToken& token : set) words.push_back(tokens.text(token.id));
        json["tokens"].push_back(words);
      }
    }
    return print_json(json);
  }
  std::string text = lsaq::importance_chart(found.importance);
  const std::vector<std::size_t> order = found.importance.order();
  std::string quarter;
  for (std::size_t i = 0; i < std::max<std::size_t>(1, order.size() / 4); ++i) quarter += (i == 0 ? "" : ", ") + std::to_string(order[i]);
  text += lsaq::wrap("least important quarter: " + quarter, 2) + "\n";
  if (options.show_tokens) text += "\n" + words_table(sets, Tokens(model.source));
  print_text(text);
  note(found.cached ? fmt::format("from the cache in {:.2f} s", found.seconds) : fmt::format("measured in {:.2f} s", found.seconds));
}

} // namespace

void add_importance(CLI::App& app, Global& global) {
  auto options = std::make_shared<Options>();
  CLI::App* verb = app.add_subcommand("importance", "Measure how important each decoder layer is");
  verb->add_option("MODEL", options->model, "GGUF file or Hugging Face folder")->required();
  add_detect_options(*verb, options->detect);
  verb->add_flag("--show-tokens", options->show_tokens, "Show the words of the token sets at each layer boundary");
  verb->add_option("-o,--output", options->output, "Write the result to this JSON file");
  add_global_options(*verb, global);
  verb->callback([options, &global] { importance(*options, global); });
}

} // namespace command
