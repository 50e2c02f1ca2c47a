#include "deployment/count_allocations.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<std::size_t> allocations = 0;
}

std::size_t count_allocations() { return allocations.load(std::memory_order_relaxed); }

#if defined(__has_feature)
#define LSAQ_TESTS_HAVE_FEATURE(name) __has_feature(name)
#else
#define LSAQ_TESTS_HAVE_FEATURE(name) 0
#endif

// Clang links ThreadSanitizer's own operator new into the program, which then can't be replaced.
#if !LSAQ_TESTS_HAVE_FEATURE(thread_sanitizer)
void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size != 0 ? size : 1)) return memory;
  throw std::bad_alloc();
}

void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif
