// Small models with a tokenizer, exported into a folder of their own, and what a decoder makes of them.
#pragma once

#include "models/opened_llama.hpp"
#include "models/small_vocabularies.hpp"

#include <lsaq/formats/gguf_writer.hpp>
#include <lsaq/models/tokenizer_export.hpp>

namespace small_llama {

/// Three layers, grouped-query attention; rows of all linears are whole blocks of 32 columns, and heads have more than two rows a half.
inline Model exportable(const std::string& type = "F16", bool tied = true) {
  return Model{.layers = 3, .hidden = 64, .ffn = 96, .heads = 4, .kv_heads = 2, .head_size = 16, .vocabulary = 300, .tied = tied, .type = type};
}

inline lsaq::BpeVocabulary exported_vocabulary() {
  lsaq::BpeVocabulary vocabulary = small_vocabularies::byte_level({"\u0120 t", "h e"});
  vocabulary.special.chat_template = "{{ messages }}";
  return vocabulary;
}

/// The model in a file of either kind, tokenizer included.
inline Opened open_with_tokenizer(const Model& model, bool gguf) {
  Opened opened;
  const lsaq::BpeVocabulary vocabulary = exported_vocabulary();
  if (gguf) {
    GgufParts parts = model.gguf();
    for (const lsaq::GgufEntry& entry : lsaq::gguf_vocabulary(vocabulary, model.vocabulary)) {
      lsaq::GgufBytes bytes;
      bytes.value(entry.value);
      const std::string value = bytes.take();
      std::uint32_t type = 0;
      std::memcpy(&type, value.data(), sizeof type);
      parts.keys[entry.name] = {type, value.substr(sizeof type)};
    }
    opened.open(opened.folder->write("small.gguf", parts.build()));
  } else {
    model.folder().write(*opened.folder);
    opened.folder->write("tokenizer.json", lsaq::tokenizer_json(vocabulary).dump());
    opened.folder->write("tokenizer_config.json", lsaq::tokenizer_config_json(vocabulary, 512).dump());
    opened.open(opened.folder->path());
  }
  return opened;
}

/// The first layer at 8 bits, the next at 4, the last one not quantized.
inline lsaq::Plan mixed_plan() { return {.bits = {8, 4, 16}}; }

/// Residual streams behind the last layer, of a model whose weights are kept as FP32 or deployed by a plan.
inline std::vector<float> states_of(const Opened& opened, const llama::ModelWeights& weights) {
  const Device device;
  llama::Decoder<Device> decoder(opened.config, weights, device, 16);
  const std::vector<lsaq::TokenId> tokens = {5, 250, 17, 99, 3, 3, 120, 64};
  return read_states(decoder, tokens);
}

inline llama::ModelWeights exact_weights(const Opened& opened) {
  return llama::load_weights(llama::WeightLoader(*opened.source, opened.config).keep_as(lsaq::ElementType::f32), opened.config,
                             {.bits = std::vector<unsigned>(opened.config.layers, 16)}, Device());
}

inline void expect_close(const std::vector<float>& found, const std::vector<float>& expected, double tolerance) {
  ASSERT_EQ(found.size(), expected.size());
  double largest = 0, error = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    largest = std::max(largest, std::fabs(double{expected[i]}));
    error = std::max(error, std::fabs(double{found[i]} - double{expected[i]}));
  }
  EXPECT_LT(error, tolerance * largest);
}

/// Row of a checkpoint of Hugging Face that GGUF files have at row `row`: pairs (i, i + half) become neighbours. Spelled out, beside RowOrder.
inline std::size_t hugging_face_row(std::size_t row, std::size_t head_size) {
  for (std::size_t h = 0;; ++h)
    for (std::size_t i = 0; i < head_size / 2; ++i)
      for (std::size_t p = 0; p < 2; ++p)
        if (h * head_size + 2 * i + p == row) return h * head_size + p * (head_size / 2) + i;
}

/// Values of all rows of a tensor.
inline std::vector<float> tensor_values(const lsaq::ModelSource& source, const std::string& name) {
  const lsaq::TensorInfo& tensor = source.at(name);
  std::vector<float> values(tensor.rows * tensor.columns);
  source.read_rows(tensor, 0, tensor.rows, values.data());
  return values;
}

/// Each linear of the export is code x scale of `layers` (deployed from `source`), bit for bit, its rows where the file's kind has them.
inline void expect_exact_linears(const Opened& source, const llama::ModelWeights& weights, const Opened& made) {
  for (std::size_t l = 0; l < source.config.layers; ++l)
    for (std::size_t i = 0; i < llama::linears_per_layer; ++i) {
      const auto linear = static_cast<llama::Linear>(i);
      const Doubles expected = values_of(weights.layers[l][linear]);
      const std::vector<float> found = tensor_values(*made.source, llama::tensor_name(*made.source, l, linear));
      ASSERT_EQ(found.size(), expected.size());
      const lsaq::MatrixShape shape = llama::shape_of(source.config, linear);
      const bool rotated = linear == llama::Linear::q || linear == llama::Linear::k;
      for (std::size_t r = 0; r < shape.rows; ++r) {
        std::size_t from = r, to = r;
        if (rotated && made.source->is_gguf() && !source.source->is_gguf()) from = hugging_face_row(r, source.config.head_size);
        if (rotated && !made.source->is_gguf() && source.source->is_gguf()) to = hugging_face_row(r, source.config.head_size);
        for (std::size_t c = 0; c < shape.columns; ++c)
          ASSERT_EQ(found[to * shape.columns + c], expected[from * shape.columns + c]) << l << ", " << name_of(linear) << ", row " << r << ", column " << c;
      }
    }
}

} // namespace small_llama
