// Values that the tests of the CUDA path have in common.
#pragma once

#include "cuda_device/device_calls.hpp"

#include <lsaq/half.hpp>

#include <cstring>

namespace path_cases {

using namespace lsaq;

template <class T> std::vector<T> random_values(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<T> values(count);
  for (T& value : values) {
    const float number = normal(random) * (random() % 40 == 0 ? 1e-6f : 1.0f);
    if constexpr (std::same_as<T, float>)
      value = number;
    else if constexpr (std::same_as<T, f16>)
      value = to_f16(number);
    else
      value = to_bf16(number);
  }
  return values;
}

inline bool equal_bytes(const std::vector<std::byte>& device, const PackedMatrix& host) {
  return device.size() == host.bytes() && std::memcmp(device.data(), host.view().data, device.size()) == 0;
}

} // namespace path_cases
