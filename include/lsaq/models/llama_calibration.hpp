// Statistics of the inputs of all linears, layer by layer over calibration windows.
#pragma once

#include <lsaq/models/layerwise.hpp>
#include <lsaq/quantization/input_statistics.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Statistics of a layer's four inputs, indexed by LinearInput, in the basis of the stored model. Those of attention and mlp are of the normalized residual
/// stream before the norm's gain: gains as small as 1e-5 occur, and can be multiplied by later but not divided by.
using LayerStatistics = std::array<InputStatistics, inputs_per_layer>;

/// Inputs of a linear that statistics hold back, at most.
inline constexpr std::size_t most_held_back = 512;

/// Collects statistics while layers run; used by calibrate_layer() and by engines that run layers themselves.
template <backend Device> class LayerStatisticsCollector {
public:
  /// `windows` that take part; the last one in sixteen (at least one, if there are two) is held back, most_held_back of its inputs at most.
  LayerStatisticsCollector(const Config& config, const Device& device, const Windows& windows) : config_(config), device_(device) {
    first_held_back_ = windows.size() < 2 ? windows.size() : windows.size() - (windows.size() + 15) / 16;
    std::size_t held_back = 0;
    for (std::size_t w = first_held_back_; w < windows.size(); ++w) held_back += windows[w].size();
    step_ = std::max<std::size_t>(1, (held_back + most_held_back - 1) / most_held_back);
    start_layer();
  }

  void start_layer() {
    for (std::size_t i = 0; i < inputs_per_layer; ++i) statistics_[i] = InputStatistics(width_of(config_, static_cast<LinearInput>(i)));
    seen_ = {};
  }

  /// Inputs of a window, as run_layer() shows them: for attention and mlp the residual stream before the norm.
  void add(std::size_t window, LinearInput input, MatrixView rows) {
    if (input == LinearInput::attention || input == LinearInput::mlp) rows = normalized(rows);
    InputStatistics& statistics = statistics_[static_cast<std::size_t>(input)];
    if (window < first_held_back_) return statistics.add(device_, rows);
    std::size_t& seen = seen_[static_cast<std::size_t>(input)];
    for (std::size_t r = 0; r < rows.rows; ++r, ++seen)
      if (seen % step_ == 0) statistics.hold_back(rows.slice(r, 1));
  }

  LayerStatistics finish_layer() {
    for (InputStatistics& statistics : statistics_) statistics.finish();
    return std::move(statistics_);
  }

private:
  MatrixView normalized(MatrixView rows) {
    normalized_.resize(rows.rows * rows.columns);
    const auto n = static_cast<Eigen::Index>(rows.columns);
    for (std::size_t r = 0; r < rows.rows; ++r) {
      const Eigen::Map<const Eigen::ArrayXf, Eigen::Unaligned> x(reinterpret_cast<const float*>(rows.row(r)), n);
      const float mean = x.square().sum() / static_cast<float>(rows.columns);
      Eigen::Map<Eigen::ArrayXf, Eigen::Unaligned>(normalized_.data() + r * rows.columns, n) = x * (1.0f / std::sqrt(mean + static_cast<float>(config_.epsilon)));
    }
    return {normalized_.data(), rows.rows, rows.columns};
  }

  const Config& config_;
  const Device& device_;
  std::size_t first_held_back_ = 0, step_ = 1;
  LayerStatistics statistics_;
  std::array<std::size_t, inputs_per_layer> seen_ = {};
  std::vector<float> normalized_;
};

/// Statistics of a layer's inputs: run(on_window, on_input) shows it all windows, as LayerwisePass does. on_window(w) is called before each window; what it
/// throws ends the pass. Memory: one layer's statistics. Throws what `run` throws and as InputStatistics.
template <backend Device, class OnWindow, class Run>
LayerStatistics collect_statistics(LayerStatisticsCollector<Device>& collector, OnWindow&& on_window, Run&& run) {
  std::size_t window = 0;
  collector.start_layer();
  run(
      [&](std::size_t w) {
        on_window(w);
        window = w;
      },
      [&](LinearInput input, MatrixView rows) { collector.add(window, input, rows); });
  return collector.finish_layer();
}

/// Runs the next layer of a pass over all its windows and gives the statistics of its inputs. on_window(w) is called before each window; what it throws ends
/// the pass. Memory beside the pass's: one layer's statistics. Throws as LayerwisePass and InputStatistics.
template <backend Device, class OnWindow>
LayerStatistics calibrate_layer(LayerwisePass<Device>& pass, LayerStatisticsCollector<Device>& collector, OnWindow&& on_window) {
  return collect_statistics(collector, on_window,
                            [&](auto&& begin_window, auto&& on_input) { pass.run_layer([](std::size_t, const LayerWeights&) {}, begin_window, on_input); });
}

/// The basis that statistics were collected in.
enum class StatisticsBasis : std::uint8_t {
  stored,     ///< of the model as it is stored: they serve every transformation
  transformed ///< of the transformed model itself
};

/// The statistics of an input as the transformed model's linears see it. `gain` is the norm's as it is stored, for attention and mlp.
inline InputStatistics transformed(InputStatistics statistics, const ModelTransform* transform, std::size_t layer, LinearInput input,
                                   std::span<const float> gain, StatisticsBasis basis = StatisticsBasis::stored, ExecutorRef executor = {}) {
  const bool normed = input == LinearInput::attention || input == LinearInput::mlp;
  const bool gain_is_folded = transform != nullptr && !transform->residual().empty();
  if (basis == StatisticsBasis::transformed) {
    if (!normed || gain_is_folded) return statistics;
    std::vector<float> now(gain.begin(), gain.end());
    if (transform != nullptr) transform->apply_to_gain(layer, input, now);
    statistics.multiply(now);
    return statistics;
  }
  if (normed && !gain_is_folded) statistics.multiply(gain);
  if (transform == nullptr) return statistics;
  if (std::vector<float> factors = transform->factors(layer, input); !factors.empty()) {
    for (float& factor : factors) factor = 1 / factor;
    statistics.multiply(factors);
  }
  if (const Rotation& rotation = transform->rotation_of(input); !rotation.empty()) statistics.rotate(rotation, executor);
  return statistics;
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
