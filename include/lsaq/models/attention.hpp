// Causal grouped-query attention over the KV cache, blocks of keys at a time with a running softmax: scores are never stored whole.
// Source of the running softmax: Milakov and Gimelshein, arXiv 1805.02867; blocked as in FlashAttention, arXiv 2205.14135.
#pragma once

#include <lsaq/executor.hpp>
#include <lsaq/kernels/cpu/panel_matmul.hpp>
#include <lsaq/models/kv_cache.hpp>

#include <Eigen/Core>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

namespace detail {

inline constexpr std::size_t query_block = 16;
inline constexpr std::size_t key_block = 64;
inline constexpr std::size_t largest_head = 256;

using FloatArray = Eigen::Map<Eigen::ArrayXf, Eigen::Unaligned>;

/// Attention of up to query_block consecutive queries of one head; query t is at position first_position + t.
inline void attend_block(const CpuKernels& kernels, const std::byte* keys, const std::byte* values, std::size_t row_bytes, ElementType type,
                         std::size_t head_size, std::size_t first_position, std::size_t queries, const float* q, std::size_t stride, float* out) noexcept {
  alignas(64) float scores[query_block * key_block];
  alignas(64) float value_rows[key_block * largest_head]; // widened, rows padded to whole panels
  alignas(64) float sums[query_block * largest_head];
  float highest[query_block], total[query_block];
  const std::size_t padded = (head_size + panel_rows - 1) / panel_rows * panel_rows;
  const float scale = 1.0f / std::sqrt(static_cast<float>(head_size));
  std::fill_n(sums, queries * padded, 0.0f);
  std::fill_n(highest, queries, -std::numeric_limits<float>::infinity());
  std::fill_n(total, queries, 0.0f);
  if (padded != head_size) std::fill_n(value_rows, key_block * padded, 0.0f);

  const std::size_t all_keys = first_position + queries;
  for (std::size_t key = 0; key < all_keys; key += key_block) {
    const std::size_t count = std::min(key_block, all_keys - key);
    multiply_rows(kernels, {keys, row_bytes, {.element = type}}, key, count, head_size, q, stride, queries, scores, key_block);
    for (std::size_t k = 0; k < count; ++k) kernels.widen(values + (key + k) * row_bytes, type, head_size, value_rows + k * padded);
    for (std::size_t t = 0; t < queries; ++t) {
      float* row = scores + t * key_block;
      const std::size_t position = first_position + t;
      const std::size_t visible = position < key ? 0 : std::min(count, position - key + 1);
      std::fill(row + visible, row + count, 0.0f); // probabilities of keys this query can't see
      if (visible == 0) continue;
      FloatArray seen(row, static_cast<Eigen::Index>(visible));
      seen *= scale;
      const float new_highest = std::max(highest[t], seen.maxCoeff());
      const float shrink = std::exp(highest[t] - new_highest);
      seen = (seen - new_highest).exp();
      total[t] = total[t] * shrink + seen.sum();
      highest[t] = new_highest;
      if (shrink != 1.0f) FloatArray(sums + t * padded, static_cast<Eigen::Index>(padded)) *= shrink;
    }
    for (std::size_t column = 0; column < padded; column += token_block)
      kernels.product({value_rows + column, std::min(token_block, padded - column), panel_rows, padded}, count, scores, key_block, queries, sums + column, padded,
                      true, {});
  }
  for (std::size_t t = 0; t < queries; ++t)
    for (std::size_t i = 0; i < head_size; ++i) out[t * stride + i] = sums[t * padded + i] / total[t];
}

} // namespace detail

/// out = softmax(q k^T / sqrt(head size)) v for `tokens` queries at positions first_position onwards, whose keys and values are in the cache already.
///
/// q and out are tokens x (heads x head_size), FP32. Uses some 100 KiB of stack a thread; allocates nothing. Precondition: head_size <= 256.
inline void attend(const Config& config, const CpuKernels& kernels, ExecutorRef executor, KvCache& cache, std::size_t layer, std::size_t first_position,
                   std::size_t tokens, const float* q, float* out) noexcept {
  const std::size_t stride = config.q_rows();
  const std::size_t blocks = (tokens + detail::query_block - 1) / detail::query_block;
  const std::size_t heads_sharing = config.heads / config.kv_heads;
  executor.parallel_for(config.heads * blocks, [&](std::size_t task) {
    const std::size_t head = task / blocks;
    const std::size_t first = task % blocks * detail::query_block;
    const std::size_t offset = first * stride + head * config.head_size;
    detail::attend_block(kernels, cache.keys(layer, head / heads_sharing), cache.values(layer, head / heads_sharing), cache.row_bytes(), cache.type(),
                         config.head_size, first_position + first, std::min(detail::query_block, tokens - first), q + offset, stride, out + offset);
  });
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
