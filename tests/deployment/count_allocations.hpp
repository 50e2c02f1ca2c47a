// Counts what the test program allocates by operator new, so that "allocates nothing" and "needs so much memory" can be tested.
#pragma once

#include <cstddef>

/// Calls of operator new so far, on any thread; 0 where they can't be counted.
std::size_t count_allocations();

/// Bytes allocated and not freed at this moment, on any thread.
std::size_t allocated_bytes();

/// The most bytes that were allocated at once since the last call of this function, on any thread.
std::size_t take_peak_allocated_bytes();
