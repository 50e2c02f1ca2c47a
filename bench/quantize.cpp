// Quantizing and packing a matrix larger than the last-level cache, one thread, beside a copy of the same source bytes between the runs. `of_copy` is the
// copy's time over ours (median of the runs, and least): 1 means that weights are quantized as fast as memory is copied.
#include <lsaq/quantization/quantizer.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <random>

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t rows = 16384, columns = 4096; // 128 MiB of 16-bit weights

/// Weights of a few hundred different magnitudes, as in a trained matrix, in one type; and room for copies of them.
struct Source {
  lsaq::ElementType type;
  lsaq::AlignedBytes bytes, copy;

  explicit Source(lsaq::ElementType t) : type(t), bytes(rows * columns * size_of(t)), copy(bytes.size()) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    std::vector<float> some(1 << 20);
    for (float& value : some) value = normal(random);
    for (std::size_t i = 0; i < rows * columns; ++i) {
      const float value = some[(i * 7919 + i / columns) % some.size()];
      const std::uint32_t bits = type == lsaq::ElementType::f32   ? std::bit_cast<std::uint32_t>(value)
                                 : type == lsaq::ElementType::f16 ? lsaq::to_f16(value).bits
                                                                  : lsaq::to_bf16(value).bits;
      std::memcpy(bytes.data() + i * size_of(type), &bits, size_of(type));
    }
    std::memcpy(copy.data(), bytes.data(), bytes.size());
  }

  lsaq::MatrixView view() const {
    lsaq::MatrixView view(static_cast<const float*>(nullptr), rows, columns);
    view.data = bytes.data();
    view.type = type;
    return view;
  }
};

Source& source_of(lsaq::ElementType type) {
  static std::unique_ptr<Source> source;
  if (!source || source->type != type) {
    source.reset(); // one in memory at a time
    source = std::make_unique<Source>(type);
  }
  return *source;
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

void quantize(benchmark::State& state, lsaq::ElementType type, const lsaq::PackedFormat& format, lsaq::Isa isa) {
  Source& source = source_of(type);
  lsaq::PackedMatrix packed({rows, columns}, format);
  std::memset(packed.storage().data(), 0, packed.storage().size()); // first touch
  std::vector<double> times, ratios;
  for (auto _ : state) {
    const auto copy_start = Clock::now();
    std::memcpy(source.copy.data(), source.bytes.data(), source.bytes.size());
    benchmark::DoNotOptimize(source.copy.data());
    const double copied = seconds_since(copy_start);
    const auto start = Clock::now();
    const lsaq::QuantizationFault fault =
        lsaq::quantize_rows(source.view(), 0, {rows, columns}, format, packed.storage(), lsaq::ExecutorRef(), lsaq::kernels_of(isa));
    times.push_back(seconds_since(start));
    if (fault) state.SkipWithError("refused");
    state.SetIterationTime(times.back());
    ratios.push_back(copied / times.back());
  }
  const auto size = static_cast<double>(source.bytes.size());
  state.counters["GB/s"] = size / median(times) / 1e9;
  state.counters["of_copy"] = median(ratios);
  state.counters["of_copy_least"] = *std::min_element(ratios.begin(), ratios.end());
}

} // namespace

int main(int argc, char** argv) {
  using lsaq::ElementType, lsaq::Grouping;
  for (const lsaq::Isa isa : lsaq::all_isas) {
    if (!lsaq::cpu_runs(isa) || isa == lsaq::Isa::scalar || isa == lsaq::Isa::eigen) continue; // the oracle and the fallback are not for measuring
    for (const ElementType type : {ElementType::f16, ElementType::bf16, ElementType::f32})
      for (const unsigned bits : {8u, 4u})
        for (const Grouping grouping : {Grouping{}, Grouping{.columns = 128}, Grouping{.columns = 32}, Grouping{.whole_matrix = true}}) {
          const lsaq::PackedFormat format{.bits = bits, .grouping = grouping};
          const std::string name = std::string(name_of(isa)) + "/" + std::string(name_of(type)) + "/int" + std::to_string(bits) + "/" + grouping.name();
          benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { quantize(state, type, format, isa); })
              ->UseManualTime()
              ->Unit(benchmark::kMillisecond);
        }
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
}
