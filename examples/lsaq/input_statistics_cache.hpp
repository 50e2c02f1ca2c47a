// Statistics of the inputs of all linears: measured once, layer by layer, kept in the user's cache, and good for every bit width.
#pragma once

#include "calibration.hpp"
#include "device.hpp"

#include <lsaq/models/llama_calibration.hpp>

namespace command {

/// The statistics of one model on one set of windows. They are measured when a layer is first asked for.
class InputStatisticsCache {
public:
  /// `keep`: in files of the cache folder; else, or where these can't be written, in memory. `model` and `device` must outlive it.
  InputStatisticsCache(const Model& model, Windows windows, const Device& device, bool keep);

  /// Measures all layers if they are not there yet, with progress; an interrupted measurement goes on where it was. Throws BadInput, Interrupted.
  lsaq::llama::LayerStatistics layer(std::size_t layer);

private:
  std::filesystem::path path_of(std::size_t layer) const { return folder_ / std::to_string(layer); }
  void measure();
  std::optional<lsaq::llama::LayerStatistics> read(std::size_t layer) const;
  /// Whether it could be written; the first failure is noted.
  bool write(std::size_t layer, const lsaq::llama::LayerStatistics& statistics);

  const Model& model_;
  const Device& device_;
  Windows windows_;
  std::string key_;              ///< everything the statistics depend on, hashed
  std::filesystem::path folder_; ///< empty: nothing is kept
  std::vector<std::optional<lsaq::llama::LayerStatistics>> in_memory_;
};

} // namespace command
