// Codes and scales of rows on the device: the same bytes as on the CPU (quantization/quantizer.hpp), from one read of the weights.
#pragma once

#include <lsaq/kernels/cuda/elements.cuh>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// max|W| / Q as `type` stores it, widened; infinity if it is beyond the type. One in FP16 that would be subnormal is rounded up.
template <unsigned Bits> LSAQ_DEVICE float stored_scale(float largest, ElementType type) {
  const float scale = divide(largest, static_cast<float>((1 << (Bits - 1)) - 1));
  if (type == ElementType::f32) return scale;
  if (type == ElementType::bf16) {
    bf16 stored;
    narrow(scale, stored);
    return widen(stored);
  }
  f16 stored;
  if (const std::uint32_t bits = bits_of_float(scale); bits != 0 && bits < 0x38800000u) { // below 2^-14
    const float steps = multiply_add(scale, 0x1p24f, 0.0f);                               // of 2^-24, the smallest FP16
    const auto whole = static_cast<std::uint32_t>(steps);
    const bool up = bits_of_float(static_cast<float>(whole)) < bits_of_float(steps); // as integers: subnormal numbers count in every mode
    stored.bits = static_cast<std::uint16_t>(whole + (up ? 1u : 0u));
  } else {
    narrow(scale, stored);
  }
  return widen(stored);
}

/// Quantizes rows per channel (LSAQ, Eq. 4) into canonical packed order; a block takes a row.
///
/// A row is read once, with 128-bit loads where it is aligned to 16 bytes, and kept in shared memory; what is beyond 32 KiB of it is read again. The first row
/// with a weight that is not finite, or with a scale beyond its type, is left in *first_bad_row if that is not lower already; its bytes are unspecified.
template <element T, unsigned Bits>
requires(Bits == 4 || Bits == 8) struct QuantizeRows {
  const T* in;
  std::size_t stride; ///< elements from one row to the next
  unsigned rows, columns;
  std::uint32_t* codes; ///< rows x words_per_row
  void* scales;
  ElementType scale_type;
  unsigned* first_bad_row;

  static constexpr unsigned threads = 256;
  static constexpr unsigned stage_bytes = 32 * 1024;
  static constexpr unsigned per_word = 32 / Bits; ///< codes in a word

  struct Shared {
    std::uint32_t largest[threads / warp_size];
  };

  std::size_t blocks() const { return rows; }
  unsigned dynamic_bytes() const { return staged() * static_cast<unsigned>(sizeof(T)); }

  /// Elements of a row that are kept.
  LSAQ_DEVICE_AND_HOST unsigned staged() const {
    constexpr unsigned most = stage_bytes / sizeof(T);
    const unsigned all = (columns + per_words<T> - 1) / per_words<T> * per_words<T>;
    return all < most ? all : most;
  }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared& shared) const {
    const unsigned row = group.block();
    const T* const weights = in + row * stride;
    T* const stage = reinterpret_cast<T*>(group.dynamic());
    std::uint32_t largest = warp_max(group, read(group, weights, stage));
    if (group.thread() % warp_size == 0) shared.largest[group.thread() / warp_size] = largest;
    group.sync();
    for (unsigned warp = 0; warp < threads / warp_size; ++warp) largest = largest < shared.largest[warp] ? shared.largest[warp] : largest;

    const float scale = stored_scale<Bits>(float_of_bits(largest), scale_type);
    if (largest >= 0x7f800000u || (bits_of_float(scale) & 0x7fffffffu) >= 0x7f800000u) {
      if (group.thread() == 0) group.atomic_min(first_bad_row, row);
      return;
    }
    if (group.thread() == 0) set_element(scales, scale_type, row, scale);
    const unsigned words = (columns + per_word - 1) / per_word;
    for (unsigned word = group.thread(); word < words; word += threads) codes[std::size_t{row} * words + word] = pack(weights, stage, word * per_word, scale);
  }

private:
  /// Copies the thread's share of a row to the stage; the largest magnitude, as bits.
  template <class Group> LSAQ_DEVICE std::uint32_t read(const Group& group, const T* weights, T* stage) const {
    std::uint32_t largest = 0;
    const auto see = [&](float value) {
      const std::uint32_t magnitude = bits_of_float(value) & 0x7fffffffu;
      largest = largest < magnitude ? magnitude : largest;
    };
    unsigned first = 0; // of what is read one by one
    if (is_aligned(weights, 16)) {
      first = columns / per_words<T> * per_words<T>;
      for (unsigned column = group.thread() * per_words<T>; column < first; column += threads * per_words<T>) {
        const Words words = load_words(weights + column);
        if (column < staged()) *reinterpret_cast<Words*>(stage + column) = words;
        float values[per_words<T>];
        widen<T>(words, values);
        for (const float value : values) see(value);
      }
    }
    for (unsigned column = first + group.thread(); column < columns; column += threads) {
      const T value = weights[column];
      if (column < staged()) stage[column] = value;
      see(widen(value));
    }
    return largest;
  }

  /// The codes of `per_word` columns; those that do not exist are codes of 0.
  LSAQ_DEVICE std::uint32_t pack(const T* weights, const T* stage, unsigned first, float scale) const {
    constexpr int limit = (1 << (Bits - 1)) - 1;
    const T* const from = first < staged() ? stage : weights;
    T elements[per_word] = {};
    if (first + per_word <= columns && from == stage) {
      struct alignas(per_word * sizeof(T) < 16 ? per_word * sizeof(T) : 16) Some {
        T element[per_word];
      };
      const Some some = *reinterpret_cast<const Some*>(stage + first);
      for (unsigned i = 0; i < per_word; ++i) elements[i] = some.element[i];
    } else {
      for (unsigned i = 0; i < per_word; ++i)
        if (first + i < columns) elements[i] = from[first + i];
    }
    std::uint32_t word = 0;
    for (unsigned i = 0; i < per_word; ++i) {
      int code = bits_of_float(scale) == 0 ? 0 : round_half_even(divide(widen(elements[i]), scale));
      code = code < -limit ? -limit : code > limit ? limit : code;
      word |= static_cast<std::uint32_t>(code + limit + 1) << Bits * i;
    }
    return word;
  }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
