#include "explain.hpp"

#include <lsaq/models/llama.hpp>
#include <lsaq/report.hpp>

#include <map>

namespace command {

namespace {

namespace llama = lsaq::llama;

/// Codes, padding and scales of a linear.
std::string describe(const lsaq::LinearShape& linear, unsigned bits, lsaq::Destination destination, lsaq::Grouping grouping) {
  if (bits == 16) return "2 bytes a weight";
  if (destination == lsaq::Destination::gguf)
    return linear.columns % 32 != 0 ? "F16: rows are no blocks of 32" : fmt::format("{} blocks of {} bytes", linear.weights() / 32, bits == 8 ? 34 : 18);
  const lsaq::Bytes row = lsaq::packed_row_bytes(linear.columns, bits), codes = lsaq::Bytes{linear.columns} * bits,
                    scales = grouping.scales(linear.rows, linear.columns);
  std::string text = fmt::format("codes {}", linear.rows * row);
  if (row * 8 != codes) text += fmt::format(", {} bits a row of it padding", row * 8 - codes);
  text += fmt::format(", scales {}", scales * 2);
  if (destination == lsaq::Destination::compressed_tensors) text += ", shape 16";
  return text;
}

class Explanation {
public:
  std::vector<ExplainedBytes> parts;

  void add(std::string part, std::string text, lsaq::Bytes bytes) { parts.push_back({std::move(part), std::move(text), bytes}); }
};

void explain_weights(Explanation& found, const lsaq::ModelShape& shape, const lsaq::Plan& plan, lsaq::Destination destination, lsaq::Grouping grouping) {
  // Layers of a model are alike: one line for each linear and width.
  for (std::size_t i = 0; !shape.layers.empty() && i < shape.layers[0].linears.size(); ++i) {
    const lsaq::LinearShape& linear = shape.layers[0].linears[i];
    std::map<unsigned, std::size_t> layers;
    for (std::size_t l = 0; l < shape.layers.size(); ++l) ++layers[plan.bits_of(l, linear.name)];
    for (const auto& [bits, count] : layers) {
      const lsaq::Bytes one = lsaq::linear_bytes(linear, bits, lsaq::ScaleType::f16, grouping, destination);
      found.add("weights",
                fmt::format("{} x {} {} x {} at {} bits: {} each ({})", count, linear.name, linear.rows, linear.columns, bits, one,
                            describe(linear, bits, destination, grouping)),
                count * one);
    }
  }
  if (!shape.layers.empty())
    found.add("weights", fmt::format("norms of {} layers: {} each", shape.layers.size(), shape.layers[0].fixed_bytes),
              shape.layers.size() * shape.layers[0].fixed_bytes);
  found.add("weights", "final norm", shape.fixed_bytes);
}

void explain_activations(Explanation& found, const llama::Config& c, std::size_t context) {
  const std::size_t tokens = std::min(llama::prefill_block, context);
  const auto floats = [&](const std::string& text, std::size_t count) { found.add("activations", text + " x 4 bytes", sizeof(float) * count); };
  const auto block = [&](const char* what, std::size_t width) { floats(fmt::format("{}: a block of {} tokens x {}", what, tokens, width), tokens * width); };
  block("residual stream, and normed", 2 * c.hidden);
  block("queries, and attended values", 2 * c.q_rows());
  block("keys and values of the block", 2 * c.kv_rows());
  block("gate and up", 2 * c.ffn);
  block("rotation", c.head_size);
  floats(fmt::format("frequencies of the rotation: {}", c.head_size / 2), c.head_size / 2);
  const std::size_t product = llama::LayerWorkspace::product_floats(c, tokens);
  floats(fmt::format("workspace of the widest product: {}", product), product);
  floats(fmt::format("logits of one token: {}", c.vocabulary), c.vocabulary);
}

/// What is there only while a layer is made, at most: the last one's comes on top of all others.
void explain_quantizing(Explanation& found, const llama::Config& config, const lsaq::ModelShape& shape, lsaq::Rounding rounding) {
  const auto add = [&](std::string text, lsaq::Bytes bytes) { found.add("while_quantizing", std::move(text), bytes); };
  lsaq::Bytes block = 0, source = 0;
  std::uint64_t most = 0;
  for (const lsaq::LinearShape& linear : shape.layers[0].linears) {
    block = std::max(block, lsaq::Bytes{lsaq::deploy_block_rows({linear.rows, linear.columns})} * linear.columns * (sizeof(float) + sizeof(lsaq::f16)));
    source = std::max<lsaq::Bytes>(source, 2 * linear.weights());
    most = std::max(most, linear.weights());
  }
  add("pages of the source: at most a linear at 2 bytes a weight, dropped after it", source);
  if (rounding == lsaq::Rounding::nearest) return add("rows of a linear as FP32 and FP16", block);
  add(fmt::format("a linear's {} weights as FP32, with what is left of them and a copy", most), 3 * sizeof(float) * most);
  add("codes that another rounding has to beat, at 8 bits a weight", most);
  lsaq::Bytes moments = 0, file = 0, widest = 0;
  for (std::size_t i = 0; i < llama::inputs_per_layer; ++i) {
    const lsaq::Bytes n = llama::width_of(config, static_cast<llama::LinearInput>(i)), held_back = n * llama::most_held_back;
    moments += sizeof(float) * (n * n + held_back);
    file += sizeof(float) * (n * (n + 1) / 2 + held_back);
    widest = std::max(widest, n);
  }
  add(fmt::format("second moments of a layer's inputs, {} x {} FP32 of the widest, and {} inputs held back", widest, widest, llama::most_held_back), moments);
  add("their file while it is read", file);
  const CalibrationOptions usual = RoundingOptions().calibration;
  add(fmt::format("the residual stream of {} x {} tokens, where inputs are not in the cache yet", usual.windows, usual.window_length),
      sizeof(float) * usual.windows * usual.window_length * config.hidden);
  if (rounding == lsaq::Rounding::gptq)
    add(fmt::format("their factor, {} x {} as FP32 and FP64", widest, widest), (sizeof(float) + sizeof(double)) * widest * widest);
}

} // namespace

std::vector<ExplainedBytes> explain(const llama::Config& config, const lsaq::PlanFile& file, const Quantization& quantization, const std::string& reserve) {
  BudgetOptions stored;
  stored.destination = file.format;
  const lsaq::ModelShape shape = shape_of(stored, config);
  const lsaq::Destination destination = destination_named(file.format);
  Explanation found;
  explain_weights(found, shape, file.plan, destination, quantization.rounding.grouping);
  found.add("embedding",
            fmt::format("{} tokens x {} x 2 bytes{}", config.vocabulary, config.hidden,
                        config.tied ? "; the output head is the same matrix" : ", and the output head as much"),
            shape.embedding_bytes);
  const bool blocks = file.kv_bits == 8;
  const lsaq::Bytes row = lsaq::bytes_of(blocks ? lsaq::ElementType::q8_0 : lsaq::ElementType::f16, config.head_size);
  if (file.context == 0) {
    found.add("kv_cache", "not counted without --context: left to the reserve", 0);
    found.add("activations", "not counted without --context: left to the reserve", 0);
  } else {
    found.add("kv_cache",
              fmt::format("{} layers x keys and values x {} heads x {} positions x {} bytes ({} values as {})", config.layers, config.kv_heads, file.context,
                          row, config.head_size, blocks ? "Q8_0" : "F16"),
              lsaq::Bytes{config.layers} * 2 * config.kv_heads * file.context * row);
    explain_activations(found, config, file.context);
  }
  found.add("reserve",
            reserve.empty()         ? "3% of the weights at FP16"
            : reserve.back() == '%' ? lsaq::printable(reserve, 40) + " of the weights at FP16"
                                    : "as given",
            file.plan.bytes.reserve);
  explain_quantizing(found, config, shape, quantization.rounding.rounding);
  return std::move(found.parts);
}

std::string explained_table(const std::vector<ExplainedBytes>& parts) {
  std::string text, last;
  for (const ExplainedBytes& one : parts) {
    if (one.part != last) {
      lsaq::Bytes sum = 0;
      for (const ExplainedBytes& other : parts)
        if (other.part == one.part) sum += other.bytes;
      std::string name = one.part == "while_quantizing" ? "for a while, when the last layer is made" : one.part;
      std::replace(name.begin(), name.end(), '_', ' ');
      text += fmt::format("\n{}: {} bytes ({})\n", name, sum, lsaq::format_bytes(sum));
      last = one.part;
    }
    text += fmt::format("{:>16}  {}\n", one.bytes, lsaq::wrap(one.text, 18));
  }
  return text;
}

} // namespace command
