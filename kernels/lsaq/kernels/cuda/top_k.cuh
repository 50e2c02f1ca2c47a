// Top-k token sets on the device: projection, Thrust's sort of the candidates, the first k of each state.
#pragma once

#include <lsaq/kernels/cuda/projection.cuh>

#include <thrust/sort.h>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// What kernels are handed to: launch(kernel) runs it after what was handed over before; thrust_policy() is an execution policy of Thrust in the same order.
template <class Q>
concept kernel_queue = requires(const Q& queue, const EmitTokens& kernel) {
  queue.launch(kernel);
  queue.thrust_policy();
};

/// The k highest projections of every state on the vocabulary, sorted, ties to the lower id: `ids` and `values` hold states.count x k.
///
/// `candidates` is the caller's memory for parts.candidates(states.count) of them; *first_bad_state is ~0 before, and afterwards the first state without an
/// order if there is one. 1 <= k <= vocabulary.rows. Thrust takes its working memory from the policy's allocator.
template <class Format, kernel_queue Queue>
void top_tokens(const Queue& queue, const DeviceRows& vocabulary, const TokenRows& states, unsigned k, const ProjectionParts& parts, Candidate* candidates,
                TokenId* ids, float* values, unsigned* first_bad_state) {
  const std::size_t count = parts.candidates(states.count);
  queue.launch(Project<Format>{vocabulary, states, k, parts, candidates, first_bad_state});
  thrust::sort(queue.thrust_policy(), candidates, candidates + count, Better{});
  queue.launch(EmitTokens{candidates, std::size_t{parts.parts} * parts.slots, states.count, k, ids, values, first_bad_state});
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
