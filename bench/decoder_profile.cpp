// Where the reference decoder's time goes: reading a prompt, and one token at a time behind it, step by step, on one thread. The device the decoder gets notes
// when products begin and end; what lies between them is what the step is.
#include <lsaq/models/llama.hpp>

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <numeric>

namespace {

namespace llama = lsaq::llama;
using Clock = std::chrono::steady_clock;

enum Step : std::size_t { embed, norms, rotation, attention, gating, last, layer_products, head, steps };
constexpr std::array<const char*, steps> names = {"embedding and first norm", "norms and residual",        "rotation and cache",     "attention",
                                                  "silu(gate) * up",          "last residual, final norm", "products of the layers", "output head"};

/// Seconds by step.
struct Trace {
  std::array<double, steps> seconds{};
  Clock::time_point noted{};
  std::size_t product = 0; ///< products of this pass so far
  std::size_t layers = 0;
  double in_executor = 0; ///< since the last product

  void begin_pass() {
    noted = Clock::now();
    product = 0;
    in_executor = 0;
  }
  void begin_product() {
    const double gap = since_last();
    const bool is_head = product == layers * llama::linears_per_layer;
    switch (is_head ? llama::linears_per_layer : product % llama::linears_per_layer) {
    case 0: seconds[product == 0 ? embed : norms] += gap; break;
    case static_cast<std::size_t>(llama::Linear::o):
      seconds[attention] += in_executor;
      seconds[rotation] += gap - in_executor;
      break;
    case static_cast<std::size_t>(llama::Linear::down): seconds[gating] += gap; break;
    case llama::linears_per_layer: seconds[last] += gap; break;
    default: seconds[norms] += gap;
    }
  }
  void end_product() {
    seconds[product == layers * llama::linears_per_layer ? head : layer_products] += since_last();
    in_executor = 0;
    ++product;
  }
  double total() const { return std::accumulate(seconds.begin(), seconds.end(), 0.0); }

private:
  double since_last() {
    const Clock::time_point now = Clock::now();
    return std::chrono::duration<double>(now - std::exchange(noted, now)).count();
  }
};

/// Runs tasks in order and notes how long they take: attention between the products of a layer.
struct TimedExecutor {
  Trace* trace;

  std::size_t concurrency() const { return 1; }
  void parallel_for(std::size_t count, lsaq::TaskRef task) const {
    const auto start = Clock::now();
    lsaq::Serial().parallel_for(count, task);
    trace->in_executor += std::chrono::duration<double>(Clock::now() - start).count();
  }
};

/// The CPU backend, its products timed.
class TimedDevice {
public:
  TimedDevice(Trace& trace, TimedExecutor& executor) : trace_(&trace), executor_(&executor) {}

  lsaq::PackedMatrix prepare(lsaq::PackedMatrix packed) const { return cpu_.prepare(std::move(packed)); }
  template <class Weights> std::size_t workspace_bytes(const Weights& weights, std::size_t tokens) const noexcept {
    return cpu_.workspace_bytes(weights, tokens);
  }
  template <class Weights>
  lsaq::Status matmul(const Weights& weights, lsaq::MatrixView x, lsaq::MutableMatrixView y, std::span<std::byte> workspace) const noexcept {
    trace_->begin_product();
    const lsaq::Status status = cpu_.matmul(weights, x, y, workspace);
    trace_->end_product();
    return status;
  }
  const lsaq::CpuKernels& kernels() const noexcept { return cpu_.kernels(); }
  lsaq::ExecutorRef executor() const noexcept { return *executor_; }
  lsaq::Isa isa() const noexcept { return cpu_.isa(); }

private:
  lsaq::Backend<lsaq::Cpu> cpu_;
  Trace* trace_;
  TimedExecutor* executor_;
};

static_assert(lsaq::backend<TimedDevice>);

void print(const std::string& what, const std::vector<Trace>& passes, double divisor) {
  Trace sum;
  for (const Trace& pass : passes)
    for (std::size_t i = 0; i < steps; ++i) sum.seconds[i] += pass.seconds[i];
  const double total = sum.total(), products = sum.seconds[layer_products] + sum.seconds[head];
  fmt::print("\n{}: {:.3f} ms, {:.1f}% of them beside the products\n", what, total * 1e3 / divisor, 100 * (1 - products / total));
  for (std::size_t i = 0; i < steps; ++i)
    fmt::print("  {:<26}{:>10.3f} ms {:>6.1f}%\n", names[i], sum.seconds[i] * 1e3 / divisor, 100 * sum.seconds[i] / total);
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: {} MODEL [bits = 8] [position = 512] [f16|f32|q8_0]\n", argv[0]);
    return 2;
  }
  const unsigned bits = argc > 2 ? static_cast<unsigned>(std::stoul(argv[2])) : 8;
  const std::size_t position = argc > 3 ? std::stoul(argv[3]) : 512;
  const std::string cache = argc > 4 ? argv[4] : "f16";
  const lsaq::ElementType type = cache == "f32" ? lsaq::ElementType::f32 : cache == "q8_0" ? lsaq::ElementType::q8_0 : lsaq::ElementType::f16;
  constexpr std::size_t rounds = 7, decoded = 32;

  const lsaq::ModelSource source = lsaq::ModelSource::open(argv[1]);
  const llama::Config config = llama::read_config(source);
  Trace trace;
  TimedExecutor executor{&trace};
  const TimedDevice device(trace, executor);
  lsaq::Plan plan;
  plan.bits.assign(config.layers, bits);
  const llama::ModelWeights weights = llama::load_weights(llama::WeightLoader(source, config), config, plan, device);
  llama::Decoder<TimedDevice> decoder(config, weights, device, position + decoded, type);
  std::vector<lsaq::TokenId> tokens(position + decoded);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<lsaq::TokenId>(i * 7919 % config.vocabulary);

  std::vector<Trace> prefill, decode; // of each pass, every step's fastest
  for (std::size_t round = 0; round < rounds; ++round) {
    decoder.reset();
    const auto pass = [&](std::vector<Trace>& best, std::size_t number, std::size_t first, std::size_t count) {
      trace = {.layers = config.layers};
      trace.begin_pass();
      (void)decoder.forward(std::span(tokens).subspan(first, count));
      if (first + count < position) trace.seconds[head] = trace.seconds[last] = 0; // a prompt needs those of its last token only
      if (round == 0) best.push_back(trace);
      for (std::size_t i = 0; i < steps; ++i) best[number].seconds[i] = std::min(best[number].seconds[i], trace.seconds[i]);
    };
    for (std::size_t first = 0; first < position; first += llama::prefill_block)
      pass(prefill, first / llama::prefill_block, first, std::min(llama::prefill_block, position - first));
    for (std::size_t i = 0; i < decoded; ++i) pass(decode, i, position + i, 1);
  }
  fmt::print("{}, {} bits, {} cache, {} kernels, one thread, of every step the fastest of {} rounds\n", config.name, bits, name_of(type), name_of(device.isa()),
             rounds);
  print(fmt::format("prefill of {} tokens", position), prefill, 1);
  print(fmt::format("decode at positions {} to {}, a token", position, position + decoded - 1), decode, decoded);
}
