// Forward passes layer by layer over many windows: one layer's weights are in memory at a time, so that models larger than memory can be measured.
#pragma once

#include <lsaq/models/llama_layer.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Token ids of calibration windows; each is a sequence of its own.
using Windows = std::vector<std::vector<TokenId>>;

/// A pass of all windows through all layers, one layer at a time. Between layers it may be looked at, saved and resumed.
///
/// Memory: the residual stream of all windows, working memory of the longest, and one layer's weights while it runs. Weights are the loader's unquantized type,
/// keys and values FP32. Refers to its arguments, which the caller keeps.
template <backend Device> class LayerwisePass {
public:
  /// Stands at boundary 0: the embeddings of the tokens. Throws InvalidArgument for ids beyond the vocabulary and windows without tokens.
  LayerwisePass(const Config& config, const WeightLoader& loader, const OuterWeights& outer, const Device& device, const Windows& windows)
      : config_(config), loader_(loader), device_(device), windows_(windows) {
    std::size_t tokens = 0, longest = 0;
    for (const std::vector<TokenId>& window : windows) {
      check_tokens(config, window);
      if (window.empty()) fail<InvalidArgument>("a calibration window has no tokens");
      tokens += window.size();
      longest = std::max(longest, window.size());
    }
    if (longest == 0) fail<InvalidArgument>("there are no calibration tokens");
    streams_.resize(tokens * config.hidden);
    memory_.resize(LayerWorkspace::floats(config, longest));
    workspace_ = LayerWorkspace::divide(config, longest, memory_);
    cache_ = std::make_unique<KvCache>(config, 1, longest, ElementType::f32);
    fill_rotation(config, 0, longest, workspace_.rotation);
    for (std::size_t w = 0, first = 0; w < windows.size(); first += windows[w++].size())
      embed(config, device.kernels(), outer, windows[w], std::span(streams_).subspan(first * config.hidden));
  }

  /// The boundary it stands at: 0 enters the first layer, config.layers leaves the last one, before the final norm.
  std::size_t boundary() const noexcept { return boundary_; }
  bool complete() const noexcept { return boundary_ == config_.layers; }

  /// The residual streams of all windows, one after another: tokens x hidden, FP32, valid until the next layer runs.
  MatrixView states() const noexcept { return {streams_.data(), streams_.size() / config_.hidden, config_.hidden}; }

  /// Continues at `boundary` with the states of then. Throws InvalidArgument if they are of other windows.
  void resume_at(std::size_t boundary, std::span<const float> states) {
    if (boundary > config_.layers || states.size() != streams_.size()) fail<InvalidArgument>("these are not the hidden states of this pass");
    std::copy(states.begin(), states.end(), streams_.begin());
    boundary_ = boundary;
  }

  /// Runs the next layer on all windows: on_weights(layer, weights) sees it first, on_window(window) is called before each window; what they throw ends the
  /// pass, which is then of no use. Precondition: not complete().
  template <class OnWeights, class OnWindow> void run_layer(OnWeights&& on_weights, OnWindow&& on_window) {
    run_layer(on_weights, on_window, [](LinearInput, MatrixView) {});
  }

  /// The same; on_input sees the inputs of the linears of each window, as llama::run_layer() shows them.
  template <class OnWeights, class OnWindow, class OnInput> void run_layer(OnWeights&& on_weights, OnWindow&& on_window, OnInput&& on_input) {
    const LayerWeights weights = loader_.layer(device_, boundary_, [](std::string_view) { return 16u; });
    on_weights(boundary_, weights);
    run_layer_with(weights, on_window, on_input);
  }

  /// Runs the next layer with weights of the caller's, rounded ones for example.
  template <class OnWindow, class OnInput> void run_layer_with(const LayerWeights& weights, OnWindow&& on_window, OnInput&& on_input) {
    for_each_window(on_window, [&](std::span<float> stream) { run(weights, stream, on_input); });
    ++boundary_;
  }

  /// Shows the inputs of the next layer's linears, with weights of the caller's, and stays where it is.
  template <class OnWindow, class OnInput> void look_at_layer(const LayerWeights& weights, OnWindow&& on_window, OnInput&& on_input) {
    std::vector<float> copy;
    for_each_window(on_window, [&](std::span<const float> stream) {
      copy.assign(stream.begin(), stream.end());
      run(weights, copy, on_input);
    });
  }

private:
  template <class OnWindow, class Act> void for_each_window(OnWindow&& on_window, Act&& act) {
    for (std::size_t w = 0, first = 0; w < windows_.size(); first += windows_[w++].size()) {
      on_window(w);
      act(std::span(streams_).subspan(first * config_.hidden, windows_[w].size() * config_.hidden));
    }
  }

  template <class OnInput> void run(const LayerWeights& weights, std::span<float> stream, OnInput&& on_input) {
    workspace_.x = stream;
    llama::run_layer(config_, weights, device_, *cache_, 0, 0, stream.size() / config_.hidden, workspace_, on_input);
  }

  const Config& config_;
  const WeightLoader& loader_;
  const Device& device_;
  const Windows& windows_;
  std::vector<float> streams_;
  std::vector<float> memory_;
  LayerWorkspace workspace_;
  std::unique_ptr<KvCache> cache_;
  std::size_t boundary_ = 0;
};

/// Runs all windows through all layers. `on_states(boundary, window, states)` sees the residual stream (FP32, tokens x hidden) of every window at every
/// boundary, `on_weights(layer, weights)` each layer before it runs.
template <backend Device, class OnStates, class OnWeights>
void run_layerwise(const Config& config, const WeightLoader& loader, const OuterWeights& outer, const Device& device, const Windows& windows,
                   OnStates&& on_states, OnWeights&& on_weights) {
  LayerwisePass<Device> pass(config, loader, outer, device, windows);
  const auto show = [&] {
    for (std::size_t w = 0, first = 0; w < windows.size(); first += windows[w++].size())
      on_states(pass.boundary(), w, pass.states().slice(first, windows[w].size()));
  };
  show();
  while (!pass.complete()) {
    pass.run_layer(on_weights, [](std::size_t) {});
    show();
  }
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
