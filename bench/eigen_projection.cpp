#include "eigen_projection.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <numeric>

namespace bench {

std::vector<std::uint32_t> eigen_top_tokens(const float* states, std::size_t count, const float* embedding, std::size_t vocabulary, std::size_t hidden,
                                            std::size_t k) {
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto index = [](std::size_t n) { return static_cast<Eigen::Index>(n); };
  const Eigen::Map<const RowMajor> x(states, index(count), index(hidden)), w(embedding, index(vocabulary), index(hidden));
  RowMajor logits(index(count), index(vocabulary));
  logits.noalias() = x * w.transpose();
  std::vector<std::uint32_t> ids(vocabulary), top;
  for (std::size_t s = 0; s < count; ++s) {
    std::iota(ids.begin(), ids.end(), 0u);
    const float* row = logits.data() + s * vocabulary;
    std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(k), ids.end(),
                      [&](std::uint32_t a, std::uint32_t b) { return row[a] != row[b] ? row[a] > row[b] : a < b; });
    top.insert(top.end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(k));
  }
  return top;
}

} // namespace bench
