// llama.cpp alone on a GGUF file, as its own programs use it: text by the likeliest tokens, or the likelihoods of windows of token ids; on this machine, or on
// RPC servers with a split between them. Nothing of LSAQ is in here: exports are checked with it.
#include <ggml-backend.h>
#include <llama.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

struct Options {
  std::string model, token_ids, prompt = "Once upon a time", rpc, tensor_split;
  int tokens = 32, context = 512;
};

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> parts;
  std::istringstream stream(list);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

/// The devices of the servers, in their order, as --rpc of llama.cpp's programs adds them.
std::vector<ggml_backend_dev_t> rpc_devices(const std::string& servers) {
  std::vector<ggml_backend_dev_t> devices;
  if (servers.empty()) return devices;
  const ggml_backend_reg_t rpc = ggml_backend_reg_by_name("RPC");
  if (rpc == nullptr) throw std::runtime_error("this llama.cpp was built without RPC");
  const auto add = reinterpret_cast<ggml_backend_reg_t (*)(const char*)>(ggml_backend_reg_get_proc_address(rpc, "ggml_backend_rpc_add_server"));
  for (const std::string& server : split(servers)) {
    const ggml_backend_reg_t found = add(server.c_str());
    if (found == nullptr || ggml_backend_reg_dev_count(found) == 0) throw std::runtime_error(server + ": no RPC server answers");
    for (std::size_t i = 0; i < ggml_backend_reg_dev_count(found); ++i) devices.push_back(ggml_backend_reg_dev_get(found, i));
  }
  devices.push_back(nullptr);
  return devices;
}

/// Nats of all tokens of a window but its first.
double score(llama_context* context, const std::vector<llama_token>& window, int vocabulary) {
  llama_memory_clear(llama_get_memory(context), true);
  llama_batch batch = llama_batch_init(static_cast<int>(window.size()), 0, 1);
  for (std::size_t i = 0; i < window.size(); ++i) {
    batch.token[i] = window[i];
    batch.pos[i] = static_cast<llama_pos>(i);
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  batch.n_tokens = static_cast<int>(window.size());
  const int status = llama_decode(context, batch);
  llama_batch_free(batch);
  if (status != 0) throw std::runtime_error("llama.cpp can't decode");
  double sum = 0;
  for (std::size_t i = 0; i + 1 < window.size(); ++i) {
    const float* const logits = llama_get_logits_ith(context, static_cast<int>(i));
    const double largest = *std::max_element(logits, logits + vocabulary);
    double total = 0;
    for (int t = 0; t < vocabulary; ++t) total += std::exp(logits[t] - largest);
    sum += largest + std::log(total) - logits[window[i + 1]];
  }
  return sum;
}

std::string generate(llama_context* context, const llama_vocab* vocabulary, const Options& options) {
  std::vector<llama_token> tokens(static_cast<std::size_t>(options.context));
  const int count = llama_tokenize(vocabulary, options.prompt.data(), static_cast<int>(options.prompt.size()), tokens.data(), options.context, true, true);
  if (count <= 0 || count + options.tokens > options.context) throw std::runtime_error("the prompt is empty, or too long");
  tokens.resize(static_cast<std::size_t>(count));
  std::string text;
  for (int i = 0; i < options.tokens; ++i) {
    if (llama_decode(context, llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()))) != 0) throw std::runtime_error("llama.cpp can't decode");
    const float* const logits = llama_get_logits_ith(context, -1);
    tokens.assign(1, static_cast<llama_token>(std::max_element(logits, logits + llama_vocab_n_tokens(vocabulary)) - logits));
    if (llama_vocab_is_eog(vocabulary, tokens[0])) break;
    char piece[256];
    text.append(piece, static_cast<std::size_t>(std::max(llama_token_to_piece(vocabulary, tokens[0], piece, sizeof piece, 0, false), 0)));
  }
  return text;
}

void run(const Options& options) {
  std::vector<ggml_backend_dev_t> devices = rpc_devices(options.rpc);
  std::vector<float> shares(llama_max_devices(), 0.0f);
  const std::vector<std::string> wanted = split(options.tensor_split);
  for (std::size_t i = 0; i < std::min(wanted.size(), shares.size()); ++i) shares[i] = std::stof(wanted[i]);
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = devices.empty() ? 0 : 999;
  if (!devices.empty()) params.devices = devices.data();
  if (!wanted.empty()) params.tensor_split = shares.data();
  const std::unique_ptr<llama_model, decltype(&llama_model_free)> model(llama_model_load_from_file(options.model.c_str(), params), llama_model_free);
  if (!model) throw std::runtime_error(options.model + ": llama.cpp can't load this file");
  llama_context_params with = llama_context_default_params();
  with.n_ctx = with.n_batch = with.n_ubatch = static_cast<std::uint32_t>(options.context);
  if (options.token_ids.empty()) with.n_ubatch = std::min(with.n_ubatch, 32u); // logits of a whole prompt at once would take more than the layers
  with.n_threads = with.n_threads_batch = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const std::unique_ptr<llama_context, decltype(&llama_free)> context(llama_init_from_model(model.get(), with), llama_free);
  if (!context) throw std::runtime_error("llama.cpp can't make a context");
  const llama_vocab* const vocabulary = llama_model_get_vocab(model.get());
  if (options.token_ids.empty()) {
    std::printf("%s\n", generate(context.get(), vocabulary, options).c_str());
    return;
  }
  std::ifstream file(options.token_ids);
  nlohmann::json sums = nlohmann::json::array();
  for (const auto& window : nlohmann::json::parse(file))
    sums.push_back(score(context.get(), window.get<std::vector<llama_token>>(), llama_vocab_n_tokens(vocabulary)));
  std::printf("%s\n", sums.dump().c_str());
}

} // namespace

int main(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (!word.starts_with("--")) {
      options.model = word;
      continue;
    }
    const std::string value = i + 1 < argc ? argv[++i] : "";
    if (word == "--token-ids") options.token_ids = value;
    if (word == "--prompt") options.prompt = value;
    if (word == "--tokens") options.tokens = std::stoi(value);
    if (word == "--context") options.context = std::stoi(value);
    if (word == "--rpc") options.rpc = value;
    if (word == "--tensor-split") options.tensor_split = value;
  }
  if (options.model.empty()) {
    std::fprintf(
        stderr, "usage: llama_cpp_run MODEL.gguf [--token-ids F.json | --prompt TEXT --tokens N] [--context N] [--rpc HOST:PORT,...] [--tensor-split N,...]\n");
    return 2;
  }
  llama_log_set([](ggml_log_level level, const char* text, void*) { level == GGML_LOG_LEVEL_ERROR ? void(std::fputs(text, stderr)) : void(); }, nullptr);
  try {
    run(options);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "llama_cpp_run: %s\n", error.what());
    return 1;
  }
}
