#include "comparison.hpp"

#include <lsaq/importance/order_confidence.hpp>
#include <lsaq/planning/memory_model.hpp>
#include <lsaq/report.hpp>

#include <fmt/format.h>

#include <map>
#include <numeric>
#include <random>
#include <set>

namespace command {

namespace llama = lsaq::llama;
using namespace lsaq::literals;

namespace {

/// Part of the checkpoint's key. The last number is to change when the way scores are computed does.
std::string program() { return fmt::format("lsaq {}.{}.{}, scores 1", LSAQ_VERSION_MAJOR, LSAQ_VERSION_MINOR, LSAQ_VERSION_PATCH); }

/// Tokens of a chunk, about: what is lost at most when a run is interrupted, against loading every layer again.
constexpr std::size_t chunk_tokens = 2048;

std::vector<std::size_t> random_order(std::size_t layers, std::uint64_t seed, std::size_t draw) {
  std::mt19937_64 random(seed * 1'000'003 + draw);
  std::vector<std::size_t> order(layers);
  std::iota(order.begin(), order.end(), std::size_t{0});
  for (std::size_t i = layers; i > 1; --i) std::swap(order[i - 1], order[random() % i]); // not std::shuffle: the same on every platform
  return order;
}

ComparedOrder find_out(const GridOrder& wanted, const Model& model, const Device& device) {
  ComparedOrder order{.name = wanted.name, .metric = wanted.metric, .options = wanted.options, .reverse = wanted.reverse};
  if (wanted.metric == "random") {
    order.options = {{"draws", wanted.draws}, {"seed", wanted.seed}};
    for (std::size_t d = 0; d < wanted.draws; ++d) order.draws.push_back(random_order(model.config.layers, wanted.seed, d));
    return order;
  }
  lsaq::Importance importance;
  if (wanted.metric == "file") {
    order.options = {{"file", wanted.file}};
    importance = read_importance(wanted.file, model.config.layers);
    if (!importance.metric.empty()) order.metric = importance.metric;
  } else {
    try {
      Detected found = detect_importance(model, wanted.detect, device);
      importance = std::move(found.importance);
      order.cached = found.cached;
    } catch (const lsaq::InvalidArgument& error) { // an option that does not go with this model
      if (wanted.where.empty()) throw;
      lsaq::fail<lsaq::BadInput>(wanted.where + ": order \"" + wanted.name + "\": " + error.what());
    }
  }
  order.scores = importance.scores;
  if (wanted.reverse)
    for (double& score : importance.scores) score = -score; // ties still go to the lower layer
  order.draws.push_back(importance.order());
  return order;
}

std::size_t index_of(Comparison& comparison, lsaq::Plan plan, std::size_t quantization) {
  for (std::size_t p = 0; p < comparison.plans.size(); ++p)
    if (comparison.plans[p].bits == plan.bits && comparison.quantization_of[p] == quantization) return p;
  comparison.plans.push_back(std::move(plan));
  comparison.quantization_of.push_back(quantization);
  return comparison.plans.size() - 1;
}

/// The place of an order's rounding in the comparison's list.
std::size_t quantization_index(Comparison& comparison, const GridOrder& order, const Model& model) {
  ComparedQuantization wanted{.options = order.rounding};
  try {
    wanted.quantization = quantization_of(order.rounding);
  } catch (const lsaq::InvalidArgument& error) {
    lsaq::fail<lsaq::BadInput>(order.where + ": order \"" + order.name + "\": " + error.what());
  }
  wanted.key = wanted.quantization.describe();
  if (wanted.key == Quantization().describe()) return 0;
  if (wanted.quantization.needs_calibration())
    wanted.key += ", calibrated on " + sha256(nlohmann::json(calibration_windows(model, order.rounding.calibration)).dump());
  std::vector<ComparedQuantization>& known = comparison.quantizations;
  const auto found = std::find_if(known.begin(), known.end(), [&](const ComparedQuantization& one) { return one.key == wanted.key; });
  if (found != known.end()) return static_cast<std::size_t>(found - known.begin());
  known.push_back(std::move(wanted));
  return known.size() - 1;
}

} // namespace

std::vector<lsaq::NamedOrder> Comparison::named_orders() const {
  std::vector<lsaq::NamedOrder> named;
  for (const ComparedOrder& order : orders)
    if (!order.random()) named.push_back({order.name, order.layers()});
  return named;
}

lsaq::Plan plan_by_order(const lsaq::ModelShape& shape, const std::vector<std::size_t>& order, unsigned high, unsigned low, double average) {
  lsaq::Plan best, plan{.bits = std::vector<unsigned>(order.size(), high)};
  double nearest = std::numeric_limits<double>::infinity();
  for (std::size_t count = 0; count <= order.size(); ++count) {
    if (count != 0) plan.bits[order[count - 1]] = low;
    plan.average_bits = lsaq::average_bits(shape, plan);
    const double distance = std::abs(plan.average_bits - average);
    if (distance > nearest + 1e-9) continue;
    nearest = distance;
    best = plan;
  }
  return best;
}

Comparison prepare_comparison(const Model& model, Grid grid, const Device& device) {
  Comparison comparison{.model = model.config.name, .model_sha256 = model_sha256(model.source)};
  try {
    comparison.text = evaluation_windows(model, grid.text);
  } catch (const lsaq::InvalidArgument& error) { // a context beyond the model's
    if (grid.where.empty()) throw;
    lsaq::fail<lsaq::BadInput>(grid.where + ": [evaluate]: " + error.what());
  }
  const lsaq::ModelShape shape = llama::model_shape(model.config);
  for (const unsigned bits : std::set<unsigned, std::greater<>>{16, 8, 4, grid.high, grid.low}) {
    lsaq::Plan plan{.bits = std::vector<unsigned>(model.config.layers, bits)};
    plan.average_bits = lsaq::average_bits(shape, plan);
    comparison.uniform.push_back({bits, index_of(comparison, std::move(plan), 0)});
  }
  for (const GridOrder& wanted : grid.orders) {
    check_interrupt();
    ComparedOrder order = find_out(wanted, model, device);
    const std::size_t quantization = quantization_index(comparison, wanted, model);
    for (const double bits : grid.average_bits) {
      std::vector<std::size_t>& plans = order.plan_of.emplace_back();
      for (const auto& layers : order.draws) plans.push_back(index_of(comparison, plan_by_order(shape, layers, grid.high, grid.low, bits), quantization));
    }
    comparison.orders.push_back(std::move(order));
  }
  const std::vector<lsaq::NamedOrder> named = comparison.named_orders();
  const auto ranks = [](const lsaq::NamedOrder& order) {
    std::vector<double> rank(order.layers.size());
    for (std::size_t i = 0; i < rank.size(); ++i) rank[order.layers[i]] = static_cast<double>(i);
    return rank;
  };
  for (const lsaq::NamedOrder& a : named) {
    std::vector<double>& row = comparison.correlations.emplace_back();
    for (const lsaq::NamedOrder& b : named) row.push_back(lsaq::spearman(ranks(a), ranks(b)));
  }
  comparison.grid = std::move(grid);
  return comparison;
}

KeptScores::KeptScores(std::filesystem::path path, const Comparison& comparison, const Device& device) : path_(std::move(path)) {
  content_ = {{"schema", "lsaq.compare-checkpoint/1"},
              {"model_sha256", comparison.model_sha256},
              {"program", program()},
              {"isa", std::string(name_of(device.isa()))},
              {"scores", nlohmann::json::object()}};
  std::error_code error;
  if (path_.empty() || !std::filesystem::exists(path_, error)) return;
  const nlohmann::json known = nlohmann::json::parse(read_file(path_), nullptr, false);
  bool same = known.is_object() && known.contains("scores") && known["scores"].is_object();
  for (const char* key : {"schema", "model_sha256", "program", "isa"}) same = same && known.value(key, "") == content_[key];
  if (same)
    content_["scores"] = known["scores"];
  else
    note(fmt::format("note: {} is of another model or program, or damaged: its scores are not used", lsaq::printable_path(path_)));
}

std::optional<llama::WindowScore> KeptScores::find(const std::string& window, const std::string& plan) const {
  const auto plans = content_["scores"].find(window);
  if (plans == content_["scores"].end() || !plans->is_object()) return std::nullopt;
  const auto entry = plans->find(plan);
  if (entry == plans->end() || !entry->is_array() || entry->size() != 4) return std::nullopt;
  for (const nlohmann::json& number : *entry)
    if (!number.is_number()) return std::nullopt;
  return llama::WindowScore{(*entry)[0].get<double>(), (*entry)[1].get<double>(), (*entry)[2].get<std::size_t>(), (*entry)[3].get<std::size_t>()};
}

void KeptScores::add(const std::string& window, const std::string& plan, const llama::WindowScore& score) {
  content_["scores"][window][plan] = {score.nll, score.kl, score.agreements, score.tokens};
}

void KeptScores::save() const {
  if (!path_.empty()) write_json(path_, content_);
}

std::string KeptScores::key_of(const llama::ScoredWindow& window) {
  return sha256(fmt::format("{} {}", window.first_scored, nlohmann::json(window.tokens).dump()));
}

/// "8x3 4x2 8": runs of equal bits, and how they are rounded if that is not the usual way.
std::string KeptScores::key_of(const Comparison& comparison, std::size_t index) {
  const lsaq::Plan& plan = comparison.plans[index];
  const std::string& rounding = comparison.quantizations[comparison.quantization_of[index]].key;
  std::string key;
  for (std::size_t l = 0; l < plan.bits.size();) {
    std::size_t end = l;
    while (end < plan.bits.size() && plan.bits[end] == plan.bits[l]) ++end;
    key += (key.empty() ? "" : " ") + std::to_string(plan.bits[l]) + (end - l > 1 ? "x" + std::to_string(end - l) : "");
    l = end;
  }
  return rounding.empty() ? key : key + " " + rounding;
}

namespace {

/// Windows that lack the same plans are evaluated together, plans that are rounded alike.
std::map<std::vector<std::size_t>, std::vector<std::size_t>> missing_work(const Comparison& comparison, const KeptScores& kept) {
  std::map<std::vector<std::size_t>, std::vector<std::size_t>> windows_by_plans;
  for (std::size_t w = 0; w < comparison.text.windows.size(); ++w) {
    const std::string window = KeptScores::key_of(comparison.text.windows[w]);
    std::vector<std::vector<std::size_t>> missing(comparison.quantizations.size());
    for (std::size_t p = 0; p < comparison.plans.size(); ++p)
      if (!kept.find(window, KeptScores::key_of(comparison, p))) missing[comparison.quantization_of[p]].push_back(p);
    for (const std::vector<std::size_t>& plans : missing)
      if (!plans.empty()) windows_by_plans[plans].push_back(w);
  }
  return windows_by_plans;
}

template <class T> std::vector<T> selected(const std::vector<T>& items, const std::vector<std::size_t>& indices) {
  std::vector<T> chosen;
  for (const std::size_t i : indices) chosen.push_back(items[i]);
  return chosen;
}

} // namespace

RemainingWork remaining_work(const Model& model, const Comparison& comparison, const KeptScores& kept) {
  RemainingWork work;
  const auto layer = static_cast<double>(llama::model_shape(model.config).layers[0].weights());
  const auto head = static_cast<double>(model.config.vocabulary * model.config.hidden);
  for (const auto& [missing, windows] : missing_work(comparison, kept)) {
    const llama::SharedPrefixes shared = llama::shared_prefixes(model.config.layers, selected(comparison.plans, missing));
    work.windows += windows.size();
    work.layer_runs += windows.size() * shared.layer_runs();
    work.separate_layer_runs += windows.size() * model.config.layers * missing.size();
    for (const std::size_t w : windows) {
      const llama::ScoredWindow& window = comparison.text.windows[w];
      work.operations +=
          2 * (static_cast<double>(window.tokens.size() * shared.layer_runs()) * layer + static_cast<double>(window.targets() * shared.streams) * head);
    }
  }
  return work;
}

void evaluate_comparison(const Model& model, Comparison& comparison, const Device& device, KeptScores& kept) {
  const auto missing = missing_work(comparison, kept);
  comparison.reused = comparison.text.windows.size() * comparison.plans.size();
  std::size_t steps = 0, before = 0;
  for (const auto& [plans, windows] : missing) {
    const llama::SharedPrefixes shared = llama::shared_prefixes(model.config.layers, selected(comparison.plans, plans));
    steps += windows.size() * (shared.layer_runs() + shared.streams);
    comparison.reused -= plans.size() * windows.size();
  }
  if (!missing.empty()) {
    Progress progress("compare: step", steps);
    for (const auto& [plan_indices, window_indices] : missing) {
      const ComparedQuantization& rounded = comparison.quantizations[comparison.quantization_of[plan_indices.front()]];
      const llama::RoundingLoader loader = rounding_loader(model, rounded.quantization, rounded.options, device);
      const llama::OuterWeights outer = loader.outer(device);
      const std::vector<lsaq::Plan> plans = selected(comparison.plans, plan_indices);
      const std::vector<llama::ScoredWindow> windows = selected(comparison.text.windows, window_indices);
      // Rounding by calibration takes longer than a chunk: as few chunks as memory allows.
      const bool slow = rounded.quantization.needs_calibration();
      const llama::PlanEvaluationOptions options{.memory = slow ? 2_GiB : 512_MiB,
                                                 .largest_chunk = slow ? 0 : std::max<std::size_t>(1, chunk_tokens / comparison.text.longest)};
      std::size_t done_here = 0;
      llama::evaluate_plans(
          model.config, loader, outer, device, windows, plans, options,
          [&](std::size_t first, const llama::PlanScores& chunk) {
            for (std::size_t w = 0; w < chunk.reference.size(); ++w) {
              const std::string key = KeptScores::key_of(windows[first + w]);
              for (std::size_t p = 0; p < plans.size(); ++p) kept.add(key, KeptScores::key_of(comparison, plan_indices[p]), chunk.plans[p][w]);
            }
            kept.save();
          },
          [&](std::size_t done, std::size_t) {
            check_interrupt();
            done_here = done;
            progress.set(before + done);
          });
      before += done_here;
    }
  }
  comparison.scores = {};
  comparison.scores.plans.resize(comparison.plans.size());
  for (const llama::ScoredWindow& window : comparison.text.windows) {
    const std::string key = KeptScores::key_of(window);
    for (std::size_t p = 0; p < comparison.plans.size(); ++p) comparison.scores.plans[p].push_back(kept.find(key, KeptScores::key_of(comparison, p)).value());
  }
  comparison.scores.reference = comparison.scores.plans[comparison.uniform.front().plan]; // 16 bits: the set is in falling order
}

} // namespace command
