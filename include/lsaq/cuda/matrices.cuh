// Weights that live in device memory: packed codes, and matrices of shared channels.
#pragma once

#include <lsaq/cuda/queue.cuh>
#include <lsaq/deployment/backend.hpp>
#include <lsaq/quantization/shared_channel_parts.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A packed matrix in device memory, in the layout of packed_matrix.hpp. Move-only.
class CudaPackedMatrix {
public:
  CudaPackedMatrix() = default;

  /// Room for a matrix, not initialized. Throws what the queue's memory throws.
  CudaPackedMatrix(const gpu::Queue& queue, MatrixShape shape, const PackedFormat& format)
      : storage_(queue.allocate<std::byte>(static_cast<std::size_t>(packed_bytes(shape, format)))), view_{storage_.data(), shape.rows,   shape.columns,
                                                                                                          format.bits,     format.scale, format.grouping} {}

  /// Queues a copy of a matrix in host memory, which has to stay until the stream has come to it. Throws CudaError.
  CudaPackedMatrix(const gpu::Queue& queue, PackedView host)
      : CudaPackedMatrix(queue, {host.rows, host.columns}, {.bits = host.bits, .scale = host.scale_type, .grouping = host.grouping}) {
    queue.copy(host.data, storage_.data(), storage_.size());
  }

  std::byte* data() noexcept { return storage_.data(); }
  PackedView view() const noexcept { return view_; }
  Bytes bytes() const noexcept { return storage_.size(); }
  unsigned bits() const noexcept { return view_.bits; }

private:
  DeviceArray<std::byte> storage_;
  PackedView view_;
};

static_assert(prepared_weights<CudaPackedMatrix>);

/// A part of a matrix of shared channels in device memory: F16 values or a packed matrix.
class CudaSharedPart {
public:
  CudaSharedPart() = default;
  CudaSharedPart(const gpu::Queue& queue, const SharedPart& host) : shape_(host.shape()), bits_(host.bits()) {
    if (bits_ != 16) {
      packed_ = CudaPackedMatrix(queue, host.codes());
      return;
    }
    halves_ = queue.allocate<f16>(shape_.rows * shape_.columns);
    queue.copy(host.floats().data, halves_.data(), halves_.size() * sizeof(f16));
  }

  unsigned bits() const noexcept { return bits_; }
  MatrixView floats() const noexcept { return {halves_.data(), shape_.rows, shape_.columns}; }
  PackedView codes() const noexcept { return packed_.view(); }

private:
  DeviceArray<f16> halves_;
  CudaPackedMatrix packed_;
  MatrixShape shape_;
  unsigned bits_ = 16;
};

/// A matrix of shared channels in device memory. Move-only.
class CudaSharedChannelMatrix {
public:
  CudaSharedChannelMatrix() = default;

  /// Queues a copy of a matrix in host memory, which has to stay until the stream has come to it. Throws CudaError.
  CudaSharedChannelMatrix(const gpu::Queue& queue, const SharedChannelMatrix& host)
      : shape_(host.shape()), axis_(host.format().axis), clusters_(host.clusters()), rank_(host.rank()), representatives_(queue, host.representatives()),
        left_(queue, host.left()), right_(queue, host.right()),
        labels_(queue.allocate<std::uint32_t>(static_cast<std::size_t>(label_bytes(channels_of(shape_, axis_), clusters_) / 4))) {
    queue.copy(host.labels(), labels_.data(), labels_.size() * sizeof(std::uint32_t));
  }

  MatrixShape shape() const noexcept { return shape_; }
  ChannelAxis axis() const noexcept { return axis_; }
  std::size_t clusters() const noexcept { return clusters_; }
  std::size_t rank() const noexcept { return rank_; }
  const CudaSharedPart& representatives() const noexcept { return representatives_; }
  const CudaSharedPart& left() const noexcept { return left_; }
  const CudaSharedPart& right() const noexcept { return right_; }
  const std::uint32_t* labels() const noexcept { return labels_.data(); }

  /// Bytes of device memory that a product with `tokens` rows of input works in.
  std::size_t workspace_bytes(std::size_t tokens) const noexcept { return tokens * (clusters_ + rank_) * sizeof(float); }

private:
  MatrixShape shape_;
  ChannelAxis axis_ = ChannelAxis::rows;
  std::size_t clusters_ = 0, rank_ = 0;
  CudaSharedPart representatives_, left_, right_;
  DeviceArray<std::uint32_t> labels_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
