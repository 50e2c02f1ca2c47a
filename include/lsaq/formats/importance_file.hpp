// Importance as JSON, schema "lsaq.importance/1" (docs/formats.md).
#pragma once

#include <lsaq/formats/names.hpp>
#include <lsaq/formats/strict_json.hpp>
#include <lsaq/importance/layer_importance.hpp>

#include <cmath>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The JSON object of an importance result; `model` is the model's name, top_k 0 for metrics without token sets. Throws InvalidArgument if there are window
/// scores that are not windows x layers.
inline nlohmann::json importance_to_json(const Importance& importance, const std::string& model, std::size_t top_k) {
  nlohmann::json json{{"schema", "lsaq.importance/1"}, {"model", model},
                      {"metric", importance.metric},   {"windows", importance.windows},
                      {"scores", importance.scores},   {"spread", importance.spread},
                      {"order", importance.order()}};
  if (top_k != 0) json["top_k"] = top_k;
  if (const std::size_t layers = importance.scores.size(); !importance.window_scores.empty()) {
    if (importance.window_scores.size() != importance.windows * layers)
      fail<InvalidArgument>("importance: the scores of " + std::to_string(importance.windows) + " windows of " + std::to_string(layers) + " layers can't be " +
                            std::to_string(importance.window_scores.size()) + " numbers");
    nlohmann::json& windows = json["window_scores"] = nlohmann::json::array();
    for (std::size_t first = 0; first < importance.window_scores.size(); first += layers)
      windows.push_back(std::vector<double>(importance.window_scores.begin() + static_cast<std::ptrdiff_t>(first),
                                            importance.window_scores.begin() + static_cast<std::ptrdiff_t>(first + layers)));
  }
  return json;
}

/// Reads the object back; needs `schema` and `scores`. `order` follows from the scores and is not read. Throws BadInput naming `file` and the field.
inline Importance importance_from_json(const nlohmann::json& json, const std::string& file) {
  const auto refuse = [&](const std::string& sentence) { fail<BadInput>(file + ": " + sentence); };
  if (!json.is_object() || json.value("schema", nlohmann::json()) != "lsaq.importance/1")
    refuse("not an importance file: \"schema\" must be \"lsaq.importance/1\"");
  Importance importance;
  const auto read_numbers = [&](const char* key, const nlohmann::json& array, std::vector<double>& values) {
    if (!array.is_array()) refuse(std::string("\"") + key + "\" must be an array of numbers");
    for (const nlohmann::json& value : array) {
      if (!value.is_number() || !std::isfinite(value.get<double>()))
        refuse(std::string("\"") + key + "\" holds " + printable(value.dump()) + ", which is no finite number");
      values.push_back(value.get<double>());
    }
  };
  const auto read = [&](const char* key, std::vector<double>& values) { read_numbers(key, json.value(key, nlohmann::json()), values); };
  read("scores", importance.scores);
  if (importance.scores.empty()) refuse("\"scores\" is empty; it needs one number a layer");
  if (json.contains("spread")) {
    read("spread", importance.spread);
    if (importance.spread.size() != importance.scores.size()) refuse("\"spread\" and \"scores\" have different lengths");
  } else {
    importance.spread.assign(importance.scores.size(), 0.0);
  }
  if (const auto metric = json.find("metric"); metric != json.end()) {
    if (!metric->is_string()) refuse("\"metric\" must be a string");
    importance.metric = printable(metric->get<std::string>());
  }
  if (const auto windows = json.find("windows"); windows != json.end()) {
    if (!windows->is_number_unsigned()) refuse("\"windows\" is " + printable(windows->dump()) + "; it must be a whole number");
    importance.windows = windows->get<std::size_t>();
  }
  if (const auto windows = json.find("window_scores"); windows != json.end()) {
    if (!windows->is_array()) refuse("\"window_scores\" must be an array with an array of numbers for each window");
    for (const nlohmann::json& window : *windows) {
      read_numbers("window_scores", window, importance.window_scores);
      if (window.size() != importance.scores.size()) refuse("\"window_scores\" and \"scores\" have different numbers of layers");
    }
    if (windows->size() != importance.windows)
      refuse("\"window_scores\" has " + std::to_string(windows->size()) + " windows, \"windows\" says " + std::to_string(importance.windows));
  }
  return importance;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
