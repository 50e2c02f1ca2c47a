// GPTQ of one linear of random weights: seconds for statistics of its inputs, for their factor, and for rounding; and the peak resident memory.
//
//   lsaq_bench_gptq [rows columns, 4096 11008] [inputs, 16384] [bits, 4] [threads, all]
#include <lsaq/deployment/cpu.hpp>
#include <lsaq/quantization/rounding.hpp>
#include <lsaq/thread_pool.hpp>

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <random>
#include <thread>

namespace {

std::vector<float> normal(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> draw;
  std::vector<float> values(count);
  for (float& value : values) value = draw(random);
  return values;
}

template <class Act> void timed(const char* what, Act&& act) {
  const auto start = std::chrono::steady_clock::now();
  act();
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  fmt::print("{:<12}{:>8.1f} s, peak so far {:>7.1f} MiB\n", what, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
             static_cast<double>(usage.ru_maxrss) / 1024);
  std::fflush(stdout);
}

} // namespace

int main(int argc, char** argv) {
  const auto is_number = [](const char* text) { return *text >= '1' && *text <= '9' && std::strspn(text, "0123456789") == std::strlen(text); };
  if (argc > 6 || !std::all_of(argv + 1, argv + argc, is_number)) {
    fmt::print(stderr, "usage: {} [rows, 4096] [columns, 11008] [inputs, 16384] [bits, 4] [threads, all]\n", argv[0]);
    return 2;
  }
  const auto number = [&](int index, std::size_t otherwise) { return argc > index ? std::stoul(argv[index]) : otherwise; };
  const std::size_t rows = number(1, 4096), columns = number(2, 11008), inputs = number(3, 16384), bits = number(4, 4);
  lsaq::ThreadPool pool(number(5, std::max(1u, std::thread::hardware_concurrency())));
  const lsaq::Backend<lsaq::Cpu> device(pool);
  fmt::print("{} x {}, {} inputs, {} bits, {} thread(s), {} kernels\n", rows, columns, inputs, bits, pool.concurrency(), name_of(device.isa()));
  std::vector<float> weights = normal(rows * columns, 1);
  const lsaq::MatrixView view(weights.data(), rows, columns);
  lsaq::InputStatistics statistics(columns);
  timed("statistics", [&] {
    const std::size_t block = 512;
    const std::vector<float> some = normal((block + 64) * columns, 2); // shifted differently each time: full rank, and the same few numbers
    for (std::size_t first = 0; first < inputs; first += block)
      statistics.add(device, {some.data() + first / block * 37 % (64 * columns), std::min(block, inputs - first), columns});
    statistics.finish();
  });
  std::optional<lsaq::GptqFactor> factor;
  timed("factor", [&] { factor.emplace(statistics, lsaq::GptqOptions{}, device.executor()); });
  for (const lsaq::Grouping grouping : {lsaq::PerChannel::grouping, lsaq::PerGroup<32>::grouping})
    timed(grouping.name().c_str(),
          [&] { (void)quantize_gptq(device, view, *factor, {.bits = static_cast<unsigned>(bits), .grouping = grouping, .range = lsaq::CodeRange::full}); });
}
