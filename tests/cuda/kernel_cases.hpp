// Matrices, shapes and seeds that the tests of CUDA kernels have in common.
#pragma once

#include "cuda/host_executor.hpp"

#include <lsaq/kernels/cuda/elements.cuh>

#include <gtest/gtest.h>

#include <bit>
#include <random>

namespace test_support {

struct Shape {
  unsigned rows, columns;
};

/// Odd and even, one row and one column, below and beyond what a warp, a block or its shared memory take at once.
inline const std::vector<Shape> tail_shapes = {{1, 1}, {3, 1}, {1, 31}, {5, 7}, {9, 32}, {2, 33}, {33, 64}, {7, 100}, {35, 512}, {3, 1025}, {2, 2080}};

/// `value` as an element.
template <lsaq::gpu::element T> T element_of(float value) {
  T element{};
  lsaq::gpu::narrow(value, element);
  return element;
}

/// Normal numbers, and now and then a large one, a zero or one that is subnormal in FP16.
template <lsaq::gpu::element T> std::vector<T> random_elements(std::size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<T> values(count);
  for (T& value : values) {
    const auto kind = random() % 50;
    value = element_of<T>(kind == 0 ? 0.0f : kind == 1 ? 30 * normal(random) : kind == 2 ? 1e-6f * normal(random) : normal(random));
  }
  return values;
}

/// Element `i` of an array, widened.
template <lsaq::gpu::element T> double wide(const std::vector<T>& values, std::size_t i) { return lsaq::gpu::widen(values[i]); }

/// Schedules of one shape of each kernel; the others run with 3.
inline constexpr unsigned many_schedules = 100;

/// Calls test(executor) with schedules of so many seeds; of a twentieth where every access is looked at besides.
template <class Test> void on_schedules(unsigned seeds, Test&& test) {
#if defined(__SANITIZE_ADDRESS__)
  seeds = (seeds + 19) / 20;
#endif
  for (unsigned seed = 1; seed <= seeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    HostExecutor executor(seed);
    test(executor);
  }
}

/// Of seeds 1 .. 5, with how many `fails(executor)` is true, for a fault made on purpose.
template <class Fails> unsigned schedules_that_fail(SeededFault fault, Fails&& fails) {
  unsigned failed = 0;
  for (unsigned seed = 1; seed <= 5; ++seed) {
    HostExecutor executor(seed, fault);
    try {
      failed += fails(executor);
    } catch (const KernelFault&) {
      ++failed;
    }
  }
  return failed;
}

} // namespace test_support
