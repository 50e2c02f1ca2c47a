// LSAQ inside a real engine: llama.cpp runs the calibration prompts, LSAQ looks on, plans for the memory llama.cpp sees, and writes the GGUF file that
// llama.cpp then loads and generates from. The steps are those of docs/embedding.md.
#include <lsaq/formats/importance_file.hpp>
#include <lsaq/formats/resumable_file.hpp>
#include <lsaq/lsaq.hpp>
#include <lsaq/models/gguf_export.hpp>
#include <lsaq/resources/byte_size.hpp>
#include <lsaq/thread_pool.hpp>

#include <ggml-backend.h>
#include <llama.h>

#include <cstdio>
#include <cstdlib>
#include <thread>

namespace {

using Device = lsaq::Backend<lsaq::Cpu>;
using Metric = lsaq::ImportanceMetric<lsaq::Jaccard>;
using ModelPointer = std::unique_ptr<llama_model, decltype(&llama_model_free)>;
using ContextPointer = std::unique_ptr<llama_context, decltype(&llama_free)>;

constexpr std::uint32_t context_size = 512;

/// What llama.cpp's evaluation callback fills: the window that is open, and room for one tensor.
struct Observer {
  lsaq::ImportanceWindow* window = nullptr;
  std::vector<float> states;
};

/// The boundary whose residual stream a tensor of llama.cpp's graph is: 0 where it enters the first layer, l + 1 where it leaves layer l.
std::optional<std::size_t> boundary_of(std::string_view name) {
  if (name == "embd") return 0;
  constexpr std::string_view prefix = "l_out-";
  if (!name.starts_with(prefix)) return std::nullopt;
  return std::strtoul(name.data() + prefix.size(), nullptr, 10) + 1;
}

/// llama.cpp asks for every tensor whether we want to see it, and hands it over when it is computed, on whatever device it lies.
bool look_at(ggml_tensor* tensor, bool ask, void* user_data) {
  auto& observer = *static_cast<Observer*>(user_data);
  const auto boundary = boundary_of(ggml_get_name(tensor));
  if (ask) return boundary && observer.window != nullptr;
  if (!boundary || observer.window == nullptr) return true;
  const auto hidden = static_cast<std::size_t>(tensor->ne[0]), rows = static_cast<std::size_t>(tensor->ne[1]);
  observer.states.resize(hidden);
  const std::size_t row_bytes = hidden * sizeof(float); // the last position is compared, as the paper does; the last layer computes no other
  ggml_backend_tensor_get(tensor, observer.states.data(), (rows - 1) * row_bytes, row_bytes);
  observer.window->observe(*boundary, {observer.states.data(), 1, hidden});
  return true;
}

ModelPointer load(const std::string& path) {
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  ModelPointer model(llama_model_load_from_file(path.c_str(), params), llama_model_free);
  if (!model) lsaq::fail<lsaq::BadInput>(path + ": llama.cpp can't load this file");
  return model;
}

ContextPointer make_context(llama_model* model, Observer* observer) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = context_size; // a window in one piece
  params.n_threads = params.n_threads_batch = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (observer != nullptr) {
    params.cb_eval = look_at;
    params.cb_eval_user_data = observer;
  }
  ContextPointer context(llama_init_from_model(model, params), llama_free);
  if (!context) lsaq::fail<lsaq::IoError>("llama.cpp can't make a context");
  return context;
}

void decode(llama_context* context, std::vector<llama_token>& tokens) {
  if (llama_decode(context, llama_batch_get_one(tokens.data(), static_cast<int>(tokens.size()))) != 0) lsaq::fail<lsaq::IoError>("llama.cpp can't decode");
}

/// Step 3 of docs/embedding.md: every calibration window through llama.cpp, observed at all boundaries.
lsaq::Importance measure(const std::string& path, const std::filesystem::path& ids, std::size_t layers, lsaq::MatrixView embedding, const Device& device) {
  const ModelPointer model = load(path);
  Observer observer;
  const ContextPointer context = make_context(model.get(), &observer);
  Metric metric(layers, {.embedding = embedding, .top_k = 50});
  const lsaq::MappedFile file = lsaq::MappedFile::open(ids);
  for (const auto& window_ids : nlohmann::json::parse(std::string_view(reinterpret_cast<const char*>(file.bytes().data()), file.size()))) {
    auto tokens = window_ids.get<std::vector<llama_token>>();
    if (tokens.empty() || tokens.size() > context_size) lsaq::fail<lsaq::BadInput>(ids.string() + ": windows of 1 to 512 tokens are wanted");
    auto window = metric.begin_window();
    observer.window = &window;
    llama_memory_clear(llama_get_memory(context.get()), true);
    decode(context.get(), tokens);
    observer.window = nullptr;
    metric.end_window(window, device);
  }
  return metric.importance();
}

/// Step 5: the plan for the memory that llama.cpp sees on its device, or less.
lsaq::Plan make_plan(const lsaq::llama::Config& config, const lsaq::Importance& importance, const char* memory) {
  std::size_t free = 0, total = 0;
  ggml_backend_dev_memory(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), &free, &total);
  lsaq::MemoryBudget budget{.memory = free};
  if (memory != nullptr) {
    const lsaq::Expected<lsaq::Bytes> wanted = lsaq::parse_bytes(memory);
    if (!wanted) lsaq::fail<lsaq::InvalidArgument>(wanted.error().message);
    budget.memory = std::min<lsaq::Bytes>(free, *wanted);
  }
  budget.kv_cache = lsaq::kv_cache_bytes(config.layers, config.kv_heads, config.head_size, context_size);
  budget.destination = lsaq::Destination::gguf; // bytes of Q8_0 and Q4_0: 8.5 and 4.5 bits a weight
  return lsaq::Planner<lsaq::Budget>(budget)(importance, lsaq::llama::model_shape(config, budget.destination));
}

/// Step 6: the model by this plan, in a file that appears when it is complete.
void write(const lsaq::ModelSource& source, const lsaq::llama::Config& config, const lsaq::Plan& plan, const std::filesystem::path& out, const Device& device) {
  const lsaq::llama::RoundingLoader loader(lsaq::llama::WeightLoader(source, config, device.executor()), {}, {});
  const lsaq::PlanFile file{.plan = plan, .model = config.name, .format = "gguf"};
  const lsaq::llama::GgufExport made(source, config, plan, loader.weights().unquantized(), lsaq::llama::GgufExport::provenance(file));
  lsaq::AtomicFile output(out);
  const auto append = [&](std::span<const std::byte> bytes) { output.write(bytes); };
  output.write(made.header());
  made.write_outer(lsaq::llama::embedding_part, append);
  for (std::size_t l = 0; l < config.layers; ++l) {
    const auto bits_of = [&](std::string_view linear) { return made.plan().bits_of(l, linear); };
    made.write_layer(
        l, [&](auto&& take) { loader.each_linear(device, l, bits_of, take); }, append);
  }
  made.write_outer(lsaq::llama::last_part(config), append);
  output.commit();
}

void generate(const std::string& path, std::string_view prompt) {
  const ModelPointer model = load(path);
  const ContextPointer context = make_context(model.get(), nullptr);
  const llama_vocab* const vocabulary = llama_model_get_vocab(model.get());
  std::vector<llama_token> tokens(context_size);
  const int count = llama_tokenize(vocabulary, prompt.data(), static_cast<int>(prompt.size()), tokens.data(), context_size, true, true);
  if (count <= 0 || count >= static_cast<int>(context_size)) lsaq::fail<lsaq::InvalidArgument>("the prompt is empty, or leaves no room for an answer");
  tokens.resize(static_cast<std::size_t>(count));
  for (int i = 0; i < 48; ++i) {
    decode(context.get(), tokens);
    const float* const logits = llama_get_logits_ith(context.get(), -1);
    tokens.assign(1, static_cast<llama_token>(std::max_element(logits, logits + llama_vocab_n_tokens(vocabulary)) - logits));
    if (llama_vocab_is_eog(vocabulary, tokens[0])) break;
    char piece[256];
    const int length = llama_token_to_piece(vocabulary, tokens[0], piece, sizeof piece, 0, false);
    std::fwrite(piece, 1, static_cast<std::size_t>(std::max(length, 0)), stdout);
  }
  std::printf("\n");
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) {
    std::fprintf(stderr, "usage: lsaq_in_llama_cpp MODEL.gguf TOKEN_IDS.json OUT.gguf [MEMORY [PROMPT]]\n");
    return 2;
  }
  try {
    llama_log_set([](ggml_log_level level, const char* text, void*) { level == GGML_LOG_LEVEL_ERROR ? void(std::fputs(text, stderr)) : void(); }, nullptr);
    const std::string model = argv[1], out = argv[3];
    lsaq::ThreadPool pool;
    const Device device(pool);
    const auto source = lsaq::ModelSource::open(model);
    const lsaq::llama::Config config = lsaq::llama::read_config(source);
    const lsaq::llama::OuterWeights outer = lsaq::llama::WeightLoader(source, config, device.executor()).outer(device);
    const lsaq::Importance importance = measure(model, argv[2], config.layers, outer.embedding.view(), device);
    lsaq::AtomicFile scores(out + ".importance.json");
    scores.write(lsaq::importance_to_json(importance, config.name, 50).dump() + "\n");
    scores.commit();
    const lsaq::Plan plan = make_plan(config, importance, argc > 4 ? argv[4] : nullptr);
    write(source, config, plan, out, device);
    std::fprintf(stderr, "%zu layers at 16 bits, %zu at 8, %zu at 4: %s\n", plan.layers_at(16), plan.layers_at(8), plan.layers_at(4), out.c_str());
    generate(out, argc > 5 ? argv[5] : "Once upon a time");
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lsaq_in_llama_cpp: %s\n", error.what());
    return 1;
  }
}
