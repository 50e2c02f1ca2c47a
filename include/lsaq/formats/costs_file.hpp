// Costs of widths as JSON, schema "lsaq.costs/1" (docs/formats.md): what Planner<Optimal> adds up, measured once for all budgets.
#pragma once

#include <lsaq/formats/names.hpp>
#include <lsaq/formats/strict_json.hpp>
#include <lsaq/planning/costs.hpp>

#include <cmath>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The JSON object of a cost table for a model; a forbidden width is null.
inline nlohmann::json costs_to_json(const CostTable& costs, const ModelShape& shape) {
  const auto row = [](const std::vector<double>& damages) {
    nlohmann::json array = nlohmann::json::array();
    for (const double damage : damages) array.push_back(std::isfinite(damage) ? nlohmann::json(damage) : nlohmann::json());
    return array;
  };
  nlohmann::json json{{"schema", "lsaq.costs/1"}, {"model", shape.name}, {"widths", costs.widths}};
  for (const std::vector<double>& layer : costs.layers) json["layers"].push_back(row(layer));
  for (std::size_t l = 0; l < costs.linears.size(); ++l) {
    nlohmann::json& layer = json["linears"].emplace_back(nlohmann::json::object());
    for (std::size_t i = 0; i < costs.linears[l].size(); ++i) layer[shape.layers[l].linears[i].name] = row(costs.linears[l][i]);
  }
  return json;
}

/// Reads a table for a model of `shape`: `widths`, and `layers` (an array of numbers for each layer) or `linears` (an object of such arrays by name for each
/// layer). Throws BadInput naming `file` and the field.
inline CostTable costs_from_json(const nlohmann::json& json, const ModelShape& shape, const std::string& file) {
  const auto refuse = [&](const std::string& sentence) { fail<BadInput>(file + ": " + sentence); };
  if (!json.is_object() || json.value("schema", nlohmann::json()) != "lsaq.costs/1") refuse("not a cost table: \"schema\" must be \"lsaq.costs/1\"");
  CostTable costs;
  const nlohmann::json widths = json.value("widths", nlohmann::json());
  if (!widths.is_array() || widths.empty()) refuse("\"widths\" must be an array of widths");
  for (const nlohmann::json& width : widths) {
    if (!width.is_number_unsigned() || !(width == 16u || (width >= min_bits && width <= max_bits)))
      refuse("\"widths\" holds " + printable(width.dump()) + "; a width may be 16 or 2 to 8 bits");
    if (std::find(costs.widths.begin(), costs.widths.end(), width.get<unsigned>()) != costs.widths.end()) refuse("\"widths\" names one twice");
    costs.widths.push_back(width.get<unsigned>());
  }
  if (json.contains("layers") == json.contains("linears")) refuse("a cost table has either \"layers\" or \"linears\"");
  const char* const key = json.contains("layers") ? "layers" : "linears";
  const nlohmann::json& layers = json[key];
  if (!layers.is_array() || layers.size() != shape.layers.size())
    refuse(std::string("\"") + key + "\" must be an array with an entry for each of the model's " + std::to_string(shape.layers.size()) + " layers");
  const auto read = [&](const nlohmann::json& array, const std::string& where) {
    if (!array.is_array() || array.size() != costs.widths.size())
      refuse(where + " must have a number for each of the " + std::to_string(costs.widths.size()) + " widths");
    std::vector<double> row;
    for (const nlohmann::json& damage : array) {
      if (!damage.is_null() && !(damage.is_number() && std::isfinite(damage.get<double>())))
        refuse(where + " holds " + printable(damage.dump()) + ", which is neither a finite number nor null");
      row.push_back(damage.is_null() ? std::numeric_limits<double>::infinity() : damage.get<double>());
    }
    return row;
  };
  for (std::size_t l = 0; l < layers.size(); ++l) {
    const std::string where = std::string("\"") + key + "\" of layer " + std::to_string(l);
    if (layers[l].is_array()) {
      costs.layers.push_back(read(layers[l], where));
      continue;
    }
    if (!layers[l].is_object() || layers[l].size() != shape.layers[l].linears.size())
      refuse(where + " must name each of the " + std::to_string(shape.layers[l].linears.size()) + " linears");
    std::vector<std::vector<double>>& linears = costs.linears.emplace_back();
    for (const LinearShape& linear : shape.layers[l].linears) {
      const auto found = layers[l].find(linear.name);
      if (found == layers[l].end()) refuse(where + " does not name " + linear.name);
      linears.push_back(read(*found, where + ", " + linear.name + ","));
    }
  }
  if (!costs.layers.empty() && !costs.linears.empty()) refuse(std::string("\"") + key + "\" has entries of two kinds");
  return costs;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
