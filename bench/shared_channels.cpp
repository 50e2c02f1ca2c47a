// What shared channels lose beside rounding to nearest: relative Frobenius error of single matrices of a model at the same bits per weight, as a table.
//
//   lsaq_bench_shared_channels MODEL [layers, "0,10,20,29"] [linears, "q_proj,k_proj"] [threads]
#include <lsaq/deployment/cpu.hpp>
#include <lsaq/formats/model_source.hpp>
#include <lsaq/quantization/shared_channels.hpp>
#include <lsaq/thread_pool.hpp>

#include <fmt/format.h>

#include <array>
#include <chrono>
#include <cmath>
#include <string>
#include <vector>

namespace {

using Device = lsaq::Backend<lsaq::Cpu, lsaq::Activation<lsaq::Float32>>;
using lsaq::ChannelAxis;
using lsaq::MatrixView;
using lsaq::SharedChannelFormat;

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts(1);
  for (const char c : list)
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

struct Weights {
  std::string name;
  std::size_t rows = 0;
  std::size_t columns = 0;
  std::vector<float> values;

  MatrixView view() const { return {values.data(), rows, columns}; }
};

/// A linear of a layer by its checkpoint's name; GGUF has names of its own.
Weights read(const lsaq::ModelSource& model, const std::string& layer, const std::string& linear) {
  static constexpr std::array<std::array<const char*, 3>, 7> names = {{{"q_proj", "attn_q", "self_attn.q_proj"},
                                                                       {"k_proj", "attn_k", "self_attn.k_proj"},
                                                                       {"v_proj", "attn_v", "self_attn.v_proj"},
                                                                       {"o_proj", "attn_output", "self_attn.o_proj"},
                                                                       {"gate_proj", "ffn_gate", "mlp.gate_proj"},
                                                                       {"up_proj", "ffn_up", "mlp.up_proj"},
                                                                       {"down_proj", "ffn_down", "mlp.down_proj"}}};
  for (const auto& [name, gguf, checkpoint] : names) {
    if (linear != name) continue;
    const std::string tensor = model.is_gguf() ? "blk." + layer + "." + gguf + ".weight" : "model.layers." + layer + "." + checkpoint + ".weight";
    const lsaq::TensorInfo& info = model.at(tensor);
    Weights weights{layer + " " + linear, info.rows, info.columns, std::vector<float>(info.rows * info.columns)};
    model.read_rows(info, 0, info.rows, weights.values.data());
    return weights;
  }
  lsaq::fail<lsaq::InvalidArgument>("'" + linear + "' is none of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj");
}

/// |W - W'| / |W| of codes and scales.
double rounding_error(const Weights& weights, const lsaq::PackedMatrix& packed) {
  std::vector<float> restored(weights.values.size());
  lsaq::dequantize(packed.view(), {restored.data(), weights.rows, weights.columns});
  double error = 0, all = 0;
  for (std::size_t i = 0; i < restored.size(); ++i) {
    error += std::pow(double{weights.values[i]} - double{restored[i]}, 2);
    all += std::pow(double{weights.values[i]}, 2);
  }
  return std::sqrt(error / all);
}

double bits_of(const Weights& weights, lsaq::Bytes bytes) { return 8 * static_cast<double>(bytes) / static_cast<double>(weights.values.size()); }

/// The smallest error of shared channels within a budget, with the K and the rank that have it.
std::string shared_error(const Weights& weights, double budget, const SharedChannelFormat& format, const Device& device) {
  const lsaq::SharedChannelMatrix shared = lsaq::share_channels_within(weights.view(), budget, {.format = format}, device);
  return fmt::format(" {:.3f} ({}, {}) |", lsaq::relative_error(weights.view(), shared, {}, device.executor()), shared.clusters(), shared.rank());
}

void report(const Weights& weights, const Device& device) {
  constexpr SharedChannelFormat halves, rows_of_4{.representative_bits = 4, .factor_bits = 4},
      columns_of_4{.axis = ChannelAxis::columns, .representative_bits = 4, .factor_bits = 4};
  for (const unsigned bits : {2u, 3u, 4u}) {
    const lsaq::PackedMatrix channels = lsaq::quantize<lsaq::PerChannel>(weights.view(), bits),
                             groups = lsaq::quantize<lsaq::PerGroup<32>>(weights.view(), bits);
    const double budget = bits_of(weights, channels.bytes()), group_budget = bits_of(weights, groups.bytes());
    std::string line = fmt::format("| {} | {:.2f} | {:.3f} |", weights.name, budget, rounding_error(weights, channels));
    for (const SharedChannelFormat& format : {halves, rows_of_4, columns_of_4}) line += shared_error(weights, budget, format, device);
    line += fmt::format(" {:.2f} | {:.3f} |", group_budget, rounding_error(weights, groups)) + shared_error(weights, group_budget, rows_of_4, device);
    fmt::print("{}\n", line);
    std::fflush(stdout);
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: {} MODEL [layers] [linears] [threads]\n", argv[0]);
    return 2;
  }
  try {
    const lsaq::ModelSource model = lsaq::ModelSource::open(argv[1]);
    lsaq::ThreadPool pool(argc > 4 ? std::stoul(argv[4]) : 1);
    const Device device(pool);
    fmt::print("Relative Frobenius error; in brackets K and rank. SC: shared channels within the same bits.\n\n"
               "| matrix | bits | RTN channel | SC rows, F16 | SC rows, 4 bits | SC columns, 4 bits | bits | RTN group:32 | SC rows, 4 bits |\n"
               "|---|---|---|---|---|---|---|---|---|\n");
    const auto start = std::chrono::steady_clock::now();
    for (const std::string& layer : split(argc > 2 ? argv[2] : "0,10,20,29"))
      for (const std::string& linear : split(argc > 3 ? argv[3] : "q_proj,k_proj")) report(read(model, layer, linear), device);
    fmt::print("\n{:.0f} s on {} thread(s), {} kernels\n", std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), pool.concurrency(),
               name_of(device.isa()));
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
