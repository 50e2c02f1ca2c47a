// No representative at all.
// expected-error: lsaq: SharedChannels<K, Rank>: K, the number of representatives, must be at least 1 (docs/shared-channels.md)
#include <lsaq/quantization/shared_channels.hpp>

#ifdef WITH_ERROR
constexpr std::size_t representatives = 0;
#else
constexpr std::size_t representatives = 64;
#endif

constexpr lsaq::Bytes bytes = lsaq::SharedChannels<representatives, 8>::bytes({576, 576});
