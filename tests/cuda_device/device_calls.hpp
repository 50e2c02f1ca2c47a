// Calls of Backend<Cuda> for tests that are not compiled by nvcc: data comes from the host and goes back there. Compiled in device_calls.cu.
#pragma once

#include "cuda_device/toy_model.hpp"

#include <lsaq/deployment/backend.hpp>
#include <lsaq/quantization/shared_channel_parts.hpp>

#include <utility>

namespace device_calls {

/// What the library's exceptions become on the way: the sentence, empty if there was none, and whether it was the runtime that refused.
struct Outcome {
  std::string error;
  bool from_runtime = false;
};

/// Quantizes a matrix; its packed bytes.
std::vector<std::byte> quantize(lsaq::MatrixView weights, unsigned bits, lsaq::ScaleType scale);

/// The same, which is expected to go wrong.
Outcome try_quantize(lsaq::MatrixView weights, unsigned bits, lsaq::ScaleType scale);

/// y = x W^T, widened to FP32; x is FP32, FP16 or BF16 without gaps, and y of its type.
std::vector<float> multiply(lsaq::PackedView weights, lsaq::MatrixView x);
std::vector<float> multiply(lsaq::MatrixView weights, lsaq::MatrixView x);

/// y = x W^T for a matrix of shared channels.
std::vector<float> multiply(const lsaq::SharedChannelMatrix& weights, lsaq::MatrixView x);

/// What becomes of a product of one column with so many rows and tokens, and the runtime's error, which is taken back.
std::pair<lsaq::Status, int> multiply_shape(std::size_t rows, std::size_t tokens);

std::vector<lsaq::ScoredToken> top_tokens(lsaq::MatrixView states, lsaq::MatrixView embedding, std::size_t k);
Outcome try_top_tokens(lsaq::MatrixView states, lsaq::MatrixView embedding, std::size_t k);

/// Jaccard and cosine distances of consecutive boundaries, one state of any element type each, found without leaving the device.
struct Distances {
  std::vector<double> tokens, directions;
};
Distances distances(lsaq::MatrixView boundaries, lsaq::MatrixView embedding, std::size_t k);

/// Hidden states -> importance -> plan -> quantize -> product, all of it on the device.
Deployed deploy();
Outcome try_deploy();

/// Allocations of the runtime that a second run of the same work makes, with memory that is kept.
std::size_t allocations_in_steady_state(lsaq::MatrixView states, lsaq::MatrixView embedding, std::size_t k);

/// The devices Backend<Cuda> lists, as "id: free of total", and why there is none.
std::vector<std::string> devices();
std::string unusable();
/// What choose_device() takes of CUDA's devices and the CPU.
std::string chosen();

} // namespace device_calls
