// What calibration learns about the inputs of a linear: their second moments, and some inputs that are held back to judge by.
#pragma once

#include <lsaq/quantization/dense_products.hpp>
#include <lsaq/quantization/rotation.hpp>

#include <vector>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// The mean of x x^T over calibration inputs x (half the Hessian of a linear's squared output error), and held-back inputs. It serves every bit width.
///
/// A value: n x n floats for n channels, and the rows held back.
class InputStatistics {
public:
  InputStatistics() = default;
  explicit InputStatistics(std::size_t channels) : channels_(channels), sums_(channels * channels) {}

  /// Of moments found earlier. Throws InvalidArgument if the sizes are not those of `channels`.
  InputStatistics(std::size_t channels, std::size_t inputs, std::vector<float> moments, std::vector<float> held_back)
      : channels_(channels), inputs_(inputs), sums_(std::move(moments)), held_back_(std::move(held_back)) {
    if (sums_.size() != channels * channels || (channels == 0 ? !held_back_.empty() : held_back_.size() % channels != 0))
      fail<InvalidArgument>("input statistics of " + std::to_string(channels) + " channels do not have " + std::to_string(sums_.size()) + " moments and " +
                            std::to_string(held_back_.size()) + " held-back values");
  }

  std::size_t channels() const noexcept { return channels_; }
  /// Inputs summed up; those held back not included.
  std::size_t inputs() const noexcept { return inputs_; }

  /// Adds inputs (FP32, one a row). Sums are FP32 over blocks of 256 inputs and added in FP32; the result does not depend on threads. Throws InvalidArgument
  /// for another width, std::bad_alloc: a block transposed, and 256 x n floats.
  template <product_device Device> void add(const Device& device, MatrixView x) {
    check_width(x);
    constexpr std::size_t block = 256;
    std::vector<float> turned(channels_ * std::min(block, x.rows)), products(std::min(block, channels_) * channels_);
    std::vector<std::byte> workspace(device.workspace_bytes(MatrixView(turned.data(), channels_, std::min(block, x.rows)), block));
    for (std::size_t first = 0; first < x.rows; first += block) {
      const std::size_t count = std::min(block, x.rows - first);
      device.executor().parallel_for((channels_ + block - 1) / block, [&](std::size_t part) {
        for (std::size_t c = part * block; c < std::min(channels_, (part + 1) * block); ++c)
          for (std::size_t t = 0; t < count; ++t) turned[c * count + t] = reinterpret_cast<const float*>(x.row(first + t))[c];
      });
      for (std::size_t row = 0; row < channels_; row += block) { // the lower triangle, and what comes with its blocks
        const std::size_t rows = std::min(block, channels_ - row), columns = row + rows;
        const Status status = device.matmul(MatrixView(turned.data(), columns, count), MatrixView(turned.data() + row * count, rows, count),
                                            {products.data(), rows, columns}, workspace);
        LSAQ_ASSERT(status == Status::ok);
        (void)status;
        device.executor().parallel_for(rows, [&](std::size_t r) {
          float* const sums = sums_.data() + (row + r) * channels_;
          for (std::size_t c = 0; c <= row + r; ++c) sums[c] += products[r * columns + c];
        });
      }
    }
    inputs_ += x.rows;
  }

  /// Keeps inputs to judge roundings by; they are not added. Throws InvalidArgument, std::bad_alloc.
  void hold_back(MatrixView x) {
    check_width(x);
    for (std::size_t r = 0; r < x.rows; ++r) {
      const auto* row = reinterpret_cast<const float*>(x.row(r));
      held_back_.insert(held_back_.end(), row, row + channels_);
    }
  }

  /// Ends the additions: sums become means, the upper triangle that of the lower.
  void finish() noexcept {
    const float share = inputs_ == 0 ? 0 : 1 / static_cast<float>(inputs_);
    for (std::size_t i = 0; i < channels_; ++i)
      for (std::size_t j = 0; j <= i; ++j) sums_[j * channels_ + i] = sums_[i * channels_ + j] *= share;
  }

  /// Mean of x_i x_j, symmetric; after finish().
  MatrixView moments() const noexcept { return {sums_.data(), channels_, channels_}; }
  /// Mean of x_i^2; after finish().
  std::vector<float> mean_squares() const {
    std::vector<float> squares(channels_);
    for (std::size_t i = 0; i < channels_; ++i) squares[i] = sums_[i * (channels_ + 1)];
    return squares;
  }
  MatrixView held_back() const noexcept { return {held_back_.data(), channels_ == 0 ? 0 : held_back_.size() / channels_, channels_}; }

  /// The statistics of x_i factor_i. Throws InvalidArgument for another number of factors.
  void multiply(std::span<const float> factors) {
    if (factors.size() != channels_)
      fail<InvalidArgument>(std::to_string(factors.size()) + " factors do not fit inputs of " + std::to_string(channels_) + " channels");
    for (std::size_t i = 0; i < channels_; ++i)
      for (std::size_t j = 0; j < channels_; ++j) sums_[i * channels_ + j] *= factors[i] * factors[j];
    for (std::size_t v = 0; v < held_back_.size(); ++v) held_back_[v] *= factors[v % channels_];
  }

  /// The statistics of x Q, blocks of channels rotated alike. Throws InvalidArgument if the rotation's size does not divide the channels.
  void rotate(const Rotation& rotation, ExecutorRef executor = {}) {
    const MutableMatrixView sums(sums_.data(), channels_, channels_);
    rotate_inputs(rotation, sums, executor);
    rotate_outputs(rotation, sums, executor);
    rotate_inputs(rotation, {held_back_.data(), held_back().rows, channels_}, executor);
  }

private:
  void check_width(MatrixView x) const {
    if (x.columns != channels_ || x.type != ElementType::f32)
      fail<InvalidArgument>("inputs of " + std::to_string(x.columns) + " channels (" + std::string(name_of(x.type)) + ") were given for a linear of " +
                            std::to_string(channels_) + " (F32)");
  }

  std::size_t channels_ = 0;
  std::size_t inputs_ = 0;
  std::vector<float> sums_;
  std::vector<float> held_back_;
};

/// Mean squared difference of the outputs of W and W' on held-back inputs, summed over the outputs: |X (W - W')^T|^2 / rows of X.
///
/// `difference` is W - W' (FP32, outputs x inputs). Cost: one product. Throws std::bad_alloc.
template <product_device Device> double output_error(const Device& device, MatrixView held_back, MatrixView difference) {
  constexpr std::size_t block = 64;
  std::vector<float> products(std::min(block, held_back.rows) * difference.rows);
  std::vector<std::byte> workspace(device.workspace_bytes(difference, block));
  double sum = 0;
  for (std::size_t first = 0; first < held_back.rows; first += block) {
    const std::size_t count = std::min(block, held_back.rows - first);
    const Status status = device.matmul(difference, held_back.slice(first, count), {products.data(), count, difference.rows}, workspace);
    LSAQ_ASSERT(status == Status::ok);
    (void)status;
    for (std::size_t i = 0; i < count * difference.rows; ++i) sum += double{products[i]} * double{products[i]};
  }
  return held_back.rows == 0 ? 0 : sum / static_cast<double>(held_back.rows);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
