// Causal grouped-query attention over the KV cache, blocks of keys at a time with a running softmax: scores are never stored whole. The heads that share keys
// and values go together: a block of keys is read once for all of them. Source of the running softmax: Milakov and Gimelshein, arXiv 1805.02867; blocked as in
// FlashAttention, arXiv 2205.14135.
#pragma once

#include <lsaq/executor.hpp>
#include <lsaq/kernels/cpu/panel_matmul.hpp>
#include <lsaq/models/kv_cache.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

namespace detail {

inline constexpr std::size_t few_queries = 4;   ///< fewer than these are multiplied with the keys as they lie, others with transposed ones
inline constexpr std::size_t query_block = 64;  ///< consecutive queries of a task, at most
inline constexpr std::size_t heads_at_once = 8; ///< of those that share keys, in one task
inline constexpr std::size_t most_keys = 64;    ///< keys of a block
inline constexpr std::size_t largest_head = 256;
inline constexpr std::size_t block_floats = most_keys * 128; ///< a block of keys or values as FP32: 32 KiB

/// Keys widened at once: a block of long heads has fewer.
constexpr std::size_t key_block(std::size_t head_size) noexcept { return head_size <= 128 ? most_keys : block_floats / largest_head; }

/// Consecutive queries of heads that share keys and values: query t of head h is at q[t * stride + h * head size], at position first_position + t.
struct SharedHeads {
  const CpuKernels& kernels;
  CacheRows keys, values;
  std::size_t heads, first_position, queries;
  const float* q;
  float* out; ///< as q
  std::size_t stride;

  std::size_t head_size() const noexcept { return keys.columns; }
  float score_scale() const noexcept { return 1.0f / std::sqrt(static_cast<float>(head_size())); }
};

/// Multiplies weighted sums with what softmax_step() returned.
inline void shrink_sums(const SharedHeads& shared, float* out, float factor) noexcept {
  if (factor != 1.0f) shared.kernels.decoder->scale(out, shared.head_size(), factor);
}

/// A query at a time, keys and values read as they are stored.
inline void attend_directly(const SharedHeads& shared) noexcept {
  const DecoderKernels& kernels = *shared.kernels.decoder;
  const std::size_t head_size = shared.head_size();
  float scores[heads_at_once * most_keys];
  for (std::size_t t = 0; t < shared.queries; ++t) {
    const float* q = shared.q + t * shared.stride;
    float* out = shared.out + t * shared.stride;
    RunningSoftmax softmax[heads_at_once];
    std::fill_n(out, shared.heads * head_size, 0.0f);
    const std::size_t all_keys = shared.first_position + t + 1;
    for (std::size_t key = 0; key < all_keys; key += most_keys) {
      const std::size_t count = std::min(most_keys, all_keys - key);
      kernels.score(shared.keys.from(key), count, q, shared.heads, scores, most_keys);
      for (std::size_t h = 0; h < shared.heads; ++h)
        shrink_sums(shared, out + h * head_size, kernels.softmax_step(scores + h * most_keys, count, shared.score_scale(), softmax[h]));
      kernels.weigh(shared.values.from(key), count, scores, most_keys, shared.heads, out);
    }
    for (std::size_t h = 0; h < shared.heads; ++h) kernels.scale(out + h * head_size, head_size, 1.0f / softmax[h].total);
  }
}

/// One block of keys and values as FP32, for products with many queries.
class WidenedBlock {
public:
  /// Of heads of `head_size`.
  explicit WidenedBlock(std::size_t head_size) noexcept : head_size_(head_size), padded_((head_size + panel_rows - 1) / panel_rows * panel_rows) {
    if (padded_ != head_size) std::fill_n(values_, key_block(head_size) * padded_, 0.0f);
  }

  void fill(const SharedHeads& shared, std::size_t key, std::size_t count) noexcept {
    widen(shared.kernels, shared.keys.from(key), count);
    const WeightRows rows{reinterpret_cast<const std::byte*>(values_), padded_ * sizeof(float), {.element = ElementType::f32}};
    for (std::size_t k = 0; k < count; k += panel_rows)
      shared.kernels.unpack(rows.from(k), std::min(panel_rows, count - k), 0, head_size_, keys_ + k * head_size_);
    widen(shared.kernels, shared.values.from(key), count);
  }

  /// The first `count` keys as panels of depth head_size.
  Panels keys(std::size_t count) const noexcept { return {keys_, count, panel_rows * head_size_}; }
  /// Up to 64 columns of the values as panels of a depth of keys.
  Panels values(std::size_t column) const noexcept { return {values_ + column, std::min(token_block, head_size_ - column), panel_rows, padded_}; }

private:
  void widen(const CpuKernels& kernels, const CacheRows& rows, std::size_t count) noexcept {
    for (std::size_t k = 0; k < count; ++k) kernels.widen(rows.row(k), rows.type, head_size_, values_ + k * padded_);
  }

  alignas(64) float keys_[block_floats];
  alignas(64) float values_[block_floats]; // rows padded to whole panels
  std::size_t head_size_, padded_;
};

/// Up to query_block queries together; what a query gets does not depend on the others.
inline void attend_in_blocks(const SharedHeads& shared) noexcept {
  constexpr std::size_t strip = 16; // queries that leave out the same keys of the future
  const std::size_t head_size = shared.head_size(), keys_at_once = key_block(head_size), all_keys = shared.first_position + shared.queries;
  alignas(64) float scores[query_block * most_keys];
  RunningSoftmax softmax[heads_at_once][query_block];
  WidenedBlock block(head_size);
  for (std::size_t key = 0; key < all_keys; key += keys_at_once) {
    const std::size_t count = std::min(keys_at_once, all_keys - key);
    block.fill(shared, key, count);
    const std::size_t first_seeing = key < shared.first_position ? 0 : key - shared.first_position;
    const bool all_visible = key + count <= shared.first_position + first_seeing + 1;
    const std::size_t step = all_visible ? shared.queries : strip;
    for (std::size_t h = 0; h < shared.heads; ++h)
      for (std::size_t first = first_seeing; first < shared.queries; first += step) {
        const std::size_t queries = std::min(step, shared.queries - first);
        const std::size_t reach = std::min(count, shared.first_position + first + queries - key); // keys that the last of them sees
        const std::size_t offset = first * shared.stride + h * head_size;
        shared.kernels.product(block.keys(reach), head_size, shared.q + offset, shared.stride, queries, scores, most_keys, false, {});
        for (std::size_t t = 0; t < queries; ++t) {
          float* row = scores + t * most_keys;
          const std::size_t visible = std::min(reach, shared.first_position + first + t + 1 - key);
          const float shrink = shared.kernels.decoder->softmax_step(row, visible, shared.score_scale(), softmax[h][first + t]);
          if (key != 0) shrink_sums(shared, shared.out + offset + t * shared.stride, shrink);
          std::fill(row + visible, row + reach, 0.0f); // weights of keys this query can't see
        }
        for (std::size_t column = 0; column < head_size; column += token_block)
          shared.kernels.product(block.values(column), reach, scores, most_keys, queries, shared.out + offset + column, shared.stride, key != 0, {});
      }
  }
  for (std::size_t t = 0; t < shared.queries; ++t)
    for (std::size_t h = 0; h < shared.heads; ++h)
      shared.kernels.decoder->scale(shared.out + t * shared.stride + h * head_size, head_size, 1.0f / softmax[h][t].total);
}

/// Queries of a task: enough tasks for all threads, if there are as many.
inline std::size_t queries_at_once(std::size_t tokens, std::size_t tasks_of_a_block, std::size_t threads) noexcept {
  std::size_t queries = query_block;
  while (threads > 1 && queries > panel_rows && (tokens + queries - 1) / queries * tasks_of_a_block < 2 * threads) queries /= 2;
  return queries;
}

} // namespace detail

/// out = softmax(q k^T / sqrt(head size)) v for `tokens` queries at positions first_position onwards, whose keys and values are in the cache already.
///
/// q and out are tokens x (heads x head_size), FP32. Uses 90 KiB of stack a thread; allocates nothing. A query's result depends neither on threads nor on the
/// other queries, but on their number: few are multiplied in another order. Precondition: head_size <= 256.
inline void attend(const Config& config, const CpuKernels& kernels, ExecutorRef executor, KvCache& cache, std::size_t layer, std::size_t first_position,
                   std::size_t tokens, const float* q, float* out) noexcept {
  const std::size_t sharing = config.heads / config.kv_heads;
  const std::size_t parts = (sharing + detail::heads_at_once - 1) / detail::heads_at_once; // of the heads that share keys
  const bool directly = tokens < detail::few_queries;
  const std::size_t queries = directly ? tokens : detail::queries_at_once(tokens, config.kv_heads * parts, executor.concurrency());
  const std::size_t blocks = queries == 0 ? 0 : (tokens + queries - 1) / queries;
  executor.parallel_for(blocks * config.kv_heads * parts, [&](std::size_t task) {
    const std::size_t kv_head = task / parts % config.kv_heads, part = task % parts;
    const std::size_t first = (blocks - 1 - task / parts / config.kv_heads) * queries; // the last queries see most keys: they go first
    const std::size_t head = sharing * part / parts, end = sharing * (part + 1) / parts;
    const std::size_t offset = first * config.q_rows() + (kv_head * sharing + head) * config.head_size;
    const detail::SharedHeads shared{.kernels = kernels,
                                     .keys = {cache.keys(layer, kv_head), cache.row_bytes(), cache.type(), config.head_size},
                                     .values = {cache.values(layer, kv_head), cache.row_bytes(), cache.type(), config.head_size},
                                     .heads = end - head,
                                     .first_position = first_position + first,
                                     .queries = std::min(queries, tokens - first),
                                     .q = q + offset,
                                     .out = out + offset,
                                     .stride = config.q_rows()};
    directly ? detail::attend_directly(shared) : detail::attend_in_blocks(shared);
  });
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
