// Counts what the test program allocates by operator new, so that "allocates nothing" can be tested.
#pragma once

#include <cstddef>

/// Calls of operator new so far, on any thread; 0 where they can't be counted.
std::size_t count_allocations();
