// The peer within C++: Eigen's matrix product into a matrix of logits, then std::partial_sort of each row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace bench {

/// ids of the k highest projections of each of `states` rows; logits are stored, as peers do.
std::vector<std::uint32_t> eigen_top_tokens(const float* states, std::size_t count, const float* embedding, std::size_t vocabulary, std::size_t hidden,
                                            std::size_t k);

} // namespace bench
