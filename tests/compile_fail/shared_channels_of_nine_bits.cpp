// A width that parts can't be stored in.
// expected-error: lsaq: SharedChannels<K, Rank, Format>: representatives and factors have 16 bits (F16) or 2 to 8 (docs/shared-channels.md)
#include <lsaq/quantization/shared_channels.hpp>

#ifdef WITH_ERROR
constexpr lsaq::SharedChannelFormat format{.factor_bits = 9};
#else
constexpr lsaq::SharedChannelFormat format{.factor_bits = 8};
#endif

constexpr lsaq::Bytes bytes = lsaq::SharedChannels<64, 8, format>::bytes({576, 576});
