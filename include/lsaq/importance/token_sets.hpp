// Top-k token sets of hidden states: C = f_topk(X W_E^T) (LSAQ, Eqs. 1 and 2), streaming over the vocabulary.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/executor.hpp>
#include <lsaq/kernels/cpu/panel_matmul.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace lsaq::inline v0 {

/// A token and its projection value; sets are ordered by value, highest first, ties to the lower id.
struct ScoredToken {
  float value;
  TokenId id;

  [[gnu::always_inline]] friend constexpr bool operator<(const ScoredToken& a, const ScoredToken& b) noexcept {
    return a.value != b.value ? a.value > b.value : a.id < b.id;
  }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// The k highest tokens of one state seen so far: a heap whose first element is the lowest of them.
struct TokenHeap {
  ScoredToken* tokens;
  std::size_t size;

  /// Takes a value above `limit`, the value all later ones have to exceed; tokens come in ascending order of their ids, so an equal value never displaces one.
  void take(ScoredToken candidate, std::size_t k, float& limit) noexcept {
    if (size == k) std::pop_heap(tokens, tokens + size--);
    tokens[size++] = candidate;
    std::push_heap(tokens, tokens + size);
    if (size == k) limit = tokens[0].value;
  }
};

/// Working memory of one thread: 112 KiB, and k candidates for each state.
struct ProjectionBlock {
  static constexpr std::size_t rows = 192; ///< embedding rows multiplied before their products are looked at

  std::vector<float> panels = std::vector<float>(token_block * panel_columns);
  std::vector<float> products = std::vector<float>(rows * token_block);
  std::vector<float> limits; ///< what a value has to exceed, for each state, in whole panels
  std::vector<ScoredToken> candidates;
  std::vector<std::size_t> sizes;
  std::size_t not_finite = std::numeric_limits<std::size_t>::max(); ///< the first state whose projection is NaN or infinite

  ProjectionBlock(std::size_t states, std::size_t k)
      : limits((states + token_block - 1) / token_block * token_block, -std::numeric_limits<float>::infinity()), candidates(states * k), sizes(states, 0) {}
};

/// Projects up to 64 states on rows [first, first + count) of the embedding and keeps the candidates.
inline void project_block(const CpuKernels& kernels, MatrixView states, std::size_t first_state, const WeightRows& embedding, std::size_t first,
                          std::size_t count, std::size_t k, ProjectionBlock& block) {
  const std::size_t lanes = std::min(token_block, states.rows - first_state);
  const std::size_t compared = (lanes + panel_rows - 1) / panel_rows * panel_rows; // whole panels; lanes without a state hold anything
  const std::uint64_t existing = ~std::uint64_t{0} >> (token_block - lanes);
  const WeightRows rows{embedding.row(first), embedding.row_bytes, embedding.format};
  const std::size_t chunk = column_chunk(states.columns);
  for (std::size_t column = 0; column < states.columns; column += chunk) {
    const std::size_t depth = std::min(chunk, states.columns - column);
    for (std::size_t lane = 0; lane < lanes; lane += panel_rows) {
      const MatrixView some = states.slice(first_state + lane, std::min(panel_rows, lanes - lane));
      kernels.unpack({static_cast<const std::byte*>(some.data), some.row_bytes(), {.element = ElementType::f32}}, some.rows, column, depth,
                     block.panels.data() + lane * depth);
    }
    multiply_panels(kernels, rows, count, column, depth, {block.panels.data(), compared, depth * panel_rows}, block.products.data(), token_block, column != 0);
  }
  float* limits = block.limits.data() + first_state;
  for (std::size_t r = 0; r < count; ++r) {
    const float* values = block.products.data() + r * token_block;
    for (std::uint64_t above = kernels.above(values, limits, compared) & existing; above != 0; above &= above - 1) {
      const auto lane = static_cast<std::size_t>(std::countr_zero(above));
      if ((std::bit_cast<std::uint32_t>(values[lane]) & 0x7f800000u) == 0x7f800000u) {
        block.not_finite = std::min(block.not_finite, first_state + lane);
        continue;
      }
      TokenHeap heap{block.candidates.data() + (first_state + lane) * k, block.sizes[first_state + lane]};
      heap.take({values[lane], static_cast<TokenId>(first + r)}, k, limits[lane]);
      block.sizes[first_state + lane] = heap.size;
    }
  }
}

/// Throws InvalidArgument unless each state can be projected on the embedding and has k highest values.
inline void check_projection(MatrixView states, MatrixView embedding, std::size_t k) {
  if (states.columns != embedding.columns)
    fail<InvalidArgument>("hidden states of size " + std::to_string(states.columns) + " can't be projected on an embedding of size " +
                          std::to_string(embedding.columns));
  if (k == 0 || k > embedding.rows)
    fail<InvalidArgument>("top_k is " + std::to_string(k) + "; it must be 1 to " + std::to_string(embedding.rows) + ", the size of the vocabulary");
}

} // namespace detail

/// Projects every row of `states` (FP32) on every row of `embedding` and keeps the k highest values of each state, sorted.
///
/// `out` holds states.rows * k tokens. Logits are never stored: blocks of the embedding, in its own type (F32, F16, BF16, Q8_0), are multiplied with all states
/// while they are in the cache, and only candidates are kept. The result depends neither on the number of threads nor on which states are projected together:
/// each value is summed over 256 columns at a time, by fused multiply-adds in order, and the partial sums are added in order; against the exact sum it is off
/// by at most (256 + hidden / 256) * 2^-24 * sum |x_i w_i| (Higham, Accuracy and Stability, 3.1). Memory: 112 KiB and 8 bytes for each of at most 1024 states'
/// k candidates, a thread. Throws InvalidArgument when shapes do not match, k exceeds the vocabulary, or a state or projection is not finite. Cost: states.rows
/// x vocabulary x hidden multiply-adds.
inline void top_tokens(MatrixView states, MatrixView embedding, std::size_t k, std::span<ScoredToken> out, const CpuKernels& kernels,
                       ExecutorRef executor = {}) {
  detail::check_projection(states, embedding, k);
  if (states.type != ElementType::f32 || out.size() != states.rows * k) fail<InvalidArgument>("top_tokens wants FP32 states and room for k tokens of each");
  constexpr std::size_t states_at_once = 1024;
  if (states.rows > states_at_once) {
    for (std::size_t first = 0; first < states.rows; first += states_at_once) {
      const std::size_t count = std::min(states_at_once, states.rows - first);
      top_tokens(states.slice(first, count), embedding, k, out.subspan(first * k, count * k), kernels, executor);
    }
    return;
  }
  const auto* x = static_cast<const float*>(states.data);
  for (std::size_t s = 0; s < states.rows; ++s)
    if (kernels.magnitude_bits(x + s * states.stride, states.columns) >= 0x7f800000u)
      fail<InvalidArgument>("hidden state " + std::to_string(s) + " is not finite; its projection has no order");

  using Block = detail::ProjectionBlock;
  const std::size_t blocks = (embedding.rows + Block::rows - 1) / Block::rows;
  const std::size_t parts = std::min(executor.concurrency(), blocks);
  const WeightRows weights{static_cast<const std::byte*>(embedding.data), embedding.row_bytes(), {.element = embedding.type}};
  std::vector<Block> memory;
  memory.reserve(parts);
  for (std::size_t part = 0; part < parts; ++part) memory.emplace_back(states.rows, k);
  executor.parallel_for(parts, [&](std::size_t part) {
    for (std::size_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
      const std::size_t first = block * Block::rows;
      for (std::size_t state = 0; state < states.rows; state += token_block)
        detail::project_block(kernels, states, state, weights, first, std::min(Block::rows, embedding.rows - first), k, memory[part]);
    }
  });

  std::size_t not_finite = states.rows;
  for (const Block& part : memory) not_finite = std::min(not_finite, part.not_finite);
  std::vector<ScoredToken> merged;
  merged.reserve(parts * k);
  for (std::size_t s = 0; s < states.rows; ++s) {
    merged.clear();
    for (const Block& part : memory) {
      const ScoredToken* candidates = part.candidates.data() + s * k;
      merged.insert(merged.end(), candidates, candidates + part.sizes[s]);
    }
    const auto highest = out.subspan(s * k, k);
    if (s == not_finite || merged.size() < k)
      fail<InvalidArgument>("the projection of hidden state " + std::to_string(s) + " is not finite: look for infinities and NaN in the embedding");
    std::partial_sort_copy(merged.begin(), merged.end(), highest.begin(), highest.end());
  }
}

/// |A n B| / |A u B| of two sets of tokens, 1 for two empty sets. Order and values do not matter.
inline double jaccard(std::span<const ScoredToken> a, std::span<const ScoredToken> b) {
  std::vector<TokenId> ids;
  ids.reserve(a.size());
  for (const ScoredToken& token : a) ids.push_back(token.id);
  std::sort(ids.begin(), ids.end());
  std::size_t shared = 0;
  for (const ScoredToken& token : b) shared += std::binary_search(ids.begin(), ids.end(), token.id);
  const std::size_t all = a.size() + b.size() - shared;
  return all == 0 ? 1.0 : static_cast<double>(shared) / static_cast<double>(all);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
