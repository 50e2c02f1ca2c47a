// Keys and values of past positions, one contiguous block: layer, then keys or values, then KV head, then position.
#pragma once

#include <lsaq/models/llama_config.hpp>

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// KV cache of `layers` layers for `context` positions, F16 (deployment) or F32 (references). Its bytes are those of kv_cache_bytes().
class KvCache {
public:
  KvCache(const Config& config, std::size_t layers, std::size_t context, ElementType type = ElementType::f16)
      : kv_heads_(config.kv_heads), head_size_(config.head_size), context_(context), type_(type),
        storage_(static_cast<std::size_t>(kv_cache_bytes(layers, config.kv_heads, config.head_size, context, static_cast<unsigned>(8 * size_of(type))))) {}

  std::size_t context() const noexcept { return context_; }
  ElementType type() const noexcept { return type_; }
  Bytes bytes() const noexcept { return storage_.size(); }

  /// Keys of one head: context rows of head_size.
  std::byte* keys(std::size_t layer, std::size_t head) noexcept { return block(layer, 0, head); }
  /// Values of one head: context rows of head_size.
  std::byte* values(std::size_t layer, std::size_t head) noexcept { return block(layer, 1, head); }

  std::size_t row_bytes() const noexcept { return head_size_ * size_of(type_); }

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

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
