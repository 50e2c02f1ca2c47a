// Top-k token sets of hidden states: C = f_topk(X W_E^T) (LSAQ, Eqs. 1 and 2), streaming over the vocabulary.
#pragma once

#include <lsaq/error.hpp>
#include <lsaq/executor.hpp>
#include <lsaq/kernels/cpu/panel_matmul.hpp>

#include <algorithm>
#include <cmath>
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

/// Projects every row of `states` (FP32) on every row of `embedding` and keeps the k highest values of each state, sorted.
///
/// `out` holds states.rows * k tokens. Logits are never stored: the embedding is read once, k candidates a state and thread are kept. The result does not
/// depend on the number of threads. Throws InvalidArgument when shapes do not match, k exceeds the vocabulary or a state is not finite. Cost: states.rows x
/// vocabulary x hidden multiply-adds.
inline void top_tokens(MatrixView states, MatrixView embedding, std::size_t k, std::span<ScoredToken> out, const CpuKernels& kernels,
                       ExecutorRef executor = {}) {
  if (states.columns != embedding.columns)
    fail<InvalidArgument>("hidden states of size " + std::to_string(states.columns) + " can't be projected on an embedding of size " +
                          std::to_string(embedding.columns));
  if (k == 0 || k > embedding.rows)
    fail<InvalidArgument>("top_k is " + std::to_string(k) + "; it must be 1 to " + std::to_string(embedding.rows) + ", the size of the vocabulary");
  if (states.type != ElementType::f32 || out.size() != states.rows * k) fail<InvalidArgument>("top_tokens wants FP32 states and room for k tokens of each");
  const auto* x = static_cast<const float*>(states.data);
  for (std::size_t s = 0; s < states.rows; ++s)
    if (kernels.magnitude_bits(x + s * states.stride, states.columns) >= 0x7f800000u)
      fail<InvalidArgument>("hidden state " + std::to_string(s) + " is not finite; its projection has no order");

  const std::size_t panels = (embedding.rows + panel_rows - 1) / panel_rows;
  const std::size_t parts = std::min(executor.concurrency(), panels);
  const WeightRows weights{static_cast<const std::byte*>(embedding.data), embedding.stride * size_of(embedding.type), {.element = embedding.type}};
  std::vector<ScoredToken> heaps(parts * states.rows * k);
  std::vector<std::size_t> sizes(parts * states.rows, 0);
  std::vector<float> values(parts * states.rows * panel_rows);

  executor.parallel_for(parts, [&](std::size_t part) {
    float* y = values.data() + part * states.rows * panel_rows;
    for (std::size_t panel = panels * part / parts; panel < panels * (part + 1) / parts; ++panel) {
      const std::size_t first = panel * panel_rows;
      const std::size_t count = std::min(panel_rows, embedding.rows - first);
      multiply_rows(kernels, weights, first, count, embedding.columns, x, states.stride, states.rows, y, panel_rows);
      for (std::size_t s = 0; s < states.rows; ++s) {
        ScoredToken* heap = heaps.data() + (part * states.rows + s) * k; // its first element is the worst one kept
        std::size_t& size = sizes[part * states.rows + s];
        for (std::size_t r = 0; r < count; ++r) {
          const ScoredToken candidate{y[s * panel_rows + r], static_cast<TokenId>(first + r)};
          if (size == k) {
            if (!(candidate < heap[0])) continue;
            std::pop_heap(heap, heap + k);
            --size;
          }
          heap[size++] = candidate;
          std::push_heap(heap, heap + size);
        }
      }
    }
  });

  std::vector<ScoredToken> merged;
  merged.reserve(parts * k);
  for (std::size_t s = 0; s < states.rows; ++s) {
    merged.clear();
    for (std::size_t part = 0; part < parts; ++part) {
      const ScoredToken* heap = heaps.data() + (part * states.rows + s) * k;
      merged.insert(merged.end(), heap, heap + sizes[part * states.rows + s]);
    }
    std::partial_sort_copy(merged.begin(), merged.end(), out.begin() + static_cast<std::ptrdiff_t>(s * k),
                           out.begin() + static_cast<std::ptrdiff_t>((s + 1) * k));
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
