#include "plan_difference.hpp"

#include "model_files.hpp"

#include <lsaq/formats/plan_file.hpp>
#include <lsaq/planning/plan_difference.hpp>
#include <lsaq/report.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace command {

namespace {

struct ReadFile {
  std::string name;
  nlohmann::json json;
  lsaq::PlanFile plan;

  explicit ReadFile(const std::string& path)
      : name(lsaq::printable(path)), json(lsaq::parse_json(read_file(path), name)), plan(lsaq::plan_from_json(json, name)) {}

  /// A part of its bytes; nothing where the file does not tell.
  std::optional<lsaq::Bytes> bytes(const char* part) const {
    const auto all = json.find("bytes");
    if (all == json.end() || !all->is_object()) return std::nullopt;
    const auto found = all->find(part);
    return found != all->end() && found->is_number_unsigned() ? std::optional(found->get<lsaq::Bytes>()) : std::nullopt;
  }
};

constexpr const char* parts[] = {"weights", "embedding", "kv_cache", "activations", "reserve", "total", "memory"};
constexpr const char* settings[] = {"model",    "model_sha256", "planner", "rounding", "granularity", "codes",
                                    "rotation", "scale",        "format",  "context",  "kv_bits",     "average_bits"};

std::string text_of(const std::vector<lsaq::PlanChange>& changes) {
  if (changes.empty()) return "no layer's bits differ\n";
  std::map<std::pair<unsigned, unsigned>, std::vector<std::size_t>> layers;
  for (const lsaq::PlanChange& change : changes)
    if (change.linear.empty()) layers[{change.from, change.to}].push_back(change.layer);
  std::string text;
  for (const auto& [bits, which] : layers)
    text += fmt::format("{:2} -> {:2} bits  {:3} layer{}  {}\n", bits.first, bits.second, which.size(), which.size() == 1 ? " " : "s",
                        lsaq::wrap(lsaq::format_ranges(which), 28));
  for (const lsaq::PlanChange& change : changes)
    if (!change.linear.empty())
      text += fmt::format("{:2} -> {:2} bits  layer {} {}\n", change.from, change.to, change.layer, lsaq::printable(change.linear, 40));
  return text;
}

} // namespace

void compare_plans(const std::string& from_path, const std::string& to_path, const Global& global) {
  const ReadFile from(from_path), to(to_path);
  if (from.plan.plan.bits.size() != to.plan.plan.bits.size())
    lsaq::fail<lsaq::BadInput>(fmt::format("{} is a plan for {} layers, {} one for {}: they can't be compared", from.name, from.plan.plan.bits.size(), to.name,
                                           to.plan.plan.bits.size()));
  const std::vector<lsaq::PlanChange> found = lsaq::changes(from.plan.plan, to.plan.plan);
  nlohmann::json json{
      {"schema", "lsaq.plan_difference/1"}, {"from", from.name}, {"to", to.name}, {"changes", nlohmann::json::array()}, {"settings", nlohmann::json::object()},
      {"bytes", nlohmann::json::object()}};
  for (const lsaq::PlanChange& change : found) {
    nlohmann::json one{{"layer", change.layer}, {"from", change.from}, {"to", change.to}};
    if (!change.linear.empty()) one["linear"] = change.linear;
    json["changes"].push_back(one);
  }
  std::string text = text_of(found) + "\n";
  for (const char* setting : settings) {
    const nlohmann::json a = from.json.value(setting, nlohmann::json()), b = to.json.value(setting, nlohmann::json());
    if (a == b) continue;
    json["settings"][setting] = {a, b};
    text += lsaq::wrap(fmt::format("{}: {} -> {}", setting, lsaq::printable(a.dump(), 64), lsaq::printable(b.dump(), 64)), 2) + "\n";
  }
  for (const char* part : parts) {
    const std::optional<lsaq::Bytes> a = from.bytes(part), b = to.bytes(part);
    if (!a || !b) continue;
    json["bytes"][part] = {*a, *b};
    const std::string difference = *a == *b ? "" : fmt::format("{}{}", *b > *a ? "+" : "-", *b > *a ? *b - *a : *a - *b);
    text += fmt::format("{:<12}{:>18}{:>18}  {}\n", part, *a, *b, difference);
  }
  if (global.json) return print_json(json);
  print_text(text);
}

} // namespace command
