// Changes of basis and scale that leave a Llama-type model's function as it is and make its weights easier to round.
//
// With x the residual stream (row vectors), Q a rotation, g a norm's gain, and W of outputs x inputs, y = x W^T:
//
//   residual stream   x' = x Q:   q, k, v, gate, up: W' = W diag(g) Q, the gain becomes 1;   o, down: W' = Q^T W
//                     RMSNorm divides by a length, which Q keeps. The embedding is rotated after it is looked up and the stream is rotated back before
//                     the final norm, so that embedding and head stay as they are, tied or not: two small products (QuaRot, arXiv 2404.00456).
//   heads             v and o in the basis of one rotation R of a head: v: W' = R^T W for every head; o: W' = W R
//   ffn               down: W' = W P, and the decoder applies P to its input, which the SwiGLU product keeps from being folded anywhere
//   scaling           o and down: W' = W diag(s);  v and up: W' = diag(1/s) W;  q, k, v and gate, up: W' = W diag(s), gain g / s (AWQ, arXiv 2306.00978)
#pragma once

#include <lsaq/models/llama_config.hpp>
#include <lsaq/quantization/rotation.hpp>

#include <memory>

namespace lsaq::inline v0::llama {

/// Which bases of a model are changed.
struct TransformOptions {
  bool residual = false; ///< the residual stream, norm gains folded
  bool heads = false;    ///< each head's values and their way into o
  bool ffn = false;      ///< the input of down, by a Hadamard transform while the model runs
  std::uint64_t seed = 1;

  bool any() const noexcept { return residual || heads || ffn; }
  friend bool operator==(const TransformOptions&, const TransformOptions&) = default;
};

/// Factors by which a layer's weights are multiplied for each input channel, and their inputs divided; an empty vector stands for ones.
struct LayerScaling {
  std::vector<float> attention = {}; ///< hidden: inputs of q, k, v; without effect where the residual stream is rotated
  std::vector<float> attended = {};  ///< kv_rows: inputs of o, those of all query heads of a KV head alike
  std::vector<float> mlp = {};       ///< hidden: inputs of gate and up; as `attention`
  std::vector<float> ffn = {};       ///< ffn: inputs of down
};

/// Inputs that linears of a layer share, in the order they are computed.
enum class LinearInput : std::uint8_t { attention, attended, mlp, ffn };
inline constexpr std::size_t inputs_per_layer = 4;

constexpr LinearInput input_of(Linear linear) noexcept {
  if (linear <= Linear::v) return LinearInput::attention;
  if (linear == Linear::o) return LinearInput::attended;
  return linear == Linear::down ? LinearInput::ffn : LinearInput::mlp;
}

constexpr std::string_view name_of(LinearInput input) noexcept {
  constexpr std::string_view names[] = {"attention", "attended", "mlp", "ffn"};
  return names[static_cast<std::size_t>(input)];
}

/// Channels of an input.
inline std::size_t width_of(const Config& config, LinearInput input) noexcept {
  return input == LinearInput::attended ? config.q_rows() : input == LinearInput::ffn ? config.ffn : config.hidden;
}

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// A transformation of one model. Immutable once it is in use; loaders, weights and decoders share it.
class ModelTransform {
public:
  ModelTransform(const Config& config, const TransformOptions& options) : config_(config), options_(options) {
    if (options.residual) residual_ = Rotation(config.hidden, options.seed);
    if (options.heads) head_ = Rotation(config.head_size, options.seed + 1);
    if (options.ffn) ffn_ = Rotation(config.ffn, options.seed + 2);
  }

  const TransformOptions& options() const noexcept { return options_; }
  /// x' = x Q on the residual stream; empty: it stays as it is.
  const Rotation& residual() const noexcept { return residual_; }
  /// What the decoder applies to the input of down.
  const Rotation& ffn() const noexcept { return ffn_; }
  /// The rotation of an input's channels, repeated over them; empty: none.
  const Rotation& rotation_of(LinearInput input) const noexcept {
    return input == LinearInput::attended ? head_ : input == LinearInput::ffn ? ffn_ : residual_;
  }

  /// Sets the scaling of a layer. Throws InvalidArgument for other sizes than those of LayerScaling, or factors that are not positive and finite.
  void scale_layer(std::size_t layer, LayerScaling scaling) {
    const auto check = [&](std::string_view name, const std::vector<float>& factors, std::size_t channels) {
      if (!factors.empty() && factors.size() != channels)
        fail<InvalidArgument>("scaling of " + std::string(name) + " has " + std::to_string(factors.size()) + " factors, not " + std::to_string(channels));
      for (const float factor : factors)
        if (!(factor > 0) || !std::isfinite(factor)) fail<InvalidArgument>("scaling of " + std::string(name) + " has the factor " + std::to_string(factor));
    };
    check("attention", scaling.attention, config_.hidden);
    check("attended", scaling.attended, config_.kv_rows());
    check("mlp", scaling.mlp, config_.hidden);
    check("ffn", scaling.ffn, config_.ffn);
    if (layer >= config_.layers) fail<InvalidArgument>("there is no layer " + std::to_string(layer) + " to scale");
    scaling_.resize(config_.layers);
    scaling_[layer] = std::move(scaling);
  }

  /// The factor of every channel of an input; empty: ones.
  std::vector<float> factors(std::size_t layer, LinearInput input) const {
    if (scaling_.empty()) return {};
    const LayerScaling& s = scaling_[layer];
    switch (input) {
    case LinearInput::attention: return residual_.empty() ? s.attention : std::vector<float>();
    case LinearInput::mlp: return residual_.empty() ? s.mlp : std::vector<float>();
    case LinearInput::ffn: return s.ffn;
    case LinearInput::attended: break;
    }
    std::vector<float> all(s.attended.empty() ? 0 : config_.q_rows());
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = s.attended[kv_channel(i)];
    return all;
  }

  /// Turns a linear's weights, as stored, into those of the transformed model. `gain` is that of the norm before it (q, k, v: attention; gate, up: mlp; else
  /// unused). Throws std::bad_alloc.
  void apply(std::size_t layer, Linear linear, std::span<const float> gain, MutableMatrixView weights, ExecutorRef executor = {}) const {
    const LinearInput input = input_of(linear);
    const bool normed = input == LinearInput::attention || input == LinearInput::mlp;
    if (normed && !residual_.empty()) multiply_columns(weights, gain);
    multiply_columns(weights, factors(layer, input));
    if (linear == Linear::v) divide_rows(weights, scaling_.empty() ? std::vector<float>() : scaling_[layer].attended);
    if (linear == Linear::up) divide_rows(weights, scaling_.empty() ? std::vector<float>() : scaling_[layer].ffn);
    rotate_inputs(rotation_of(input), weights, executor);
    if (linear == Linear::v) rotate_outputs(head_, weights, executor);
    if (linear == Linear::o || linear == Linear::down) rotate_outputs(residual_, weights, executor);
  }

  /// Turns the gain of the norm before `input` (attention or mlp) into that of the transformed model.
  void apply_to_gain(std::size_t layer, LinearInput input, std::span<float> gain) const {
    if (!residual_.empty()) return std::fill(gain.begin(), gain.end(), 1.0f);
    const std::vector<float> divisors = factors(layer, input);
    for (std::size_t i = 0; i < divisors.size(); ++i) gain[i] /= divisors[i];
  }

private:
  /// The value channel that attended channel i is made of.
  std::size_t kv_channel(std::size_t i) const noexcept {
    const std::size_t queries_per_kv = config_.heads / config_.kv_heads;
    return i / config_.head_size / queries_per_kv * config_.head_size + i % config_.head_size;
  }

  static void multiply_columns(MutableMatrixView weights, std::span<const float> factors) noexcept {
    for (std::size_t r = 0; r < weights.rows && !factors.empty(); ++r)
      for (std::size_t c = 0; c < weights.columns; ++c) weights.row(r)[c] *= factors[c];
  }

  static void divide_rows(MutableMatrixView weights, std::span<const float> divisors) noexcept {
    for (std::size_t r = 0; r < weights.rows && !divisors.empty(); ++r)
      for (std::size_t c = 0; c < weights.columns; ++c) weights.row(r)[c] /= divisors[r];
  }

  Config config_;
  TransformOptions options_;
  Rotation residual_, head_, ffn_;
  std::vector<LayerScaling> scaling_; ///< by layer; empty: none
};

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
