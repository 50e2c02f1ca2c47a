// Importance as JSON, schema "lsaq.importance/1" (docs/formats.md).
#pragma once

#include <lsaq/formats/names.hpp>
#include <lsaq/formats/strict_json.hpp>
#include <lsaq/importance/layer_importance.hpp>

#include <cmath>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The JSON object of an importance result; `model` is the model's name, top_k 0 for metrics without token sets.
inline nlohmann::json importance_to_json(const Importance& importance, const std::string& model, std::size_t top_k) {
  nlohmann::json json{{"schema", "lsaq.importance/1"}, {"model", model},
                      {"metric", importance.metric},   {"windows", importance.windows},
                      {"scores", importance.scores},   {"spread", importance.spread},
                      {"order", importance.order()}};
  if (top_k != 0) json["top_k"] = top_k;
  return json;
}

/// Reads the object back; needs `schema` and `scores`. `order` follows from the scores and is not read. Throws BadInput naming `file` and the field.
inline Importance importance_from_json(const nlohmann::json& json, const std::string& file) {
  const auto refuse = [&](const std::string& sentence) { fail<BadInput>(file + ": " + sentence); };
  if (!json.is_object() || json.value("schema", nlohmann::json()) != "lsaq.importance/1")
    refuse("not an importance file: \"schema\" must be \"lsaq.importance/1\"");
  Importance importance;
  const auto read = [&](const char* key, std::vector<double>& values) {
    const auto array = json.find(key);
    if (array == json.end() || !array->is_array()) refuse(std::string("\"") + key + "\" must be an array of numbers");
    for (const nlohmann::json& value : *array) {
      if (!value.is_number() || !std::isfinite(value.get<double>()))
        refuse(std::string("\"") + key + "\" holds " + printable(value.dump()) + ", which is no finite number");
      values.push_back(value.get<double>());
    }
  };
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
  return importance;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
