// Exact bytes of a model at given bits: what the deployment will allocate, or another format will store, to the byte.
//
// The paper's model: embedding, head and norms stay 16-bit; a quantized linear takes its codes (rows padded to 32-bit words) and its scales: one a row, unless
// a grouping says otherwise. Other destinations have rules of their own (Destination).
#pragma once

#include <lsaq/planning/plan.hpp>
#include <lsaq/quantization/packed_matrix.hpp>

#include <optional>
#include <span>

namespace lsaq::inline v0 {

/// What planned weights are stored as, which decides their bytes.
enum class Destination : std::uint8_t {
  packed, ///< here (docs/formats.md): 2 to 8 bits
  gguf,   ///< blocks of 32 with an F16 scale: Q4_0 (4.5 bits a weight), Q8_0 (8.5) for more than 4 bits; tensors padded to 32 bytes; rows that are no whole
          ///< blocks stay F16
  compressed_tensors ///< as packed, and the two numbers of weight_shape for each matrix: 4 and 8 bits
};

constexpr std::string_view name_of(Destination destination) noexcept {
  return destination == Destination::gguf ? "gguf" : destination == Destination::compressed_tensors ? "compressed-tensors" : "packed";
}

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Whether weights of `bits` can be stored so; 16 always can.
constexpr bool can_store(Destination destination, unsigned bits) noexcept {
  if (destination == Destination::packed) return bits == 16 || (bits >= min_bits && bits <= max_bits);
  return bits == 16 || bits == 8 || bits == 4;
}

/// Columns of a block of Q4_0 and Q8_0.
inline constexpr std::size_t gguf_columns = 32;

/// Bytes of a tensor's data in a GGUF file, where the next one begins.
constexpr Bytes gguf_padded(Bytes bytes) noexcept { return (bytes + 31) / 32 * 32; }

/// Bytes of a linear at `bits`: 2 to 8 packed with scales of `scale` for each row, group or matrix, 16 as F16 or BF16. In GGUF equal matrices are one tensor,
/// and scales are its blocks'.
constexpr Bytes linear_bytes(const LinearShape& linear, unsigned bits, ScaleType scale = ScaleType::f16, Grouping grouping = {},
                             Destination destination = Destination::packed) noexcept {
  const Bytes weights = Bytes{linear.rows} * linear.columns * linear.count;
  if (destination == Destination::gguf)
    return gguf_padded(bits == 16 || linear.columns % gguf_columns != 0 ? 2 * weights : weights / gguf_columns * (bits > 4 ? 34 : 18));
  if (bits == 16) return 2 * weights;
  constexpr Bytes shape_bytes = 2 * sizeof(std::int64_t);
  return (packed_bytes({linear.rows, linear.columns}, bits, scale, grouping) + (destination == Destination::compressed_tensors ? shape_bytes : 0)) *
         linear.count;
}

/// Bits a linear really gets when its layer is planned at `bits`: its own where it is pinned.
constexpr unsigned effective_bits(const LinearShape& linear, unsigned bits) noexcept { return linear.pinned != 0 ? linear.pinned : bits; }

/// Bytes of a whole layer planned at `bits`, norms included.
constexpr Bytes layer_bytes(const LayerShape& layer, unsigned bits, ScaleType scale = ScaleType::f16, Grouping grouping = {},
                            Destination destination = Destination::packed) noexcept {
  Bytes sum = layer.fixed_bytes;
  for (const LinearShape& linear : layer.linears) sum += linear_bytes(linear, effective_bits(linear, bits), scale, grouping, destination);
  return sum;
}

/// Bytes of one layer as a plan has it, exceptions for single linears included.
inline Bytes layer_bytes(const ModelShape& shape, const Plan& plan, std::size_t layer, ScaleType scale = ScaleType::f16, Grouping grouping = {},
                         Destination destination = Destination::packed) {
  Bytes sum = shape.layers[layer].fixed_bytes;
  for (const LinearShape& linear : shape.layers[layer].linears)
    sum += linear_bytes(linear, effective_bits(linear, plan.bits_of(layer, linear.name)), scale, grouping, destination);
  return sum;
}

namespace detail {

inline void check_layers(const ModelShape& shape, std::size_t planned) {
  if (planned != shape.layers.size())
    fail<InvalidArgument>("a plan for " + std::to_string(planned) + " layers does not fit a model of " + std::to_string(shape.layers.size()));
}

} // namespace detail

/// Bytes of all layers and the final norm; `bits` has one entry a layer.
inline Bytes weight_bytes(const ModelShape& shape, std::span<const unsigned> bits, ScaleType scale = ScaleType::f16, Grouping grouping = {},
                          Destination destination = Destination::packed) {
  detail::check_layers(shape, bits.size());
  Bytes sum = shape.fixed_bytes;
  for (std::size_t l = 0; l < bits.size(); ++l) sum += layer_bytes(shape.layers[l], bits[l], scale, grouping, destination);
  return sum;
}

/// Bytes of all layers and the final norm as a plan has them, exceptions for single linears included.
inline Bytes weight_bytes(const ModelShape& shape, const Plan& plan, ScaleType scale = ScaleType::f16, Grouping grouping = {},
                          Destination destination = Destination::packed) {
  detail::check_layers(shape, plan.bits.size());
  Bytes sum = shape.fixed_bytes;
  for (std::size_t l = 0; l < shape.layers.size(); ++l) sum += layer_bytes(shape, plan, l, scale, grouping, destination);
  return sum;
}

/// Bytes of the whole model, embedding and head included, with every layer at `bits`.
inline Bytes model_bytes(const ModelShape& shape, unsigned bits, ScaleType scale = ScaleType::f16, Grouping grouping = {},
                         Destination destination = Destination::packed) {
  const std::vector<unsigned> uniform(shape.layers.size(), bits);
  return weight_bytes(shape, uniform, scale, grouping, destination) + shape.embedding_bytes;
}

/// Memory kept free by default: `percent` (3% unless said) of the model's FP16 weights (LSAQ, section IV.C, leaves the amount open).
inline Bytes default_reserve(const ModelShape& shape, double percent = 3.0) {
  return static_cast<Bytes>(static_cast<double>(model_bytes(shape, 16)) * percent / 100.0);
}

/// Bytes of keys and values of `context` positions: layers x 2 x KV heads x head size x context elements of kv_bits.
constexpr Bytes kv_cache_bytes(std::size_t layers, std::size_t kv_heads, std::size_t head_size, std::size_t context, unsigned kv_bits = 16) noexcept {
  return Bytes{layers} * 2 * kv_heads * head_size * context * kv_bits / 8;
}

/// The same for rows of head_size elements of `type`, which for Q8_0 is a multiple of 32.
constexpr Bytes kv_cache_bytes(std::size_t layers, std::size_t kv_heads, std::size_t head_size, std::size_t context, ElementType type) noexcept {
  return Bytes{layers} * 2 * kv_heads * context * bytes_of(type, head_size);
}

namespace detail {

/// What bits(linear, planned bits) gives for each linear, summed and divided by the number of weights.
template <class Bits> double bits_per_weight(const ModelShape& shape, const Plan& plan, Bits&& bits) {
  double weights = 0, sum = 0;
  for (std::size_t l = 0; l < shape.layers.size(); ++l)
    for (const LinearShape& linear : shape.layers[l].linears) {
      weights += static_cast<double>(linear.weights());
      sum += bits(linear, effective_bits(linear, plan.bits_of(l, linear.name)));
    }
  return weights == 0 ? 0 : sum / weights;
}

} // namespace detail

/// Code bits averaged over the weights of all layers, scales left out: 6.75 for 22 equal layers at 8 bits and 10 at 4.
inline double average_bits(const ModelShape& shape, const Plan& plan) {
  return detail::bits_per_weight(shape, plan, [](const LinearShape& linear, unsigned bits) { return static_cast<double>(linear.weights()) * bits; });
}

/// Bits that a weight of the layers takes, its share of scales and of the padding of rows included.
inline double stored_bits(const ModelShape& shape, const Plan& plan, ScaleType scale = ScaleType::f16, Grouping grouping = {},
                          Destination destination = Destination::packed) {
  return detail::bits_per_weight(
      shape, plan, [&](const LinearShape& linear, unsigned bits) { return 8 * static_cast<double>(linear_bytes(linear, bits, scale, grouping, destination)); });
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
