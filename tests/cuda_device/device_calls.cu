#include "cuda_device/device_calls.hpp"

#include <lsaq/cuda.cuh>

namespace device_calls {

namespace {

using namespace lsaq;
using DeviceBackend = Backend<Cuda>;

/// An array of the host's, on the device.
template <class T> DeviceArray<T> upload(const DeviceBackend& device, const T* values, std::size_t count) {
  auto array = device.queue().allocate<T>(count);
  device.queue().copy(values, array.data(), count * sizeof(T));
  return array;
}

template <class T> std::vector<T> download(const DeviceBackend& device, const T* from, std::size_t count) {
  std::vector<T> values(count);
  device.queue().copy(from, values.data(), count * sizeof(T));
  device.synchronize();
  return values;
}

/// A matrix on the device that looks like one on the host.
struct Uploaded {
  DeviceArray<std::byte> bytes;
  MatrixView view;

  Uploaded(const DeviceBackend& device, MatrixView host)
      : bytes(upload(device, static_cast<const std::byte*>(host.data),
                     host.rows == 0 ? 0 : (host.rows - 1) * host.row_bytes() + bytes_of(host.type, host.columns))),
        view(host) {
    view.data = bytes.data();
  }
};

/// The CPU as a device to choose: what Backend<Cpu> lists, without its kernels.
struct Host {
  static std::vector<Device> devices() { return {{"cpu", "host memory", 2_GiB, 1_GiB, "a number"}}; }
};

template <class Call> Outcome outcome_of(Call&& call) {
  try {
    call();
  } catch (const CudaError& error) {
    return {error.what(), true};
  } catch (const Error& error) {
    return {error.what(), false};
  }
  return {};
}

void check(Status status) {
  if (status != Status::ok) fail<InvalidArgument>(message_of(status));
}

template <class Weights>
std::vector<float> multiply_by(const DeviceBackend& device, const Weights& weights, std::size_t rows, MatrixView x, std::span<std::byte> workspace = {}) {
  const Uploaded in(device, x);
  const auto bytes = device.queue().template allocate<std::byte>(x.rows * rows * size_of(x.type));
  CudaOutput y(reinterpret_cast<float*>(bytes.data()), x.rows, rows);
  y.type = x.type;
  check(device.matmul(weights, in.view, y, workspace));
  const std::vector<std::byte> found = download(device, bytes.data(), bytes.size());
  std::vector<float> wide(x.rows * rows);
  for (std::size_t i = 0; i < wide.size(); ++i) wide[i] = load_element(found.data(), x.type, i);
  return wide;
}

} // namespace

std::vector<std::byte> quantize(MatrixView weights, unsigned bits, ScaleType scale) {
  const DeviceBackend device;
  const Uploaded source(device, weights);
  CudaPackedMatrix packed = device.quantize(source.view, bits, scale);
  return download(device, packed.data(), static_cast<std::size_t>(packed.bytes()));
}

Outcome try_quantize(MatrixView weights, unsigned bits, ScaleType scale) {
  return outcome_of([&] { quantize(weights, bits, scale); });
}

std::vector<float> multiply(PackedView weights, MatrixView x) {
  const DeviceBackend device;
  const CudaPackedMatrix packed = device.prepare(weights);
  return multiply_by(device, packed.view(), weights.rows, x);
}

std::vector<float> multiply(MatrixView weights, MatrixView x) {
  const DeviceBackend device;
  const Uploaded uploaded(device, weights);
  return multiply_by(device, uploaded.view, weights.rows, x);
}

std::vector<float> multiply(const SharedChannelMatrix& weights, MatrixView x) {
  const DeviceBackend device;
  const CudaSharedChannelMatrix uploaded = device.prepare(weights);
  const auto workspace = device.queue().allocate<std::byte>(uploaded.workspace_bytes(x.rows));
  return multiply_by(device, uploaded, weights.shape().rows, x, {workspace.data(), workspace.size()});
}

std::pair<Status, int> multiply_shape(std::size_t rows, std::size_t tokens) {
  const float one = 1;
  float out = 0;
  const Status status = DeviceBackend().matmul(MatrixView(&one, rows, 1), MatrixView(&one, tokens, 1), MutableMatrixView(&out, tokens, rows));
  return {status, cudaGetLastError()};
}

std::vector<ScoredToken> top_tokens(MatrixView states, MatrixView embedding, std::size_t k) {
  const DeviceBackend device;
  const Uploaded uploaded(device, embedding);
  std::vector<ScoredToken> found(states.rows * k);
  device.top_tokens(states, uploaded.view, k, found);
  return found;
}

Outcome try_top_tokens(MatrixView states, MatrixView embedding, std::size_t k) {
  return outcome_of([&] { top_tokens(states, embedding, k); });
}

Distances distances(MatrixView boundaries, MatrixView embedding, std::size_t k) {
  const DeviceBackend device;
  const Uploaded states(device, boundaries), uploaded(device, embedding);
  const std::size_t pairs = boundaries.rows - 1;
  const auto ids = device.queue().allocate<TokenId>(boundaries.rows * k);
  const auto values = device.queue().allocate<float>(boundaries.rows * k);
  const auto bad = device.queue().allocate<unsigned>(1);
  const auto tokens = device.queue().allocate<double>(pairs), directions = device.queue().allocate<double>(pairs);
  device.queue().fill(bad.data(), 0xff, sizeof(unsigned));
  device.top_tokens(states.view, uploaded.view, k, ids.data(), values.data(), bad.data());
  device.token_distances(ids.data(), ids.data() + k, pairs, k, tokens.data());
  device.direction_distances(states.view.slice(0, pairs), states.view.slice(1, pairs), directions.data());
  return {download(device, tokens.data(), pairs), download(device, directions.data(), pairs)};
}

Deployed deploy() {
  const ToyModel model;
  const DeviceBackend device;
  constexpr std::size_t hidden = ToyModel::hidden;
  std::vector<Uploaded> weights;
  for (const auto& layer : model.weights) weights.emplace_back(device, MatrixView(layer.data(), hidden, hidden));
  const Uploaded embedding(device, {model.embedding.data(), ToyModel::vocabulary, hidden});
  const auto in = device.queue().allocate<float>(hidden), out = device.queue().allocate<float>(hidden);
  const auto product = [&](const auto& matrix, const std::vector<float>& x, std::vector<float>& y) {
    device.queue().copy(x.data(), in.data(), hidden * sizeof(float));
    check(device.matmul(matrix, MatrixView(in.data(), 1, hidden), MutableMatrixView(out.data(), 1, hidden)));
    device.queue().copy(out.data(), y.data(), hidden * sizeof(float));
    device.synchronize();
  };
  Deployed deployed = plan_for(model, embedding.view, device, [&](std::size_t l, const auto& x, auto& y) { product(weights[l].view, x, y); });
  std::vector<CudaPackedMatrix> packed;
  for (std::size_t l = 0; l < ToyModel::layers; ++l) packed.push_back(device.quantize(weights[l].view, deployed.bits[l]));
  deployed.output = model.run(99, [&](std::size_t l, const auto& x, auto& y) { product(packed[l].view(), x, y); }).back();
  return deployed;
}

Outcome try_deploy() {
  return outcome_of([] { deploy(); });
}

std::size_t allocations_in_steady_state(MatrixView states, MatrixView embedding, std::size_t k) {
  struct Counting : gpu::StreamMemory {
    std::size_t* count;
    char* allocate(std::size_t size) {
      ++*count;
      return gpu::StreamMemory::allocate(size);
    }
  };
  std::size_t count = 0;
  gpu::CachedMemory<Counting> memory(Counting{gpu::StreamMemory(), &count});
  const DeviceBackend device(nullptr, memory);
  const DeviceBackend plain;
  const Uploaded uploaded(plain, embedding);
  std::vector<ScoredToken> found(states.rows * k);
  device.top_tokens(states, uploaded.view, k, found);
  const std::size_t first = count;
  device.top_tokens(states, uploaded.view, k, found);
  return first == 0 ? ~std::size_t{0} : count - first;
}

std::vector<std::string> devices() {
  std::vector<std::string> listed;
  for (const Device& device : DeviceBackend::devices())
    listed.push_back(device.id + ": " + std::to_string(device.free_bytes) + " of " + std::to_string(device.total_bytes));
  return listed;
}

std::string unusable() { return DeviceBackend::unusable(); }

std::string chosen() { return choose_device<DeviceBackend, Host>().id; }

} // namespace device_calls
