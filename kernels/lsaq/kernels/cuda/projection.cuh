// The highest projections of hidden states on the vocabulary (LSAQ, Eqs. 1 and 2) without storing them: each block keeps the candidates of its part of it.
#pragma once

#include <lsaq/kernels/cuda/row_products.cuh>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// A token of a state with its value as a number that sorts as it should: higher values first, ties to the lower id. A key of 0 is nobody's.
struct alignas(16) Candidate {
  std::uint64_t key;
  std::uint32_t state;
  std::uint32_t unused;
};
static_assert(sizeof(Candidate) == 16);

/// The key of a finite value; -0 counts as +0.
LSAQ_DEVICE inline std::uint64_t key_of(float value, TokenId id) {
  std::uint32_t bits = bits_of_float(value);
  if (bits == 0x80000000u) bits = 0;
  bits ^= bits >> 31 != 0 ? 0xffffffffu : 0x80000000u;
  return std::uint64_t{bits} << 32 | (0xffffffffu - id);
}

LSAQ_DEVICE inline float value_of(std::uint64_t key) {
  const auto bits = static_cast<std::uint32_t>(key >> 32);
  return float_of_bits(bits ^ (bits >> 31 != 0 ? 0x80000000u : 0xffffffffu));
}

LSAQ_DEVICE inline TokenId id_of(std::uint64_t key) { return 0xffffffffu - static_cast<std::uint32_t>(key & 0xffffffffu); }

/// Candidates that sort before others: states in order, and the higher key first.
struct Better {
  LSAQ_DEVICE_AND_HOST bool operator()(const Candidate& a, const Candidate& b) const { return a.state != b.state ? a.state < b.state : a.key > b.key; }
};

/// How a projection is divided between blocks.
struct ProjectionParts {
  static constexpr unsigned states_at_once = 4; ///< states that a block projects together
  static constexpr unsigned most_kept = 1024;   ///< candidates of a state in shared memory

  unsigned part_rows; ///< rows of the vocabulary in a part
  unsigned parts;
  unsigned capacity; ///< a power of two: candidates of a state in shared memory
  unsigned slots;    ///< candidates of a state that a part gives

  /// For k tokens of each state, in about so many blocks. Where k exceeds 512, parts are so small that they give all their tokens.
  static constexpr ProjectionParts of(unsigned vocabulary, unsigned states, unsigned k, unsigned wanted_blocks) {
    constexpr unsigned step = 32; // rows a block projects at once
    const unsigned tiles = (states + states_at_once - 1) / states_at_once;
    unsigned wanted_parts = wanted_blocks / (tiles == 0 ? 1 : tiles);
    if (wanted_parts == 0) wanted_parts = 1;
    unsigned part_rows = ((vocabulary + wanted_parts - 1) / wanted_parts + step - 1) / step * step;
    if (k > most_kept / 2 && part_rows > most_kept) part_rows = most_kept;
    if (part_rows == 0) part_rows = step;
    unsigned capacity = 2 * step;
    while (capacity < most_kept && capacity < 2 * k) capacity *= 2;
    return {part_rows, (vocabulary + part_rows - 1) / part_rows, capacity, k < part_rows ? k : part_rows};
  }

  constexpr std::size_t candidates(unsigned states) const { return std::size_t{states} * parts * slots; }
};

/// Projects states on the rows of the vocabulary; every part gives its `slots` highest for each state, filled up with keys of 0, in no order.
///
/// A value is the sum that RowProducts describes; it depends neither on the parts nor on the other states. The first state with a value that is not finite is
/// left in *first_bad_state if that is not lower already. Bytes: the vocabulary once for every four states, which stay in shared memory chunk by chunk.
template <class Format> struct Project {
  DeviceRows vocabulary;
  TokenRows states;
  unsigned k;
  ProjectionParts parts;
  Candidate* out; ///< state by state, part by part
  unsigned* first_bad_state;

  static constexpr unsigned at_once = ProjectionParts::states_at_once;
  using Rows = RowProducts<Format, at_once, 4>;
  static constexpr unsigned threads = Rows::threads, least_blocks = 3; // 80 registers: with 64 some would spill
  static_assert(Rows::rows_at_once == warp_size);

  struct Shared {
    typename Rows::Shared products;
    float values[at_once][warp_size];
    unsigned kept[at_once];
    std::uint64_t limit[at_once]; ///< what a key has to exceed
  };

  std::size_t blocks() const { return std::size_t{parts.parts} * ((states.count + at_once - 1) / at_once); }
  unsigned dynamic_bytes() const { return at_once * parts.capacity * static_cast<unsigned>(sizeof(std::uint64_t)); }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared& shared) const {
    const unsigned part = group.block() % parts.parts, first_state = group.block() / parts.parts * at_once;
    const unsigned count = states.count - first_state < at_once ? states.count - first_state : at_once;
    const TokenRows some = states.slice(first_state, count);
    std::uint64_t* const keys = reinterpret_cast<std::uint64_t*>(group.dynamic());
    if (group.thread() < at_once) shared.kept[group.thread()] = 0;
    if (group.thread() < at_once) shared.limit[group.thread()] = 0;
    const unsigned begin = part * parts.part_rows;
    const unsigned end = vocabulary.rows - begin < parts.part_rows ? vocabulary.rows : begin + parts.part_rows;
    for (unsigned row = begin; row < end; row += warp_size) {
      project(group, shared, some, row);
      group.sync();
      if (group.thread() / warp_size < count) take(group, shared, keys, first_state, row, end);
      group.sync();
      for (unsigned s = 0; s < count; ++s)
        if (shared.kept[s] + warp_size > parts.capacity) prune(group, shared, keys, s);
    }
    for (unsigned s = 0; s < count; ++s) {
      if (shared.kept[s] > parts.slots) prune(group, shared, keys, s);
      Candidate* const to = out + (std::size_t{first_state + s} * parts.parts + part) * parts.slots;
      for (unsigned i = group.thread(); i < parts.slots; i += threads) to[i] = {i < shared.kept[s] ? keys[s * parts.capacity + i] : 0, first_state + s, 0};
    }
  }

private:
  /// The values of 32 rows for each state.
  template <class Group> LSAQ_DEVICE void project(const Group& group, Shared& shared, const TokenRows& some, unsigned row) const {
    constexpr unsigned per_warp = 4;
    float sums[per_warp][at_once];
    Rows::multiply(group, shared.products, vocabulary, row, some, sums);
    LSAQ_UNROLL
    for (unsigned r = 0; r < per_warp; ++r) LSAQ_UNROLL
    for (unsigned s = 0; s < at_once; ++s)
      if (group.thread() % warp_size == r * at_once + s) shared.values[s][group.thread() / warp_size * per_warp + r] = sums[r][s];
  }

  /// A warp for each state: keeps the keys of 32 rows that exceed its limit, in the order of the rows.
  template <class Group>
  LSAQ_DEVICE void take(const Group& group, Shared& shared, std::uint64_t* keys, unsigned first_state, unsigned first_row, unsigned end) const {
    const unsigned lane = group.thread() % warp_size, state = group.thread() / warp_size, row = first_row + lane;
    const float value = shared.values[state][lane];
    const bool exists = row < end, finite = (bits_of_float(value) & 0x7f800000u) != 0x7f800000u;
    if (exists && !finite) group.atomic_min(first_bad_state, first_state + state);
    const std::uint64_t key = key_of(value, row);
    const unsigned kept = shared.kept[state];
    const unsigned taken = group.ballot(exists && finite && key > shared.limit[state]);
    if ((taken >> lane & 1) != 0) keys[state * parts.capacity + kept + population(taken & ((1u << lane) - 1))] = key;
    if (lane == 0) shared.kept[state] = kept + population(taken);
  }

  /// Sorts the keys of a state, highest first, and keeps k of them: a bitonic network over all threads.
  template <class Group> LSAQ_DEVICE void prune(const Group& group, Shared& shared, std::uint64_t* all_keys, unsigned state) const {
    std::uint64_t* const keys = all_keys + state * parts.capacity;
    const unsigned kept = shared.kept[state];
    for (unsigned i = kept + group.thread(); i < parts.capacity; i += threads) keys[i] = 0;
    for (unsigned size = 2; size <= parts.capacity; size *= 2)
      for (unsigned distance = size / 2; distance != 0; distance /= 2) {
        group.sync();
        for (unsigned i = group.thread(); i < parts.capacity / 2; i += threads) {
          const unsigned low = 2 * i - (i & (distance - 1)), high = low + distance;
          const std::uint64_t a = keys[low], b = keys[high];
          if ((a < b) != ((low & size) == 0)) continue;
          keys[low] = b;
          keys[high] = a;
        }
      }
    group.sync();
    if (group.thread() == 0) {
      shared.kept[state] = kept < k ? kept : k;
      if (kept >= k) shared.limit[state] = keys[k - 1];
    }
    group.sync();
  }
};

/// The first k of each state's sorted candidates. A state that has fewer is left in *first_bad_state if that is not lower already.
struct EmitTokens {
  const Candidate* candidates;
  std::size_t per_state;
  unsigned states, k;
  TokenId* ids; ///< states x k
  float* values;
  unsigned* first_bad_state;

  static constexpr unsigned threads = 256;
  struct Shared {};

  std::size_t blocks() const { return (std::size_t{states} * k + threads - 1) / threads; }
  unsigned dynamic_bytes() const { return 0; }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared&) const {
    const std::size_t i = std::size_t{group.block()} * threads + group.thread();
    if (i >= std::size_t{states} * k) return;
    const auto state = static_cast<unsigned>(i / k);
    const std::uint64_t key = candidates[state * per_state + i % k].key;
    if (key == 0) group.atomic_min(first_bad_state, state);
    ids[i] = id_of(key);
    values[i] = value_of(key);
  }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
