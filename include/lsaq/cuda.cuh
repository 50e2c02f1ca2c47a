// The one door to CUDA: Backend<Cuda>, its devices, memory and errors. For nvcc, C++20, with the CMake target lsaq::cuda; no other header includes CUDA's.
//
//   lsaq::Backend<lsaq::Cuda> device{stream, memory};   // the engine's stream; memory from its allocator, or cudaMallocAsync
//   auto packed = device.quantize(weights, 4);          // the same bytes as on the CPU
//   device.matmul(packed, x, y);                        // queued on the stream
#pragma once

#if !defined(__CUDACC__)
#error "lsaq: <lsaq/cuda.cuh> is compiled by nvcc; include it in .cu files only and link lsaq::cuda (docs/cuda.md)"
#endif

#include <lsaq/cuda/backend.cuh>
