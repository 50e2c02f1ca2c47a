#include <lsaq/types.hpp>

#include <gtest/gtest.h>

#include <type_traits>

namespace types_test {

using namespace lsaq::literals;
using lsaq::ElementType;
using lsaq::MatrixView;
using lsaq::MutableMatrixView;

static_assert(1_KiB == 1024 && 1_MiB == 1024 * 1024 && 6_GiB == 6ull << 30);
static_assert(std::is_trivially_copyable_v<MatrixView> && std::is_trivially_copyable_v<MutableMatrixView>);
static_assert(lsaq::f16{1} == lsaq::f16{1} && lsaq::f16{1} != lsaq::f16{2} && lsaq::bf16{3} == lsaq::bf16{3});
static_assert(lsaq::f16{0} != lsaq::f16{0x8000}, "compared as bits: +0 and -0 differ");

TEST(Types, ElementSizesAndNames) {
  EXPECT_EQ(size_of(ElementType::f32), 4u);
  EXPECT_EQ(size_of(ElementType::f16), 2u);
  EXPECT_EQ(size_of(ElementType::bf16), 2u);
  EXPECT_EQ(name_of(ElementType::f32), "F32");
  EXPECT_EQ(name_of(ElementType::f16), "F16");
  EXPECT_EQ(name_of(ElementType::bf16), "BF16");
  EXPECT_EQ(size_of(ElementType::q8_0), 34u) << "a block";
  EXPECT_EQ(name_of(ElementType::q8_0), "Q8_0");
  EXPECT_EQ(name_of(static_cast<ElementType>(99)), "unknown");
}

TEST(Types, BytesOfARow) {
  EXPECT_EQ(bytes_of(ElementType::f32, 7), 28u);
  EXPECT_EQ(bytes_of(ElementType::f16, 7), 14u);
  EXPECT_EQ(bytes_of(ElementType::bf16, 0), 0u);
  EXPECT_EQ(bytes_of(ElementType::q8_0, 0), 0u);
  EXPECT_EQ(bytes_of(ElementType::q8_0, 32), 34u);
  EXPECT_EQ(bytes_of(ElementType::q8_0, 576), 612u);
  EXPECT_EQ(bytes_of(ElementType::f32, std::size_t{1} << 32), std::size_t{1} << 34);
}

TEST(MatrixView, KnowsItsElementTypeFromThePointer) {
  const float* floats = nullptr;
  const lsaq::f16* halves = nullptr;
  const lsaq::bf16* brains = nullptr;
  EXPECT_EQ(MatrixView(floats, 1, 1).type, ElementType::f32);
  EXPECT_EQ(MatrixView(halves, 1, 1).type, ElementType::f16);
  EXPECT_EQ(MatrixView(brains, 1, 1).type, ElementType::bf16);
}

TEST(MatrixView, RowsAreAStrideApart) {
  const lsaq::f16 halves[20] = {};
  const auto* first = reinterpret_cast<const std::byte*>(halves);
  const MatrixView dense(halves, 4, 5), strided(halves, 2, 5, 10);
  EXPECT_EQ(dense.stride, 5u);
  EXPECT_EQ(dense.row(3), first + 30);
  EXPECT_EQ(strided.row(1), first + 20);
}

TEST(MatrixView, RowsOfBlocks) {
  const std::byte blocks[4 * 3 * 34] = {};
  const MatrixView dense = MatrixView::q8_0(blocks, 4, 96), strided = MatrixView::q8_0(blocks, 2, 64, 96);
  static_assert(MatrixView::q8_0(nullptr, 1, 32).type == ElementType::q8_0);
  EXPECT_EQ(dense.stride, 96u);
  EXPECT_EQ(dense.row_bytes(), 102u);
  EXPECT_EQ(dense.row(3), blocks + 306);
  EXPECT_EQ(strided.row_bytes(), 102u);
  EXPECT_EQ(strided.row(1), blocks + 102);
  const MatrixView part = dense.slice(1, 2);
  EXPECT_EQ(part.data, blocks + 102);
  EXPECT_EQ(part.rows, 2u);
  EXPECT_EQ(part.type, ElementType::q8_0);
  EXPECT_EQ(MatrixView(static_cast<const lsaq::f16*>(nullptr), 3, 5, 8).row_bytes(), 16u);
}

TEST(MatrixView, SlicesShareTheMemory) {
  const float values[12] = {};
  const MatrixView view(values, 4, 2, 3);
  const MatrixView part = view.slice(1, 2);
  EXPECT_EQ(part.data, values + 3);
  EXPECT_EQ(part.rows, 2u);
  EXPECT_EQ(part.columns, 2u);
  EXPECT_EQ(part.stride, 3u);
  EXPECT_EQ(part.row(1), view.row(2));
  EXPECT_EQ(view.slice(4, 0).rows, 0u);
}

TEST(MatrixView, OffsetsDoNotOverflow32Bits) {
  MatrixView view(static_cast<const float*>(nullptr), 0, 1, std::size_t{1} << 20);
  view.type = ElementType::bf16;
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.row(0)), 0u);
  // Differences of row addresses, as a matrix beyond 2^32 bytes has them; no such memory is touched.
  alignas(8) static char anchor[8];
  view.data = anchor;
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(view.row(1 << 13)) - reinterpret_cast<std::uintptr_t>(anchor), std::uintptr_t{1} << 34);
}

TEST(MutableMatrixView, ReadsAsAMatrixView) {
  float values[12] = {};
  const MutableMatrixView y(values, 3, 2, 4);
  y.row(2)[1] = 5;
  EXPECT_EQ(values[9], 5.0f);
  const MatrixView view = y;
  EXPECT_EQ(view.data, values);
  EXPECT_EQ(view.rows, 3u);
  EXPECT_EQ(view.columns, 2u);
  EXPECT_EQ(view.stride, 4u);
  EXPECT_EQ(view.type, ElementType::f32);
}

TEST(Shapes, WeightsAreCountedIn64Bits) {
  const lsaq::LinearShape experts{.name = "mlp.experts.up_proj", .rows = 1 << 16, .columns = 1 << 16, .count = 64};
  EXPECT_EQ(experts.weights(), std::uint64_t{1} << 38);
  const lsaq::LayerShape layer{.linears = {experts, {.name = "self_attn.q_proj", .rows = 3, .columns = 5}}, .fixed_bytes = 8};
  EXPECT_EQ(layer.weights(), (std::uint64_t{1} << 38) + 15);
  EXPECT_EQ(lsaq::LayerShape{}.weights(), 0u);
}

} // namespace types_test
