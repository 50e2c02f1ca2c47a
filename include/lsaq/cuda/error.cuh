// What the CUDA runtime refused, as an exception.
#pragma once

#include <lsaq/error.hpp>

#include <cuda_runtime.h>

namespace lsaq::inline v0 {

/// A call of the CUDA runtime that failed; what() names the call, what it was called with, and the runtime's error.
struct [[gnu::visibility("default")]] CudaError : Error {
  CudaError(const std::string& message, cudaError_t error) : Error(message), code(error) {}
  cudaError_t code;
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// "cudaErrorMemoryAllocation (out of memory)".
inline std::string text_of(cudaError_t error) { return std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")"; }

/// Throws CudaError unless `error` is success, and takes it back from the runtime, so that no later call reports it. `call` names the call, `detail` its sizes.
inline void check(cudaError_t error, const char* call, const std::string& detail = {}) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  fail<CudaError>(std::string(call) + (detail.empty() ? "" : " of " + detail) + ": " + text_of(error), error);
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
