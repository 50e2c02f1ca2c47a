// Quantizes and multiplies on the device that is free, which may be the CPU.
#include <lsaq/lsaq.hpp>

#include <lsaq/cuda.cuh>

#include <cstdio>

int main() {
  const lsaq::Device chosen = lsaq::choose_device<lsaq::Backend<lsaq::Cuda>, lsaq::Backend<lsaq::Cpu>>();
  std::printf("device: %s\n", chosen.id.c_str());
  if (const std::string reason = lsaq::Backend<lsaq::Cuda>::unusable(); !reason.empty()) {
    std::printf("%s\n", reason.c_str());
    return chosen.id == "cpu" ? 0 : 1;
  }
  const lsaq::Backend<lsaq::Cuda> device;
  std::vector<float> weights(32 * 64, 0.25f), x(64, 1.0f), y(32);
  const auto packed = device.prepare(lsaq::quantize<lsaq::PerChannel>({weights.data(), 32, 64}, 4));
  const auto in = device.queue().allocate<float>(64), out = device.queue().allocate<float>(32);
  device.queue().copy(x.data(), in.data(), 64 * sizeof(float));
  const lsaq::Status status = device.matvec(packed, {in.data(), 64}, {out.data(), 32});
  device.queue().copy(out.data(), y.data(), 32 * sizeof(float));
  device.synchronize();
  std::printf("%s, y[0] = %g\n", lsaq::message_of(status), y[0]);
  return status == lsaq::Status::ok && y[31] == 16 ? 0 : 1;
}
