// How far a layer turns hidden states, on the device (importance/cosine.hpp).
#pragma once

#include <lsaq/kernels/cuda/elements.cuh>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// distances[r] = 1 - cos(entering row r, leaving row r); two zero vectors count as equal.
///
/// A block takes a pair of rows, four neighbouring elements a thread. Sums in double, by fused multiply-adds in an order of their own: against the CPU's the
/// cosine is off by at most (columns + 10) 2^-52.
template <element T> struct CompareDirections {
  const T* entering;
  const T* leaving;
  std::size_t stride; ///< elements from one row to the next, of both
  unsigned rows, columns;
  double* distances;

  static constexpr unsigned threads = 256;
  struct Shared {
    double sums[3][threads / warp_size];
  };

  std::size_t blocks() const { return rows; }
  unsigned dynamic_bytes() const { return 0; }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared& shared) const {
    const T* const a = entering + group.block() * stride;
    const T* const b = leaving + group.block() * stride;
    const bool aligned = is_aligned(a, 4 * sizeof(T)) && is_aligned(b, 4 * sizeof(T));
    double sums[3] = {};
    for (unsigned column = 4 * group.thread(); column < columns; column += 4 * threads) {
      const Quad x = load_quad(a + column, columns - column, aligned), y = load_quad(b + column, columns - column, aligned);
      for (unsigned i = 0; i < 4; ++i) {
        const double u = x.value[i], v = y.value[i];
        sums[0] = multiply_add(u, v, sums[0]);
        sums[1] = multiply_add(u, u, sums[1]);
        sums[2] = multiply_add(v, v, sums[2]);
      }
    }
    for (unsigned s = 0; s < 3; ++s) {
      const double of_warp = warp_sum(group, sums[s]);
      if (group.thread() % warp_size == 0) shared.sums[s][group.thread() / warp_size] = of_warp;
    }
    group.sync();
    if (group.thread() != 0) return;
    for (unsigned s = 0; s < 3; ++s) {
      sums[s] = 0;
      for (const double of_warp : shared.sums[s]) sums[s] += of_warp;
    }
    const double norms = std::sqrt(sums[1]) * std::sqrt(sums[2]);
    double cosine = sums[0] / norms;
    cosine = cosine < -1.0 ? -1.0 : cosine > 1.0 ? 1.0 : cosine;
    distances[group.block()] = norms == 0 ? (sums[1] == sums[2] ? 0.0 : 1.0) : 1.0 - cosine;
  }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
