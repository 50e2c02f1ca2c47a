// Memory larger than any last-level cache, in huge pages: what is read from it comes from DRAM, and page tables are no part of the measurement.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace bench {

/// Bytes that don't stay in a last-level cache: twice as many as it has, where that is known, at least 256 MiB.
inline std::size_t beyond_caches() {
  constexpr std::size_t least = std::size_t{256} << 20;
#if defined(_SC_LEVEL3_CACHE_SIZE)
  if (const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE); cache > 0) return std::max(least, 2 * static_cast<std::size_t>(cache));
#endif
  return least;
}

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
