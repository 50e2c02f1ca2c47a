// Backend<Cuda>: importance, quantization and products on a stream of the caller's.
//
// Every call queues its work on the backend's stream and returns; only the calls that give results to the host say so, and wait for that stream alone. Working
// memory comes from the backend's allocator; with CachedMemory nothing is allocated in steady state. Pointers in views are addresses in device memory but where
// "on the host" is said.
#pragma once

#include <lsaq/cuda/dispatch.cuh>
#include <lsaq/cuda/matrices.cuh>
#include <lsaq/importance/token_sets.hpp>
#include <lsaq/kernels/cuda/cosine.cuh>
#include <lsaq/kernels/cuda/shared_channels.cuh>
#include <lsaq/kernels/cuda/token_sets.cuh>
#include <lsaq/kernels/cuda/top_k.cuh>
#include <lsaq/quantization/quantization_fault.hpp>
#include <lsaq/resources/device.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Multiplies, quantizes and measures importance on a CUDA device. A small value: it refers to the stream and the allocator, which the engine owns.
///
/// Activations keep their type whatever the policy says: codes are widened and summed in FP32. Work goes to the device that is current when a call is made.
template <class Activations> class Backend<Cuda, Activations> {
public:
  /// On `stream`, with memory from cudaMallocAsync.
  explicit Backend(cudaStream_t stream = nullptr) noexcept : queue_(stream, gpu::MemoryRef(stream)) {}
  Backend(cudaStream_t stream, gpu::MemoryRef memory) noexcept : queue_(stream, memory) {}

  const gpu::Queue& queue() const noexcept { return queue_; }
  cudaStream_t stream() const noexcept { return queue_.stream(); }

  /// Waits for everything queued on the stream. Throws CudaError, also for what went wrong in a kernel.
  void synchronize() const { queue_.synchronize(); }

  /// Every device that can be used, with its free memory; none where there is no driver or no device. Leaves the current device as it was, but makes a context
  /// on each, as asking for free memory does.
  static std::vector<Device> devices() {
    std::vector<Device> found;
    int count = 0, current = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || cudaGetDevice(&current) != cudaSuccess) {
      cudaGetLastError();
      return found;
    }
    for (int id = 0; id < count; ++id) {
      cudaDeviceProp properties{};
      std::size_t free = 0, total = 0;
      if (cudaGetDeviceProperties(&properties, id) == cudaSuccess && cudaSetDevice(id) == cudaSuccess && cudaMemGetInfo(&free, &total) == cudaSuccess)
        found.push_back({"cuda:" + std::to_string(id), properties.name, total, free, "cudaMemGetInfo"});
    }
    cudaSetDevice(current);
    cudaGetLastError();
    return found;
  }

  /// Why the current device can't be used, as one sentence; empty if it can. Makes a context on it, as only that tells.
  static std::string unusable() {
    int count = 0;
    std::size_t free = 0, total = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaSuccess && count == 0) error = cudaErrorNoDevice;
    if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total);
    cudaGetLastError();
    return error == cudaSuccess ? "" : "no usable CUDA device: " + gpu::text_of(error);
  }

  // --- Weights ---

  /// Copies packed weights from the host to the device, and waits for that. Throws CudaError; nothing is left behind then.
  CudaPackedMatrix prepare(PackedView host) const {
    CudaPackedMatrix packed(queue_, host);
    queue_.synchronize();
    return packed;
  }
  CudaPackedMatrix prepare(const PackedMatrix& host) const { return prepare(host.view()); }

  /// Likewise for a matrix of shared channels.
  CudaSharedChannelMatrix prepare(const SharedChannelMatrix& host) const {
    CudaSharedChannelMatrix shared(queue_, host);
    queue_.synchronize();
    return shared;
  }

  /// Quantizes weights on the device, per channel, to 4 or 8 bits: the bytes quantize() gives on the CPU. Waits for the result. Throws InvalidArgument for
  /// other formats and for weights that can't be quantized, by row and column; CudaError. Nothing is left behind then.
  CudaPackedMatrix quantize(MatrixView weights, unsigned bits, ScaleType scale = ScaleType::f16) const {
    CudaPackedMatrix packed(queue_, {weights.rows, weights.columns}, {.bits = bits, .scale = scale});
    const auto first_bad_row = queue_.allocate<unsigned>(1);
    queue_.fill(first_bad_row.data(), 0xff, sizeof(unsigned));
    quantize_into(weights, bits, packed.data(), first_bad_row.data(), scale);
    unsigned bad = ~0u;
    queue_.copy(first_bad_row.data(), &bad, sizeof bad);
    queue_.synchronize();
    if (bad != ~0u) fail<InvalidArgument>(message_of(fault_of_row(weights, bad), "", scale));
    return packed;
  }

  /// Queues the same into memory of the caller, packed_bytes() on the device, aligned to 16 bytes. The caller sets *first_bad_row to ~0 before; it then holds
  /// the first row that can't be quantized if there is one. Allocates nothing. Throws InvalidArgument, CudaError.
  void quantize_into(MatrixView weights, unsigned bits, std::byte* packed, unsigned* first_bad_row, ScaleType scale = ScaleType::f16) const {
    if (bits != 4 && bits != 8) fail<InvalidArgument>("CUDA quantizes to 4 or 8 bits, not to " + std::to_string(bits));
    check_size(weights, "weights");
    const bool known = gpu::with_element(weights.type, [&](auto weight) {
      using T = decltype(weight);
      if (bits == 4)
        gpu::launch_quantization<T, 4>(queue_, weights, packed, scale, first_bad_row);
      else
        gpu::launch_quantization<T, 8>(queue_, weights, packed, scale, first_bad_row);
    });
    if (!known) fail<InvalidArgument>("CUDA quantizes FP32, FP16 and BF16 weights, not " + std::string(name_of(weights.type)));
  }

  // --- Products ---

  /// Products on the device work without a workspace.
  static constexpr std::size_t workspace_bytes(PackedView, std::size_t) noexcept { return 0; }
  static constexpr std::size_t workspace_bytes(MatrixView, std::size_t) noexcept { return 0; }

  /// Queues y = x W^T for packed W of 4 or 8 bits, any grouping: x is tokens x W.columns, y is tokens x W.rows, each FP32, FP16 or BF16.
  ///
  /// Within the bound of RowProducts (kernels/cuda/row_products.cuh) of the exact product of the codes. Allocates nothing. Status::device_error if the runtime
  /// refuses the launch: cudaGetLastError() says why.
  Status matmul(PackedView weights, MatrixView x, CudaOutput y, std::span<std::byte> = {}) const noexcept { return gpu::multiply(queue_, weights, x, y); }
  Status matmul(const CudaPackedMatrix& weights, MatrixView x, CudaOutput y) const noexcept { return matmul(weights.view(), x, y); }

  /// The same for FP32, FP16 or BF16 weights.
  Status matmul(MatrixView weights, MatrixView x, CudaOutput y, std::span<std::byte> = {}) const noexcept { return gpu::multiply(queue_, weights, x, y); }

  /// Queues y = W x for one vector of FP32.
  Status matvec(const CudaPackedMatrix& weights, std::span<const float> x, std::span<float> y) const noexcept {
    return matmul(weights.view(), MatrixView(x.data(), 1, x.size()), MutableMatrixView(y.data(), 1, y.size()));
  }

  /// Queues y = x W^T from representatives, labels and factors. `workspace` is device memory of the caller. A corrected y is rounded to its type twice.
  Status matmul(const CudaSharedChannelMatrix& weights, MatrixView x, CudaOutput y, std::span<std::byte> workspace) const noexcept {
    const MatrixShape shape = weights.shape();
    if (const Status status = gpu::check_product(shape, x, y); status != Status::ok || x.rows == 0) return status;
    if (workspace.size() < weights.workspace_bytes(x.rows) || reinterpret_cast<std::uintptr_t>(workspace.data()) % alignof(float) != 0)
      return Status::workspace_too_small;
    auto* const floats = reinterpret_cast<float*>(workspace.data());
    const MutableMatrixView sums(floats, x.rows, weights.clusters()), thin(floats + x.rows * weights.clusters(), x.rows, weights.rank());
    const bool corrected = weights.rank() != 0;
    if (corrected) {
      if (const Status status = multiply_part(weights.right(), x, thin, false); status != Status::ok) return status;
      if (const Status status = multiply_part(weights.left(), thin, y, false); status != Status::ok) return status;
    }
    const auto clusters = static_cast<unsigned>(weights.clusters()), tokens = static_cast<unsigned>(x.rows);
    const gpu::Labels labels{weights.labels(), label_bits(weights.clusters())};
    if (weights.axis() == ChannelAxis::rows) {
      if (const Status status = multiply_part(weights.representatives(), x, sums, false); status != Status::ok) return status;
      return gpu::status_of(
          queue_.try_launch(gpu::GatherChannels{labels, sums.data, clusters, static_cast<unsigned>(shape.rows), tokens, y.data, y.stride, y.type, corrected}));
    }
    const cudaError_t error = queue_.try_launch(gpu::SumByCluster{labels, gpu::tokens_of(x), static_cast<unsigned>(shape.columns), clusters, sums.data});
    return error != cudaSuccess ? Status::device_error : multiply_part(weights.representatives(), sums, y, corrected);
  }

  // --- Importance ---

  /// The k highest projections of each state on the embedding (LSAQ, Eqs. 1 and 2), as ImportanceMetric asks for: `states` (FP32) and `out` are on the host,
  /// the embedding is on the device. Waits for the result. Throws InvalidArgument as lsaq::top_tokens does, CudaError.
  void top_tokens(MatrixView states, MatrixView embedding, std::size_t k, std::span<ScoredToken> out) const {
    if (states.type != ElementType::f32 || states.stride != states.columns || out.size() != states.rows * k)
      fail<InvalidArgument>("top_tokens wants FP32 states without gaps and room for k tokens of each");
    constexpr std::size_t states_at_once = 1024;
    for (std::size_t first = 0; first < states.rows; first += states_at_once) {
      const std::size_t count = std::min(states_at_once, states.rows - first);
      top_tokens_of(states.slice(first, count), first, embedding, k, out.subspan(first * k, count * k));
    }
  }

  /// Queues the same for states of any element type on the device: ids and values are states x k on the device, each state's highest first. The caller sets
  /// *first_bad_state to ~0 before; it then holds the first state whose projection has no order if there is one. Throws InvalidArgument, CudaError.
  void top_tokens(MatrixView states, MatrixView embedding, std::size_t k, TokenId* ids, float* values, unsigned* first_bad_state) const {
    detail::check_projection(states, embedding, k);
    check_size(states, "states");
    check_size(embedding, "embedding");
    if (states.type == ElementType::q8_0 || embedding.type == ElementType::q8_0)
      fail<InvalidArgument>("CUDA projects FP32, FP16 and BF16 states on embeddings of these types, not Q8_0");
    if (states.rows == 0) return;
    const auto parts =
        gpu::ProjectionParts::of(static_cast<unsigned>(embedding.rows), static_cast<unsigned>(states.rows), static_cast<unsigned>(k), 2 * processors());
    const auto candidates = queue_.allocate<gpu::Candidate>(parts.candidates(static_cast<unsigned>(states.rows)));
    gpu::with_element(embedding.type, [&](auto weight) {
      gpu::with_thrust("thrust::sort", candidates.size(), [&] {
        gpu::top_tokens<gpu::Floats<decltype(weight)>>(queue_, gpu::rows_of(embedding), gpu::tokens_of(states), static_cast<unsigned>(k), parts,
                                                       candidates.data(), ids, values, first_bad_state);
      });
    });
  }

  /// Queues distances[p] = 1 - |A n B| / |A u B| (LSAQ, Eq. 3) of pairs of token sets of k ids each. Throws InvalidArgument, CudaError.
  void token_distances(const TokenId* entering, const TokenId* leaving, std::size_t pairs, std::size_t k, double* distances) const {
    if (std::max(pairs, k) > gpu::most_rows)
      fail<InvalidArgument>("token_distances of " + std::to_string(pairs) + " pairs of " + std::to_string(k) + " tokens: CUDA takes up to " +
                            std::to_string(gpu::most_rows) + " of each");
    queue_.launch(gpu::CompareTokenSets{entering, leaving, static_cast<unsigned>(pairs), static_cast<unsigned>(k), distances, nullptr});
  }

  /// Queues distances[r] = 1 - cos(entering row r, leaving row r). Throws InvalidArgument, CudaError.
  void direction_distances(MatrixView entering, MatrixView leaving, double* distances) const {
    check_size(entering, "states");
    if (entering.rows != leaving.rows || entering.columns != leaving.columns || entering.stride != leaving.stride || entering.type != leaving.type)
      fail<InvalidArgument>("direction_distances wants states of one shape and type");
    const bool known = gpu::with_element(entering.type, [&](auto zero) {
      using T = decltype(zero);
      queue_.launch(gpu::CompareDirections<T>{static_cast<const T*>(entering.data), static_cast<const T*>(leaving.data), entering.stride,
                                              static_cast<unsigned>(entering.rows), static_cast<unsigned>(entering.columns), distances});
    });
    if (!known) fail<InvalidArgument>("direction_distances wants FP32, FP16 or BF16 states");
  }

private:
  static void check_size(MatrixView view, const char* what) {
    if (std::max(view.rows, view.columns) > gpu::most_rows)
      fail<InvalidArgument>(std::string(what) + " of " + std::to_string(view.rows) + " x " + std::to_string(view.columns) + ": CUDA takes up to " +
                            std::to_string(gpu::most_rows) + " rows and columns");
  }

  /// Streaming multiprocessors of the current device.
  static unsigned processors() {
    int device = 0, count = 0;
    gpu::check(cudaGetDevice(&device), "cudaGetDevice");
    gpu::check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute", "device " + std::to_string(device));
    return static_cast<unsigned>(count);
  }

  Status multiply_part(const CudaSharedPart& part, MatrixView x, const CudaOutput& y, bool add) const noexcept {
    return part.bits() == 16 ? gpu::multiply(queue_, part.floats(), x, y, add) : gpu::multiply(queue_, part.codes(), x, y, add);
  }

  /// The fault of a row that the kernel refused, found on the host.
  QuantizationFault fault_of_row(MatrixView weights, std::size_t row) const {
    std::vector<std::byte> bytes(bytes_of(weights.type, weights.columns));
    queue_.copy(weights.row(row), bytes.data(), bytes.size());
    queue_.synchronize();
    QuantizationFault fault{QuantizationFault::Kind::scale_overflow, row, 0, 0};
    for (std::size_t column = 0; column < weights.columns; ++column) {
      const float value = load_element(bytes.data(), weights.type, column);
      if ((std::bit_cast<std::uint32_t>(value) & 0x7f800000u) == 0x7f800000u) return {QuantizationFault::Kind::not_finite, row, column, value};
      if (std::abs(value) > std::abs(fault.value)) {
        fault.column = column;
        fault.value = value;
      }
    }
    return fault;
  }

  /// top_tokens() of states on the host, of which the first one is number `first`.
  void top_tokens_of(MatrixView states, std::size_t first, MatrixView embedding, std::size_t k, std::span<ScoredToken> out) const {
    const std::size_t values_in = states.rows * states.columns, tokens = states.rows * k;
    const auto copied = queue_.allocate<float>(values_in);
    const auto ids = queue_.allocate<TokenId>(tokens);
    const auto values = queue_.allocate<float>(tokens);
    const auto first_bad_state = queue_.allocate<unsigned>(1);
    queue_.copy(states.data, copied.data(), values_in * sizeof(float));
    queue_.fill(first_bad_state.data(), 0xff, sizeof(unsigned));
    top_tokens(MatrixView(copied.data(), states.rows, states.columns), embedding, k, ids.data(), values.data(), first_bad_state.data());
    std::vector<TokenId> found_ids(tokens);
    std::vector<float> found_values(tokens);
    unsigned bad = ~0u;
    queue_.copy(ids.data(), found_ids.data(), tokens * sizeof(TokenId));
    queue_.copy(values.data(), found_values.data(), tokens * sizeof(float));
    queue_.copy(first_bad_state.data(), &bad, sizeof bad);
    queue_.synchronize();
    if (bad != ~0u)
      fail<InvalidArgument>("the projection of hidden state " + std::to_string(first + bad) +
                            " is not finite: look for infinities and NaN in it and in the embedding");
    for (std::size_t i = 0; i < tokens; ++i) out[i] = {found_values[i], found_ids[i]};
  }

  gpu::Queue queue_;
};

static_assert(backend<Backend<Cuda>> && lists_devices<Backend<Cuda>>);
static_assert(gpu::kernel_queue<gpu::Queue>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
