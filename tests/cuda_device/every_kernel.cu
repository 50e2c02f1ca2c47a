// Every kernel of the library, for ptxas to compile: what Backend<Cuda> launches, but for Thrust's.
#include <lsaq/kernels/cuda/cosine.cuh>
#include <lsaq/kernels/cuda/matmul.cuh>
#include <lsaq/kernels/cuda/projection.cuh>
#include <lsaq/kernels/cuda/quantize.cuh>
#include <lsaq/kernels/cuda/shared_channels.cuh>
#include <lsaq/kernels/cuda/token_sets.cuh>

using namespace lsaq;
using namespace lsaq::gpu;

/// Instantiates kernels by asking for their addresses.
template <class... Kernels> void instantiate(const void** out) { ((*out++ = reinterpret_cast<const void*>(&run<Kernels>)), ...); }

template <element T> void of_element(const void** out) {
  instantiate<QuantizeRows<T, 4>, QuantizeRows<T, 8>, Product<Floats<T>, 1>, Product<Floats<T>, 4>, Project<Floats<T>>, CompareDirections<T>>(out);
}

void every_kernel(const void** out) {
  of_element<float>(out);
  of_element<f16>(out);
  of_element<bf16>(out);
  instantiate<Product<Codes<4>, 1>, Product<Codes<4>, 4>, Product<Codes<8>, 1>, Product<Codes<8>, 4>>(out);
  instantiate<EmitTokens, CompareTokenSets, GatherChannels, SumByCluster>(out);
}
