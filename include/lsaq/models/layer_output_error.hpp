// What quantizing a single layer does to its own output: measured on the unquantized residual stream, without running the rest of the model.
#pragma once

#include <lsaq/models/evaluation.hpp>

namespace lsaq::inline v0::llama {

/// The error of one layer's output on one window, summed over its positions. With x the stream that enters, y the one that leaves the unquantized layer and
/// y + dy the one that leaves the quantized layer:
struct LayerOutputError {
  double relative = 0;           ///< sum of |dy|^2 / |y|^2
  double relative_to_update = 0; ///< sum of |dy|^2 / |y - x|^2: against what the layer adds
  double error_energy = 0;       ///< sum of |dy|^2
  double output_energy = 0;      ///< sum of |y|^2
  double update_energy = 0;      ///< sum of |y - x|^2
  std::size_t positions = 0;

  /// Mean over the positions of |dy|^2 / |y|^2.
  double mean() const noexcept { return relative / static_cast<double>(positions); }
  /// |dy|^2 / |y|^2 of all positions together: dominated by the positions with the largest states.
  double total_ratio() const noexcept { return error_energy / output_energy; }

  LayerOutputError& operator+=(const LayerOutputError& other) noexcept {
    relative += other.relative;
    relative_to_update += other.relative_to_update;
    error_energy += other.error_energy;
    output_energy += other.output_energy;
    update_energy += other.update_energy;
    positions += other.positions;
    return *this;
  }
};

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Compares rows of x, y and the quantized layer's y, each tokens x hidden.
inline LayerOutputError output_error(std::span<const float> x, std::span<const float> y, std::span<const float> quantized, std::size_t hidden) noexcept {
  LayerOutputError sum;
  const auto n = static_cast<Eigen::Index>(hidden);
  using Row = Eigen::Map<const Eigen::ArrayXf, Eigen::Unaligned>;
  for (std::size_t first = 0; first < y.size(); first += hidden) {
    const Row in(x.data() + first, n), out(y.data() + first, n), other(quantized.data() + first, n);
    // States reach 26,000 and their squares 7e8: no overflow in single precision, but sums of squares are kept in double.
    const double error = (other - out).cast<double>().square().sum();
    const double output = out.cast<double>().square().sum();
    const double update = (out - in).cast<double>().square().sum();
    sum += {output > 0 ? error / output : 0, update > 0 ? error / update : 0, error, output, update, 1};
  }
  return sum;
}

/// The output errors of every layer at `bits`, result[layer][window]; the stream goes on unquantized.
///
/// `loader` is the deployment's. `on_step(steps done, steps in all)` is called after each window of a layer, on the calling thread; what it throws ends the
/// measurement. Keys and values are F16. Memory: one layer at 16 and at `bits` bits, the residual stream of all windows, working memory of the longest. Throws
/// InvalidArgument for ids beyond the vocabulary, other bits than 16 and 2 to 8, or no tokens; BadInput, std::bad_alloc.
template <backend Device, class OnStep>
std::vector<std::vector<LayerOutputError>> layer_output_errors(const Config& config, const WeightLoader& loader, const OuterWeights& outer,
                                                               const Device& device, const Windows& windows, unsigned bits, OnStep&& on_step) {
  std::size_t tokens = 0, longest = 0;
  for (const std::vector<TokenId>& window : windows) {
    check_tokens(config, window);
    tokens += window.size();
    longest = std::max(longest, window.size());
  }
  if (longest == 0) fail<InvalidArgument>("there are no tokens to measure on");
  std::vector<float> streams(tokens * config.hidden), entering(longest * config.hidden), quantized(longest * config.hidden);
  std::vector<float> memory(LayerWorkspace::floats(config, longest));
  LayerWorkspace workspace = LayerWorkspace::divide(config, longest, memory);
  fill_rotation(config, 0, longest, workspace.rotation);
  KvCache cache(config, 1, longest, ElementType::f16);

  const auto each_window = [&](auto&& act) {
    std::size_t first = 0;
    for (std::size_t w = 0; w < windows.size(); ++w) {
      act(w, std::span(streams).subspan(first * config.hidden, windows[w].size() * config.hidden));
      first += windows[w].size();
    }
  };
  const auto run = [&](const LayerWeights& weights, std::size_t w, std::span<float> stream) {
    workspace.x = stream;
    run_layer(config, weights, device, cache, 0, 0, windows[w].size(), workspace);
  };
  each_window([&](std::size_t w, std::span<float> stream) { embed(config, device.kernels(), outer, windows[w], stream); });
  std::vector<std::vector<LayerOutputError>> errors(config.layers);
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    const LayerWeights exact = loader.layer(device, layer, [](std::string_view) { return 16u; });
    const LayerWeights rounded = loader.layer(device, layer, [&](std::string_view) { return bits; });
    each_window([&](std::size_t w, std::span<float> stream) {
      const std::span<float> before = std::span(entering).first(stream.size()), other = std::span(quantized).first(stream.size());
      std::copy(stream.begin(), stream.end(), before.begin());
      std::copy(stream.begin(), stream.end(), other.begin());
      run(exact, w, stream);
      run(rounded, w, other);
      errors[layer].push_back(output_error(before, stream, other, config.hidden));
      on_step(layer * windows.size() + w + 1, config.layers * windows.size());
    });
  }
  return errors;
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
