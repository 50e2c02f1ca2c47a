// Products of weights and tokens: every type, width, shape, number of tokens and of threads. Weights come from memory, as they do in a model that is larger
// than the caches: each product takes the next of many copies. The time shown is that of a batch of products; `us` is one product's (median of the batches).
// `of_read`: bytes of weights a second, as a share of what the same threads read with nothing else to do: the limit for few tokens. `of_fma`, `of_integer`:
// operations a second, as a share of the multiply-adds the same cores make from registers, in FP32 and in the integer sequence the kernels use: the limits for
// many. Each is measured between the batches.
//
//   matmul/ISA/f16|bf16/ROWSxCOLUMNS/tokens:T/threads:N and matmul/ISA/intB/channel|group:32/ROWSxCOLUMNS/tokens:T/threads:N: choose with --benchmark_filter;
//   the oracle and the fallback (scalar, eigen) take part where the filter names them
#include "fma_peak.hpp"
#include "integer_peak.hpp"
#include "read_bandwidth.hpp"

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/quantization/quantizer.hpp>
#include <lsaq/thread_pool.hpp>

#include <benchmark/benchmark.h>

#include <numeric>
#include <optional>
#include <random>
#include <variant>

namespace {

using Clock = std::chrono::steady_clock;
using Device = lsaq::Backend<lsaq::Cpu>;

constexpr lsaq::MatrixShape shapes[] = {
    {4096, 4096}, {11008, 4096}, {4096, 11008}, // Llama-2-7B
    {576, 576},   {1536, 576},   {576, 1536},   // SmolLM2-135M
};

constexpr std::size_t most_few_tokens = 8; // up to here memory is the limit, from here on arithmetic

/// What weights are stored as: 16-bit floats, or codes.
struct WeightType {
  lsaq::ElementType element = lsaq::ElementType::f16; ///< of floats
  unsigned bits = 16;
  lsaq::Grouping grouping = {};

  std::string name() const {
    if (bits == 16) return element == lsaq::ElementType::f16 ? "f16" : "bf16";
    return "int" + std::to_string(bits) + "/" + grouping.name();
  }
  friend bool operator==(const WeightType&, const WeightType&) = default;
};

/// As many copies of the weights of one shape and type as no cache holds.
class Weights {
public:
  Weights(lsaq::MatrixShape shape, const WeightType& type, lsaq::Isa isa) : shape_(shape), type_(type), isa_(isa) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    std::vector<float> some(1 << 16);
    for (float& value : some) value = normal(random);
    lsaq::AlignedBytes halves(shape.rows * shape.columns * 2);
    for (std::size_t i = 0; i < shape.rows * shape.columns; ++i) {
      const float value = some[(i * 7919 + i / shape.columns) % some.size()];
      const std::uint16_t bits = type.element == lsaq::ElementType::f16 ? lsaq::to_f16(value).bits : lsaq::to_bf16(value).bits;
      std::memcpy(halves.data() + 2 * i, &bits, sizeof bits);
    }
    lsaq::MatrixView floats(static_cast<const float*>(nullptr), shape.rows, shape.columns);
    floats.data = halves.data();
    floats.type = type.element;
    if (type.bits == 16) {
      copy(floats, halves);
    } else {
      lsaq::PackedMatrix packed = Device(lsaq::ExecutorRef(), isa).prepare(quantize(floats, {.bits = type.bits, .grouping = type.grouping}));
      copy(packed.view(), packed.storage());
    }
  }

  bool are(lsaq::MatrixShape shape, const WeightType& type, lsaq::Isa isa) const { return shape == shape_ && type == type_ && isa == isa_; }
  std::size_t copies() const { return copies_; }
  double bytes() const { return static_cast<double>(bytes_); }

  /// Calls act(view) with the next copy.
  template <class Act> auto with_next(Act&& act) {
    const std::byte* const now = block_->data() + next_++ % copies_ * stride_;
    return std::visit(
        [&](auto view) {
          view.data = now;
          return act(view);
        },
        view_);
  }

private:
  template <class View, class Bytes> void copy(View view, Bytes&& bytes) {
    view_ = view;
    bytes_ = bytes.size();
    stride_ = (bytes_ + 63) / 64 * 64;
    copies_ = bench::beyond_caches() / stride_ + 1;
    block_.emplace(copies_ * stride_);
    for (std::size_t i = 0; i < copies_; ++i) std::memcpy(block_->data() + i * stride_, bytes.data(), bytes_);
  }

  lsaq::MatrixShape shape_;
  WeightType type_;
  lsaq::Isa isa_;
  std::variant<lsaq::MatrixView, lsaq::PackedView> view_;
  std::size_t bytes_ = 0, stride_ = 0, copies_ = 0, next_ = 0;
  std::optional<bench::HugeBlock> block_;
};

Weights& weights_of(lsaq::MatrixShape shape, const WeightType& type, lsaq::Isa isa) {
  static std::unique_ptr<Weights> weights;
  if (!weights || !weights->are(shape, type, isa)) {
    weights.reset(); // one in memory at a time
    weights = std::make_unique<Weights>(shape, type, isa);
  }
  return *weights;
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

/// The sum of what a measurement of one core finds on every thread at once.
template <class Measurement> double on_all_threads(lsaq::ExecutorRef executor, Measurement measurement) {
  std::vector<double> found(executor.concurrency());
  executor.parallel_for(found.size(), [&](std::size_t i) { found[i] = measurement(); });
  return std::accumulate(found.begin(), found.end(), 0.0);
}

void multiply(benchmark::State& state, lsaq::MatrixShape shape, const WeightType& type, std::size_t tokens, std::size_t threads, lsaq::Isa isa) {
  Weights& weights = weights_of(shape, type, isa);
  lsaq::ThreadPool pool(threads);
  const Device device(pool, isa);
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> inputs(tokens * shape.columns), outputs(tokens * shape.rows);
  for (float& x : inputs) x = normal(random);
  const lsaq::MatrixView x(inputs.data(), tokens, shape.columns);
  const lsaq::MutableMatrixView y(outputs.data(), tokens, shape.rows);
  lsaq::AlignedBytes workspace(weights.with_next([&](auto view) { return device.workspace_bytes(view, tokens); }));
  const double operations = 2.0 * static_cast<double>(tokens * shape.rows * shape.columns);
  const auto batch = std::clamp<std::size_t>(static_cast<std::size_t>(2e9 / operations), 1, weights.copies()); // some ten milliseconds

  const auto run = [&](std::size_t products) {
    for (std::size_t i = 0; i < products; ++i) {
      const lsaq::Status status = weights.with_next([&](auto view) { return device.matmul(view, x, y, workspace.span()); });
      if (status != lsaq::Status::ok) state.SkipWithError("refused");
    }
    benchmark::DoNotOptimize(outputs.data());
  };
  run(1); // first touch
  const bool few = tokens <= most_few_tokens;
  std::vector<double> times, of_read, of_fma, of_integer;
  for (auto _ : state) {
    const double read = few ? bench::read_bandwidth(pool) : 0;
    const double fma = few ? 0 : on_all_threads(pool, bench::fma_peak);
    const double integer = few || type.bits == 0 ? 0 : on_all_threads(pool, [&] { return bench::integer_peak(isa, type.bits); });
    const auto start = Clock::now();
    run(batch);
    const double taken = std::chrono::duration<double>(Clock::now() - start).count();
    state.SetIterationTime(taken);
    times.push_back(taken / static_cast<double>(batch));
    if (read > 0) of_read.push_back(weights.bytes() / times.back() / read);
    if (fma > 0) of_fma.push_back(operations / times.back() / fma);
    if (integer > 0) of_integer.push_back(operations / times.back() / integer);
  }
  if (times.empty()) return;
  state.counters["us"] = median(times) * 1e6;
  if (few)
    state.counters["GB/s"] = weights.bytes() / median(times) / 1e9;
  else
    state.counters["GMAC/s"] = operations / 2 / median(times) / 1e9;
  if (!of_read.empty()) state.counters["of_read"] = median(of_read);
  if (!of_fma.empty()) state.counters["of_fma"] = median(of_fma);
  if (!of_integer.empty()) state.counters["of_integer"] = median(of_integer);
}

std::vector<WeightType> weight_types() {
  std::vector<WeightType> types = {{.element = lsaq::ElementType::f16}, {.element = lsaq::ElementType::bf16}};
  for (const unsigned bits : {8u, 4u, 6u, 5u, 3u, 2u})
    for (const lsaq::Grouping grouping : {lsaq::Grouping{}, lsaq::Grouping{.columns = 32}}) types.push_back({.bits = bits, .grouping = grouping});
  return types;
}

/// Whether the filter among the arguments names the instruction set.
bool asked_for(lsaq::Isa isa, std::span<char*> arguments) {
  return std::any_of(arguments.begin(), arguments.end(),
                     [&](const char* argument) { return std::string_view(argument).find(name_of(isa)) != std::string_view::npos; });
}

} // namespace

int main(int argc, char** argv) {
  const std::span<char*> arguments(argv + 1, static_cast<std::size_t>(argc - 1));
  for (const lsaq::Isa isa : lsaq::all_isas) {
    if (!lsaq::cpu_runs(isa)) continue;
    if ((isa == lsaq::Isa::scalar || isa == lsaq::Isa::eigen) && !asked_for(isa, arguments)) continue;
    for (const WeightType& type : weight_types())
      for (const lsaq::MatrixShape shape : shapes)
        for (const std::size_t tokens : {1, 4, 8, 16, 64, 512})
          for (const std::size_t threads : {1, 2}) {
            const std::string name = "matmul/" + std::string(name_of(isa)) + "/" + type.name() + "/" + std::to_string(shape.rows) + "x" +
                                     std::to_string(shape.columns) + "/tokens:" + std::to_string(tokens) + "/threads:" + std::to_string(threads);
            benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { multiply(state, shape, type, tokens, threads, isa); })
                ->UseManualTime()
                ->Unit(benchmark::kMillisecond);
          }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
