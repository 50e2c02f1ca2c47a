// A Llama decoder as its papers state it, in double precision and plain loops: what the library's decoder is compared with. Shares no code with it.
#pragma once

#include "models/small_llama.hpp"

#include <array>
#include <cmath>
#include <vector>

namespace small_llama {

using Doubles = std::vector<double>;

struct PlainDecoder {
  struct Layer {
    Doubles attention_norm, mlp_norm, q, k, v, o, gate, up, down;
  };

  std::size_t hidden = 0, ffn = 0, heads = 0, kv_heads = 0, head_size = 0, vocabulary = 0;
  double theta = 0, epsilon = 0;
  bool interleaved = false;
  std::vector<float> divisors = {};
  Doubles embedding = {}, final_norm = {}, head = {};
  std::vector<Layer> layers = {};

  static double dot(const double* a, const double* b, std::size_t n) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += a[i] * b[i];
    return sum;
  }

  /// W x for W of rows x x.size().
  static Doubles product(const Doubles& w, const Doubles& x) {
    Doubles y(w.size() / x.size());
    for (std::size_t r = 0; r < y.size(); ++r) y[r] = dot(&w[r * x.size()], x.data(), x.size());
    return y;
  }

  Doubles normed(const Doubles& x, const Doubles& gain) const {
    const double scale = 1 / std::sqrt(dot(x.data(), x.data(), x.size()) / static_cast<double>(x.size()) + epsilon);
    Doubles y(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * gain[i];
    return y;
  }

  void rotate(Doubles& x, std::size_t position) const {
    for (std::size_t first = 0; first < x.size(); first += head_size) {
      for (std::size_t i = 0; i < head_size / 2; ++i) {
        const double frequency =
            std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_size)) / (divisors.empty() ? 1.0 : double{divisors[i]});
        const double angle = static_cast<double>(position) * frequency;
        double& a = x[first + (interleaved ? 2 * i : i)];
        double& b = x[first + (interleaved ? 2 * i + 1 : i + head_size / 2)];
        const double turned = a * std::cos(angle) - b * std::sin(angle);
        b = a * std::sin(angle) + b * std::cos(angle);
        a = turned;
      }
    }
  }

  /// States of all tokens at every layer boundary: result[boundary][token], hidden values each.
  std::vector<std::vector<Doubles>> run(const std::vector<lsaq::TokenId>& tokens) const {
    std::vector<Doubles> x;
    for (const lsaq::TokenId token : tokens) {
      const auto row = embedding.begin() + static_cast<std::ptrdiff_t>(token * hidden);
      x.emplace_back(row, row + static_cast<std::ptrdiff_t>(hidden));
    }
    std::vector<std::vector<Doubles>> boundaries{x};
    for (const Layer& layer : layers) {
      std::vector<Doubles> keys, values;
      for (std::size_t t = 0; t < x.size(); ++t) {
        const Doubles in = normed(x[t], layer.attention_norm);
        Doubles q = product(layer.q, in);
        keys.push_back(product(layer.k, in));
        values.push_back(product(layer.v, in));
        rotate(q, t);
        rotate(keys.back(), t);
        Doubles attended(q.size(), 0.0);
        for (std::size_t h = 0; h < heads; ++h) {
          const std::size_t shared = h / (heads / kv_heads) * head_size;
          Doubles weights(t + 1);
          double total = 0;
          for (std::size_t s = 0; s <= t; ++s) {
            weights[s] = std::exp(dot(&q[h * head_size], &keys[s][shared], head_size) / std::sqrt(static_cast<double>(head_size)));
            total += weights[s];
          }
          for (std::size_t s = 0; s <= t; ++s)
            for (std::size_t i = 0; i < head_size; ++i) attended[h * head_size + i] += weights[s] / total * values[s][shared + i];
        }
        const Doubles o = product(layer.o, attended);
        for (std::size_t i = 0; i < hidden; ++i) x[t][i] += o[i];
        const Doubles middle = normed(x[t], layer.mlp_norm);
        Doubles gate = product(layer.gate, middle);
        const Doubles up = product(layer.up, middle);
        for (std::size_t i = 0; i < ffn; ++i) gate[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
        const Doubles down = product(layer.down, gate);
        for (std::size_t i = 0; i < hidden; ++i) x[t][i] += down[i];
      }
      boundaries.push_back(x);
    }
    return boundaries;
  }

  Doubles logits(const Doubles& state) const { return product(head, normed(state, final_norm)); }

  /// Summed -log of the probabilities of all tokens but the first.
  double nll(const std::vector<lsaq::TokenId>& tokens) const {
    const std::vector<Doubles> states = run(tokens).back();
    double sum = 0;
    for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
      const Doubles scores = logits(states[t]);
      double total = 0;
      for (const double score : scores) total += std::exp(score);
      sum += std::log(total) - scores[tokens[t + 1]];
    }
    return sum;
  }
};

/// The decoder of a model's stored values; `interleaved` as the file format has it (GGUF: true).
inline PlainDecoder plain_decoder(const Model& model, bool interleaved) {
  const auto values = [&](const std::string& name) {
    const std::vector<float>& stored_values = model.tensors.at(name).values;
    return Doubles(stored_values.begin(), stored_values.end());
  };
  PlainDecoder plain{.hidden = model.hidden,
                     .ffn = model.ffn,
                     .heads = model.heads,
                     .kv_heads = model.kv_heads,
                     .head_size = model.head_size,
                     .vocabulary = model.vocabulary,
                     .theta = model.theta,
                     .epsilon = model.epsilon,
                     .interleaved = interleaved,
                     .divisors = model.rope_divisors,
                     .embedding = values("model.embed_tokens.weight"),
                     .final_norm = values("model.norm.weight"),
                     .head = values(model.tied ? "model.embed_tokens.weight" : "lm_head.weight")};
  for (std::size_t l = 0; l < model.layers; ++l) {
    const auto of_layer = [&](const std::string& rest) { return values(Model::layer_name(l, rest)); };
    plain.layers.push_back({of_layer("input_layernorm"), of_layer("post_attention_layernorm"), of_layer("self_attn.q_proj"), of_layer("self_attn.k_proj"),
                            of_layer("self_attn.v_proj"), of_layer("self_attn.o_proj"), of_layer("mlp.gate_proj"), of_layer("mlp.up_proj"),
                            of_layer("mlp.down_proj")});
  }
  return plain;
}

/// Tokens without a pattern, the same for the same arguments.
inline std::vector<lsaq::TokenId> some_tokens(const Model& model, std::size_t count, unsigned seed = 1) {
  std::mt19937 random(seed);
  std::vector<lsaq::TokenId> tokens(count);
  for (lsaq::TokenId& token : tokens) token = static_cast<lsaq::TokenId>(random() % model.vocabulary);
  return tokens;
}

/// The largest difference, in units of the largest expected value.
template <class Found> double distance(const Found& found, const Doubles& expected) {
  EXPECT_EQ(std::size(found), expected.size());
  double difference = 0, largest = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    difference = std::max(difference, std::abs(double{found[i]} - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
    if (!std::isfinite(double{found[i]})) return INFINITY;
  }
  return difference / largest;
}

} // namespace small_llama
