// Forward passes layer by layer over many windows: one layer's weights are in memory at a time, so that models larger than memory can be measured.
#pragma once

#include <lsaq/models/llama_layer.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Token ids of calibration windows; each is a sequence of its own.
using Windows = std::vector<std::vector<TokenId>>;

/// Runs all windows through all layers, one layer at a time.
///
/// `on_states(boundary, window, states)` sees the residual stream (FP32, tokens x hidden) of every window at every boundary: 0 enters the first layer, n_layers
/// leaves the last one, before the final norm. `on_weights(layer, weights)` sees each layer before it runs. Weights are kept as the loader's unquantized type,
/// keys and values as FP32. Memory: one layer, the residual stream of all windows, working memory of the longest. Throws InvalidArgument for ids beyond the
/// vocabulary.
template <backend Device, class OnStates, class OnWeights>
void run_layerwise(const Config& config, const WeightLoader& loader, const OuterWeights& outer, const Device& device, const Windows& windows,
                   OnStates&& on_states, OnWeights&& on_weights) {
  std::size_t tokens = 0, longest = 0;
  for (const std::vector<TokenId>& window : windows) {
    check_tokens(config, window);
    tokens += window.size();
    longest = std::max(longest, window.size());
  }
  if (longest == 0) fail<InvalidArgument>("there are no calibration tokens");
  std::vector<float> streams(tokens * config.hidden);
  std::vector<float> memory(LayerWorkspace::floats(config, longest));
  LayerWorkspace workspace = LayerWorkspace::divide(config, longest, memory);
  KvCache cache(config, 1, longest, ElementType::f32);
  fill_rotation(config, 0, longest, workspace.rotation);

  const auto each_window = [&](auto&& act) {
    std::size_t first = 0;
    for (std::size_t w = 0; w < windows.size(); ++w) {
      act(w, std::span(streams).subspan(first * config.hidden, windows[w].size() * config.hidden));
      first += windows[w].size();
    }
  };
  const auto show = [&](std::size_t boundary, std::size_t w, std::span<float> stream) {
    on_states(boundary, w, MatrixView(stream.data(), windows[w].size(), config.hidden));
  };

  each_window([&](std::size_t w, std::span<float> stream) {
    embed(config, device.kernels(), outer, windows[w], stream);
    show(0, w, stream);
  });
  for (std::size_t layer = 0; layer < config.layers; ++layer) {
    const LayerWeights weights = loader.layer(device, layer, [](std::string_view) { return 16u; });
    on_weights(layer, weights);
    each_window([&](std::size_t w, std::span<float> stream) {
      workspace.x = stream;
      run_layer(config, weights, device, cache, 0, 0, windows[w].size(), workspace);
      show(layer + 1, w, stream);
    });
  }
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
