// Backend<Cpu>: products of packed codes with integer activations, of 16-bit weights with FP32 activations, spread over the engine's executor.
#pragma once

#include <lsaq/deployment/backend.hpp>
#include <lsaq/importance/token_sets.hpp>
#include <lsaq/kernels/cpu/integer_matmul.hpp>
#include <lsaq/kernels/cpu/panel_matmul.hpp>
#include <lsaq/kernels/cpu/select.hpp>
#include <lsaq/resources/device.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Multiplies on the CPU. A small value: copies share the executor they refer to, which the engine owns.
template <class Activations> class Backend<Cpu, Activations> {
public:
  /// Chooses the kernels: the fastest this machine runs, or LSAQ_ISA. Throws InvalidArgument if LSAQ_ISA can't be met.
  explicit Backend(ExecutorRef executor = {}) : kernels_(&select_kernels()), executor_(executor) {}

  /// With kernels chosen by the caller. Precondition: cpu_runs(isa).
  Backend(ExecutorRef executor, Isa isa) noexcept : kernels_(&kernels_of(isa)), executor_(executor) {}

  Isa isa() const noexcept { return kernels_->isa; }
  const CpuKernels& kernels() const noexcept { return *kernels_; }
  ExecutorRef executor() const noexcept { return executor_; }

  /// The host as a device: free memory by MemAvailable and control-group limits.
  static std::vector<Device> devices() {
    const HostMemory memory = host_memory();
    return {{"cpu", "host memory", memory.total, memory.free, memory.limited_by}};
  }

  /// Brings packed weights into the form the products read. The canonical form already is; takes and returns ownership.
  PackedMatrix prepare(PackedMatrix packed) const { return packed; }

  /// Bytes of workspace with which a product with `tokens` rows of input is fastest: its input again, as codes or transposed. Few tokens need none.
  std::size_t workspace_bytes(PackedView weights, std::size_t tokens) const noexcept {
    if (!as_integers(weights)) return float_workspace_bytes(weights.columns, tokens);
    const Scaling scaling = scaling_of(weights.grouping);
    const std::size_t needed = TokenCodes::bytes(tokens, weights.columns, kernels_->integer->layout(weights.bits, tokens, scaling), scaling);
    return needed <= stack_token_bytes ? 0 : needed;
  }
  std::size_t workspace_bytes(MatrixView weights, std::size_t tokens) const noexcept { return float_workspace_bytes(weights.columns, tokens); }

  /// Enough for weights of any kind with so many columns, on any instruction set.
  static std::size_t workspace_bytes(std::size_t columns, std::size_t tokens) noexcept {
    if (tokens < token_panels_min) return 0;
    std::size_t needed = float_workspace_bytes(columns, tokens);
    for (const Isa isa : all_isas)
      for (unsigned bits = min_bits; bits <= max_bits; ++bits)
        for (const Scaling scaling : {Scaling::token, Scaling::block})
          needed = std::max(needed, TokenCodes::bytes(tokens, columns, kernels_of(isa).integer->layout(bits, tokens, scaling), scaling));
    return needed;
  }

  /// y = x W^T for a packed W: x is tokens x W.columns (FP32), y is tokens x W.rows, both the caller's.
  ///
  /// Activation<Int8PerToken>: tokens become integers, y is an exact sum, times the token's scale, times the row's; with scales of groups, or Int8PerBlock,
  /// sums of 32 columns are exact and added up in order. Either is the same to the last bit on every path and for any number of threads and of tokens.
  /// Activation<Float32>, and rows of more than 65,536 columns: codes are multiplied by FP32 activations and summed in FP32, the same for any number of
  /// threads. Allocates nothing; uses 180 KiB of stack a thread. A workspace smaller than workspace_bytes() (or not aligned to four bytes) is left unused,
  /// which is slower for many tokens.
  Status matmul(PackedView weights, MatrixView x, MutableMatrixView y, std::span<std::byte> workspace = {}) const noexcept {
    if (weights.bits < min_bits || weights.bits > max_bits) return Status::unsupported;
    WeightRows rows{weights.data, weights.row_bytes(), {.element = ElementType::f32, .bits = weights.bits}};
    const MatrixShape shape{weights.rows, weights.columns};
    const ElementType type = weights.scale_type == ScaleType::f32   ? ElementType::f32
                             : weights.scale_type == ScaleType::f16 ? ElementType::f16
                                                                    : ElementType::bf16;
    RowScales scales{weights.scale_data(), type, weights.grouping.whole_matrix ? 0u : 1u};
    if (weights.grouping.columns != 0) {
      if (weights.grouping.columns % group_multiple != 0) return Status::unsupported;
      rows.groups = {weights.scale_data(), type, weights.grouping.columns, weights.grouping.scales_per_row(weights.columns)};
      scales = {};
    }
    if (as_integers(weights)) return multiply_integers(rows, shape, scaling_of(weights.grouping), scales, x, y, workspace);
    return multiply(rows, shape, scales, x, y, workspace);
  }

  /// y = x W^T for FP32, FP16, BF16 or Q8_0 weights, read in place.
  Status matmul(MatrixView weights, MatrixView x, MutableMatrixView y, std::span<std::byte> workspace = {}) const noexcept {
    return multiply({static_cast<const std::byte*>(weights.data), weights.row_bytes(), {.element = weights.type}}, {weights.rows, weights.columns}, {}, x, y,
                    workspace);
  }

  Status matmul(const PackedMatrix& weights, MatrixView x, MutableMatrixView y, std::span<std::byte> workspace = {}) const noexcept {
    return matmul(weights.view(), x, y, workspace);
  }

  /// y = W x for one vector; x has W.columns values, y has W.rows.
  Status matvec(PackedView weights, std::span<const float> x, std::span<float> y) const noexcept {
    return matmul(weights, MatrixView(x.data(), 1, x.size()), MutableMatrixView(y.data(), 1, y.size()));
  }
  Status matvec(const PackedMatrix& weights, std::span<const float> x, std::span<float> y) const noexcept { return matvec(weights.view(), x, y); }

  /// The k highest projections of each state on the embedding (LSAQ, Eqs. 1 and 2); see importance/token_sets.hpp.
  void top_tokens(MatrixView states, MatrixView embedding, std::size_t k, std::span<ScoredToken> out) const {
    lsaq::top_tokens(states, embedding, k, out, *kernels_, executor_);
  }

private:
  /// Whether a product is one of integers: the policy's, and of rows that are not empty and short enough for exact sums.
  static bool as_integers(PackedView weights) noexcept {
    return !std::same_as<typename Activations::policy, Float32> && weights.columns != 0 && high_units_of(weights.columns) != 0;
  }

  static Scaling scaling_of(Grouping grouping) noexcept {
    return grouping.columns != 0 || std::same_as<typename Activations::policy, Int8PerBlock> ? Scaling::block : Scaling::token;
  }

  static std::size_t float_workspace_bytes(std::size_t columns, std::size_t tokens) noexcept {
    return tokens < token_panels_min ? 0 : packed_tokens_floats(tokens, columns) * sizeof(float);
  }

  /// Tasks for so many pieces of a matrix: four a thread even out their speeds; a task below some 32 KiB of weights costs more to hand over than to run.
  std::size_t tasks_of(std::size_t pieces, std::size_t bytes, std::size_t tokens) const noexcept {
    const std::size_t threads = executor_.concurrency();
    return std::min({pieces, std::max<std::size_t>(1, bytes * std::max<std::size_t>(1, tokens / 4) >> 15), threads == 1 ? 1 : threads * 4});
  }

  static Status check(MatrixShape shape, MatrixView x, MutableMatrixView y) noexcept {
    return x.type != ElementType::f32 || x.columns != shape.columns || y.columns != shape.rows || x.rows != y.rows ? Status::shape_mismatch : Status::ok;
  }

  Status multiply_integers(const WeightRows& weights, MatrixShape shape, Scaling scaling, const RowScales& scales, MatrixView x, MutableMatrixView y,
                           std::span<std::byte> workspace) const noexcept {
    if (const Status status = check(shape, x, y); status != Status::ok) return status;
    alignas(64) std::byte on_stack[stack_token_bytes];
    const unsigned bits = weights.format.bits;
    const IntegerKernels& integer = *kernels_->integer;
    const std::span<std::byte> memory = workspace.size() >= sizeof on_stack ? workspace : std::span<std::byte>(on_stack);
    for (std::size_t first = 0, count; first < x.rows; first += count) { // all tokens at once, or as many as there is memory for
      count = x.rows - first;
      while (count > 1 && TokenCodes::bytes(count, shape.columns, integer.layout(bits, count, scaling), scaling) > memory.size()) count = (count + 1) / 2;
      const TokenLayout layout = integer.layout(bits, count, scaling);
      if (TokenCodes::bytes(count, shape.columns, layout, scaling) > memory.size()) return multiply(weights, shape, scales, x, y, workspace);
      const TokenCodes tokens = TokenCodes::divide(count, shape.columns, layout, memory.data(), scaling);
      const auto* input = static_cast<const float*>(x.data) + first * x.stride;
      executor_.parallel_for(tokens.tiles(), [&](std::size_t tile) { quantize_tile(integer, input, x.stride, tokens, tile); });
      const std::size_t blocks = (shape.rows + tile_rows - 1) / tile_rows;
      const std::size_t tasks = tasks_of(blocks, shape.rows * weights.row_bytes, count);
      executor_.parallel_for(tasks, [&](std::size_t task) {
        const std::size_t row = blocks * task / tasks * tile_rows;
        const std::size_t end = std::min(blocks * (task + 1) / tasks * tile_rows, shape.rows);
        (scaling == Scaling::block ? multiply_blocks : multiply_codes)(*kernels_, integer, weights, row, end - row, tokens, scales, y.row(first) + row,
                                                                       y.stride);
      });
    }
    return Status::ok;
  }

  Status multiply(const WeightRows& weights, MatrixShape shape, RowScales scales, MatrixView x, MutableMatrixView y,
                  std::span<std::byte> workspace) const noexcept {
    if (const Status status = check(shape, x, y); status != Status::ok) return status;
    const auto* input = static_cast<const float*>(x.data);
    const std::size_t needed = float_workspace_bytes(shape.columns, x.rows);
    const bool pack = needed != 0 && workspace.size() >= needed && reinterpret_cast<std::uintptr_t>(workspace.data()) % alignof(float) == 0;
    auto* const packed = pack ? reinterpret_cast<float*>(workspace.data()) : nullptr;
    if (pack)
      executor_.parallel_for((x.rows + panel_rows - 1) / panel_rows,
                             [&](std::size_t panel) { pack_token_panel(*kernels_, input, x.stride, x.rows, shape.columns, panel, packed); });
    const std::size_t panels = (shape.rows + panel_rows - 1) / panel_rows;
    const std::size_t tasks = tasks_of(panels, shape.rows * weights.row_bytes, x.rows);
    executor_.parallel_for(tasks, [&](std::size_t task) {
      const std::size_t first = panels * task / tasks * panel_rows;
      const std::size_t end = std::min(panels * (task + 1) / tasks * panel_rows, shape.rows);
      if (pack)
        multiply_packed_tokens(*kernels_, weights.from(first), end - first, shape.columns, packed, x.rows, y.data + first, y.stride);
      else
        multiply_rows(*kernels_, weights, first, end - first, shape.columns, input, x.stride, x.rows, y.data + first, y.stride);
      if (scales.data == nullptr) return;
      for (std::size_t r = first; r < end; ++r) {
        const float scale = load_element(scales.data, scales.type, r * scales.step);
        for (std::size_t t = 0; t < x.rows; ++t) y.row(t)[r] *= scale;
      }
    });
    return Status::ok;
  }

  const CpuKernels* kernels_;
  ExecutorRef executor_;
};

static_assert(backend<Backend<Cpu>> && backend<Backend<Cpu, Activation<Float32>>>);
static_assert(lists_devices<Backend<Cpu>>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
