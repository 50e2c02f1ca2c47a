// States and vocabularies for the tests of the projection, and the whole top-k on the executor with a sort of the test's choice.
#pragma once

#include "cuda/kernel_cases.hpp"

#include <lsaq/importance/token_sets.hpp>
#include <lsaq/kernels/cpu/select.hpp>
#include <lsaq/kernels/cuda/projection.cuh>

namespace test_support {

template <lsaq::gpu::element T> struct Vocabulary {
  Guarded<T> embedding;
  Guarded<float> states;
  unsigned tokens, hidden, count;

  /// Small whole numbers, whose sums are exact in any order and often equal; or, with `normal`, numbers of any kind.
  Vocabulary(unsigned tokens_, unsigned hidden_, unsigned states_, bool normal, unsigned seed)
      : embedding(std::size_t{tokens_} * hidden_, 16), states(std::size_t{states_} * hidden_, 16), tokens(tokens_), hidden(hidden_), count(states_) {
    std::mt19937 random(seed);
    std::normal_distribution<float> some;
    const auto number = [&] { return normal ? some(random) : static_cast<float>(static_cast<int>(random() % 7) - 3); };
    for (T& value : embedding.span()) value = element_of<T>(number());
    for (float& value : states.span()) value = number();
  }

  lsaq::gpu::DeviceRows rows() const { return {reinterpret_cast<const std::byte*>(embedding.data()), hidden * sizeof(T), tokens, hidden}; }
  lsaq::gpu::TokenRows state_rows() const { return {states.data(), hidden, count}; }

  /// What the CPU finds.
  std::vector<lsaq::ScoredToken> highest(unsigned k) const {
    std::vector<lsaq::ScoredToken> found(std::size_t{count} * k);
    lsaq::top_tokens({states.data(), count, hidden}, {embedding.data(), tokens, hidden}, k, found, lsaq::select_kernels());
    return found;
  }
};

/// Tokens and their values as the device gives them.
struct Selected {
  Guarded<lsaq::TokenId> ids;
  Guarded<float> values;
  Guarded<unsigned> first_bad_state{1};

  Selected(unsigned states, unsigned k) : ids(std::size_t{states} * k), values(std::size_t{states} * k) {}

  bool equals(const std::vector<lsaq::ScoredToken>& expected) const {
    for (std::size_t i = 0; i < expected.size(); ++i)
      if (ids[i] != expected[i].id || values[i] != expected[i].value) return false;
    return true;
  }
};

} // namespace test_support
