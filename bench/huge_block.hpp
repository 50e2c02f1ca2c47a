// Memory larger than any last-level cache, in huge pages: what is read from it comes from DRAM, and page tables are no part of the measurement.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace bench {

inline constexpr std::size_t beyond_caches = std::size_t{256} << 20;

/// Bytes aligned to a huge page, written once so that they are there. Move-only.
class HugeBlock {
public:
  HugeBlock() = default;
  explicit HugeBlock(std::size_t size) : size_((size + page - 1) / page * page), data_(static_cast<std::byte*>(std::aligned_alloc(page, size_))) {
    if (data_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
    madvise(data_, size_, MADV_HUGEPAGE);
#endif
    std::memset(data_, 1, size_);
  }
  HugeBlock(HugeBlock&& other) noexcept : size_(other.size_), data_(other.data_) { other.data_ = nullptr; }
  HugeBlock& operator=(HugeBlock&&) = delete;
  ~HugeBlock() { std::free(data_); }

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return size_; }

private:
  static constexpr std::size_t page = std::size_t{2} << 20;
  std::size_t size_ = 0;
  std::byte* data_ = nullptr;
};

} // namespace bench
