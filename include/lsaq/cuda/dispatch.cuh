// From element types and bit widths that are data to kernels that are types.
#pragma once

#include <lsaq/cuda/device_rows.cuh>
#include <lsaq/cuda/queue.cuh>
#include <lsaq/kernels/cuda/matmul.cuh>
#include <lsaq/kernels/cuda/quantize.cuh>

#include <algorithm>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// A writable row-major matrix of floats in device memory that somebody else owns.
struct CudaOutput {
  void* data = nullptr;
  std::size_t rows = 0, columns = 0;
  std::size_t stride = 0; ///< elements from one row to the next
  ElementType type = ElementType::f32;

  CudaOutput(MutableMatrixView view) noexcept : data(view.data), rows(view.rows), columns(view.columns), stride(view.stride) {} // NOLINT: the FP32 case
  template <gpu::element T>
  CudaOutput(T* p, std::size_t r, std::size_t c, std::size_t row_stride = 0) noexcept
      : data(p), rows(r), columns(c), stride(row_stride != 0 ? row_stride : c), type(gpu::element_type_of<T>) {}
};

namespace gpu {

/// Calls act(T{}) with the element type that `type` names; false for Q8_0, which the device does not read.
template <class Act> bool with_element(ElementType type, Act&& act) {
  switch (type) {
  case ElementType::f32: act(float{}); return true;
  case ElementType::f16: act(f16{}); return true;
  case ElementType::bf16: act(bf16{}); return true;
  case ElementType::q8_0: break;
  }
  return false;
}

inline Status status_of(cudaError_t error) noexcept { return error == cudaSuccess ? Status::ok : Status::device_error; }

/// Queues y (+)= x W^T: one token reads the weights by itself, more do so four at a time.
template <class Format> Status launch_product(const Queue& queue, const DeviceRows& weights, MatrixView x, const CudaOutput& y, bool add) noexcept {
  const TokenRows tokens = tokens_of(x);
  return status_of(x.rows == 1 ? queue.try_launch(Product<Format, 1>{weights, tokens, y.data, y.stride, y.type, add})
                               : queue.try_launch(Product<Format, 4>{weights, tokens, y.data, y.stride, y.type, add}));
}

/// Whether a product's matrices fit each other, and the device's types of elements and indices.
inline Status check_product(MatrixShape weights, MatrixView x, const CudaOutput& y) noexcept {
  if (x.columns != weights.columns || y.columns != weights.rows || x.rows != y.rows) return Status::shape_mismatch;
  return x.type == ElementType::q8_0 || std::max({weights.rows, weights.columns, x.rows}) > most_rows ? Status::unsupported : Status::ok;
}

/// y (+)= x W^T for packed weights of 4 or 8 bits; x and y each of any element type.
inline Status multiply(const Queue& queue, PackedView weights, MatrixView x, const CudaOutput& y, bool add = false) noexcept {
  if (const Status status = check_product({weights.rows, weights.columns}, x, y); status != Status::ok) return status;
  if ((weights.bits != 4 && weights.bits != 8) || weights.grouping.columns % 32 != 0) return Status::unsupported;
  return weights.bits == 4 ? launch_product<Codes<4>>(queue, rows_of(weights), x, y, add) : launch_product<Codes<8>>(queue, rows_of(weights), x, y, add);
}

/// y (+)= x W^T for weights that are floats; x and y each of any element type.
inline Status multiply(const Queue& queue, MatrixView weights, MatrixView x, const CudaOutput& y, bool add = false) noexcept {
  if (const Status status = check_product({weights.rows, weights.columns}, x, y); status != Status::ok) return status;
  Status status = Status::unsupported;
  with_element(weights.type, [&](auto zero) { status = launch_product<Floats<decltype(zero)>>(queue, rows_of(weights), x, y, add); });
  return status;
}

/// Queues the quantization of all rows of `weights` into `packed`. Throws CudaError.
template <element T, unsigned Bits>
void launch_quantization(const Queue& queue, MatrixView weights, std::byte* packed, ScaleType scale, unsigned* first_bad_row) {
  const std::size_t codes = weights.rows * packed_row_bytes(weights.columns, Bits);
  queue.launch(QuantizeRows<T, Bits>{static_cast<const T*>(weights.data), weights.stride, static_cast<unsigned>(weights.rows),
                                     static_cast<unsigned>(weights.columns), reinterpret_cast<std::uint32_t*>(packed), packed + codes,
                                     element_type_of_scale(scale), first_bad_row});
}

} // namespace gpu
} // namespace lsaq::inline v0::inline LSAQ_BASELINE
