// Keys and values of past positions, one contiguous block: layer, then keys or values, then KV head, then position.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/kernels/cpu/kernel_table.hpp>
#include <lsaq/models/llama_config.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// KV cache of `layers` layers for `context` positions: F16 or Q8_0 (deployment) or F32 (references). Its bytes are those of kv_cache_bytes().
class KvCache {
public:
  /// Throws InvalidArgument if `type` does not take heads of this size, std::bad_alloc.
  KvCache(const Config& config, std::size_t layers, std::size_t context, ElementType type = ElementType::f16)
      : kv_heads_(config.kv_heads), head_size_(config.head_size), context_(context), type_(checked(type, config.head_size)),
        storage_(static_cast<std::size_t>(kv_cache_bytes(layers, config.kv_heads, config.head_size, context, type))) {}

  /// Refuses what a KV cache can't be: BF16, and Q8_0 for heads that are not whole blocks. Throws InvalidArgument.
  static ElementType checked(ElementType type, std::size_t head_size) {
    if (type == ElementType::bf16) fail<InvalidArgument>("a KV cache is F16, F32 or Q8_0, not BF16");
    if (type == ElementType::q8_0 && head_size % q8_0_block != 0)
      fail<InvalidArgument>("a Q8_0 KV cache stores blocks of 32 values, which heads of " + std::to_string(head_size) + " do not fill: use F16");
    return type;
  }

  std::size_t context() const noexcept { return context_; }
  ElementType type() const noexcept { return type_; }
  Bytes bytes() const noexcept { return storage_.size(); }

  /// Keys of one head: context rows of head_size.
  std::byte* keys(std::size_t layer, std::size_t head) noexcept { return block(layer, 0, head); }
  /// Values of one head: context rows of head_size.
  std::byte* values(std::size_t layer, std::size_t head) noexcept { return block(layer, 1, head); }

  std::size_t row_bytes() const noexcept { return bytes_of(type_, head_size_); }

private:
  std::byte* block(std::size_t layer, std::size_t which, std::size_t head) noexcept {
    return storage_.data() + ((layer * 2 + which) * kv_heads_ + head) * context_ * row_bytes();
  }

  std::size_t kv_heads_;
  std::size_t head_size_;
  std::size_t context_;
  ElementType type_;
  AlignedBytes storage_;
};

/// Writes n values as Q8_0, n a multiple of 32: codes are the nearest of -127 .. 127 for the block's scale as it is stored, an F16 of at most 65504. A block
/// with a value that is not finite becomes NaN.
inline void narrow_q8_0(const CpuKernels& kernels, const float* in, std::size_t n, std::byte* out) noexcept {
  constexpr float largest_scale = 65504.0f, largest_value = 127 * largest_scale;
  for (std::size_t i = 0; i < n; i += q8_0_block, out += q8_0_block_bytes) {
    const std::uint32_t magnitude = kernels.magnitude_bits(in + i, q8_0_block);
    const bool finite = magnitude < 0x7f800000u;
    const float largest = finite ? std::bit_cast<float>(magnitude) : 0.0f;
    const f16 scale = finite ? to_f16(std::min(largest * (1.0f / 127), largest_scale)) : f16{0x7e00};
    float values[q8_0_block]; // quotients of quantize() are below 2^31
    for (std::size_t j = 0; j < q8_0_block; ++j) values[j] = largest > largest_value ? std::clamp(in[i + j], -largest_value, largest_value) : in[i + j];
    std::uint8_t codes[q8_0_block];
    std::fill_n(codes, q8_0_block, finite ? std::uint8_t{128} : std::uint8_t{129});
    if (largest != 0 && scale.bits != 0) kernels.quantize(values, q8_0_block, to_float(scale), {-127, 127, 128}, codes);
    std::memcpy(out, &scale, sizeof scale);
    for (std::size_t j = 0; j < q8_0_block; ++j) out[sizeof scale + j] = static_cast<std::byte>(codes[j] ^ 0x80u); // less 128, as a signed byte
  }
}

/// Writes a row of keys or values as the cache stores it. F16 values are clamped to its range: keys of some models come near it.
inline void narrow_row(const CpuKernels& kernels, const float* row, std::size_t n, ElementType type, std::byte* out) noexcept {
  if (type == ElementType::q8_0)
    narrow_q8_0(kernels, row, n, out);
  else if (type == ElementType::f16)
    kernels.decoder->narrow_finite_f16(row, n, reinterpret_cast<f16*>(out));
  else
    std::memcpy(out, row, n * sizeof(float));
}

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
