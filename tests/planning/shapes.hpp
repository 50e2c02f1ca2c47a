// Shapes of models for the planning tests, written out by hand.
#pragma once

#include <lsaq/types.hpp>

namespace shapes {

/// A decoder of Llama's make with 16-bit embedding, head and norms, untied.
inline lsaq::ModelShape llama(std::string name, std::size_t layers, std::size_t hidden, std::size_t feed_forward, std::size_t kv_rows, std::size_t vocabulary) {
  lsaq::LayerShape layer;
  layer.linears = {{.name = "self_attn.q_proj", .rows = hidden, .columns = hidden, .group = "qkv"},
                   {.name = "self_attn.k_proj", .rows = kv_rows, .columns = hidden, .group = "qkv"},
                   {.name = "self_attn.v_proj", .rows = kv_rows, .columns = hidden, .group = "qkv"},
                   {.name = "self_attn.o_proj", .rows = hidden, .columns = hidden},
                   {.name = "mlp.gate_proj", .rows = feed_forward, .columns = hidden, .group = "gate_up"},
                   {.name = "mlp.up_proj", .rows = feed_forward, .columns = hidden, .group = "gate_up"},
                   {.name = "mlp.down_proj", .rows = hidden, .columns = feed_forward}};
  layer.fixed_bytes = lsaq::Bytes{2} * 2 * hidden; // the two norms
  return {std::move(name), std::vector<lsaq::LayerShape>(layers, layer), lsaq::Bytes{2} * 2 * vocabulary * hidden, lsaq::Bytes{2} * hidden};
}

inline lsaq::ModelShape llama_2_7b() { return llama("llama-2-7b", 32, 4096, 11008, 4096, 32000); }
inline lsaq::ModelShape llama_2_13b() { return llama("llama-2-13b", 40, 5120, 13824, 5120, 32000); }
inline lsaq::ModelShape llama_3_8b() { return llama("llama-3-8b", 32, 4096, 14336, 1024, 128256); }

/// Layers of one 100 x 64 linear (12800 bytes at 16 bits, 6600 at 8, 3400 at 4) and 10 bytes of norms; 1000 bytes of embedding and a final norm of 6.
inline lsaq::ModelShape small(std::size_t layers) {
  const lsaq::LayerShape layer{.linears = {{.name = "linear", .rows = 100, .columns = 64}}, .fixed_bytes = 10};
  return {"small", std::vector<lsaq::LayerShape>(layers, layer), 1000, 6};
}

constexpr lsaq::Bytes small_16 = 12810, small_8 = 6610, small_4 = 3410, small_beside = 1006;

} // namespace shapes
