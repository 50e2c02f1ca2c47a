// Rounding that lets later weights make up for the errors of earlier ones: rounding policy Gptq (Frantar et al., arXiv 2210.17323).
//
// For one output row w and inputs x with H = E[x x^T] + damping, the codes q and the scale s are to minimize e H e^T with e = w - s q. With the columns in the
// order they are rounded and H = R R^T, R upper triangular, that is the sum over j of R_jj^2 (t_j - s q_j)^2, where t_j = w_j + sum_{k<j} e_k R_kj / R_jj: each
// code is the nearest to its t_j. This is GPTQ in the form of QuIP's LDLQ (arXiv 2307.13304): no inverse is needed.
// Columns are rounded in falling order of their mean square, so that the inputs that matter most are rounded while most others can still make up for them.
// Afterwards codes are improved one by one, and scales by least squares, as long as that lowers e H e^T (coordinate descent as in QuantEase, arXiv 2309.01885).
#pragma once

#include <lsaq/quantization/cholesky.hpp>
#include <lsaq/quantization/clipping.hpp>
#include <lsaq/quantization/input_statistics.hpp>

#include <numeric>

namespace lsaq::inline v0 {

/// How Gptq works.
struct GptqOptions {
  double damping = 0.01;    ///< added to the mean squares: this share of their median, which massive activations do not move
  unsigned refinements = 2; ///< passes of coordinate descent and scale fits after the rounding
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// What Gptq needs of the inputs, for any number of linears that share them and any format: the order of columns, and R R^T of the damped moments.
class GptqFactor {
public:
  /// Factors the moments of `inputs`, which must outlive it, in double precision. n^3 / 3 operations; while it works, n x n doubles beside the n x n floats it
  /// keeps. Throws InvalidArgument where the moments are not finite, std::bad_alloc.
  GptqFactor(const InputStatistics& inputs, const GptqOptions& options = {}, ExecutorRef executor = {})
      : inputs_(&inputs), options_(options), order_(inputs.channels()), feedback_(inputs.channels() * inputs.channels()) {
    const std::size_t n = inputs.channels();
    const std::vector<float> squares = inputs.mean_squares();
    for (const float square : squares)
      if (!(square >= 0) || !std::isfinite(square)) fail<InvalidArgument>("the second moments of a linear's inputs are not finite: its activations overflow");
    std::iota(order_.begin(), order_.end(), std::uint32_t{0});
    std::stable_sort(order_.begin(), order_.end(), [&](std::uint32_t a, std::uint32_t b) { return squares[a] > squares[b]; });
    double ridge = options.damping * median(squares);
    if (ridge == 0) ridge = options.damping * std::accumulate(squares.begin(), squares.end(), 0.0) / static_cast<double>(std::max<std::size_t>(1, n));
    if (ridge == 0) ridge = 1; // no inputs at all: every weight counts the same
    // Rounding of the FP32 sums must not make the matrix indefinite: a little of each mean square too, more if that was not enough.
    for (double relative = 1e-6;; relative *= 10) {
      damping_.assign(n, 0);
      for (std::size_t i = 0; i < n; ++i) damping_[i] = static_cast<float>(ridge + relative * squares[i]);
      if (factor(executor)) return;
      LSAQ_ASSERT(relative < 1e3 && "a matrix with such a diagonal is positive definite");
    }
  }

  const InputStatistics& inputs() const noexcept { return *inputs_; }
  const GptqOptions& options() const noexcept { return options_; }
  std::size_t channels() const noexcept { return order_.size(); }
  /// Columns as they are rounded.
  std::span<const std::uint32_t> order() const noexcept { return order_; }
  /// Row j, column k < j: R_kj / R_jj, both in the order of rounding.
  MatrixView feedback() const noexcept { return {feedback_.data(), channels(), channels()}; }
  /// What was added to each mean square.
  std::span<const float> damping() const noexcept { return damping_; }

private:
  static double median(std::vector<float> values) {
    if (values.empty()) return 0;
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
  }

  bool factor(ExecutorRef executor) {
    const std::size_t n = channels();
    const auto* moments = static_cast<const float*>(inputs_->moments().data);
    // H = R R^T with R upper is L L^T of the columns in reverse.
    Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> lower(static_cast<Eigen::Index>(n), static_cast<Eigen::Index>(n));
    executor.parallel_for(n, [&](std::size_t i) {
      const std::size_t column = order_[n - 1 - i];
      for (std::size_t j = 0; j <= i; ++j) lower.data()[i * n + j] = double{moments[column * n + order_[n - 1 - j]]};
      lower.data()[i * n + i] += double{damping_[column]};
    });
    if (!cholesky(lower, executor)) return false;
    executor.parallel_for(n, [&](std::size_t j) {
      const std::size_t row = n - 1 - j;
      const double diagonal = lower.data()[row * n + row];
      for (std::size_t k = 0; k < j; ++k) feedback_[j * n + k] = static_cast<float>(lower.data()[(n - 1 - k) * n + row] / diagonal);
      for (std::size_t k = j; k < n; ++k) feedback_[j * n + k] = 0;
    });
    return true;
  }

  const InputStatistics* inputs_;
  GptqOptions options_;
  std::vector<std::uint32_t> order_;
  std::vector<float> feedback_;
  std::vector<float> damping_;
};

namespace detail {

inline constexpr std::size_t gptq_rows = 512; ///< rows rounded together: bounds the memory

/// Rounds a block of rows. All matrices are rows x channels, row-major; codes are signed.
template <product_device Device> class GptqBlock {
public:
  GptqBlock(const Device& device, const GptqFactor& factor, const PackedFormat& format)
      : device_(device), factor_(factor), format_(format), n_(factor.channels()), groups_(format.grouping.scales_per_row(n_)),
        group_columns_(groups_ == 1 ? std::max<std::size_t>(1, n_) : format.grouping.columns), importance_(factor.inputs().mean_squares()) {
    for (std::size_t i = 0; i < n_; ++i) importance_[i] += factor.damping()[i];
  }

  /// Rounds `weights` (FP32); scales are chosen unless a single one is given.
  void round(MatrixView weights, float tensor_scale) {
    weights_ = weights;
    rows_ = weights.rows;
    errors_.resize(rows_ * n_);
    codes_.resize(rows_ * n_);
    scales_.assign(rows_ * groups_, tensor_scale);
    if (!format_.grouping.whole_matrix) choose_scales();
    round_with_feedback();
    if (factor_.options().refinements != 0) refine();
  }

  float scale(std::size_t row, std::size_t column) const noexcept { return scales_[row * groups_ + column / group_columns_]; }
  const std::int8_t* codes(std::size_t row) const noexcept { return codes_.data() + row * n_; }
  std::span<const float> scales() const noexcept { return scales_; }

private:
  static constexpr std::size_t columns_at_once = 128; // groups up to this size are fitted within a block

  const float* weight_row(std::size_t row) const noexcept { return reinterpret_cast<const float*>(weights_.row(row)); }

  template <class Act> void for_rows(Act&& act) {
    constexpr std::size_t rows_per_task = 16;
    device_.executor().parallel_for((rows_ + rows_per_task - 1) / rows_per_task, [&](std::size_t task) {
      const DefaultFloatEnvironment environment;
      for (std::size_t r = task * rows_per_task; r < std::min(rows_, (task + 1) * rows_per_task); ++r) act(r);
    });
  }

  void choose_scales() {
    for_rows([&](std::size_t r) {
      for (std::size_t g = 0; g < groups_; ++g) {
        const std::size_t first = g * group_columns_, count = std::min(group_columns_, n_ - first);
        scales_[r * groups_ + g] = clipped_scale(kernels_, weight_row(r) + first, importance_.data() + first, count, format_);
      }
    });
  }

  float nearest(float value, float scale) const noexcept {
    if (scale == 0) return 0;
    const float code = static_cast<float>(scalar::round_half_even(std::clamp(scalar::divide(value, scale), -300.0f, 300.0f)));
    return std::clamp(code, static_cast<float>(format_.lowest_code()), static_cast<float>(format_.highest_code()));
  }

  /// y = x W^T where all are parts of FP32 matrices.
  void multiply(MatrixView w, MatrixView x, MutableMatrixView y) {
    workspace_.resize(std::max(workspace_.size(), device_.workspace_bytes(w, x.rows)));
    const Status status = device_.matmul(w, x, y, workspace_);
    LSAQ_ASSERT(status == Status::ok);
    (void)status;
  }

  /// Columns in the factor's order; errors_ too, until the end.
  void round_with_feedback() {
    const std::span<const std::uint32_t> order = factor_.order();
    const auto* feedback = static_cast<const float*>(factor_.feedback().data);
    block_.resize(rows_ * columns_at_once);
    std::vector<float> within(columns_at_once * columns_at_once); // row k: what e_k adds to the later columns of the block
    for (std::size_t first = 0; first < n_; first += columns_at_once) {
      const std::size_t count = std::min(columns_at_once, n_ - first);
      if (first != 0)
        multiply({feedback + first * n_, count, first, n_}, {errors_.data(), rows_, first, n_}, {block_.data(), rows_, count});
      else
        std::fill(block_.begin(), block_.end(), 0.0f);
      for (std::size_t j = 0; j < count; ++j)
        for (std::size_t k = 0; k < j; ++k) within[k * columns_at_once + j] = feedback[(first + j) * n_ + first + k];
      for_rows([&](std::size_t r) {
        float* const wanted = block_.data() + r * count;
        const float* const w = weight_row(r);
        for (std::size_t j = 0; j < count; ++j) {
          const std::size_t column = order[first + j];
          const float s = scale(r, column), code = nearest(w[column] + wanted[j], s), error = w[column] - s * code;
          codes_[r * n_ + column] = static_cast<std::int8_t>(code);
          errors_[r * n_ + first + j] = error;
          Floats(wanted + j + 1, index(count - j - 1)) += error * ConstFloats(within.data() + j * columns_at_once + j + 1, index(count - j - 1));
        }
      });
    }
    for_rows([&](std::size_t r) { find_errors(r); });
  }

  void find_errors(std::size_t r) noexcept {
    for (std::size_t c = 0; c < n_; ++c) errors_[r * n_ + c] = weight_row(r)[c] - scale(r, c) * static_cast<float>(codes_[r * n_ + c]);
  }

  /// out = x H, damped.
  void times_moments(const float* x, std::vector<float>& out) {
    out.resize(rows_ * n_);
    multiply(factor_.inputs().moments(), {x, rows_, n_}, {out.data(), rows_, n_});
    for_rows([&](std::size_t r) {
      Floats(out.data() + r * n_, index(n_)) += ConstFloats(x + r * n_, index(n_)) * ConstFloats(factor_.damping().data(), index(n_));
    });
  }

  void refine() {
    const bool one_scale_a_row = groups_ == 1 && !format_.grouping.whole_matrix;
    times_moments(errors_.data(), gradient_);
    if (one_scale_a_row) {
      weights_times_moments_.resize(rows_ * n_);
      std::vector<float> copy(rows_ * n_);
      for_rows([&](std::size_t r) { std::copy_n(weight_row(r), n_, copy.data() + r * n_); });
      times_moments(copy.data(), weights_times_moments_);
    }
    for (unsigned pass = 0; pass < factor_.options().refinements; ++pass) {
      if (one_scale_a_row) for_rows([&](std::size_t r) { fit_row_scale(r); });
      descend();
    }
  }

  /// A scale found by least squares as the format stores it; 0 if it is none: not above zero, or out of the format's range.
  float stored_scale(double scale) const noexcept {
    const auto value = static_cast<float>(scale);
    if (!(value > 0) || !std::isfinite(value)) return 0;
    const float stored = round_scale(value, format_.scale);
    return std::isfinite(stored) ? stored : 0;
  }

  /// The scale with the least e H e^T for the codes a row has: (w H q^T) / (q H q^T).
  void fit_row_scale(std::size_t r) noexcept {
    float& s = scales_[r];
    if (s == 0) return;
    double weight_code = 0, code_squared = 0;
    for (std::size_t c = 0; c < n_; ++c) { // q H = (w H - e H) / s
      const double product = (double{weights_times_moments_[r * n_ + c]} - double{gradient_[r * n_ + c]}) / double{s};
      weight_code += double{weight_row(r)[c]} * product;
      code_squared += static_cast<double>(codes_[r * n_ + c]) * product;
    }
    const float fitted = code_squared > 0 ? stored_scale(weight_code / code_squared) : 0;
    if (fitted == 0) return;
    const float ratio = fitted / s;
    for (std::size_t c = 0; c < n_; ++c) {
      float& gradient = gradient_[r * n_ + c];
      gradient = weights_times_moments_[r * n_ + c] - ratio * (weights_times_moments_[r * n_ + c] - gradient);
    }
    s = fitted;
    find_errors(r);
  }

  /// One pass over all codes: each is set to the best one given the others. Blocks of columns; the gradient e H follows.
  void descend() {
    const auto* moments = static_cast<const float*>(factor_.inputs().moments().data);
    const std::size_t width = groups_ == 1 ? columns_at_once : std::max(columns_at_once, group_columns_) / group_columns_ * group_columns_; // whole groups
    for (std::size_t first = 0; first < n_; first += width) {
      const std::size_t count = std::min(width, n_ - first);
      changes_.assign(rows_ * count, 0.0f);
      for_rows([&](std::size_t r) {
        float* const gradient = gradient_.data() + r * n_ + first;
        float* const change = changes_.data() + r * count;
        // e' = e + amount on column j of the block.
        const auto move = [&](std::size_t j, float amount) {
          change[j] += amount;
          Floats(gradient, index(count)) += amount * ConstFloats(moments + (first + j) * n_ + first, index(count));
          gradient[j] += amount * factor_.damping()[first + j];
        };
        for (std::size_t j = 0; j < count; ++j) {
          const std::size_t c = first + j;
          if (groups_ > 1 && c % group_columns_ == 0) fit_group_scale(r, first, count, c, std::min(group_columns_, n_ - c), gradient, change);
          const float s = scale(r, c), curvature = moments[c * n_ + c] + factor_.damping()[c];
          if (s == 0) continue;
          std::int8_t& code = codes_[r * n_ + c];
          const float better = nearest(s * static_cast<float>(code) + gradient[j] / curvature, s);
          if (better == static_cast<float>(code)) continue;
          const float amount = s * (static_cast<float>(code) - better);
          code = static_cast<std::int8_t>(better);
          errors_[r * n_ + c] += amount;
          move(j, amount);
        }
      });
      follow(first, count);
    }
  }

  /// The scale of a group of `columns` from `column` on with the least e H e^T for its codes, within a block of `width` columns from `first` on.
  void fit_group_scale(std::size_t r, std::size_t first, std::size_t width, std::size_t column, std::size_t columns, float* gradient, float* change) noexcept {
    const auto* moments = static_cast<const float*>(factor_.inputs().moments().data);
    float& s = scales_[r * groups_ + column / group_columns_];
    const std::int8_t* const codes = codes_.data() + r * n_ + column;
    if (s == 0) return;
    double slope = 0, curvature = 0;
    for (std::size_t i = 0; i < columns; ++i) {
      if (codes[i] == 0) continue;
      const float* const row = moments + (column + i) * n_ + column;
      float sum = factor_.damping()[column + i] * static_cast<float>(codes[i]);
      for (std::size_t j = 0; j < columns; ++j) sum += row[j] * static_cast<float>(codes[j]);
      slope += static_cast<double>(codes[i]) * double{gradient[column - first + i]};
      curvature += static_cast<double>(codes[i]) * double{sum};
    }
    const float fitted = curvature > 0 ? stored_scale(double{s} + slope / curvature) : 0;
    if (fitted == 0 || fitted == s) return;
    const float step = s - fitted;
    s = fitted;
    for (std::size_t i = 0; i < columns; ++i) {
      const float amount = step * static_cast<float>(codes[i]);
      if (amount == 0) continue;
      errors_[r * n_ + column + i] += amount;
      change[column - first + i] += amount;
      Floats(gradient, index(width)) += amount * ConstFloats(moments + (column + i) * n_ + first, index(width));
      gradient[column - first + i] += amount * factor_.damping()[column + i];
    }
  }

  /// The gradient of all other columns after a block has changed.
  void follow(std::size_t first, std::size_t count) {
    const auto* moments = static_cast<const float*>(factor_.inputs().moments().data);
    block_.resize(rows_ * n_);
    multiply({moments + first, n_, count, n_}, {changes_.data(), rows_, count}, {block_.data(), rows_, n_}); // moments are symmetric
    for_rows([&](std::size_t r) {
      float* const gradient = gradient_.data() + r * n_;
      const float* const moved = block_.data() + r * n_;
      const std::size_t end = first + count;
      Floats(gradient, index(first)) += ConstFloats(moved, index(first));
      Floats(gradient + end, index(n_ - end)) += ConstFloats(moved + end, index(n_ - end));
    });
  }

  using Floats = Eigen::Map<Eigen::ArrayXf, Eigen::Unaligned>;
  using ConstFloats = Eigen::Map<const Eigen::ArrayXf, Eigen::Unaligned>;
  static Eigen::Index index(std::size_t n) noexcept { return static_cast<Eigen::Index>(n); }

  const Device& device_;
  const CpuKernels& kernels_ = select_kernels();
  const GptqFactor& factor_;
  PackedFormat format_;
  std::size_t n_, groups_, group_columns_;
  std::vector<float> importance_;
  MatrixView weights_;
  std::size_t rows_ = 0;
  std::vector<float> errors_, gradient_, weights_times_moments_, changes_, block_, scales_;
  std::vector<std::int8_t> codes_;
  std::vector<std::byte> workspace_;
};

} // namespace detail

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
