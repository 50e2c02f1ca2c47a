// What every backend offers, and the primary template that says what to include for the one asked for.
#pragma once

#include <lsaq/deployment/activation.hpp>
#include <lsaq/executor.hpp>
#include <lsaq/quantization/packed_matrix.hpp>

#include <concepts>
#include <span>

namespace lsaq::inline v0 {

/// Tag of the CPU backend.
struct Cpu;
/// Tag of the CUDA backend.
struct Cuda;

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {
template <class> inline constexpr bool never = false;
}

/// Runs matrix products on a kind of device, packed weights by activations of a kind. Specialized for Cpu in lsaq/deployment/cpu.hpp and for Cuda in
/// lsaq/cuda.cuh.
template <class Device, class Activations = Activation<Int8PerToken>> class Backend {
  static_assert(detail::never<Device>,
                "lsaq: Backend<Cpu> needs #include <lsaq/deployment/cpu.hpp>; Backend<Cuda> needs #include <lsaq/cuda.cuh>, nvcc and the "
                "CMake target lsaq::cuda");
};

/// Packed weights in the form and the memory a backend's products read, owned.
template <class W>
concept prepared_weights = requires(const W& weights) {
  { weights.view() } -> std::same_as<PackedView>;
};

static_assert(prepared_weights<PackedMatrix>);

/// A backend: prepares packed weights once, then multiplies without allocating or throwing.
template <class B>
concept backend = requires(const B& device, PackedMatrix packed, PackedView packed_view, MatrixView weights, MatrixView x, MutableMatrixView y,
                           std::span<std::byte> workspace) {
  { device.prepare(std::move(packed)) } -> prepared_weights;
  { device.matmul(packed_view, x, y, workspace) }
  noexcept->std::same_as<Status>;
  { device.matmul(weights, x, y, workspace) }
  noexcept->std::same_as<Status>;
  { device.workspace_bytes(packed_view, std::size_t{1}) }
  noexcept->std::same_as<std::size_t>;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
