// Products of rows of weights with a few tokens: what matrix products and the projection on the vocabulary have in common.
//
// A warp takes a few rows. Each lane reads 16 bytes of a row at once (a unit), so that a warp reads 512 contiguous bytes, and multiplies them with the tokens'
// values for those columns, which the block has put into shared memory as FP32. Quads of columns lie in shared memory as [quad of the unit][unit], 33 units
// apart: both filling it by columns and reading it by units are free of bank conflicts.
#pragma once

#include <lsaq/kernels/cuda/elements.cuh>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// Rows of weights in device memory.
struct DeviceRows {
  const std::byte* data = nullptr;
  std::size_t row_bytes = 0; ///< from one row to the next
  unsigned rows = 0, columns = 0;
  const void* scales = nullptr; ///< null: none
  ElementType scale_type = ElementType::f16;
  unsigned scale_step = 0;    ///< from the scale of a row to that of the next: 1, or 0 for a single one
  unsigned group_columns = 0; ///< columns that share a scale, a multiple of 32; 0: the row's, which is applied to its sum
  unsigned groups = 0;        ///< scales of a row that has groups

  LSAQ_DEVICE const std::byte* row(unsigned r) const { return data + r * row_bytes; }
};

/// Codes of 4 or 8 bits in canonical order; rows are whole 32-bit words, padded with codes of 0.
template <unsigned Bits>
requires(Bits == 4 || Bits == 8) struct Codes {
  static constexpr unsigned columns = 128 / Bits; ///< of a unit

  LSAQ_DEVICE static Words load(const std::byte* row, unsigned unit, unsigned row_columns, bool aligned) {
    const unsigned words = (row_columns + 32 / Bits - 1) / (32 / Bits), first = unit * 4;
    if (aligned && first + 4 <= words) return load_words(row + std::size_t{unit} * 16);
    Words loaded;
    for (unsigned i = 0; i < 4; ++i)
      loaded.word[i] = first + i < words ? gpu::load(reinterpret_cast<const std::uint32_t*>(row) + first + i) : Bits == 4 ? 0x88888888u : 0x80808080u;
    return loaded;
  }

  /// Columns 4 quad .. 4 quad + 3 of a unit. A code is put into the low bits of 2^23, which FP32 counts in ones.
  LSAQ_DEVICE static Quad unpack(const Words& words, unsigned quad) {
    const std::uint32_t bits = words.word[quad * 4 * Bits / 32] >> quad * 4 * Bits % 32;
    Quad weights;
    for (unsigned i = 0; i < 4; ++i)
      weights.value[i] = float_of_bits(0x4b000000u | (bits >> i * Bits & ((1u << Bits) - 1))) - static_cast<float>((1 << 23) + (1 << (Bits - 1)));
    return weights;
  }
};

/// Floats as they are.
template <element T> struct Floats {
  static constexpr unsigned columns = per_words<T>;

  LSAQ_DEVICE static Words load(const std::byte* row, unsigned unit, unsigned row_columns, bool aligned) {
    const unsigned first = unit * columns;
    if (aligned && first + columns <= row_columns) return load_words(row + std::size_t{unit} * 16);
    const T* const elements = reinterpret_cast<const T*>(row);
    Words words{};
    LSAQ_UNROLL
    for (unsigned i = 0; i < columns; ++i) {
      if (first + i >= row_columns) continue;
      if constexpr (sizeof(T) == 4)
        words.word[i] = bits_of_float(elements[first + i]);
      else
        words.word[i / 2] |= std::uint32_t{elements[first + i].bits} << i % 2 * 16;
    }
    return words;
  }

  LSAQ_DEVICE static Quad unpack(const Words& words, unsigned quad) {
    Quad weights;
    if constexpr (sizeof(T) == 4) {
      for (unsigned i = 0; i < 4; ++i) weights.value[i] = float_of_bits(words.word[i]);
    } else {
      for (unsigned i = 0; i < 4; ++i) weights.value[i] = widen(T{static_cast<std::uint16_t>(words.word[2 * quad + i / 2] >> i % 2 * 16 & 0xffffu)});
    }
    return weights;
  }
};

/// Sums over whole rows: RowsPerWarp rows for each of 8 warps, each with Tokens tokens.
///
/// Every lane adds its units up in the order of their columns, by fused multiply-adds, and the lanes are added by pairs: against the exact sum a product is off
/// by at most (n + 7) 2^-24 sum |x w| with n = ceil(columns / 32u) u and u = Format::columns (Higham, Accuracy and Stability, 3.1), not counting the scale.
template <class Format, unsigned Tokens, unsigned RowsPerWarp> struct RowProducts {
  static constexpr unsigned threads = 256;
  static constexpr unsigned rows_at_once = threads / warp_size * RowsPerWarp;
  static constexpr unsigned chunk = warp_size * Format::columns; ///< columns that are in shared memory at once
  static constexpr unsigned quads = Format::columns / 4;         ///< of a unit

  struct Shared {
    Quad x[Tokens][quads * (warp_size + 1)];
  };

  /// The sums of rows first_row + warp * RowsPerWarp + r of `weights`, in every lane. Rows beyond the last give its sums again.
  template <class Group>
  LSAQ_DEVICE static void multiply(const Group& group, Shared& shared, const DeviceRows& weights, unsigned first_row, const TokenRows& tokens,
                                   float (&sums)[RowsPerWarp][Tokens]) {
    const unsigned lane = group.thread() % warp_size, warp = group.thread() / warp_size;
    const bool aligned = is_aligned(weights.data, 16) && weights.row_bytes % 16 == 0;
    const unsigned units = (weights.columns + Format::columns - 1) / Format::columns;
    unsigned row[RowsPerWarp];
    for (unsigned r = 0; r < RowsPerWarp; ++r) {
      row[r] = first_row + warp * RowsPerWarp + r;
      if (row[r] >= weights.rows) row[r] = weights.rows - 1;
      for (unsigned t = 0; t < Tokens; ++t) sums[r][t] = 0;
    }
    for (unsigned first = 0; first < weights.columns; first += chunk) {
      group.sync(); // the last chunk has been read
      stage(group, shared, tokens, first, weights.columns);
      group.sync();
      const unsigned unit = first / Format::columns + lane;
      if (unit >= units) continue;
      Words words[RowsPerWarp];
      for (unsigned r = 0; r < RowsPerWarp; ++r) words[r] = Format::load(weights.row(row[r]), unit, weights.columns, aligned);
      float of_unit[RowsPerWarp][Tokens] = {};
      LSAQ_UNROLL
      for (unsigned quad = 0; quad < quads; ++quad) {
        Quad w[RowsPerWarp];
        for (unsigned r = 0; r < RowsPerWarp; ++r) w[r] = Format::unpack(words[r], quad);
        for (unsigned t = 0; t < Tokens; ++t) {
          const Quad x = shared.x[t][quad * (warp_size + 1) + lane];
          for (unsigned r = 0; r < RowsPerWarp; ++r)
            for (unsigned i = 0; i < 4; ++i) of_unit[r][t] = multiply_add(w[r].value[i], x.value[i], of_unit[r][t]);
        }
      }
      for (unsigned r = 0; r < RowsPerWarp; ++r) {
        const float scale = weights.group_columns == 0 ? 1.0f
                                                       : element_at(weights.scales, weights.scale_type,
                                                                    std::size_t{row[r]} * weights.groups + unit * Format::columns / weights.group_columns);
        for (unsigned t = 0; t < Tokens; ++t) sums[r][t] = multiply_add(scale, of_unit[r][t], sums[r][t]);
      }
    }
    for (unsigned r = 0; r < RowsPerWarp; ++r)
      for (unsigned t = 0; t < Tokens; ++t) sums[r][t] = warp_sum(group, sums[r][t]);
  }

private:
  /// Fills shared memory with a chunk of all tokens; columns and tokens that do not exist are 0.
  template <class Group> LSAQ_DEVICE static void stage(const Group& group, Shared& shared, const TokenRows& tokens, unsigned first, unsigned columns) {
    if (tokens.type == ElementType::f32)
      stage_as<float>(group, shared, tokens, first, columns);
    else if (tokens.type == ElementType::f16)
      stage_as<f16>(group, shared, tokens, first, columns);
    else
      stage_as<bf16>(group, shared, tokens, first, columns);
  }

  template <element X, class Group>
  LSAQ_DEVICE static void stage_as(const Group& group, Shared& shared, const TokenRows& tokens, unsigned first, unsigned columns) {
    constexpr unsigned of_token = chunk / 4;
    for (unsigned i = group.thread(); i < Tokens * of_token; i += threads) {
      const unsigned t = i / of_token, quad = i % of_token, column = first + 4 * quad;
      const X* const x = static_cast<const X*>(tokens.data) + (t < tokens.count ? t : 0) * tokens.stride;
      const unsigned count = t >= tokens.count || column >= columns ? 0 : columns - column;
      shared.x[t][quad % quads * (warp_size + 1) + quad / quads] = load_quad(x + column, count, is_aligned(x, 4 * sizeof(X)));
    }
  }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
