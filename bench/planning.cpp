// How long a plan takes: 80 layers x 7 linears x 8 widths of a 70B model, decided one by one and by layer, under costs of several kinds, and the whole
// frontier.
#include <lsaq/planning/optimal.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <random>

namespace {

lsaq::ModelShape llama_2_70b() {
  constexpr std::size_t hidden = 8192, feed_forward = 28672, kv_rows = 1024, vocabulary = 32000;
  const lsaq::LayerShape layer{.linears = {{.name = "q", .rows = hidden, .columns = hidden, .group = "qkv"},
                                           {.name = "k", .rows = kv_rows, .columns = hidden, .group = "qkv"},
                                           {.name = "v", .rows = kv_rows, .columns = hidden, .group = "qkv"},
                                           {.name = "o", .rows = hidden, .columns = hidden},
                                           {.name = "gate", .rows = feed_forward, .columns = hidden, .group = "gate_up"},
                                           {.name = "up", .rows = feed_forward, .columns = hidden, .group = "gate_up"},
                                           {.name = "down", .rows = hidden, .columns = feed_forward}},
                               .fixed_bytes = lsaq::Bytes{4} * hidden};
  return {"llama-2-70b", std::vector<lsaq::LayerShape>(80, layer), lsaq::Bytes{4} * vocabulary * hidden, lsaq::Bytes{2} * hidden};
}

enum Costs : int { measured, by_importance, equal };

lsaq::OptimalBudget budget_of(const lsaq::ModelShape& shape, int costs, lsaq::Importance& importance) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> share(0, 1);
  for (std::size_t l = 0; l < shape.layers.size(); ++l) importance.scores.push_back(costs == equal ? 1 : share(random));
  lsaq::OptimalBudget budget;
  budget.fused = false;
  budget.by_linear = true;
  if (costs == measured) {
    budget.costs = lsaq::costs_of_importance(importance, shape, budget.widths, true);
    for (auto& layer : budget.costs.linears)
      for (auto& linear : layer)
        for (double& damage : linear) damage *= 0.5 + share(random);
  }
  return budget;
}

/// Plans at 40 budgets in turn; `longest_ms` is the worst of them.
void BM_Optimal(benchmark::State& state) {
  const lsaq::ModelShape shape = llama_2_70b();
  lsaq::Importance importance;
  lsaq::OptimalBudget budget = budget_of(shape, static_cast<int>(state.range(0)), importance);
  const lsaq::Bytes least = lsaq::model_bytes(shape, 2), most = lsaq::model_bytes(shape, 16), reserve = lsaq::default_reserve(shape);
  unsigned step = 0;
  double longest = 0;
  for (auto _ : state) {
    budget.memory = least + reserve + (most - least) * (step++ % 40) / 40 + 12345;
    const auto start = std::chrono::steady_clock::now();
    benchmark::DoNotOptimize(lsaq::Planner<lsaq::Optimal>(budget)(importance, shape));
    longest = std::max(longest, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
  }
  state.counters["longest_ms"] = longest;
}
BENCHMARK(BM_Optimal)->ArgName("costs")->Arg(measured)->Arg(by_importance)->Arg(equal)->Unit(benchmark::kMillisecond)->Iterations(80);

void BM_Frontier(benchmark::State& state) {
  const lsaq::ModelShape shape = llama_2_70b();
  lsaq::Importance importance;
  const lsaq::OptimalBudget budget = budget_of(shape, measured, importance);
  for (auto _ : state) benchmark::DoNotOptimize(lsaq::Optimal::frontier(importance, shape, budget));
}
BENCHMARK(BM_Frontier)->Unit(benchmark::kMillisecond);

} // namespace

BENCHMARK_MAIN();
