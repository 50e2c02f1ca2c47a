// The smallest real use of the library: quantize a matrix to 8 bits, multiply by it, compare with a plain loop. Every way to get the library builds this file.
#include <lsaq/lsaq.hpp>

#include <cmath>
#include <cstdio>
#include <span>
#include <vector>

int main() {
  constexpr std::size_t rows = 48, columns = 96;
  std::vector<float> weights(rows * columns), x(columns), y(rows);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(0.37f * static_cast<float>(i));
  for (std::size_t i = 0; i < columns; ++i) x[i] = std::cos(0.11f * static_cast<float>(i));

  const auto packed = lsaq::Quantizer<lsaq::PerChannel, 8>{}(lsaq::MatrixView(weights.data(), rows, columns));
  const lsaq::Status status = lsaq::Backend<lsaq::Cpu>{}.matvec(packed, std::span<const float>(x), std::span<float>(y));
  if (status != lsaq::Status::ok) {
    std::printf("%s\n", lsaq::message_of(status));
    return 1;
  }

  for (std::size_t r = 0; r < rows; ++r) {
    double exact = 0, magnitude = 0;
    for (std::size_t c = 0; c < columns; ++c) {
      const double product = double{weights[r * columns + c]} * x[c];
      exact += product;
      magnitude += std::fabs(product);
    }
    if (!(std::fabs(y[r] - exact) <= 0.02 * magnitude)) {
      std::printf("row %zu is %g, should be %g\n", r, y[r], exact);
      return 1;
    }
  }
  std::printf("lsaq %d.%d.%d: %zu rows agree\n", LSAQ_VERSION_MAJOR, LSAQ_VERSION_MINOR, LSAQ_VERSION_PATCH, rows);
  return 0;
}
