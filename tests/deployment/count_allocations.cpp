#include "deployment/count_allocations.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

#include <malloc.h> // glibc: malloc_usable_size

namespace {
std::atomic<std::size_t> allocations = 0, allocated = 0, peak = 0;
}

std::size_t count_allocations() { return allocations.load(std::memory_order_relaxed); }
std::size_t allocated_bytes() { return allocated.load(std::memory_order_relaxed); }
std::size_t take_peak_allocated_bytes() { return peak.exchange(allocated_bytes(), std::memory_order_relaxed); }

#if defined(__has_feature)
#define LSAQ_TESTS_HAVE_FEATURE(name) __has_feature(name)
#else
#define LSAQ_TESTS_HAVE_FEATURE(name) 0
#endif

// Clang links ThreadSanitizer's own operator new into the program, which then can't be replaced.
#if !LSAQ_TESTS_HAVE_FEATURE(thread_sanitizer)
void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(size != 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  const std::size_t bytes = ::malloc_usable_size(memory), now = allocated.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  std::size_t most = peak.load(std::memory_order_relaxed);
  while (most < now && !peak.compare_exchange_weak(most, now, std::memory_order_relaxed)) {
  }
  return memory;
}

// As std::stable_sort asks for memory. AddressSanitizer has one of its own, whose memory must not come back to ours.
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  try {
    return operator new(size);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void operator delete(void* memory) noexcept {
  if (memory != nullptr) allocated.fetch_sub(::malloc_usable_size(memory), std::memory_order_relaxed);
  std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept { operator delete(memory); }
#endif
