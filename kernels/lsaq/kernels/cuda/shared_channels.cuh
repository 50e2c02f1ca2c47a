// What a product with shared channels (quantization/shared_channel_matrix.hpp) needs besides products: outputs from their cluster's, inputs summed by cluster.
#pragma once

#include <lsaq/kernels/cuda/elements.cuh>

namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu {

/// Packed labels of channels: `bits` each, first channel in the lowest bits, padded to whole words.
struct Labels {
  const std::uint32_t* words;
  unsigned bits;

  LSAQ_DEVICE unsigned at(unsigned channel) const {
    if (bits == 0) return 0;
    const std::uint64_t first = std::uint64_t{channel} * bits;
    std::uint64_t window = load(words + first / 32);
    if (first % 32 + bits > 32) window |= std::uint64_t{load(words + first / 32 + 1)} << 32;
    return static_cast<unsigned>(window >> first % 32 & ((std::uint64_t{1} << bits) - 1));
  }
};

/// y[t][c] = products[t][label of c] (+ y[t][c]): what the clusters of output channels gave. A block takes 256 channels of a token.
struct GatherChannels {
  Labels labels;
  const float* products; ///< tokens x clusters
  unsigned clusters, channels, tokens;
  void* y;
  std::size_t y_stride;
  ElementType y_type;
  bool add;

  static constexpr unsigned threads = 256;
  struct Shared {};

  std::size_t blocks() const { return std::size_t{of_token()} * tokens; }
  unsigned dynamic_bytes() const { return 0; }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared&) const {
    const unsigned token = group.block() / of_token(), channel = group.block() % of_token() * threads + group.thread();
    if (channel >= channels) return;
    const std::size_t out = token * y_stride + channel;
    const float given = products[std::size_t{token} * clusters + labels.at(channel)];
    set_element(y, y_type, out, add ? element_at(y, y_type, out) + given : given);
  }

private:
  LSAQ_DEVICE_AND_HOST unsigned of_token() const { return (channels + threads - 1) / threads; }
};

/// sums[t][k] = the sum of x[t][c] over the input channels c of cluster k, in the order of the channels: the same bits as on the CPU.
///
/// A block takes 256 clusters of a token, a thread one of them, and looks at all channels, 256 at a time in shared memory: clusters x channels comparisons,
/// which stay far below the multiply-adds of the product that follows.
struct SumByCluster {
  Labels labels;
  TokenRows x;
  unsigned channels, clusters;
  float* sums; ///< tokens x clusters

  static constexpr unsigned threads = 256;
  struct Shared {
    unsigned label[threads];
    float value[threads];
  };

  std::size_t blocks() const { return std::size_t{of_token()} * x.count; }
  unsigned dynamic_bytes() const { return 0; }

  template <class Group> LSAQ_DEVICE void operator()(const Group& group, Shared& shared) const {
    const unsigned token = group.block() / of_token(), cluster = group.block() % of_token() * threads + group.thread();
    float sum = 0;
    for (unsigned first = 0; first < channels; first += threads) {
      const unsigned count = channels - first < threads ? channels - first : threads;
      group.sync(); // the last channels have been read
      if (group.thread() < count) {
        shared.label[group.thread()] = labels.at(first + group.thread());
        shared.value[group.thread()] = element_at(x.data, x.type, token * x.stride + first + group.thread());
      }
      group.sync();
      for (unsigned i = 0; i < count; ++i)
        if (shared.label[i] == cluster) sum += shared.value[i];
    }
    if (cluster < clusters) sums[std::size_t{token} * clusters + cluster] = sum;
  }

private:
  LSAQ_DEVICE_AND_HOST unsigned of_token() const { return (clusters + threads - 1) / threads; }
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE::gpu
