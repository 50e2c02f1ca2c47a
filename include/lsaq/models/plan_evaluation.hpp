// Many plans of one model over the same windows in one pass: layer by layer, one layer's weights in memory at a time, and what plans have in common computed
// once.
//
// Plans that agree on the layers 0 .. l have the same residual stream up to there. Breadth first over the layers, every distinct (stream, bits) pair is run
// once; after the last layer, every distinct stream is normed, projected and compared with the unquantized model's predictions.
#pragma once

#include <lsaq/models/evaluation.hpp>

#include <map>

namespace lsaq::inline v0::llama {

/// Bits of the linears of one layer, in the order of `Linear`.
using LayerBits = std::array<unsigned, linears_per_layer>;

/// Which layer runs a set of plans needs; made by shared_prefixes().
struct SharedPrefixes {
  /// One run of a layer: reads the stream `from` and leaves its result in `to`, which may be the same.
  struct Run {
    std::size_t from = 0;
    std::size_t to = 0;
  };
  /// A layer at some bits, and all runs that need it so.
  struct Variant {
    LayerBits bits = {};
    std::vector<Run> runs = {};
  };

  std::vector<std::vector<Variant>> layers = {}; ///< in the order to run them
  std::vector<std::size_t> streams_of = {};      ///< by plan: the stream of its result; stream 0 is the unquantized model's
  std::size_t streams = 1;                       ///< distinct results: streams in memory at the end, and at most ever

  /// Layer runs a window takes, all plans and the unquantized model together.
  std::size_t layer_runs() const noexcept {
    std::size_t runs = 0;
    for (const std::vector<Variant>& variants : layers)
      for (const Variant& variant : variants) runs += variant.runs.size();
    return runs;
  }
};

/// Scores of plans over windows.
struct PlanScores {
  std::vector<WindowScore> reference = {};          ///< the unquantized model, by window: divergence 0, full agreement
  std::vector<std::vector<WindowScore>> plans = {}; ///< by plan, then window
};

/// How plans are evaluated.
struct PlanEvaluationOptions {
  Bytes memory = 512_MiB;            ///< for residual streams; decides how many windows are processed together, one at least
  std::size_t largest_chunk = 0;     ///< windows processed together at most; 0: as many as fit
  ElementType kv = ElementType::f16; ///< keys and values, F16 as a Decoder has them by default
};

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// What has to be run for `plans` and the unquantized model. Throws InvalidArgument for a plan of another number of layers or other bits than 16 and 2 to 8.
inline SharedPrefixes shared_prefixes(std::size_t layers, std::span<const Plan> plans) {
  const auto bits_at = [](const Plan& plan, std::size_t layer) {
    LayerBits bits;
    for (std::size_t i = 0; i < linears_per_layer; ++i) bits[i] = plan.bits_of(layer, name_of(static_cast<Linear>(i)));
    return bits;
  };
  for (const Plan& plan : plans) {
    if (plan.bits.size() != layers)
      fail<InvalidArgument>("a plan has bits for " + std::to_string(plan.bits.size()) + " layers, the model has " + std::to_string(layers));
    for (std::size_t layer = 0; layer < layers; ++layer)
      for (const unsigned bits : bits_at(plan, layer))
        if (bits != 16 && (bits < min_bits || bits > max_bits))
          fail<InvalidArgument>("a plan has " + std::to_string(bits) + " bits in layer " + std::to_string(layer) + ": 16 and 2 to 8 can be evaluated");
  }
  LayerBits unquantized;
  unquantized.fill(16);
  SharedPrefixes shared;
  shared.streams_of.assign(plans.size(), 0);
  for (std::size_t layer = 0; layer < layers; ++layer) {
    std::map<std::pair<std::size_t, LayerBits>, std::size_t> children{{{0, unquantized}, 0}}; // by stream, then bits: the stream that results
    for (std::size_t p = 0; p < plans.size(); ++p) children[{shared.streams_of[p], bits_at(plans[p], layer)}] = 0;
    // Variants run in the order of their bits, so a stream's child with the most bits is the last to read it and takes its place.
    std::map<LayerBits, std::vector<SharedPrefixes::Run>> variants;
    for (auto at = children.begin(); at != children.end(); ++at) {
      const auto& [stream, bits] = at->first;
      const bool last = std::next(at) == children.end() || std::next(at)->first.first != stream;
      at->second = last ? stream : shared.streams++;
      variants[bits].push_back({stream, at->second});
    }
    std::vector<SharedPrefixes::Variant>& ordered = shared.layers.emplace_back();
    for (auto& [bits, runs] : variants) ordered.push_back({bits, std::move(runs)});
    for (std::size_t p = 0; p < plans.size(); ++p) shared.streams_of[p] = children.at({shared.streams_of[p], bits_at(plans[p], layer)});
  }
  return shared;
}

namespace detail {

/// Scores windows of a chunk whose residual streams have left the last layer.
template <backend Device> class PredictionScorer {
public:
  PredictionScorer(const Config& config, const OuterWeights& outer, const Device& device)
      : config_(config), outer_(outer), device_(device), normed_(logits_block * config.hidden),
        workspace_(device.workspace_bytes(outer.head(), logits_block)) {
    for (std::vector<float>* block : {&reference_, &exponentials_, &other_}) block->resize(logits_block * config.vocabulary);
  }

  /// Scores `window` for every stream; stream_of(s) is the residual stream s of the window, tokens x hidden; stream 0 is the reference.
  template <class StreamOf> std::vector<WindowScore> score(const ScoredWindow& window, std::size_t streams, StreamOf&& stream_of) {
    std::vector<WindowScore> scores(streams);
    std::vector<ReferencePrediction> predictions;
    std::vector<WindowScore> each(logits_block); // one a target, added in their order
    for (std::size_t target = window.first_scored; target < window.tokens.size(); target += logits_block) {
      const std::size_t count = std::min(logits_block, window.tokens.size() - target);
      const std::span<const TokenId> targets = std::span(window.tokens).subspan(target, count);
      predictions.resize(count);
      for (std::size_t s = 0; s < streams; ++s) {
        std::vector<float>& logits = s == 0 ? reference_ : other_;
        project(config_, outer_, device_, MatrixView(stream_of(s).data() + (target - 1) * config_.hidden, count, config_.hidden), normed_,
                MutableMatrixView(logits.data(), count, config_.vocabulary), workspace_);
        device_.executor().parallel_for(count, [&](std::size_t t) {
          const std::size_t first = t * config_.vocabulary;
          const std::span<const float> row = std::span<const float>(logits).subspan(first, config_.vocabulary);
          each[t] = {};
          if (s == 0) {
            predictions[t] = ReferencePrediction::prepare(row, std::span(exponentials_).subspan(first, config_.vocabulary));
            predictions[t].compare_with_itself(targets[t], each[t]);
          } else {
            predictions[t].compare(row, targets[t], each[t]);
          }
        });
        for (std::size_t t = 0; t < count; ++t) scores[s] += each[t];
      }
    }
    return scores;
  }

private:
  const Config& config_;
  const OuterWeights& outer_;
  const Device& device_;
  std::vector<float> normed_, reference_, exponentials_, other_;
  std::vector<std::byte> workspace_;
};

} // namespace detail

/// Evaluates `plans` and the unquantized model over `windows`, chunk by chunk; all results together are returned.
///
/// `loader` is the deployment's, a WeightLoader or RoundingLoader: with it, scores are those of a Decoder with each plan's weights, up to rounding.
/// `on_chunk(first window, PlanScores of the chunk)` is called after each chunk, `on_step(steps done, steps in all)` often, both on the calling thread; what
/// they throw ends the evaluation. A step is one layer on one window, or the scoring of one window of one plan. Results do not depend on the other plans, the
/// chunks or the number of threads.
///
/// Memory: one layer, `options.memory` of residual streams, working memory of the longest window, and 3 x 64 x vocabulary floats. Throws InvalidArgument for
/// plans shared_prefixes() refuses, ids beyond the vocabulary, windows without tokens or that score from 0 on, or no window; BadInput, std::bad_alloc.
template <class Loader, backend Device, class OnChunk, class OnStep>
PlanScores evaluate_plans(const Config& config, const Loader& loader, const OuterWeights& outer, const Device& device, std::span<const ScoredWindow> windows,
                          std::span<const Plan> plans, const PlanEvaluationOptions& options, OnChunk&& on_chunk, OnStep&& on_step) {
  const SharedPrefixes shared = shared_prefixes(config.layers, plans);
  std::size_t longest = 0;
  for (const ScoredWindow& window : windows) {
    check_tokens(config, window.tokens);
    if (window.first_scored == 0) fail<InvalidArgument>("the first token of a window can't be scored: there is nothing before it");
    if (window.tokens.empty()) fail<InvalidArgument>("a window without tokens can't be evaluated");
    longest = std::max(longest, window.tokens.size());
  }
  if (windows.empty()) fail<InvalidArgument>("there are no windows to evaluate");

  std::vector<float> memory(LayerWorkspace::floats(config, longest));
  LayerWorkspace workspace = LayerWorkspace::divide(config, longest, memory);
  fill_rotation(config, 0, longest, workspace.rotation);
  KvCache cache(config, 1, longest, options.kv);
  detail::PredictionScorer<Device> scorer(config, outer, device);

  const std::size_t steps = windows.size() * (shared.layer_runs() + shared.streams);
  std::size_t done = 0;
  const auto step = [&](std::size_t count) { on_step(done += count, steps); };

  const std::size_t window_bytes_per_token = shared.streams * config.hidden * sizeof(float);
  PlanScores all;
  all.plans.resize(plans.size());
  for (std::size_t first = 0; first < windows.size();) {
    // As many windows as fit.
    std::size_t end = first, tokens = 0;
    while (end < windows.size() && (end == first || ((options.largest_chunk == 0 || end - first < options.largest_chunk) &&
                                                     Bytes{tokens + windows[end].tokens.size()} * window_bytes_per_token <= options.memory)))
      tokens += windows[end++].tokens.size();
    const std::span<const ScoredWindow> chunk = windows.subspan(first, end - first);
    std::vector<std::size_t> offsets; // of each window in a stream, in floats
    std::vector<std::vector<float>> streams(shared.streams);
    streams[0].resize(tokens * config.hidden);
    for (std::size_t offset = 0; const ScoredWindow& window : chunk) {
      offsets.push_back(offset);
      embed(config, device.kernels(), outer, window.tokens, std::span(streams[0]).subspan(offset));
      offset += window.tokens.size() * config.hidden;
    }
    const auto part = [&](std::size_t stream, std::size_t w) { return std::span(streams[stream]).subspan(offsets[w], chunk[w].tokens.size() * config.hidden); };

    for (std::size_t layer = 0; layer < config.layers; ++layer)
      for (const SharedPrefixes::Variant& variant : shared.layers[layer]) {
        std::size_t linear = 0; // the loader asks for the linears in their order
        const LayerWeights weights = loader.layer(device, layer, [&](std::string_view) { return variant.bits[linear++]; });
        for (const SharedPrefixes::Run& run : variant.runs) {
          if (run.to != run.from) streams[run.to] = streams[run.from];
          for (std::size_t w = 0; w < chunk.size(); ++w) {
            workspace.x = part(run.to, w);
            run_layer(config, weights, device, cache, 0, 0, chunk[w].tokens.size(), workspace);
            step(1);
          }
        }
      }

    PlanScores scores;
    scores.plans.resize(plans.size());
    for (std::size_t w = 0; w < chunk.size(); ++w) {
      const std::vector<WindowScore> by_stream = scorer.score(chunk[w], shared.streams, [&](std::size_t stream) { return part(stream, w); });
      scores.reference.push_back(by_stream[0]);
      for (std::size_t p = 0; p < plans.size(); ++p) scores.plans[p].push_back(by_stream[shared.streams_of[p]]);
      step(shared.streams);
    }
    all.reference.insert(all.reference.end(), scores.reference.begin(), scores.reference.end());
    for (std::size_t p = 0; p < plans.size(); ++p) all.plans[p].insert(all.plans[p].end(), scores.plans[p].begin(), scores.plans[p].end());
    on_chunk(first, static_cast<const PlanScores&>(scores));
    first = end;
  }
  return all;
}

/// The same without callbacks.
template <class Loader, backend Device>
PlanScores evaluate_plans(const Config& config, const Loader& loader, const OuterWeights& outer, const Device& device, std::span<const ScoredWindow> windows,
                          std::span<const Plan> plans, const PlanEvaluationOptions& options = {}) {
  return evaluate_plans(
      config, loader, outer, device, windows, plans, options, [](std::size_t, const PlanScores&) {}, [](std::size_t, std::size_t) {});
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
