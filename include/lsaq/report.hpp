// Results for people: amounts of memory, the chart of layer importance, metrics compared, the table of a plan. Every line fits 80 columns.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/importance/layer_importance.hpp>
#include <lsaq/importance/order_confidence.hpp>
#include <lsaq/planning/plan.hpp>
#include <lsaq/types.hpp>

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lsaq::inline v0 {

/// The layers of a model from the least to the most important, and what put them in that order: "jaccard k=50".
struct NamedOrder {
  std::string name;
  std::vector<std::size_t> layers;
};

} // namespace lsaq::inline v0

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

/// How many layers are the least important quarter of `layers`.
constexpr std::size_t quarter_of(std::size_t layers) noexcept { return planned_sets(layers)[0]; }

/// "3, 7, 5": layers in the order given.
inline std::string format_layers(std::span<const std::size_t> layers) { return fmt::format("{}", fmt::join(layers, ", ")); }

/// The least important quarter of an order, least important first.
inline std::string format_quarter(const std::vector<std::size_t>& order) { return format_layers(std::span(order).first(quarter_of(order.size()))); }

namespace detail {

/// Code points, which is columns in most scripts.
inline std::size_t columns_of(std::string_view text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0u) != 0x80; }));
}

/// The text, cut after `width` columns if it is longer.
inline std::string cut_to(std::string_view text, std::size_t width) {
  if (columns_of(text) <= width) return std::string(text);
  std::size_t end = 0, columns = 0;
  for (; columns + 2 < width || (static_cast<unsigned char>(text[end]) & 0xc0u) == 0x80; ++end)
    if ((static_cast<unsigned char>(text[end]) & 0xc0u) != 0x80) ++columns;
  return std::string(text.substr(0, end)) + "..";
}

/// The text in `width` columns: filled up with spaces, or cut.
inline std::string in_columns(std::string_view text, std::size_t width) {
  std::string filled = cut_to(text, width);
  return filled + std::string(width - std::min(width, columns_of(filled)), ' ');
}

} // namespace detail

/// The least important quarter of the layers in each of several orders (Table II of the paper), and the matrix of rank correlations between them
/// (`correlations[i][j]` belongs to the orders i and j; NaN: there is none). Names are shown as they are; long ones are cut in the matrix. Throws
/// InvalidArgument unless all orders have the same number of layers and the matrix has a row and a column for each.
inline std::string importance_comparison(std::span<const NamedOrder> orders, const std::vector<std::vector<double>>& correlations) {
  constexpr std::size_t longest_name = 26, columns_in_block = 8; // 4 + 26 + 8 x 6 = 78
  if (correlations.size() != orders.size())
    fail<InvalidArgument>(fmt::format("{} orders need a matrix of as many correlations, not of {} rows", orders.size(), correlations.size()));
  std::size_t width = 0;
  for (std::size_t i = 0; i < orders.size(); ++i) {
    if (orders[i].layers.size() != orders[0].layers.size())
      fail<InvalidArgument>(fmt::format("orders of {} and of {} layers can't be compared", orders[0].layers.size(), orders[i].layers.size()));
    if (correlations[i].size() != orders.size())
      fail<InvalidArgument>(fmt::format("row {} of the matrix has {} correlations for {} orders", i, correlations[i].size(), orders.size()));
    width = std::max(width, std::min(detail::columns_of(orders[i].name), longest_name));
  }
  if (orders.empty()) return "";

  const std::size_t layers = orders[0].layers.size(), indent = 4 + width + 2;
  std::string text = fmt::format("Least important quarter of {} layers, least important first\n", layers);
  for (std::size_t i = 0; i < orders.size(); ++i) {
    text += fmt::format("{:3} ", i + 1);
    if (detail::columns_of(orders[i].name) <= width)
      text += detail::in_columns(orders[i].name, width) + "  ";
    else // above its numbers
      text += detail::cut_to(orders[i].name, 76) + "\n" + std::string(indent, ' ');
    text += wrap(format_quarter(orders[i].layers), indent) + "\n";
  }

  text += "\nRank correlation (Spearman)\n";
  for (std::size_t begin = 0; begin < orders.size(); begin += columns_in_block) {
    const std::size_t end = std::min(begin + columns_in_block, orders.size());
    if (begin != 0) text += "\n";
    text += std::string(4 + width, ' ');
    for (std::size_t j = begin; j < end; ++j) fmt::format_to(std::back_inserter(text), "{:6}", j + 1);
    text += "\n";
    for (std::size_t i = 0; i < orders.size(); ++i) {
      text += fmt::format("{:3} ", i + 1) + detail::in_columns(orders[i].name, width);
      for (std::size_t j = begin; j < end; ++j) text += std::isfinite(correlations[i][j]) ? fmt::format("{:6.2f}", correlations[i][j]) : "     -";
      text += "\n";
    }
  }
  return text;
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
