#include <lsaq/deployment/backend.hpp>

#include <lsaq/deployment/cpu.hpp>

#include <gtest/gtest.h>

namespace backend_test {

using namespace lsaq;

/// The least an engine's own device has to offer.
struct OwnDevice {
  PackedMatrix prepare(PackedMatrix packed) const { return packed; }
  Status matmul(PackedView, MatrixView, MutableMatrixView, std::span<std::byte>) const noexcept { return Status::unsupported; }
  Status matmul(MatrixView, MatrixView, MutableMatrixView, std::span<std::byte>) const noexcept { return Status::unsupported; }
  std::size_t workspace_bytes(PackedView, std::size_t) const noexcept { return 0; }
};

struct Throwing : OwnDevice {
  Status matmul(PackedView, MatrixView, MutableMatrixView, std::span<std::byte>) const { return Status::ok; }
  Status matmul(MatrixView, MatrixView, MutableMatrixView, std::span<std::byte>) const { return Status::ok; }
};

struct WithoutPrepare {
  Status matmul(PackedView, MatrixView, MutableMatrixView, std::span<std::byte>) const noexcept { return Status::ok; }
  Status matmul(MatrixView, MatrixView, MutableMatrixView, std::span<std::byte>) const noexcept { return Status::ok; }
  std::size_t workspace_bytes(PackedView, std::size_t) const noexcept { return 0; }
};

static_assert(backend<OwnDevice> && backend<Backend<Cpu>>);
static_assert(!backend<Throwing>, "products run on the hot path: noexcept is part of the concept");
static_assert(!backend<WithoutPrepare> && !backend<int>);

TEST(Backend, IsASmallValue) {
  static_assert(std::is_trivially_copyable_v<Backend<Cpu>>);
  EXPECT_LE(sizeof(Backend<Cpu>), 4 * sizeof(void*));
}

} // namespace backend_test
