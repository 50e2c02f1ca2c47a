// Memory that stops the program at the first byte beyond its end or before its beginning, in every build.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <vector>

namespace test_support {

/// Bytes between two pages that can't be touched; the last byte is at the end of its page, but for what `alignment` takes. Filled with 0xff, which is NaN.
class GuardedBytes {
public:
  explicit GuardedBytes(std::size_t size, std::size_t alignment = 16) : size_(size) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t inner = (size + alignment + page - 1) / page * page;
    mapped_ = inner + 2 * page;
    void* const pages = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) throw std::bad_alloc();
    pages_ = static_cast<std::byte*>(pages);
    mprotect(pages_ + page, inner, PROT_READ | PROT_WRITE);
    std::memset(pages_ + page, 0xff, inner);
    data_ = pages_ + page + (inner - size) / alignment * alignment;
  }
  GuardedBytes(const GuardedBytes&) = delete;
  GuardedBytes& operator=(const GuardedBytes&) = delete;
  ~GuardedBytes() { munmap(pages_, mapped_); }

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }

private:
  std::byte* pages_;
  std::byte* data_;
  std::size_t size_, mapped_;
};

/// An array in guarded memory.
template <class T> class Guarded {
public:
  explicit Guarded(std::size_t count, std::size_t alignment = alignof(T)) : bytes_(count * sizeof(T), alignment), count_(count) {}
  explicit Guarded(const std::vector<T>& values, std::size_t alignment = alignof(T)) : Guarded(values.size(), alignment) {
    if (!values.empty()) std::memcpy(bytes_.data(), values.data(), values.size() * sizeof(T));
  }

  T* data() const { return reinterpret_cast<T*>(bytes_.data()); }
  std::size_t size() const { return count_; }
  T& operator[](std::size_t i) const { return data()[i]; }
  std::span<T> span() const { return {data(), count_}; }
  std::vector<T> values() const { return {data(), data() + count_}; }

private:
  GuardedBytes bytes_;
  std::size_t count_;
};

} // namespace test_support
