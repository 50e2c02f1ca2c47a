#include <lsaq/lsaq.hpp>

#include <cmath>
#include <cstdio>

lsaq::PackedMatrix quantized(lsaq::MatrixView weights);

int main() {
  const float weights[2 * 3] = {127, 0, -127, 1, 2, 127};
  const float x[3] = {1, 2, 3};
  float y[2] = {};
  if (lsaq::Backend<lsaq::Cpu>{}.matvec(quantized(lsaq::MatrixView(weights, 2, 3)), x, y) != lsaq::Status::ok) return 1;
  std::printf("%g %g\n", static_cast<double>(y[0]), static_cast<double>(y[1]));
  return std::abs(y[0] + 254) < 1 && std::abs(y[1] - 386) < 1 ? 0 : 1;
}
