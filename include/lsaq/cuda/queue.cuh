// A stream with its memory: where kernels, copies and Thrust's algorithms are queued.
#pragma once

#include <lsaq/cuda/memory.cuh>
#include <lsaq/kernels/cuda/simt.cuh>

#include <thrust/execution_policy.h>
#include <thrust/system/cuda/execution_policy.h>
#include <thrust/system_error.h>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// Calls work(), in which the algorithm named is queued for `size` elements. Throws CudaError for what Thrust throws, and what else work() throws.
template <class Work> void with_thrust(const char* algorithm, std::size_t size, Work&& work) {
  try {
    work();
  } catch (const thrust::system_error& error) {
    check(static_cast<cudaError_t>(error.code().value()), algorithm, std::to_string(size) + " elements");
  }
}

/// A stream of the caller's, and the allocator working memory comes from. A small value.
class Queue {
public:
  explicit Queue(cudaStream_t stream, MemoryRef memory) noexcept : stream_(stream), memory_(memory) {}

  cudaStream_t stream() const noexcept { return stream_; }
  MemoryRef memory() const noexcept { return memory_; }

  /// Queues a kernel; what the runtime says. Nothing is queued for an empty grid.
  template <class Kernel> cudaError_t try_launch(const Kernel& kernel) const noexcept {
    const std::size_t blocks = kernel.blocks();
    if (blocks == 0) return cudaSuccess;
    const dim3 grid(static_cast<unsigned>(blocks < ~0u ? blocks : ~0u)); // beyond 2^31 - 1 the runtime refuses it
    void* arguments[] = {const_cast<Kernel*>(&kernel)};
    return cudaLaunchKernel(reinterpret_cast<const void*>(&run<Kernel>), grid, dim3(Kernel::threads), arguments, kernel.dynamic_bytes(), stream_);
  }

  /// Queues a kernel. Throws CudaError.
  template <class Kernel> void launch(const Kernel& kernel) const {
    check(try_launch(kernel), "launch", std::to_string(kernel.blocks()) + " blocks of " + std::to_string(Kernel::threads) + " threads");
  }

  /// Thrust's algorithms in the order of the stream, without waiting for them, with the queue's memory.
  auto thrust_policy() const { return thrust::cuda::par_nosync(memory_).on(stream_); }

  template <class T> DeviceArray<T> allocate(std::size_t size) const { return DeviceArray<T>(size, memory_); }

  /// Queues a copy between host and device, in either direction. Host memory that is not page-locked makes the call wait for what is queued before. Throws
  /// CudaError.
  void copy(const void* from, void* to, std::size_t size) const {
    if (size != 0) check(cudaMemcpyAsync(to, from, size, cudaMemcpyDefault, stream_), "cudaMemcpyAsync", std::to_string(size) + " bytes");
  }

  void fill(void* to, int byte, std::size_t size) const {
    if (size != 0) check(cudaMemsetAsync(to, byte, size, stream_), "cudaMemsetAsync", std::to_string(size) + " bytes");
  }

  /// Waits for what was queued. Throws CudaError, also for what went wrong in a kernel before.
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }

private:
  cudaStream_t stream_;
  MemoryRef memory_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
