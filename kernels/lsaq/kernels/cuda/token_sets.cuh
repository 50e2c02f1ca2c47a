// Token sets compared on the device: how many tokens two sets share, and their Jaccard distance (LSAQ, Eq. 3).
#pragma once

#include <lsaq/kernels/cuda/simt.cuh>
#include <lsaq/types.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// distances[p] = 1 - |A n B| / |A u B| for `pairs` pairs of sets of k tokens each, A = entering[p k ..], B = leaving[p k ..]; ids of a set are in any order.
///
/// A block takes a pair: sets are small, so every token of A is compared with every token of B, 256 of them at a time in shared memory. The distance is
/// computed as on the CPU and has the same bits. `shared_tokens` (may be null) receives |A n B|.
struct CompareTokenSets {
  const TokenId* entering;
  const TokenId* leaving;
  unsigned pairs, k;
  double* distances;
  unsigned* shared_tokens;

  static constexpr unsigned threads = 128;
  static constexpr unsigned tile = 256;
  struct Shared {
    TokenId ids[tile];
    unsigned found[threads / warp_size];
  };

  std::size_t blocks() const { return k == 0 ? 0 : pairs; }
  unsigned dynamic_bytes() const { return 0; }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared& shared) const {
    const std::size_t first = std::size_t{group.block()} * k;
    unsigned found = 0;
    for (unsigned begin = 0; begin < k; begin += tile) {
      const unsigned count = k - begin < tile ? k - begin : tile;
      group.sync(); // the last tile has been read
      for (unsigned i = group.thread(); i < count; i += threads) shared.ids[i] = load(leaving + first + begin + i);
      group.sync();
      for (unsigned i = group.thread(); i < k; i += threads) {
        const TokenId id = load(entering + first + i);
        for (unsigned j = 0; j < count; ++j) found += shared.ids[j] == id ? 1u : 0u;
      }
    }
    found = warp_sum(group, found);
    if (group.thread() % warp_size == 0) shared.found[group.thread() / warp_size] = found;
    group.sync();
    if (group.thread() != 0) return;
    unsigned all = 0;
    for (const unsigned of_warp : shared.found) all += of_warp;
    if (shared_tokens != nullptr) shared_tokens[group.block()] = all;
    distances[group.block()] = 1.0 - static_cast<double>(all) / static_cast<double>(2 * k - all);
  }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
