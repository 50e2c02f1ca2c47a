// GGUF files as a stream: what precedes the tensors' bytes, the padding between them, and packed codes as blocks of Q8_0 and Q4_0.
//
// A block holds 32 columns of a row and a scale of its own. LSAQ's scale of a row, of a group of columns or of a matrix is repeated in each, so that codes and
// scales are kept exactly: no number is rounded on the way.
#pragma once

#include <lsaq/formats/gguf.hpp>
#include <lsaq/quantization/scale.hpp>

namespace lsaq::inline v0 {

inline constexpr std::uint64_t gguf_alignment = 32; ///< of tensors in files that are written here
inline constexpr std::size_t gguf_block = 32;       ///< columns of a Q8_0 or Q4_0 block

/// Zero bytes that follow a tensor of so many bytes.
constexpr std::uint64_t gguf_padding(std::uint64_t bytes) noexcept { return (gguf_alignment - bytes % gguf_alignment) % gguf_alignment; }

/// The block type whose codes are wide enough for codes of 2 to 8 bits: Q4_0 takes 4.5 bits a weight, Q8_0 8.5.
constexpr StoredType gguf_block_type(unsigned bits) noexcept { return bits <= 4 ? StoredType::q4_0 : StoredType::q8_0; }

/// The number of a type in GGUF files, for those that readable files have.
constexpr std::uint32_t gguf_type_id(StoredType type) noexcept {
  switch (type) {
  case StoredType::f16: return 1;
  case StoredType::q4_0: return 2;
  case StoredType::q4_1: return 3;
  case StoredType::q8_0: return 8;
  case StoredType::bf16: return 30;
  default: return 0; // F32
  }
}

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// Appends numbers, strings and values as GGUF has them.
class GgufBytes {
public:
  template <class T>
  requires std::is_arithmetic_v<T>
  void number(T value) {
    char bytes[sizeof value];
    std::memcpy(bytes, &value, sizeof value);
    text_.append(bytes, sizeof value);
  }

  void string(std::string_view value) {
    number<std::uint64_t>(value.size());
    text_.append(value);
  }

  /// Type and payload.
  void value(const GgufValue& value) {
    constexpr std::size_t kinds = std::variant_size_v<GgufValue> / 2; // alternatives are the types in their order, then arrays of them; 9 stands for arrays
    const auto id = [](std::size_t kind) { return static_cast<std::uint32_t>(kind < 9 ? kind : kind + 1); };
    const bool is_array = value.index() >= kinds;
    if (is_array) number<std::uint32_t>(9);
    number(id(value.index() % kinds));
    std::visit([&](const auto& v) { payload(v); }, value);
  }

  void align() { text_.resize((text_.size() + gguf_alignment - 1) / gguf_alignment * gguf_alignment, '\0'); }
  std::string take() { return std::move(text_); }

private:
  void payload(const std::string& value) { string(value); }
  void payload(bool value) { number<std::uint8_t>(value ? 1 : 0); }
  template <class T>
  requires std::is_arithmetic_v<T>
  void payload(T value) { number(value); }
  template <class T> void payload(const std::vector<T>& values) {
    number<std::uint64_t>(values.size());
    for (const auto& value : values) payload(static_cast<const T&>(value));
  }

  std::string text_;
};

/// What precedes the tensors' bytes, which follow in the order given, each with gguf_padding() behind it. No two keys or tensors may have the same name.
///
/// Throws InvalidArgument for a tensor that readers refuse: a name of more than 64 bytes, rows that are not whole blocks.
inline std::string gguf_header(std::span<const GgufEntry> metadata, std::span<const TensorEntry> tensors) {
  GgufBytes out;
  out.number<std::uint32_t>(0x46554747); // GGUF
  out.number<std::uint32_t>(3);
  out.number<std::uint64_t>(tensors.size());
  out.number<std::uint64_t>(metadata.size());
  for (const GgufEntry& entry : metadata) {
    out.string(entry.name);
    out.value(entry.value);
  }
  std::uint64_t offset = 0;
  for (const TensorEntry& tensor : tensors) {
    const std::uint64_t columns = tensor.shape.empty() ? 0 : tensor.shape.back();
    if (tensor.name.size() > 64 || tensor.shape.size() > 4 || columns == 0 || columns % traits_of(tensor.type).block != 0)
      fail<InvalidArgument>("tensor '" + printable(tensor.name) + "' of " + std::to_string(columns) + " columns can't be " + std::string(name_of(tensor.type)) +
                            " in a GGUF file");
    out.string(tensor.name);
    out.number(static_cast<std::uint32_t>(tensor.shape.size()));
    for (auto extent = tensor.shape.rbegin(); extent != tensor.shape.rend(); ++extent) out.number(*extent); // the innermost first
    out.number(gguf_type_id(tensor.type));
    out.number(offset);
    offset += tensor.bytes() + gguf_padding(tensor.bytes());
  }
  out.align();
  return out.take();
}

/// Whether codes of this format are blocks exactly: a scale as F16 for whole blocks.
constexpr bool fits_gguf_blocks(const PackedFormat& format, std::size_t columns) noexcept {
  return format.scale == ScaleType::f16 && columns % gguf_block == 0 && format.grouping.columns % gguf_block == 0;
}

/// Writes row `row` as blocks of gguf_block_type(bits): columns / 32 blocks to `out`, of any alignment. The format fits_gguf_blocks(). O(columns).
inline void write_gguf_blocks(PackedView packed, std::size_t row, std::byte* out) noexcept {
  LSAQ_ASSERT(packed.scale_type == ScaleType::f16 && packed.columns % gguf_block == 0);
  const std::byte* const scales = packed.scale_data();
  const auto scale_of = [&](std::size_t column) {
    f16 scale;
    std::memcpy(&scale, scales + packed.scale_index(row, column) * sizeof scale, sizeof scale);
    return scale;
  };
  const auto* const codes = reinterpret_cast<const unsigned char*>(packed.codes(row));
  const auto code = [&](std::size_t column) {
    return static_cast<int>(scalar::unpack_code(packed.codes(row), packed.bits, column)) - (1 << (packed.bits - 1));
  };
  for (std::size_t first = 0; first < packed.columns; first += gguf_block) {
    if (gguf_block_type(packed.bits) == StoredType::q8_0) {
      Q8_0Block block{scale_of(first), {}};
      for (std::size_t j = 0; j < gguf_block; ++j)
        block.q[j] = static_cast<std::int8_t>(packed.bits == 8 ? codes[first + j] ^ 0x80 : code(first + j)); // code + 128 and code differ in the sign bit
      std::memcpy(out, &block, sizeof block);
      out += sizeof block;
      continue;
    }
    Q4_0Block block{scale_of(first), {}};
    for (std::size_t j = 0; j < gguf_block / 2; j += 2) {
      if (packed.bits == 4) { // both are code + 8; only the partners of a byte change
        const unsigned char low = codes[first / 2 + j / 2], high = codes[first / 2 + j / 2 + gguf_block / 4];
        block.q[j] = static_cast<std::uint8_t>((low & 15) | (high & 15) << 4);
        block.q[j + 1] = static_cast<std::uint8_t>(low >> 4 | (high & 0xf0));
      } else {
        for (std::size_t k = j; k < j + 2; ++k) block.q[k] = static_cast<std::uint8_t>((code(first + k) + 8) | (code(first + k + gguf_block / 2) + 8) << 4);
      }
    }
    std::memcpy(out, &block, sizeof block);
    out += sizeof block;
  }
}

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
