#include "input_statistics_cache.hpp"
#include "checkpoint.hpp"

#include <lsaq/formats/atomic_file.hpp>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

namespace command {

namespace llama = lsaq::llama;

namespace {

constexpr const char* statistics_schema = "lsaq.input_statistics/1";

/// Floats of a symmetric matrix's lower triangle.
constexpr std::size_t triangle(std::size_t n) { return n * (n + 1) / 2; }

} // namespace

// The file of a layer: a line of JSON that says what follows, then for each input the lower triangle of its moments and the inputs held back, as FP32 in
// memory.

InputStatisticsCache::InputStatisticsCache(const Model& model, Windows windows, const Device& device, bool keep)
    : model_(model), device_(device), windows_(std::move(windows)), in_memory_(model.config.layers) {
  key_ = sha256(nlohmann::json{{"schema", statistics_schema}, {"model", model_sha256(model.source)}, {"windows", windows_}}.dump());
  if (keep && !cache_folder().empty()) folder_ = cache_folder() / "statistics" / key_;
}

llama::LayerStatistics InputStatisticsCache::layer(std::size_t layer) {
  if (in_memory_[layer]) return *in_memory_[layer];
  if (std::optional<llama::LayerStatistics> known = read(layer)) return std::move(*known);
  measure();
  if (in_memory_[layer]) return *in_memory_[layer];
  if (std::optional<llama::LayerStatistics> known = read(layer)) return std::move(*known);
  lsaq::fail<lsaq::IoError>(lsaq::printable_path(path_of(layer)) + ": what was just written can't be read back");
}

void InputStatisticsCache::measure() {
  llama::WeightLoader loader(model_.source, model_.config, device_.executor());
  loader.keep_as_stored();
  const llama::OuterWeights outer = loader.outer(device_);
  llama::LayerStatisticsCollector<Device> collector(model_.config, device_, windows_);
  llama::LayerwisePass<Device> pass(model_.config, loader, outer, device_, windows_);
  Checkpoint checkpoint(folder_.empty() ? "" : "input statistics " + key_);
  if (const std::optional<Checkpoint::Contents> saved = checkpoint.read(); saved && saved->boundary < model_.config.layers) {
    bool complete = true;
    for (std::size_t l = 0; l < saved->boundary; ++l) complete = complete && read(l);
    if (complete) {
      pass.resume_at(saved->boundary, saved->states);
      note(fmt::format("calibration: resumed at layer {} of {}", saved->boundary, model_.config.layers));
    }
  }
  Progress progress("calibration: layer", model_.config.layers);
  while (!pass.complete()) {
    const std::size_t layer = pass.boundary();
    progress.set(layer);
    llama::LayerStatistics statistics = calibrate_layer(pass, collector, [](std::size_t) { check_interrupt(); });
    if (!write(layer, statistics)) in_memory_[layer] = std::move(statistics);
    if (checkpoint.due()) checkpoint.write(pass.boundary(), pass.states(), {});
  }
  checkpoint.remove();
}

std::optional<llama::LayerStatistics> InputStatisticsCache::read(std::size_t layer) const {
  std::error_code error;
  if (folder_.empty() || !std::filesystem::is_regular_file(path_of(layer), error)) return std::nullopt;
  try {
    const std::string file = read_file(path_of(layer));
    const std::size_t end = file.find('\n');
    if (end == std::string::npos) return std::nullopt;
    const nlohmann::json head = nlohmann::json::parse(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!head.is_object() || head.value("schema", "") != statistics_schema || head.value("key", "") != key_ || head.value("layer", layer + 1) != layer)
      return std::nullopt;
    const auto inputs = head.at("inputs").get<std::vector<std::size_t>>(), held_back = head.at("held_back").get<std::vector<std::size_t>>();
    if (inputs.size() != llama::inputs_per_layer || held_back.size() != llama::inputs_per_layer) return std::nullopt;
    std::size_t floats = 0;
    for (std::size_t i = 0; i < llama::inputs_per_layer; ++i) {
      const std::size_t n = width_of(model_.config, static_cast<llama::LinearInput>(i));
      if (held_back[i] > file.size()) return std::nullopt;
      floats += triangle(n) + held_back[i] * n;
    }
    if (file.size() != end + 1 + floats * sizeof(float)) return std::nullopt;
    const char* at = file.data() + end + 1;
    const auto take = [&](float* values, std::size_t count) {
      if (count != 0) std::memcpy(values, at, count * sizeof(float));
      at += count * sizeof(float);
    };
    llama::LayerStatistics statistics;
    for (std::size_t i = 0; i < llama::inputs_per_layer; ++i) {
      const std::size_t n = width_of(model_.config, static_cast<llama::LinearInput>(i));
      std::vector<float> moments(n * n), rows(held_back[i] * n);
      for (std::size_t r = 0; r < n; ++r) {
        take(moments.data() + r * n, r + 1);
        for (std::size_t c = 0; c < r; ++c) moments[c * n + r] = moments[r * n + c];
      }
      take(rows.data(), rows.size());
      statistics[i] = lsaq::InputStatistics(n, inputs[i], std::move(moments), std::move(rows));
    }
    return statistics;
  } catch (const std::exception&) {
    return std::nullopt; // measured again
  }
}

bool InputStatisticsCache::write(std::size_t layer, const llama::LayerStatistics& statistics) {
  if (folder_.empty()) return false;
  std::vector<std::size_t> inputs, held_back;
  for (const lsaq::InputStatistics& one : statistics) {
    inputs.push_back(one.inputs());
    held_back.push_back(one.held_back().rows);
  }
  try {
    std::error_code error;
    std::filesystem::create_directories(folder_, error);
    lsaq::AtomicFile file(path_of(layer));
    file.write(nlohmann::json{{"schema", statistics_schema}, {"key", key_}, {"layer", layer}, {"inputs", inputs}, {"held_back", held_back}}.dump() + "\n");
    for (const lsaq::InputStatistics& one : statistics) {
      for (std::size_t r = 0; r < one.channels(); ++r) file.write(std::span(one.moments().row(r), (r + 1) * sizeof(float)));
      file.write(std::span(static_cast<const std::byte*>(one.held_back().data), one.held_back().rows * one.channels() * sizeof(float)));
    }
    file.commit();
    return true;
  } catch (const lsaq::IoError& error) {
    note(fmt::format("note: statistics of the inputs are kept in memory only: {}", error.what()));
    folder_.clear();
    return false;
  }
}

} // namespace command
