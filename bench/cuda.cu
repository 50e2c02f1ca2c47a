// Quantization, products and projections on a CUDA device: bytes a second, by the device's own clock. Says so and ends where there is no device.
#include <lsaq/cuda.cuh>

#include <benchmark/benchmark.h>

#include <cstdio>

namespace {

using Device = lsaq::Backend<lsaq::Cuda>;

/// Times what `work` queues by events on the stream, and counts the bytes it has to move.
template <class Work> void measure(benchmark::State& state, const Device& device, std::size_t bytes, Work&& work) {
  cudaEvent_t begin, end;
  lsaq::gpu::check(cudaEventCreate(&begin), "cudaEventCreate");
  lsaq::gpu::check(cudaEventCreate(&end), "cudaEventCreate");
  work();
  for (auto _ : state) {
    lsaq::gpu::check(cudaEventRecord(begin, device.stream()), "cudaEventRecord");
    work();
    lsaq::gpu::check(cudaEventRecord(end, device.stream()), "cudaEventRecord");
    lsaq::gpu::check(cudaEventSynchronize(end), "cudaEventSynchronize");
    float milliseconds = 0;
    lsaq::gpu::check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    state.SetIterationTime(milliseconds / 1e3);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations() * bytes));
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

/// Memory of zeros: times do not depend on values.
template <class T> lsaq::DeviceArray<T> zeros(const Device& device, std::size_t count) {
  auto array = device.queue().allocate<T>(count);
  device.queue().fill(array.data(), 0, count * sizeof(T));
  return array;
}

void products(benchmark::State& state) { // rows, columns, bits, tokens
  const auto rows = static_cast<std::size_t>(state.range(0)), columns = static_cast<std::size_t>(state.range(1)),
             tokens = static_cast<std::size_t>(state.range(3));
  const auto bits = static_cast<unsigned>(state.range(2));
  const Device device;
  const auto x = zeros<float>(device, tokens * columns), y = zeros<float>(device, tokens * rows);
  const auto weights = zeros<std::byte>(device, bits == 16 ? rows * columns * 2 : lsaq::packed_bytes({rows, columns}, bits));
  const lsaq::PackedView packed{weights.data(), rows, columns, bits};
  const lsaq::MatrixView floats(reinterpret_cast<const lsaq::f16*>(weights.data()), rows, columns), in(x.data(), tokens, columns);
  const lsaq::MutableMatrixView out(y.data(), tokens, rows);
  measure(state, device, weights.size() + (tokens * (rows + columns)) * sizeof(float), [&] {
    if ((bits == 16 ? device.matmul(floats, in, out) : device.matmul(packed, in, out)) != lsaq::Status::ok) state.SkipWithError("refused");
  });
}

void quantization(benchmark::State& state) { // rows, columns, bits
  const auto rows = static_cast<std::size_t>(state.range(0)), columns = static_cast<std::size_t>(state.range(1));
  const auto bits = static_cast<unsigned>(state.range(2));
  const Device device;
  const auto weights = zeros<lsaq::f16>(device, rows * columns);
  const auto packed = zeros<std::byte>(device, lsaq::packed_bytes({rows, columns}, bits));
  const auto bad = zeros<unsigned>(device, 1);
  measure(state, device, rows * columns * 2 + packed.size(),
          [&] { device.quantize_into(lsaq::MatrixView(weights.data(), rows, columns), bits, packed.data(), bad.data()); });
}

void projection(benchmark::State& state) { // vocabulary, columns, states, k
  const auto vocabulary = static_cast<std::size_t>(state.range(0)), columns = static_cast<std::size_t>(state.range(1)),
             states = static_cast<std::size_t>(state.range(2)), k = static_cast<std::size_t>(state.range(3));
  lsaq::gpu::CachedMemory<> memory;
  const Device device(nullptr, memory);
  const auto embedding = zeros<lsaq::f16>(device, vocabulary * columns);
  const auto x = zeros<float>(device, states * columns), values = zeros<float>(device, states * k);
  const auto ids = zeros<lsaq::TokenId>(device, states * k);
  const auto bad = zeros<unsigned>(device, 1);
  measure(state, device, vocabulary * columns * 2 * ((states + 3) / 4), [&] {
    device.top_tokens(lsaq::MatrixView(x.data(), states, columns), lsaq::MatrixView(embedding.data(), vocabulary, columns), k, ids.data(), values.data(),
                      bad.data());
  });
}

BENCHMARK(products)->ArgsProduct({{4096, 11008}, {4096}, {4, 8, 16}, {1, 4, 16}})->UseManualTime();
BENCHMARK(quantization)->ArgsProduct({{4096}, {4096, 4100}, {4, 8}})->UseManualTime();
BENCHMARK(projection)->Args({32000, 4096, 33, 50})->Args({128256, 4096, 33, 50})->UseManualTime();

} // namespace

int main(int argc, char** argv) {
  if (const std::string reason = Device::unusable(); !reason.empty()) {
    std::printf("%s\n", reason.c_str());
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
