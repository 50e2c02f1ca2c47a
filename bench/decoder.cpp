// Tokens a second of a whole model on the reference decoder: reading a prompt, then writing tokens one by one, from an empty context each. Tokens are drawn at
// random: nothing here depends on what they are.
//
//   lsaq_bench_decoder MODEL FORMAT [PROMPT [ANSWER [THREADS...]]]      FORMAT: 16, or bits of all layers, or BITS/GROUP, as 8, 4/32; default: 512 128 1 2
#include <lsaq/deployment/cpu.hpp>
#include <lsaq/models/llama.hpp>
#include <lsaq/thread_pool.hpp>

#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <random>

namespace {

namespace llama = lsaq::llama;
using Device = lsaq::Backend<lsaq::Cpu>;

std::size_t count(const std::string& text) {
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value == 0)
    lsaq::fail<lsaq::InvalidArgument>("'" + text + "' is not a whole number from 1 on");
  return value;
}

/// Bits and groups from "16", "8", "4/32".
lsaq::PackedFormat format_of(const std::string& text) {
  const std::size_t slash = text.find('/');
  lsaq::PackedFormat format{.bits = static_cast<unsigned>(count(text.substr(0, slash)))};
  if (slash != std::string::npos) format.grouping.columns = static_cast<std::uint32_t>(count(text.substr(slash + 1)));
  return format;
}

/// All layers in one format.
llama::ModelWeights deploy(const lsaq::ModelSource& source, const llama::Config& config, const lsaq::PackedFormat& format, const Device& device) {
  const llama::WeightLoader loader(source, config, device.executor());
  llama::ModelWeights weights{loader.outer(device), {}};
  const auto bits_of = [&](std::string_view) { return format.bits; };
  for (std::size_t l = 0; l < config.layers; ++l)
    weights.layers.push_back(loader.layer(device, l, bits_of, format, [](llama::Linear, unsigned) { return std::optional<lsaq::PackedMatrix>(); }));
  return weights;
}

double seconds(auto&& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void report(const std::vector<std::string>& arguments) {
  const lsaq::ModelSource source = lsaq::ModelSource::open(arguments.at(0));
  const llama::Config config = llama::read_config(source);
  const std::size_t prompt = arguments.size() > 2 ? count(arguments[2]) : 512, answer = arguments.size() > 3 ? count(arguments[3]) : 128;
  std::vector<std::size_t> threads;
  for (std::size_t i = 4; i < arguments.size(); ++i) threads.push_back(count(arguments[i]));
  if (threads.empty()) threads = {1, 2};
  lsaq::ThreadPool all;
  const llama::ModelWeights weights = deploy(source, config, format_of(arguments.at(1)), Device(all));
  fmt::print("{} bytes of layers, {} of embedding and head\n", weights.weight_bytes(), weights.outer.embedding_bytes());
  std::mt19937 random(1);
  std::vector<lsaq::TokenId> tokens(std::max(prompt, answer));
  for (lsaq::TokenId& token : tokens) token = static_cast<lsaq::TokenId>(random() % config.vocabulary);
  for (const std::size_t n : threads) {
    lsaq::ThreadPool pool(n);
    const Device device(pool);
    llama::Decoder<Device> decoder(config, weights, device, tokens.size());
    decoder.forward(std::span(tokens).first(1)); // first touch
    decoder.reset();
    const double read = seconds([&] { decoder.forward(std::span(tokens).first(prompt)); });
    decoder.reset();
    const double written = seconds([&] {
      for (std::size_t i = 0; i < answer; ++i) decoder.forward(std::span(tokens).subspan(i, 1));
    });
    fmt::print("{} thread(s), {} kernels: prompt {:.2f} tokens/s, answer {:.2f} tokens/s\n", n, name_of(device.isa()), static_cast<double>(prompt) / read,
               static_cast<double>(answer) / written);
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    fmt::print(stderr, "usage: {} MODEL FORMAT [PROMPT [ANSWER [THREADS...]]]\n", argv[0]);
    return 2;
  }
  try {
    report({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
