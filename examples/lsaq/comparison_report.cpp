#include "comparison_report.hpp"
#include "plot.hpp"
#include "rank_map.hpp"

#include <lsaq/planning/memory_model.hpp>
#include <lsaq/report.hpp>

#include <fmt/format.h>

namespace command {

namespace llama = lsaq::llama;
using llama::Estimate;
using Run = std::vector<llama::WindowScore>;

namespace {

/// The runs of all draws of an order at one average, one after the other in each window: means per token are means over the draws, and the exponential of the
/// mean negative log-likelihood is the geometric mean of their perplexities.
Run joined(const Comparison& comparison, const std::vector<std::size_t>& plans) {
  Run sum(comparison.text.windows.size());
  for (const std::size_t p : plans)
    for (std::size_t w = 0; w < sum.size(); ++w) sum[w] += comparison.scores.plans[p][w];
  return sum;
}

/// The same as if it had been measured `times` times, to be paired with as many draws.
Run repeated(Run run, std::size_t times) {
  for (llama::WindowScore& score : run) {
    score.nll *= static_cast<double>(times);
    score.kl *= static_cast<double>(times);
    score.agreements *= times;
    score.tokens *= times;
  }
  return run;
}

Estimate difference(const Run& run, std::size_t draws, const Run& other, std::size_t other_draws) {
  return llama::nll_difference(repeated(run, other_draws), repeated(other, draws));
}

/// Everything said about one order at one average, or about a uniform plan.
struct Cell {
  double perplexity = 0, lowest = 0, highest = 0; ///< the last two: of the draws
  Estimate nll = {}, above_reference = {}, kl = {}, agreement = {}, to_first = {};
};

Cell cell_of(const Comparison& comparison, const std::vector<std::size_t>& plans, const std::vector<std::size_t>* first) {
  const Run run = joined(comparison, plans);
  Cell cell{.nll = llama::nll_of(run), .kl = llama::kl_of(run), .agreement = llama::agreement_of(run)};
  cell.above_reference = difference(run, plans.size(), comparison.scores.reference, 1);
  if (first != nullptr) cell.to_first = difference(run, plans.size(), joined(comparison, *first), first->size());
  cell.perplexity = std::exp(cell.nll.mean);
  cell.lowest = std::numeric_limits<double>::infinity();
  for (const std::size_t p : plans) {
    const double one = std::exp(llama::nll_of(comparison.scores.plans[p]).mean);
    cell.lowest = std::min(cell.lowest, one);
    cell.highest = std::max(cell.highest, one);
  }
  return cell;
}

/// Cells of text under a heading.
struct Table {
  std::string heading;
  std::string note = {};
  std::vector<std::string> columns;                ///< the first is that of the names
  std::vector<std::vector<std::string>> rows = {}; ///< as many cells as columns

  std::string terminal() const {
    constexpr std::size_t longest_name = 28, longest_line = 80;
    std::vector<std::size_t> widths;
    for (std::size_t c = 0; c < columns.size(); ++c) {
      widths.push_back(lsaq::detail::columns_of(columns[c]));
      for (const auto& row : rows) widths[c] = std::max(widths[c], lsaq::detail::columns_of(row[c]));
    }
    widths[0] = std::min(widths[0], longest_name);
    std::string text = heading + "\n";
    if (!note.empty()) text += lsaq::wrap(note, 0) + "\n";
    for (std::size_t begin = 1; begin < columns.size();) {
      std::size_t end = begin, width = widths[0];
      while (end < columns.size() && (end == begin || width + 2 + widths[end] <= longest_line)) width += 2 + widths[end++];
      const auto line = [&](const std::vector<std::string>& row) {
        std::string cells = lsaq::detail::in_columns(row[0], widths[0]);
        for (std::size_t c = begin; c < end; ++c) cells += "  " + std::string(widths[c] - lsaq::detail::columns_of(row[c]), ' ') + row[c];
        text += cells.substr(0, cells.find_last_not_of(' ') + 1) + "\n";
      };
      line(columns);
      for (const auto& row : rows) line(row);
      begin = end;
      if (begin < columns.size()) text += "\n";
    }
    return text;
  }

  std::string markdown() const {
    std::string text = "## " + heading + "\n\n";
    if (!note.empty()) text += note + "\n\n";
    const auto line = [&](const std::vector<std::string>& row) {
      for (const std::string& cell : row) {
        std::string escaped;
        for (const char c : cell) escaped += c == '|' ? "\\|" : c == '<' ? "&lt;" : std::string(1, c);
        text += "| " + escaped + " ";
      }
      text += "|\n";
    };
    line(columns);
    text += "|---";
    for (std::size_t c = 1; c < columns.size(); ++c) text += "|---:";
    text += "|\n";
    for (const auto& row : rows) line(row);
    return text + "\n";
  }
};

std::string number(double value, int digits) { return std::isfinite(value) ? fmt::format("{:.{}f}", value, digits) : "-"; }

/// "0.1234 +-0.0043"; a mark behind what is further from 0 than twice its error.
std::string with_error(const Estimate& estimate, int digits, bool marked, const char* plus = "") {
  if (!std::isfinite(estimate.mean)) return "-";
  std::string text = (estimate.mean >= 0 ? plus : "") + number(estimate.mean, digits);
  if (std::isfinite(estimate.error)) text += " +-" + number(estimate.error, digits);
  if (marked) text += std::isfinite(estimate.error) && std::abs(estimate.mean) > 2 * estimate.error ? "*" : " ";
  return text;
}

std::string perplexity_text(double value) { return number(value, value < 1000 ? 2 : 0); }

std::vector<std::vector<Cell>> cells_of_orders(const Comparison& comparison) {
  std::vector<std::vector<Cell>> cells;
  for (const ComparedOrder& order : comparison.orders) {
    std::vector<Cell>& row = cells.emplace_back();
    for (std::size_t b = 0; b < order.plan_of.size(); ++b) row.push_back(cell_of(comparison, order.plan_of[b], &comparison.orders.front().plan_of[b]));
  }
  return cells;
}

std::vector<Table> tables_of(const Comparison& comparison) {
  const Grid& grid = comparison.grid;
  std::vector<std::string> columns{"order"};
  for (const double bits : grid.average_bits) columns.push_back(fmt::format("{:g} bits", bits));
  std::vector<Table> tables;

  Table uniform{.heading = "All layers at the same bits", .columns = {"bits", "perplexity", "nats above FP16", "KL divergence", "top-1 %"}};
  for (const UniformPlan& plan : comparison.uniform) {
    const Cell cell = cell_of(comparison, {plan.plan}, nullptr);
    uniform.rows.push_back({fmt::format("{}", plan.bits), perplexity_text(cell.perplexity), with_error(cell.above_reference, 4, false),
                            with_error(cell.kl, 4, false), number(100 * cell.agreement.mean, 2)});
  }
  tables.push_back(std::move(uniform));

  const std::vector<std::vector<Cell>> cells = cells_of_orders(comparison);
  const auto add = [&](const std::string& heading, const std::string& about, auto&& show) {
    Table table{.heading = heading, .note = about, .columns = columns};
    for (std::size_t o = 0; o < cells.size(); ++o) {
      std::vector<std::string>& row = table.rows.emplace_back(1, comparison.orders[o].name);
      for (const Cell& cell : cells[o]) row.push_back(show(comparison.orders[o], cell));
    }
    tables.push_back(std::move(table));
  };
  const bool has_random = std::any_of(comparison.orders.begin(), comparison.orders.end(), [](const ComparedOrder& order) { return order.draws.size() > 1; });
  add("Perplexity", has_random ? "Of several random orders: the geometric mean, and the range." : "", [](const ComparedOrder& order, const Cell& cell) {
    std::string text = perplexity_text(cell.perplexity);
    if (order.draws.size() > 1) text += fmt::format(" ({}-{})", perplexity_text(cell.lowest), perplexity_text(cell.highest));
    return text;
  });
  add("Nats a token above FP16, with the paired standard error", "",
      [](const ComparedOrder&, const Cell& cell) { return with_error(cell.above_reference, 4, false); });
  add("KL divergence from FP16, nats a token, with the standard error", "",
      [](const ComparedOrder&, const Cell& cell) { return with_error(cell.kl, 4, false); });
  add("Same likeliest token as FP16, %", "", [](const ComparedOrder&, const Cell& cell) { return number(100 * cell.agreement.mean, 2); });
  if (comparison.orders.size() > 1)
    add(fmt::format("Nats a token above \"{}\", with the paired standard error", comparison.orders.front().name),
        "Below 0: better than the first order. * is further from 0 than twice the standard error.",
        [&](const ComparedOrder& order, const Cell& cell) { return &order == &comparison.orders.front() ? "0 " : with_error(cell.to_first, 4, true, "+"); });
  return tables;
}

std::string about(const Comparison& comparison) {
  const EvaluationWindows& text = comparison.text;
  return fmt::format("{} tokens of {} scored: {} windows of at most {} tokens, {}. Layers at {} bits, the less important ones at {} bits.", text.targets,
                     text.source, text.windows.size(), text.longest, describe(comparison.grid.text.protocol, text.stride), comparison.grid.high,
                     comparison.grid.low);
}

constexpr std::string_view about_errors = "Standard errors are over windows: those of differences are of paired differences on the same windows.";

void put(nlohmann::json& json, const std::string& key, const Estimate& estimate) {
  json[key] = estimate.mean;
  json[key + "_se"] = estimate.error;
}

nlohmann::json plan_json(const Comparison& comparison, std::size_t plan) {
  const Run& run = comparison.scores.plans[plan];
  nlohmann::json json{{"average_bits", comparison.plans[plan].average_bits}, {"bits", comparison.plans[plan].bits}};
  json["rounding"] = comparison.quantizations[comparison.quantization_of[plan]].quantization.describe();
  json["perplexity"] = std::exp(llama::nll_of(run).mean);
  put(json, "nll", llama::nll_of(run));
  put(json, "delta_nll", llama::nll_difference(run, comparison.scores.reference));
  put(json, "kl", llama::kl_of(run));
  put(json, "top1", llama::agreement_of(run));
  nlohmann::json& windows = json["windows"] = {{"nll", nlohmann::json::array()}, {"kl", nlohmann::json::array()}, {"agreements", nlohmann::json::array()}};
  for (const llama::WindowScore& score : run) {
    windows["nll"].push_back(score.nll);
    windows["kl"].push_back(score.kl);
    windows["agreements"].push_back(score.agreements);
  }
  return json;
}

nlohmann::json order_head(const Comparison&, const ComparedOrder& order) {
  nlohmann::json json{{"name", order.name}, {"metric", order.metric}, {"options", order.options}, {"reverse", order.reverse}};
  if (order.random()) {
    json["orders"] = order.draws;
  } else {
    json["order"] = order.layers();
    json["scores"] = order.scores;
    json["least_important_quarter"] =
        std::vector<std::size_t>(order.layers().begin(), order.layers().begin() + static_cast<std::ptrdiff_t>(lsaq::quarter_of(order.layers().size())));
  }
  return json;
}

nlohmann::json head_json(const Comparison& comparison) {
  const EvaluationWindows& text = comparison.text;
  nlohmann::json json{{"schema", "lsaq.compare/1"},
                      {"model", comparison.model},
                      {"model_sha256", comparison.model_sha256},
                      {"text", text.source},
                      {"protocol", std::string(name_of(comparison.grid.text.protocol))},
                      {"context", text.longest},
                      {"windows", text.windows.size()},
                      {"tokens", text.targets},
                      {"high", comparison.grid.high},
                      {"low", comparison.grid.low},
                      {"average_bits", comparison.grid.average_bits}};
  if (text.stride != 0) json["stride"] = text.stride;
  return json;
}

} // namespace

nlohmann::json comparison_json(const Comparison& comparison) {
  nlohmann::json json = head_json(comparison);
  for (const llama::ScoredWindow& window : comparison.text.windows) json["window_tokens"].push_back(window.targets());
  for (const UniformPlan& plan : comparison.uniform) {
    nlohmann::json one = plan_json(comparison, plan.plan);
    one["uniform_bits"] = plan.bits;
    json["uniform"].push_back(std::move(one));
  }
  const std::vector<std::vector<Cell>> cells = cells_of_orders(comparison);
  for (std::size_t o = 0; o < comparison.orders.size(); ++o) {
    const ComparedOrder& order = comparison.orders[o];
    nlohmann::json one = order_head(comparison, order);
    for (std::size_t b = 0; b < order.plan_of.size(); ++b) {
      const Cell& cell = cells[o][b];
      nlohmann::json result{{"average_bits", comparison.grid.average_bits[b]}, {"perplexity", cell.perplexity}};
      put(result, "nll", cell.nll);
      put(result, "delta_nll", cell.above_reference);
      put(result, "kl", cell.kl);
      put(result, "top1", cell.agreement);
      put(result, "delta_to_first", cell.to_first);
      if (order.draws.size() > 1) result["perplexity_range"] = {cell.lowest, cell.highest};
      for (const std::size_t p : order.plan_of[b]) result["plans"].push_back(plan_json(comparison, p));
      one["results"].push_back(std::move(result));
    }
    json["orders"].push_back(std::move(one));
  }
  json["spearman"] = {{"orders", nlohmann::json::array()}, {"correlations", comparison.correlations}};
  for (const lsaq::NamedOrder& order : comparison.named_orders()) json["spearman"]["orders"].push_back(order.name);
  return json;
}

std::string comparison_text(const Comparison& comparison) {
  std::string text = lsaq::wrap(comparison.model + ". " + about(comparison), 0) + "\n" + lsaq::wrap(about_errors, 0) + "\n";
  for (const Table& table : tables_of(comparison)) text += "\n" + table.terminal();
  if (const std::vector<lsaq::NamedOrder> named = comparison.named_orders(); !named.empty())
    text += "\n" + lsaq::importance_comparison(named, comparison.correlations);
  return text;
}

std::string comparison_markdown(const Comparison& comparison, const std::vector<std::string>& pictures) {
  std::string text = "# Orders of layers compared: " + comparison.model + "\n\n" + about(comparison) + " " + std::string(about_errors) + "\n\n";
  for (const Table& table : tables_of(comparison)) text += table.markdown();
  const std::vector<lsaq::NamedOrder> named = comparison.named_orders();
  if (!named.empty()) {
    Table quarter{.heading = "Least important quarter of the layers", .columns = {"order", "layers, least important first"}};
    for (const lsaq::NamedOrder& order : named) quarter.rows.push_back({order.name, lsaq::format_quarter(order.layers)});
    text += quarter.markdown();
    Table spearman{.heading = "Rank correlation of the orders (Spearman)", .columns = {"order"}};
    for (std::size_t i = 0; i < named.size(); ++i) {
      spearman.columns.push_back(std::to_string(i + 1));
      std::vector<std::string>& row = spearman.rows.emplace_back(1, fmt::format("{}: {}", i + 1, named[i].name));
      for (const double correlation : comparison.correlations[i]) row.push_back(number(correlation, 2));
    }
    text += spearman.markdown();
  }
  for (const std::string& picture : pictures) text += fmt::format("![{}]({})\n\n", picture.substr(0, picture.find('.')), picture);
  text += fmt::format("Model: SHA-256 {}.\n", comparison.model_sha256);
  return text;
}

std::vector<std::string> draw_comparison(const Comparison& comparison, const std::filesystem::path& folder) {
  std::vector<AccuracySeries> perplexity, divergence;
  const std::vector<std::vector<Cell>> cells = cells_of_orders(comparison);
  for (std::size_t o = 0; o < cells.size(); ++o) {
    perplexity.push_back({comparison.orders[o].name, {}});
    divergence.push_back({comparison.orders[o].name, {}});
    for (std::size_t b = 0; b < cells[o].size(); ++b) {
      const Cell& cell = cells[o][b];
      const double bits = comparison.grid.average_bits[b];
      const auto finite = [](double error) { return std::isfinite(error) ? error : 0; };
      // The error bar of a perplexity is that of its distance to FP16: what the text itself scatters is common to all.
      perplexity.back().points.push_back({bits, cell.perplexity, finite(cell.perplexity * cell.above_reference.error)});
      divergence.back().points.push_back({bits, cell.kl.mean, finite(cell.kl.error)});
    }
  }
  std::vector<Reference> references, divergences;
  for (const UniformPlan& plan : comparison.uniform) {
    const Cell cell = cell_of(comparison, {plan.plan}, nullptr);
    references.push_back({plan.bits == 16 ? "FP16" : fmt::format("INT{}", plan.bits), cell.perplexity});
    if (plan.bits != 16) divergences.push_back({fmt::format("INT{}", plan.bits), cell.kl.mean});
  }
  std::vector<std::string> drawn;
  const auto draw = [&](const std::string& name, auto&& picture) {
    try {
      picture(folder / name);
      drawn.push_back(name);
    } catch (const lsaq::Error& error) {
      note(fmt::format("note: {} is left out: {}", name, error.what()));
    }
  };
  const std::string title = lsaq::printable(comparison.model, 60);
  draw("perplexity.svg", [&](const auto& path) { draw_accuracy(path, title, "perplexity", perplexity, references); });
  draw("kl.svg",
       [&](const auto& path) { draw_accuracy(path, title, "KL divergence from FP16, nats a token", divergence, divergences, ValueAxis::logarithmic); });
  if (const std::vector<lsaq::NamedOrder> named = comparison.named_orders(); !named.empty())
    draw("ranks.svg", [&](const auto& path) { draw_rank_map(path, title, named, comparison.correlations); });
  return drawn;
}

std::string comparison_outline(const Comparison& comparison, const RemainingWork& work) {
  std::string text = lsaq::wrap(comparison.model + ". " + about(comparison), 0) + "\n\n";
  for (const ComparedOrder& order : comparison.orders) {
    text += order.name + "\n";
    for (const auto& layers : order.draws) text += "  " + lsaq::wrap("order: " + lsaq::format_layers(layers), 4) + "\n";
    for (std::size_t b = 0; b < order.plan_of.size(); ++b)
      for (const std::size_t p : order.plan_of[b]) {
        const lsaq::Plan& plan = comparison.plans[p];
        text += "  " +
                lsaq::wrap(fmt::format("{:g} bits: {} layers at {}, average {:.4g}", comparison.grid.average_bits[b], plan.layers_at(comparison.grid.low),
                                       comparison.grid.low, plan.average_bits),
                           4) +
                "\n";
      }
  }
  text += "\n" +
          lsaq::wrap(fmt::format("{} different plans on {} windows; {} of the windows lack scores. To run: {} layer runs ({} if every plan ran on its own), "
                                 "{:.3g} billion operations.",
                                 comparison.plans.size(), comparison.text.windows.size(), work.windows, work.layer_runs, work.separate_layer_runs,
                                 work.operations / 1e9),
                     0) +
          "\n";
  return text;
}

nlohmann::json outline_json(const Comparison& comparison, const RemainingWork& work) {
  nlohmann::json json = head_json(comparison);
  json["dry_run"] = true;
  for (const ComparedOrder& order : comparison.orders) {
    nlohmann::json one = order_head(comparison, order);
    for (std::size_t b = 0; b < order.plan_of.size(); ++b) {
      nlohmann::json plans = nlohmann::json::array();
      for (const std::size_t p : order.plan_of[b]) plans.push_back({{"average_bits", comparison.plans[p].average_bits}, {"bits", comparison.plans[p].bits}});
      one["results"].push_back({{"average_bits", comparison.grid.average_bits[b]}, {"plans", plans}});
    }
    json["orders"].push_back(std::move(one));
  }
  json["work"] = {{"plans", comparison.plans.size()},
                  {"windows", work.windows},
                  {"layer_runs", work.layer_runs},
                  {"separate_layer_runs", work.separate_layer_runs},
                  {"operations", work.operations}};
  return json;
}

} // namespace command
