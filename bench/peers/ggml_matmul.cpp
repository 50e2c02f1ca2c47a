// Products of weights and tokens by ggml, for matmul.py, which builds this with a user's ggml: seconds a product, on one line each.
//
//   ggml_matmul TYPE ROWS COLUMNS TOKENS THREADS BATCHES      TYPE: f16, q8_0, q4_0, q4_K
//
// Each line: `plain` or the name of the buffer type the CPU backend repacks weights in, if it does so for this tensor (where llama.cpp looks first), the median
// and the least seconds of a product, and its error. A graph holds a batch of products, each with the next of many copies of the weights, as the layers of a
// model are: more of them than caches hold. The error is that of one product against plain loops over the dequantized weights, relative to their size;
// activations are quantized too, so it is near 1%, and above 3% the program refuses.
#include "../huge_block.hpp"

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

struct Free {
  void operator()(ggml_context* context) const { ggml_free(context); }
  void operator()(ggml_backend* backend) const { ggml_backend_free(backend); }
  void operator()(ggml_backend_buffer* buffer) const { ggml_backend_buffer_free(buffer); }
};
template <class T> using Owned = std::unique_ptr<T, Free>;

constexpr std::int64_t distinct_rows = 64; ///< repeated below each other: quantizing all rows would take longer than measuring

struct Case {
  ggml_type type;
  std::int64_t rows, columns, tokens;
  int threads, batches;
};

Owned<ggml_context> new_context(std::size_t tensors) {
  return Owned<ggml_context>(ggml_init({tensors * ggml_tensor_overhead() + 2 * ggml_graph_overhead_custom(tensors, false), nullptr, true}));
}

/// Weights as the type stores them, and the same dequantized: distinct_rows rows.
struct Rows {
  std::vector<std::uint8_t> stored;
  std::vector<float> floats;

  explicit Rows(const Case& c) : stored(distinct_rows * ggml_row_size(c.type, c.columns)), floats(distinct_rows * c.columns) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    for (float& value : floats) value = normal(random);
    ggml_quantize_chunk(c.type, floats.data(), stored.data(), 0, distinct_rows, c.columns, nullptr);
    ggml_get_type_traits(c.type)->to_float(stored.data(), floats.data(), static_cast<std::int64_t>(floats.size()));
  }
};

/// The first buffer type, of those that repack weights, which takes a product of this case; null: none. What llama.cpp asks for before a model is read.
ggml_backend_buffer_type_t repacking_type(ggml_backend_dev_t cpu, const Case& c) {
  const auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu), "ggml_backend_dev_get_extra_bufts"));
  for (ggml_backend_buffer_type_t* type = extra ? extra(cpu) : nullptr; type && *type; ++type) {
    const Owned<ggml_context> context = new_context(3);
    ggml_tensor* weights = ggml_new_tensor_2d(context.get(), c.type, c.columns, c.rows);
    ggml_tensor* product = ggml_mul_mat(context.get(), weights, ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, c.columns, c.tokens));
    const Owned<ggml_backend_buffer> nothing(ggml_backend_buft_alloc_buffer(*type, 0));
    weights->buffer = nothing.get();
    if (ggml_backend_dev_supports_op(cpu, product)) return *type;
  }
  return nullptr;
}

/// The largest error of a product, relative to the root mean square of the right one: every output of the first and the last token is looked at.
double error_of(const Case& c, const Rows& rows, const std::vector<float>& inputs, const ggml_tensor* product) {
  std::vector<float> outputs(c.rows * c.tokens);
  ggml_backend_tensor_get(product, outputs.data(), 0, outputs.size() * sizeof(float));
  double largest = 0;
  for (const std::int64_t token : {std::int64_t{0}, c.tokens - 1}) {
    double squares = 0, wrong = 0;
    std::vector<double> right(distinct_rows);
    for (std::int64_t r = 0; r < distinct_rows; ++r)
      for (std::int64_t i = 0; i < c.columns; ++i) right[r] += static_cast<double>(rows.floats[r * c.columns + i]) * inputs[token * c.columns + i];
    for (std::int64_t r = 0; r < c.rows; ++r) {
      const double expected = right[r % distinct_rows], difference = outputs[token * c.rows + r] - expected;
      squares += expected * expected;
      wrong += difference * difference;
    }
    largest = std::max(largest, std::sqrt(wrong / squares));
  }
  return largest;
}

void measure(const Case& c, const Rows& rows, ggml_backend_buffer_type_t type, const char* name) {
  const Owned<ggml_backend> backend(ggml_backend_cpu_init());
  ggml_backend_cpu_set_n_threads(backend.get(), c.threads);
  const std::size_t bytes = ggml_row_size(c.type, c.columns) * c.rows, copies = bench::beyond_caches() / bytes + 1;
  const Owned<ggml_context> weight_context = new_context(copies);
  std::vector<ggml_tensor*> weights(copies);
  for (ggml_tensor*& copy : weights) copy = ggml_new_tensor_2d(weight_context.get(), c.type, c.columns, c.rows);
  const Owned<ggml_backend_buffer> weight_memory(ggml_backend_alloc_ctx_tensors_from_buft(weight_context.get(), type));
  if (!weight_memory) throw std::runtime_error("no memory for the weights");
  // Huge pages, as our own benchmark has them; before the first byte is written.
  constexpr std::uintptr_t page = 4096;
  const auto first = (reinterpret_cast<std::uintptr_t>(ggml_backend_buffer_get_base(weight_memory.get())) + page - 1) / page * page;
  madvise(reinterpret_cast<void*>(first), ggml_backend_buffer_get_size(weight_memory.get()) / page * page, MADV_HUGEPAGE);
  std::vector<std::uint8_t> all(bytes);
  for (std::size_t at = 0; at < bytes; at += rows.stored.size()) std::memcpy(all.data() + at, rows.stored.data(), std::min(rows.stored.size(), bytes - at));
  for (ggml_tensor* copy : weights) ggml_backend_tensor_set(copy, all.data(), 0, bytes);

  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> inputs(c.columns * c.tokens);
  for (float& x : inputs) x = normal(random);
  const double operations = 2.0 * static_cast<double>(c.rows * c.columns * c.tokens);
  const auto batch = std::clamp<std::size_t>(static_cast<std::size_t>(2e9 / operations), 1, copies); // some ten milliseconds
  const std::size_t graphs = (copies + batch - 1) / batch;
  const Owned<ggml_context> context = new_context(graphs * batch + 1);
  ggml_tensor* x = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, c.columns, c.tokens);
  ggml_tensor* product = nullptr;
  std::vector<Owned<ggml_context>> graph_contexts;
  std::vector<ggml_cgraph*> graph_of;
  for (std::size_t g = 0; g < graphs; ++g) {
    graph_contexts.push_back(new_context(2 * batch + 2));
    graph_of.push_back(ggml_new_graph_custom(graph_contexts.back().get(), 2 * batch + 2, false));
    for (std::size_t i = 0; i < batch; ++i) {
      product = ggml_mul_mat(context.get(), weights[(g * batch + i) % copies], x);
      ggml_build_forward_expand(graph_of.back(), product);
    }
  }
  const Owned<ggml_backend_buffer> memory(ggml_backend_alloc_ctx_tensors(context.get(), backend.get()));
  if (!memory) throw std::runtime_error("no memory for the outputs");
  ggml_backend_tensor_set(x, inputs.data(), 0, inputs.size() * sizeof(float));
  const auto run = [&](ggml_cgraph* graph) {
    if (ggml_backend_graph_compute(backend.get(), graph) != GGML_STATUS_SUCCESS) throw std::runtime_error("ggml refuses the graph");
  };
  run(graph_of.back()); // first touch; and the product that is looked at
  const double error = error_of(c, rows, inputs, product);
  std::vector<double> times;
  for (int n = 0; n < c.batches; ++n) {
    const auto start = std::chrono::steady_clock::now();
    run(graph_of[static_cast<std::size_t>(n) % graphs]);
    times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / static_cast<double>(batch));
  }
  std::sort(times.begin(), times.end());
  std::printf("%s %.9g %.9g %.4f\n", name, times[times.size() / 2], times.front(), error);
  if (!(error < 0.03)) throw std::runtime_error("the product is wrong");
}

} // namespace

int main(int argc, char** argv) {
  if (argc != 7) {
    std::fprintf(stderr, "usage: %s TYPE ROWS COLUMNS TOKENS THREADS BATCHES\n", argv[0]);
    return 2;
  }
  try {
    ggml_log_set([](ggml_log_level, const char*, void*) {}, nullptr); // a line for every copy that is repacked
    int type = 0;
    while (type < GGML_TYPE_COUNT && std::strcmp(ggml_type_name(static_cast<ggml_type>(type)), argv[1]) != 0) ++type;
    const Case c{static_cast<ggml_type>(type), std::atoll(argv[2]), std::atoll(argv[3]), std::atoll(argv[4]), std::atoi(argv[5]), std::atoi(argv[6])};
    if (type == GGML_TYPE_COUNT) throw std::runtime_error("ggml has no such type");
    if (c.columns % ggml_blck_size(c.type) != 0) throw std::runtime_error("a row is no whole number of blocks");
    const Rows rows(c);
    const ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    measure(c, rows, ggml_backend_cpu_buffer_type(), "plain");
    if (const ggml_backend_buffer_type_t repacking = repacking_type(cpu, c)) measure(c, rows, repacking, ggml_backend_buft_name(repacking));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
