// Projection and top-k: hidden states x embedding^T, one thread. `of_peak` is the share of the FMA peak that the core showed between the runs.
#include "eigen_projection.hpp"
#include "fma_peak.hpp"

#include <lsaq/deployment/cpu.hpp>

#include <benchmark/benchmark.h>

#include <random>

namespace {

using Clock = std::chrono::steady_clock;

struct Shape {
  const char* name;
  std::size_t states, hidden, vocabulary;
};

constexpr Shape shapes[] = {
    {"llama-2-7b, 64 states", 64, 4096, 32000},       // two windows' boundaries
    {"llama-2-7b, 33 states", 33, 4096, 32000},       // one window: 32 layers
    {"smollm2-135m, 31 states", 31, 576, 49152},      // one window: 30 layers
    {"smollm2-135m, 992 states", 32 * 31, 576, 49152} // 32 windows in one batch
};

/// States and an embedding in every type; made once a shape.
struct Case {
  Shape shape;
  std::vector<float> states, f32;
  std::vector<lsaq::f16> f16;
  std::vector<lsaq::bf16> bf16;
  std::vector<std::byte> q8_0;

  explicit Case(const Shape& s) : shape(s), states(s.states * s.hidden), f32(s.vocabulary * s.hidden), f16(f32.size()), bf16(f32.size()) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (float& x : states) x = normal(random);
    q8_0.resize(bytes_of(lsaq::ElementType::q8_0, f32.size()));
    for (std::size_t i = 0; i < f32.size(); ++i) {
      f32[i] = normal(random);
      f16[i] = lsaq::to_f16(f32[i]);
      bf16[i] = lsaq::to_bf16(f32[i]);
      std::byte* block = q8_0.data() + i / 32 * 34;
      const lsaq::f16 scale = lsaq::to_f16(0.03f);
      std::memcpy(block, &scale, sizeof scale);
      block[2 + i % 32] = static_cast<std::byte>(static_cast<std::int8_t>(std::clamp(f32[i] / 0.03f, -127.0f, 127.0f)));
    }
  }

  lsaq::MatrixView embedding(lsaq::ElementType type) const {
    switch (type) {
    case lsaq::ElementType::f32: return {f32.data(), shape.vocabulary, shape.hidden};
    case lsaq::ElementType::f16: return {f16.data(), shape.vocabulary, shape.hidden};
    case lsaq::ElementType::bf16: return {bf16.data(), shape.vocabulary, shape.hidden};
    case lsaq::ElementType::q8_0: return lsaq::MatrixView::q8_0(q8_0.data(), shape.vocabulary, shape.hidden);
    }
    return {};
  }

  double operations() const { return 2.0 * static_cast<double>(shape.states) * static_cast<double>(shape.vocabulary) * static_cast<double>(shape.hidden); }
};

const Case& case_of(std::size_t i) {
  static std::vector<std::unique_ptr<Case>> cases(std::size(shapes));
  if (!cases[i]) {
    for (auto& other : cases) other.reset(); // one embedding in memory at a time
    cases[i] = std::make_unique<Case>(shapes[i]);
  }
  return *cases[i];
}

constexpr std::size_t k = 50;

/// Times `run` and, between the runs, the core's peak.
template <class Run> void measure(benchmark::State& state, const Case& now, Run&& run) {
  double seconds = 0, peak = 0;
  run(); // first touch
  for (auto _ : state) {
    peak += bench::fma_peak();
    const auto start = Clock::now();
    run();
    const double taken = std::chrono::duration<double>(Clock::now() - start).count();
    state.SetIterationTime(taken);
    seconds += taken;
  }
  const auto runs = static_cast<double>(state.iterations());
  state.counters["GFLOPS"] = now.operations() * runs / seconds / 1e9;
  if (peak > 0) state.counters["of_peak"] = now.operations() * runs / seconds / (peak / runs);
}

void project(benchmark::State& state, std::size_t shape, lsaq::ElementType type, lsaq::Isa isa) {
  const Case& now = case_of(shape);
  const lsaq::Backend<lsaq::Cpu> device(lsaq::ExecutorRef(), isa);
  std::vector<lsaq::ScoredToken> tokens(now.shape.states * k);
  const lsaq::MatrixView states(now.states.data(), now.shape.states, now.shape.hidden), embedding = now.embedding(type);
  measure(state, now, [&] {
    device.top_tokens(states, embedding, k, tokens);
    benchmark::DoNotOptimize(tokens.data());
  });
}

void project_by_eigen(benchmark::State& state, std::size_t shape) {
  const Case& now = case_of(shape);
  measure(state, now, [&] {
    auto tokens = bench::eigen_top_tokens(now.states.data(), now.shape.states, now.f32.data(), now.shape.vocabulary, now.shape.hidden, k);
    benchmark::DoNotOptimize(tokens.data());
  });
}

} // namespace

int main(int argc, char** argv) {
  using lsaq::ElementType;
  for (std::size_t shape = 0; shape < std::size(shapes); ++shape) {
    const std::string name = shapes[shape].name;
    for (const lsaq::Isa isa : lsaq::all_isas) {
      if (!lsaq::cpu_runs(isa) || isa == lsaq::Isa::scalar || isa == lsaq::Isa::eigen) continue; // the oracle and the fallback are not for measuring
      for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0}) {
        const std::string label = name + "/" + std::string(name_of(isa)) + "/" + std::string(name_of(type));
        benchmark::RegisterBenchmark(label.c_str(), [=](benchmark::State& state) { project(state, shape, type, isa); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
      }
    }
    benchmark::RegisterBenchmark((name + "/Eigen GEMM + partial_sort/F32").c_str(), [=](benchmark::State& state) { project_by_eigen(state, shape); })
        ->UseManualTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
