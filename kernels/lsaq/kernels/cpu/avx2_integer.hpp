// Integer products for x86-64 with AVX2. vpmaddubsw multiplies 32 unsigned codes with 32 signed bytes of a token and sums them in pairs, in 16 bits: the width
// of the codes decides how many of those sums fit there before vpmaddwd takes them to 32.
//
//   2 to 4 bits: eight, 8 x 2 x 15 x 127 < 2^15; 5 bits: four; 6 bits: two; 7 bits: one
//   8 bits:      one, if the tokens' pairs keep to their limit: 255 x 128 < 2^15; others have a second plane (token_codes.hpp)
//
// Many tokens: panels by tiles (avx2_integer_tiles.hpp). Few tokens: rows of weights by rows of tokens (avx2_integer_rows.hpp); there, and beside blocks that
// have scales of their own, codes of 5 to 8 bits become 16 bits and vpmaddwd multiplies them with the tokens' q, whole: memory decides how fast it is.
#pragma once

#include <lsaq/kernels/cpu/avx2_integer_tiles.hpp>

#if LSAQ_X86
namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2 {

inline constexpr IntegerKernels integer_kernels{layout, unit_maxima, place, dot_rows_by<StepOf>, dot_tiles, dot_blocks, finish};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::avx2

#endif
