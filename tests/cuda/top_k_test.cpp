// The whole top-k with Thrust's own sort, on its systems for CPUs: sequential, and OpenMP where the compiler has it. nvcc compiles the same for the device.
#include "cuda/projection_cases.hpp"

#include <lsaq/kernels/cuda/top_k.cuh>

#include <thrust/system/cpp/execution_policy.h>
#if defined(_OPENMP)
#include <thrust/system/omp/execution_policy.h>
#endif

namespace top_k_test {

using namespace lsaq::gpu;
using namespace test_support;

/// Kernels on fibers, Thrust on the policy's system.
template <class Policy> struct HostQueue {
  HostExecutor* executor;
  Policy policy;

  template <class Kernel> void launch(const Kernel& kernel) const { executor->launch(kernel); }
  Policy thrust_policy() const { return policy; }
};

template <element T, class Policy> void compare(Policy policy, unsigned tokens, unsigned hidden, unsigned states, unsigned k, unsigned wanted_blocks) {
  static_assert(kernel_queue<HostQueue<Policy>>);
  SCOPED_TRACE(std::to_string(tokens) + " tokens, k " + std::to_string(k));
  const Vocabulary<T> vocabulary(tokens, hidden, states, false, tokens + k);
  const std::vector<lsaq::ScoredToken> expected = vocabulary.highest(k);
  const ProjectionParts parts = ProjectionParts::of(tokens, states, k, wanted_blocks);
  on_schedules(3, [&](HostExecutor& executor) {
    const Guarded<Candidate> candidates(parts.candidates(states));
    const Selected found(states, k);
    top_tokens<Floats<T>>(HostQueue<Policy>{&executor, policy}, vocabulary.rows(), vocabulary.state_rows(), k, parts, candidates.data(), found.ids.data(),
                          found.values.data(), found.first_bad_state.data());
    EXPECT_TRUE(found.equals(expected));
    EXPECT_EQ(found.first_bad_state[0], ~0u);
  });
}

template <class Policy> void compare_all(Policy policy) {
  compare<float>(policy, 1, 1, 1, 1, 1);
  compare<float>(policy, 300, 65, 5, 50, 6);
  compare<lsaq::f16>(policy, 1200, 24, 9, 20, 40);
  compare<lsaq::bf16>(policy, 1800, 8, 2, 600, 3);
}

TEST(TopK, SetsAreThoseOfTheCpu) { compare_all(thrust::cpp::par); }

#if defined(_OPENMP)
TEST(TopK, SetsAreThoseOfTheCpuOnOpenMp) { compare_all(thrust::omp::par); }
#endif

} // namespace top_k_test
