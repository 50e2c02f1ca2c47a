// Truncated singular value decomposition: a matrix as the product of two thin ones.
//
// Small matrices are decomposed as a whole. Of large ones only the range of the wanted vectors is: random combinations of the columns, made sharper by power
// iterations, span it with a few dimensions to spare (Halko, Martinsson, Tropp 2011, arXiv 0909.4061, Algorithms 4.4 and 5.1).
#pragma once

#include <lsaq/quantization/dense_products.hpp>

#include <Eigen/Eigenvalues>
#include <Eigen/QR>

#include <algorithm>
#include <cmath>
#include <random>

namespace lsaq::inline v0 {

/// How singular vectors are found.
enum class SvdMethod : std::uint8_t {
  automatic, ///< exact for matrices of at most 512 rows or columns, and where the random range would be a quarter of it: nothing is saved then
  exact,
  randomized
};

/// How much of a matrix is kept, and how it is found.
struct LowRankOptions {
  std::size_t rank = 1;
  SvdMethod method = SvdMethod::automatic;
  std::uint64_t seed = 0;           ///< of the random range
  std::size_t oversampling = 10;    ///< dimensions of the random range beyond `rank`
  std::size_t power_iterations = 4; ///< each costs two products with the matrix and sharpens a slowly falling spectrum
};

/// left x right is the matrix as far as `rank` singular values give it; each has the root of the singular values.
struct LowRankMatrix {
  MatrixShape shape = {};
  std::size_t rank = 0;
  std::vector<float> left = {};             ///< shape.rows x rank
  std::vector<float> right = {};            ///< rank x shape.columns
  std::vector<double> singular_values = {}; ///< `rank` of them, falling
  double residual = 0;                      ///< Frobenius norm of what is left out; below 1e-7 of the matrix's norm it is rounding
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

inline constexpr std::size_t exact_svd_limit = 512;

/// Columns of a column-major matrix of doubles are the rows of a row-major one of floats.
inline void transpose_to_floats(const Eigen::MatrixXd& matrix, std::vector<float>& out) {
  out.resize(static_cast<std::size_t>(matrix.size()));
  for (Eigen::Index i = 0; i < matrix.size(); ++i) out[static_cast<std::size_t>(i)] = static_cast<float>(matrix.data()[i]);
}

/// The matrix times 2^-exponent, and its transpose: no product of elements is beyond FP32, whatever the weights' unit.
struct ScaledPair {
  std::vector<float> plain, transposed;
  int exponent = 0;

  explicit ScaledPair(MatrixView matrix) : plain(matrix.rows * matrix.columns), transposed(plain.size()) {
    float largest = 0;
    for (std::size_t r = 0; r < matrix.rows; ++r)
      for (std::size_t c = 0; c < matrix.columns; ++c) largest = std::max(largest, std::abs(load_element(matrix.row(r), ElementType::f32, c)));
    std::frexp(largest, &exponent);
    for (std::size_t r = 0; r < matrix.rows; ++r)
      for (std::size_t c = 0; c < matrix.columns; ++c)
        plain[r * matrix.columns + c] = transposed[c * matrix.rows + r] = std::ldexp(load_element(matrix.row(r), ElementType::f32, c), -exponent);
  }
};

/// The orthonormal basis of the range of `rows` transposed, one vector a row: `rows` is n x count row-major and becomes count x n.
inline void orthonormalize(std::vector<float>& rows, std::size_t n, std::size_t count) {
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto height = static_cast<Eigen::Index>(n), width = static_cast<Eigen::Index>(count);
  const Eigen::HouseholderQR<Eigen::MatrixXd> decomposition(Eigen::Map<const RowMajor>(rows.data(), height, width).cast<double>());
  transpose_to_floats(decomposition.householderQ() * Eigen::MatrixXd::Identity(height, width), rows);
}

/// matrix = u diag(values) v^T, values falling; u and v have as many columns as the smaller side, those of values that are rounding are zero on the larger
/// side.
struct SingularValues {
  Eigen::MatrixXd u, v;
  Eigen::VectorXd values;
};

/// By the eigenvectors of the smaller Gram matrix: what lies below 1e-8 of the largest singular value is lost, which no FP32 matrix shows, and a translation
/// unit that includes this compiles five times as fast as with Eigen's SVD.
inline SingularValues decompose(const Eigen::MatrixXd& matrix) {
  const bool tall = matrix.rows() >= matrix.cols();
  const Eigen::MatrixXd turned = matrix.transpose();
  const Eigen::MatrixXd &thin = tall ? matrix : turned, &wide = tall ? turned : matrix;
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(wide * thin);
  if (solver.info() != Eigen::Success) fail<InvalidArgument>("the singular value decomposition of the error matrix did not converge");
  SingularValues found;
  found.values = solver.eigenvalues().reverse().cwiseMax(0).cwiseSqrt();
  const Eigen::MatrixXd smaller = solver.eigenvectors().rowwise().reverse();
  const double least = found.values.size() == 0 ? 0 : 1e-8 * found.values[0];
  const Eigen::VectorXd inverse = found.values.unaryExpr([&](double value) { return value > least ? 1 / value : 0; });
  found.u = thin * smaller * inverse.asDiagonal();
  found.v = smaller;
  if (!tall) found.u.swap(found.v);
  return found;
}

/// Splits each singular value between the two factors, and adds up what is left out.
inline void keep_rank(LowRankMatrix& result, const Eigen::MatrixXd& u, const Eigen::VectorXd& values, const Eigen::MatrixXd& v, double norm, int exponent) {
  const auto rank = static_cast<Eigen::Index>(result.rank);
  const Eigen::VectorXd kept = values.head(rank) * std::ldexp(1.0, exponent);
  const Eigen::VectorXd roots = kept.cwiseSqrt();
  transpose_to_floats((u.leftCols(rank) * roots.asDiagonal()).transpose(), result.left);
  transpose_to_floats(v.leftCols(rank) * roots.asDiagonal(), result.right);
  result.singular_values.assign(kept.data(), kept.data() + rank);
  result.residual = std::sqrt(std::max(0.0, norm * norm - values.head(rank).squaredNorm())) * std::ldexp(1.0, exponent);
}

} // namespace detail

/// The best approximation of `matrix` by a product of rank options.rank (Eckart, Young 1936), or one close to it where the matrix is large.
///
/// `matrix` is FP32, finite, and stays the caller's. The result depends on the seed, not on the number of threads. Throws InvalidArgument for a rank above the
/// smaller side or values that are not finite; std::bad_alloc. Cost of the exact way: some 20 times rows x columns x the smaller side operations on the calling
/// thread, and three copies of the matrix in double; of the randomized one: 2 + 2 x power_iterations products of the matrix with rank + oversampling vectors on
/// the device and as many orthonormalizations on the calling thread, and two copies in FP32.
template <product_device Device> LowRankMatrix truncated_svd(MatrixView matrix, const LowRankOptions& options, const Device& device) {
  const std::size_t rows = matrix.rows, columns = matrix.columns, smaller = std::min(rows, columns);
  if (options.rank > smaller)
    fail<InvalidArgument>("can't keep rank " + std::to_string(options.rank) + " of a " + text_of({rows, columns}) + " matrix: 0 to " + std::to_string(smaller) +
                          " are possible");
  require_finite_floats(matrix, "matrix");
  const detail::ScaledPair scaled(matrix);
  using RowMajor = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const auto height = static_cast<Eigen::Index>(rows), width = static_cast<Eigen::Index>(columns);
  double squares = 0;
  for (const float value : scaled.plain) squares += double{value} * double{value};
  const double norm = std::sqrt(squares);

  LowRankMatrix result{.shape = {rows, columns}, .rank = options.rank};
  if (options.rank == 0) {
    result.residual = std::ldexp(norm, scaled.exponent);
    return result;
  }
  const std::size_t sketch = std::min(options.rank + options.oversampling, smaller);
  const bool exact =
      options.method == SvdMethod::exact || (options.method == SvdMethod::automatic && (smaller <= detail::exact_svd_limit || 4 * sketch >= smaller));
  if (exact) {
    const auto found = detail::decompose(Eigen::Map<const RowMajor>(scaled.plain.data(), height, width).cast<double>());
    detail::keep_rank(result, found.u, found.values, found.v, norm, scaled.exponent);
    const Eigen::Index rest = found.values.size() - static_cast<Eigen::Index>(options.rank);
    result.residual = std::ldexp(found.values.tail(rest).norm(), scaled.exponent); // the sum has no cancellation
    return result;
  }

  // Random signs do what Gaussian numbers would, and are the same on every platform.
  std::mt19937_64 random(options.seed);
  std::vector<float> domain(sketch * columns), range(rows * sketch); // a few vectors in the space of rows, and in that of columns
  for (float& sign : domain) sign = random() >> 63 != 0 ? 1.0f : -1.0f;
  std::vector<std::byte> workspace;
  const MatrixView plain(scaled.plain.data(), rows, columns), transposed(scaled.transposed.data(), columns, rows);
  for (std::size_t iteration = 0;; ++iteration) {
    detail::multiply_transposed(device, plain, {domain.data(), sketch, columns}, {range.data(), rows, sketch}, workspace);
    detail::orthonormalize(range, rows, sketch);
    domain.resize(columns * sketch);
    detail::multiply_transposed(device, transposed, {range.data(), sketch, rows}, {domain.data(), columns, sketch}, workspace);
    if (iteration == options.power_iterations) break;
    detail::orthonormalize(domain, columns, sketch);
  }
  // The matrix is now basis x domain^T: what is left is the decomposition of a thin matrix.
  const auto thin = static_cast<Eigen::Index>(sketch);
  const auto found = detail::decompose(Eigen::Map<const RowMajor>(domain.data(), width, thin).cast<double>());
  const Eigen::MatrixXd basis = Eigen::Map<const RowMajor>(range.data(), thin, height).transpose().cast<double>();
  detail::keep_rank(result, basis * found.v.leftCols(static_cast<Eigen::Index>(options.rank)), found.values, found.u, norm, scaled.exponent);
  return result;
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
