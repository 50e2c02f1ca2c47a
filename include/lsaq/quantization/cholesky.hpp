// Cholesky factors of large symmetric matrices on the caller's executor.
#pragma once

#include <lsaq/executor.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <algorithm>
#include <atomic>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A = L L^T in place: the lower triangle of `a` becomes L, the rest is left alone. False if A is not positive definite; `a` is of no use then.
///
/// Row-major, double; n^3 / 3 operations, spread over the executor in blocks of rows. The result does not depend on the number of threads.
inline bool cholesky(Eigen::Ref<Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> a, ExecutorRef executor = {}) {
  constexpr Eigen::Index block = 128;
  const Eigen::Index n = a.rows();
  for (Eigen::Index k = 0; k < n; k += block) {
    const Eigen::Index width = std::min(block, n - k), rest = k + width;
    Eigen::LLT<Eigen::MatrixXd> corner(a.block(k, k, width, width).selfadjointView<Eigen::Lower>());
    if (corner.info() != Eigen::Success) return false;
    const Eigen::MatrixXd factor = corner.matrixL();
    a.block(k, k, width, width).triangularView<Eigen::Lower>() = factor;
    const auto rows_of = [&](std::size_t task) { return rest + static_cast<Eigen::Index>(task) * block; };
    const auto tasks = static_cast<std::size_t>((n - rest + block - 1) / block);
    executor.parallel_for(tasks, [&](std::size_t task) {
      const Eigen::Index row = rows_of(task), rows = std::min(block, n - row);
      auto panel = a.block(row, k, rows, width);
      factor.triangularView<Eigen::Lower>().transpose().solveInPlace<Eigen::OnTheRight>(panel);
    });
    executor.parallel_for(tasks, [&](std::size_t task) {
      const Eigen::Index row = rows_of(tasks - 1 - task), rows = std::min(block, n - row); // the longest first
      a.block(row, rest, rows, row + rows - rest).noalias() -= a.block(row, k, rows, width) * a.block(rest, k, row + rows - rest, width).transpose();
    });
  }
  return true;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
