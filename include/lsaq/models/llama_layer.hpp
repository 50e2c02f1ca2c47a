// One Llama decoder layer on a block of tokens: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, residuals in place.
#pragma once

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/models/attention.hpp>
#include <lsaq/models/llama_weights.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Floats of working memory for blocks of up to `tokens` tokens. The residual stream itself comes with it.
struct LayerWorkspace {
  std::span<float> x;           ///< residual stream, tokens x hidden
  std::span<float> normed;      ///< tokens x hidden; also the outputs of o and down
  std::span<float> q;           ///< tokens x q_rows
  std::span<float> k;           ///< tokens x kv_rows
  std::span<float> v;           ///< tokens x kv_rows
  std::span<float> attended;    ///< tokens x q_rows
  std::span<float> gate;        ///< tokens x ffn
  std::span<float> up;          ///< tokens x ffn
  std::span<float> rotation;    ///< tokens x head_size: cosines, then sines
  std::span<float> frequencies; ///< head_size / 2: of the rotation
  std::span<float> product;     ///< what the backend's products work with

  static std::size_t floats(const Config& c, std::size_t tokens) noexcept {
    return tokens * (2 * c.hidden + 2 * c.q_rows() + 2 * c.kv_rows() + 2 * c.ffn + c.head_size) + c.head_size / 2 + product_floats(c, tokens);
  }

  /// Floats of workspace for the widest product of a block, by the CPU backend's rule.
  static std::size_t product_floats(const Config& c, std::size_t tokens) noexcept {
    return Backend<Cpu>::workspace_bytes(std::max({c.hidden, c.q_rows(), c.ffn}), tokens) / sizeof(float);
  }

  /// Divides a block of floats(config, tokens) floats.
  static LayerWorkspace divide(const Config& c, std::size_t tokens, std::span<float> memory) noexcept {
    LayerWorkspace w;
    const auto take = [&](std::size_t n) {
      const std::span<float> part = memory.first(n);
      memory = memory.subspan(n);
      return part;
    };
    w.x = take(tokens * c.hidden);
    w.normed = take(tokens * c.hidden);
    w.q = take(tokens * c.q_rows());
    w.k = take(tokens * c.kv_rows());
    w.v = take(tokens * c.kv_rows());
    w.attended = take(tokens * c.q_rows());
    w.gate = take(tokens * c.ffn);
    w.up = take(tokens * c.ffn);
    w.rotation = take(tokens * c.head_size);
    w.frequencies = take(c.head_size / 2);
    w.product = take(product_floats(c, tokens));
    return w;
  }
};

/// out = x / sqrt(mean(x^2) + epsilon) * gain, row by row, sums in FP32; the gain is read in place.
inline void rms_norm(const Config& config, const CpuKernels& kernels, const FloatMatrix& norm, const float* x, std::size_t tokens, float* out) noexcept {
  const Gain gain{norm.storage.data(), norm.type};
  for (std::size_t t = 0; t < tokens; ++t)
    kernels.decoder->rms_norm(x + t * config.hidden, gain, config.hidden, static_cast<float>(config.epsilon), out + t * config.hidden);
}

/// The frequencies of the rotation, head_size / 2 of them: positions times these are its angles.
inline void fill_frequencies(const Config& config, std::span<float> frequencies) noexcept {
  for (std::size_t i = 0; i < config.head_size / 2; ++i) {
    frequencies[i] = static_cast<float>(std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_size)));
    if (!config.rope_divisors.empty()) frequencies[i] /= config.rope_divisors[i];
  }
}

/// Cosines and sines of the rotation of positions first .. first + tokens; angles in FP32 as the reference implementations compute them.
inline void fill_rotation(const Config& config, std::span<const float> frequencies, std::size_t first, std::size_t tokens, std::span<float> rotation) noexcept {
  const std::size_t half = config.head_size / 2;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t i = 0; i < half; ++i) {
      const auto angle = static_cast<double>(static_cast<float>(first + t) * frequencies[i]);
      rotation[t * config.head_size + i] = static_cast<float>(std::cos(angle));
      rotation[t * config.head_size + half + i] = static_cast<float>(std::sin(angle));
    }
}

/// The same where the frequencies are needed once. Precondition: head_size <= 256.
inline void fill_rotation(const Config& config, std::size_t first, std::size_t tokens, std::span<float> rotation) noexcept {
  float frequencies[detail::largest_head / 2];
  fill_frequencies(config, frequencies);
  fill_rotation(config, frequencies, first, tokens, rotation);
}

/// Rotates `heads` heads of every token in place (RoPE, arXiv 2104.09864).
inline void rotate(const Config& config, const CpuKernels& kernels, std::size_t heads, std::size_t tokens, std::span<const float> rotation, float* x) noexcept {
  const std::size_t half = config.head_size / 2;
  for (std::size_t t = 0; t < tokens; ++t) {
    const float* cosines = rotation.data() + t * config.head_size;
    kernels.decoder->rotate(x + t * heads * config.head_size, heads, half, cosines, cosines + half, config.interleaved_rope);
  }
}

/// Writes rows of a projection into the cache at `position` onwards, as narrow_row() does.
inline void store_rows(const Config& config, const CpuKernels& kernels, KvCache& cache, std::size_t layer, std::size_t position, std::size_t tokens,
                       const float* rows, bool keys) noexcept {
  for (std::size_t head = 0; head < config.kv_heads; ++head) {
    std::byte* base = keys ? cache.keys(layer, head) : cache.values(layer, head);
    for (std::size_t t = 0; t < tokens; ++t)
      narrow_row(kernels, rows + (t * config.kv_heads + head) * config.head_size, config.head_size, cache.type(), base + (position + t) * cache.row_bytes());
  }
}

/// Runs a layer on `tokens` tokens at positions first_position onwards; workspace.x is the residual stream, changed in place; rotation is filled already.
///
/// `layer` is the layer's number in the cache. on_input(LinearInput, MatrixView) sees what enters the linears, one row a token: of attention and mlp the
/// residual stream before the norm. Allocates nothing on Backend<Cpu>.
template <backend Device, class OnInput>
void run_layer(const Config& config, const LayerWeights& weights, const Device& device, KvCache& cache, std::size_t layer, std::size_t first_position,
               std::size_t tokens, const LayerWorkspace& w, OnInput&& on_input) {
  const CpuKernels& kernels = device.kernels();
  const ExecutorRef executor = device.executor();
  const auto project = [&](Linear linear, std::span<float> in, std::span<float> out) {
    const MatrixShape shape = shape_of(config, linear);
    const Status status =
        weights[linear].matmul(device, MatrixView(in.data(), tokens, shape.columns), {out.data(), tokens, shape.rows}, std::as_writable_bytes(w.product));
    LSAQ_ASSERT(status == Status::ok && "shapes come from one configuration");
    (void)status;
  };
  const auto add_to_residual = [&] { kernels.decoder->add(w.x.data(), w.normed.data(), tokens * config.hidden); };

  const auto rows_of = [&](std::span<const float> x, std::size_t width) { return MatrixView(x.data(), tokens, width); };

  on_input(LinearInput::attention, rows_of(w.x, config.hidden));
  rms_norm(config, kernels, weights.attention_norm, w.x.data(), tokens, w.normed.data());
  project(Linear::q, w.normed, w.q);
  project(Linear::k, w.normed, w.k);
  project(Linear::v, w.normed, w.v);
  rotate(config, kernels, config.heads, tokens, w.rotation, w.q.data());
  rotate(config, kernels, config.kv_heads, tokens, w.rotation, w.k.data());
  store_rows(config, kernels, cache, layer, first_position, tokens, w.k.data(), true);
  store_rows(config, kernels, cache, layer, first_position, tokens, w.v.data(), false);
  attend(config, kernels, executor, cache, layer, first_position, tokens, w.q.data(), w.attended.data());
  on_input(LinearInput::attended, rows_of(w.attended, config.q_rows()));
  project(Linear::o, w.attended, w.normed);
  add_to_residual();

  on_input(LinearInput::mlp, rows_of(w.x, config.hidden));
  rms_norm(config, kernels, weights.mlp_norm, w.x.data(), tokens, w.normed.data());
  project(Linear::gate, w.normed, w.gate);
  project(Linear::up, w.normed, w.up);
  executor.parallel_for(tokens, [&](std::size_t t) {
    float* gate = w.gate.data() + t * config.ffn;
    kernels.decoder->gate(gate, w.up.data() + t * config.ffn, config.ffn);
    if (weights.transform) weights.transform->ffn().apply(gate);
  });
  on_input(LinearInput::ffn, rows_of(w.gate, config.ffn));
  project(Linear::down, w.gate, w.normed);
  add_to_residual();
}

/// The same with nobody watching.
template <backend Device>
void run_layer(const Config& config, const LayerWeights& weights, const Device& device, KvCache& cache, std::size_t layer, std::size_t first_position,
               std::size_t tokens, const LayerWorkspace& w) noexcept {
  run_layer(config, weights, device, cache, layer, first_position, tokens, w, [](LinearInput, MatrixView) noexcept {});
}

/// Final norm and output head: states (FP32, rows x hidden) to logits (rows x vocabulary). `normed` holds rows x hidden floats, `workspace` is the head's
/// product's.
template <backend Device>
void project(const Config& config, const OuterWeights& outer, const Device& device, MatrixView states, std::span<float> normed, MutableMatrixView logits,
             std::span<std::byte> workspace) noexcept {
  const auto* x = static_cast<const float*>(states.data);
  if (outer.transform) {
    std::copy_n(x, states.rows * config.hidden, normed.data());
    for (std::size_t t = 0; t < states.rows; ++t) outer.transform->residual().apply_inverse(normed.data() + t * config.hidden);
    x = normed.data(); // a row is read before it is written
  }
  rms_norm(config, device.kernels(), outer.final_norm, x, states.rows, normed.data());
  const Status status = device.matmul(outer.head(), MatrixView(normed.data(), states.rows, config.hidden), logits, workspace);
  LSAQ_ASSERT(status == Status::ok && "shapes come from one configuration");
  (void)status;
}

/// Refuses token ids beyond the vocabulary. Throws InvalidArgument.
inline void check_tokens(const Config& config, std::span<const TokenId> tokens) {
  for (TokenId token : tokens)
    if (token >= config.vocabulary)
      fail<InvalidArgument>("token id " + std::to_string(token) + " is beyond the model's vocabulary of " + std::to_string(config.vocabulary));
}

/// Writes the embeddings of `tokens` into rows of `x`. Precondition: ids are below the vocabulary's size.
inline void embed(const Config& config, const CpuKernels& kernels, const OuterWeights& outer, std::span<const TokenId> tokens, std::span<float> x) noexcept {
  const MatrixView embedding = outer.embedding.view();
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    kernels.widen(embedding.row(tokens[t]), embedding.type, config.hidden, x.data() + t * config.hidden);
    if (outer.transform) outer.transform->residual().apply(x.data() + t * config.hidden);
  }
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
