// Results for people: amounts of memory, the chart of layer importance, the table of a plan. Every line fits 80 columns.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/importance/layer_importance.hpp>
#include <lsaq/planning/plan.hpp>
#include <lsaq/types.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// "140.0 MiB", "6.00 GiB": three to four digits in the largest binary unit below the amount.
inline std::string format_bytes(Bytes bytes) {
  if (bytes < 1_KiB) return fmt::format("{} B", bytes);
  const auto value = static_cast<double>(bytes);
  if (bytes < 1_MiB) return fmt::format("{:.1f} KiB", value / 0x1p10);
  if (bytes < 1_GiB) return fmt::format("{:.1f} MiB", value / 0x1p20);
  return fmt::format("{:.2f} GiB", value / 0x1p30);
}

namespace detail {

/// Five decimals, or three digits and an exponent where those take more than `width` characters.
inline std::string format_score(double value, int width) {
  std::string text = fmt::format("{:{}.5f}", value, width);
  return text.size() <= static_cast<std::size_t>(width) ? text : fmt::format("{:{}.3g}", value, width);
}

} // namespace detail

/// A bar for each layer, its score, standard error and rank (1 = least important), and its bits if a plan is given. Throws InvalidArgument if the plan has
/// another number of layers.
inline std::string importance_chart(const Importance& importance, const Plan* plan = nullptr) {
  constexpr std::size_t bar_width = 40;
  if (plan != nullptr && plan->bits.size() != importance.scores.size())
    fail<InvalidArgument>("a plan for " + std::to_string(plan->bits.size()) + " layers can't be shown beside scores for " +
                          std::to_string(importance.scores.size()));
  const std::vector<std::size_t> order = importance.order();
  std::vector<std::size_t> rank(order.size());
  for (std::size_t i = 0; i < order.size(); ++i) rank[order[i]] = i + 1;
  double low = 0, high = 0; // bars start at zero, or below it for metrics with negative scores
  for (double score : importance.scores) {
    low = std::min(low, score);
    high = std::max(high, score);
  }
  std::string text = fmt::format("Layer importance ({}", importance.metric);
  if (importance.windows != 0) text += fmt::format(", mean of {} window{}", importance.windows, importance.windows == 1 ? "" : "s");
  text += fmt::format(")\nlayer    score    +-     rank {}\n", plan != nullptr ? "bits" : "");
  for (std::size_t l = 0; l < importance.scores.size(); ++l) {
    const double share = high > low ? (importance.scores[l] - low) / (high - low) : 0;
    const auto length = static_cast<std::size_t>((std::isfinite(share) ? share : 0) * bar_width + 0.5);
    fmt::format_to(std::back_inserter(text), "{:5}  {} {} {:5} ", l, detail::format_score(importance.scores[l], 8),
                   detail::format_score(l < importance.spread.size() ? importance.spread[l] : 0.0, 7), rank[l]);
    if (plan != nullptr) fmt::format_to(std::back_inserter(text), "{:4} ", plan->bits[l]);
    text += std::string(length, '=') + "\n";
  }
  return text;
}

/// "0-3, 7": ascending numbers as ranges.
inline std::string format_ranges(const std::vector<std::size_t>& numbers) {
  std::string text;
  for (std::size_t i = 0; i < numbers.size();) {
    std::size_t end = i;
    while (end + 1 < numbers.size() && numbers[end + 1] == numbers[end] + 1) ++end;
    text += (text.empty() ? "" : ", ") + std::to_string(numbers[i]);
    if (end > i) text += "-" + std::to_string(numbers[end]);
    i = end + 1;
  }
  return text;
}

/// Breaks `text` at spaces so that no line is longer than `width`; lines after the first start with `indent` spaces.
inline std::string wrap(std::string_view text, std::size_t indent, std::size_t width = 80) {
  std::string out;
  std::size_t column = indent;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    if (column > indent && column + 1 + end > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (column > indent) {
      out += ' ';
      ++column;
    }
    out += text.substr(0, end);
    column += end;
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

/// Layers by bit width, and where the bytes go.
inline std::string plan_table(const Plan& plan) {
  std::string text = "bits  layers  which\n";
  for (unsigned width = 16; width >= 2; --width) {
    std::vector<std::size_t> layers;
    for (std::size_t l = 0; l < plan.bits.size(); ++l)
      if (plan.bits[l] == width) layers.push_back(l);
    if (!layers.empty()) text += fmt::format("{:4}  {:6}  {}\n", width, layers.size(), wrap(format_ranges(layers), 14));
  }
  text += fmt::format("average {:.4g} bits a weight\n\n", plan.average_bits);
  const auto row = [&](std::string_view name, Bytes bytes) { text += fmt::format("{:<24}{:>18} bytes  {:>12}\n", name, bytes, format_bytes(bytes)); };
  row("layers and norms", plan.bytes.weights);
  row("embedding and head", plan.bytes.embedding);
  row("KV cache", plan.bytes.kv_cache);
  row("activations", plan.bytes.activations);
  row("reserve", plan.bytes.reserve);
  row("total", plan.bytes.total);
  row("memory", plan.bytes.memory);
  return text;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
