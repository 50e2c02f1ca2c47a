// The quantizer's interface: its spellings, refusals, streaming and dequantization. The numbers are in quantizer_rule_test.cpp.
#include <lsaq/quantization/quantizer.hpp>

#include "core/refusal.hpp"
#include "quantization/oracle.hpp"

#include <lsaq/thread_pool.hpp>

#include <gmock/gmock.h>

#include <limits>
#include <memory>

namespace quantizer_test {

using lsaq::MatrixShape;
using lsaq::MatrixView;
using lsaq::PackedMatrix;
using lsaq::PerChannel;
using lsaq::QuantizationFault;
using lsaq::Quantizer;
using lsaq::ScaleType;
using test_support::refusal;
using testing::AllOf;
using testing::HasSubstr;

constexpr float infinity = std::numeric_limits<float>::infinity();
const float nan_value = std::nanf("");

template <unsigned Bits> void expect_run_time_twin(MatrixView view) {
  static_assert(Quantizer<PerChannel, Bits>::bits == Bits);
  const PackedMatrix packed = Quantizer<PerChannel, Bits>{}(view);
  EXPECT_EQ(packed.bits(), Bits);
  EXPECT_EQ(packed.scale_type(), ScaleType::f16) << "FP16 unless asked otherwise";
  EXPECT_EQ(oracle::bytes_of(packed), oracle::bytes_of(lsaq::quantize<PerChannel>(view, Bits)));
  const PackedMatrix wide = Quantizer<PerChannel, Bits, float>{}(view);
  EXPECT_EQ(oracle::bytes_of(wide), oracle::bytes_of(lsaq::quantize<PerChannel>(view, Bits, ScaleType::f32)));
}

TEST(Quantizer, IsTheRunTimeFunctionWithConstantBits) {
  std::mt19937 random(1);
  const std::vector<float> weights = oracle::random_weights(7, 45, random);
  const MatrixView view(weights.data(), 7, 45);
  expect_run_time_twin<2>(view);
  expect_run_time_twin<3>(view);
  expect_run_time_twin<4>(view);
  expect_run_time_twin<5>(view);
  expect_run_time_twin<6>(view);
  expect_run_time_twin<7>(view);
  expect_run_time_twin<8>(view);
}

TEST(Quantizer, CodeLimits) { static_assert(lsaq::code_limit(8) == 127 && lsaq::code_limit(4) == 7 && lsaq::code_limit(3) == 3 && lsaq::code_limit(2) == 1); }

TEST(Quantizer, EmptyMatricesGiveEmptyResults) {
  const std::vector<float> nothing;
  for (const unsigned bits : {8u, 4u, 3u}) {
    const PackedMatrix no_rows = lsaq::quantize<PerChannel>(MatrixView(nothing.data(), 0, 33), bits);
    EXPECT_EQ(no_rows.bytes(), 0u);
    EXPECT_EQ(no_rows.columns(), 33u);
    const PackedMatrix no_columns = lsaq::quantize<PerChannel>(MatrixView(nothing.data(), 3, 0), bits);
    EXPECT_EQ(oracle::hex(oracle::bytes_of(no_columns)), "000000000000"); // three scales of a maximum of nothing
    EXPECT_EQ(lsaq::quantize<PerChannel>(MatrixView(nothing.data(), 0, 0), bits).bytes(), 0u);
    lsaq::dequantize(no_rows.view(), {nullptr, 0, 33});
    lsaq::dequantize(no_columns.view(), {nullptr, 3, 0});
  }
}

TEST(Quantizer, RefusesWidthsItDoesNotHave) {
  const float one = 1;
  const MatrixView view(&one, 1, 1);
  for (const unsigned bits : {0u, 1u, 9u, 16u, 4000000000u}) {
    EXPECT_THAT(refusal([&] { lsaq::quantize<PerChannel>(view, bits); }), AllOf(HasSubstr(std::to_string(bits) + " bits"), HasSubstr("2 to 8")));
    std::byte room[8];
    EXPECT_THAT(refusal([&] { lsaq::quantize_into<PerChannel>(view, bits, room); }), HasSubstr("2 to 8"));
  }
}

class QuantizerRefusals : public testing::TestWithParam<float> {};

std::string name_of_value(const testing::TestParamInfo<float>& info) {
  return std::string(std::signbit(info.param) ? "Minus" : "") + (std::isnan(info.param) ? "Nan" : "Infinity");
}

INSTANTIATE_TEST_SUITE_P(NotFinite, QuantizerRefusals, testing::Values(infinity, -infinity, nan_value, -nan_value), name_of_value);

TEST_P(QuantizerRefusals, NotFiniteAtEveryPlace) {
  for (const std::size_t columns : {1, 5, 8, 33, 70})
    for (std::size_t place = 0; place < columns; ++place) {
      std::vector<float> weights(3 * columns, 0.5f);
      weights[columns + place] = GetParam();
      weights[2 * columns] = nan_value; // a later row is not the one named
      for (const lsaq::Isa isa : oracle::runnable_paths()) {
        std::vector<std::byte> room(lsaq::packed_bytes({3, columns}, 8));
        const QuantizationFault fault =
            lsaq::quantize_rows<PerChannel>(MatrixView(weights.data(), 3, columns), 0, {3, columns}, 8, ScaleType::f16, room, {}, lsaq::kernels_of(isa));
        ASSERT_TRUE(fault);
        EXPECT_EQ(fault.kind, QuantizationFault::Kind::not_finite);
        ASSERT_EQ(fault.row, 1u);
        ASSERT_EQ(fault.column, place) << name_of(isa) << ", " << columns << " columns";
        ASSERT_EQ(std::bit_cast<std::uint32_t>(fault.value), std::bit_cast<std::uint32_t>(GetParam()));
      }
    }
}

TEST_P(QuantizerRefusals, TheFirstOfSeveralIsNamed) {
  std::vector<float> weights(2 * 600, 1e30f); // beyond F16's scales, too
  weights[600 + 20] = GetParam();
  weights[600 + 21] = nan_value;
  weights[600 + 599] = infinity;
  const auto refused = Quantizer<PerChannel, 8, float>{}.try_quantize(MatrixView(weights.data(), 2, 600));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("row 1, column 20"), HasSubstr("not finite")));
}

TEST_P(QuantizerRefusals, HalfSourcesToo) {
  std::vector<lsaq::f16> halves(2 * 33, lsaq::f16{0x3c00});
  std::vector<lsaq::bf16> brains(2 * 33, lsaq::bf16{0x3f80});
  halves[33 + 32].bits = static_cast<std::uint16_t>((std::signbit(GetParam()) ? 0x8000 : 0) | (std::isnan(GetParam()) ? 0x7c01 : 0x7c00));
  brains[33 + 32].bits = static_cast<std::uint16_t>((std::signbit(GetParam()) ? 0x8000 : 0) | (std::isnan(GetParam()) ? 0x7f81 : 0x7f80));
  EXPECT_THAT(refusal([&] { Quantizer<PerChannel, 8>{}(MatrixView(halves.data(), 2, 33)); }), HasSubstr("row 1, column 32: the weight is not finite"));
  EXPECT_THAT(refusal([&] { Quantizer<PerChannel, 4>{}(MatrixView(brains.data(), 2, 33)); }), HasSubstr("row 1, column 32: the weight is not finite"));
}

TEST(Quantizer, ScaleOverflowNamesTheLargestWeight) {
  std::vector<float> weights(3 * 40, 1);
  weights[2 * 40 + 37] = -8.4e6f;
  weights[2 * 40 + 38] = 8.3e6f;
  const std::string message = refusal([&] { Quantizer<PerChannel, 8>{}(MatrixView(weights.data(), 3, 40)); });
  EXPECT_THAT(message, AllOf(HasSubstr("row 2, column 37"), HasSubstr("-8400000"), HasSubstr("scale beyond the range of F16")));
  EXPECT_THAT(message, Not(HasSubstr("\n")));
  EXPECT_NO_THROW((Quantizer<PerChannel, 8, lsaq::bf16>{}(MatrixView(weights.data(), 3, 40))));
}

/// Runs the last task first: the first bad row is found after later ones.
struct Backwards {
  std::size_t concurrency() const { return 2; }
  void parallel_for(std::size_t count, lsaq::TaskRef task) const {
    for (std::size_t i = count; i-- > 0;) task(i);
  }
};

TEST(Quantizer, TheFirstBadRowIsNamedInAnyOrderOfTasks) {
  std::vector<float> weights(400 * 5, 1);
  for (const std::size_t row : {77, 78, 200, 399}) weights[row * 5 + row % 5] = row == 78 ? 1e9f : infinity;
  const Backwards backwards;
  EXPECT_THAT(refusal([&] { Quantizer<PerChannel, 4>{}(MatrixView(weights.data(), 400, 5), backwards); }), HasSubstr("row 77, column 2"));
  for (std::size_t threads = 1; threads <= 4; ++threads) {
    lsaq::ThreadPool pool(threads);
    for (int round = 0; round < 20; ++round)
      ASSERT_THAT(refusal([&] { Quantizer<PerChannel, 4>{}(MatrixView(weights.data(), 400, 5), pool); }), HasSubstr("row 77, column 2"));
  }
}

TEST(Quantizer, MessagesNameTheTensor) {
  const QuantizationFault fault{QuantizationFault::Kind::not_finite, 3, 4, -infinity};
  EXPECT_THAT(message_of(fault, "model.layers.0.mlp.up_proj", ScaleType::f16),
              AllOf(HasSubstr("tensor model.layers.0.mlp.up_proj, row 3, column 4"), HasSubstr("-inf")));
  EXPECT_THAT(message_of(fault, "", ScaleType::f16), testing::StartsWith("matrix, row 3"));
}

TEST(Quantizer, TryQuantizeHoldsTheMatrixOrTheReason) {
  std::vector<float> weights = {1, 2, 3, 4};
  const auto found = Quantizer<PerChannel, 8>{}.try_quantize(MatrixView(weights.data(), 2, 2));
  ASSERT_TRUE(found);
  EXPECT_EQ(oracle::bytes_of(*found), oracle::packed(weights, 2, 2, 8, ScaleType::f16));
  weights[3] = nan_value;
  const auto refused = Quantizer<PerChannel, 8>{}.try_quantize(MatrixView(weights.data(), 2, 2));
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("row 1, column 1"));
}

TEST(QuantizeInto, WritesExactlyTheBytesItWasGiven) {
  std::mt19937 random(2);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const std::size_t columns : {1, 8, 31, 33, 520}) {
      const std::vector<float> weights = oracle::random_weights(5, columns, random);
      const MatrixView view(weights.data(), 5, columns);
      const std::size_t size = lsaq::packed_bytes({5, columns}, bits, ScaleType::f32);
      const auto block = std::make_unique<std::byte[]>(size + 1); // an odd address; ends with the last scale
      lsaq::quantize_into<PerChannel>(view, bits, {block.get() + 1, size}, ScaleType::f32);
      const std::vector<std::byte> found(block.get() + 1, block.get() + 1 + size);
      EXPECT_EQ(found, oracle::packed(weights, 5, columns, bits, ScaleType::f32));
    }
}

TEST(QuantizeInto, RefusesRoomOfAnotherSize) {
  const std::vector<float> weights(4 * 8, 1);
  const MatrixView view(weights.data(), 4, 8);
  std::vector<std::byte> room(lsaq::packed_bytes({4, 8}, 8) + 1);
  for (const std::size_t size : {room.size(), room.size() - 2, std::size_t{0}})
    EXPECT_THAT(refusal([&] { lsaq::quantize_into<PerChannel>(view, 8, std::span(room).first(size)); }),
                AllOf(HasSubstr("4 x 8"), HasSubstr(std::to_string(size) + " bytes")));
}

TEST(QuantizeRows, StreamedBlocksGiveTheBytesOfTheWhole) {
  std::mt19937 random(3);
  constexpr std::size_t rows = 71, columns = 45;
  const std::vector<float> weights = oracle::random_weights(rows, columns, random);
  for (const unsigned bits : {8u, 4u, 5u})
    for (const std::size_t block : {1, 7, 16, 33, 71, 100}) {
      std::vector<std::byte> packed(lsaq::packed_bytes({rows, columns}, bits), std::byte{0xee});
      for (std::size_t first = (rows - 1) / block * block + block; first > 0;) { // the last block first: their order does not matter
        first -= block;
        const MatrixView part = MatrixView(weights.data(), rows, columns).slice(first, std::min(block, rows - first));
        ASSERT_FALSE(lsaq::quantize_rows<PerChannel>(part, first, {rows, columns}, bits, ScaleType::f16, packed));
      }
      EXPECT_EQ(packed, oracle::packed(weights, rows, columns, bits, ScaleType::f16)) << "blocks of " << block;
    }
}

TEST(QuantizeRows, CountsTheBadRowFromItsBlock) {
  std::vector<float> weights(40 * 3, 1);
  weights[25 * 3 + 1] = infinity;
  std::vector<std::byte> packed(lsaq::packed_bytes({40, 3}, 8));
  const MatrixView part = MatrixView(weights.data(), 40, 3).slice(20, 10);
  const QuantizationFault fault = lsaq::quantize_rows<PerChannel>(part, 20, {40, 3}, 8, ScaleType::f16, packed);
  ASSERT_TRUE(fault);
  EXPECT_EQ(fault.row, 5u);
  EXPECT_EQ(fault.column, 1u);
}

TEST(QuantizeRows, RefusesBlocksThatDoNotFit) {
  const std::vector<float> weights(4 * 8, 1);
  std::vector<std::byte> packed(lsaq::packed_bytes({4, 8}, 8));
  const MatrixView view(weights.data(), 4, 8);
  const auto quantize = [&](MatrixView block, std::size_t first) { lsaq::quantize_rows<PerChannel>(block, first, {4, 8}, 8, ScaleType::f16, packed); };
  EXPECT_EQ(refusal([&] { quantize(view, 0); }), "accepted");
  EXPECT_EQ(refusal([&] { quantize(view.slice(0, 0), 4); }), "accepted");
  EXPECT_THAT(refusal([&] { quantize(view, 1); }), HasSubstr("from row 1"));
  EXPECT_THAT(refusal([&] { quantize(view.slice(0, 1), 4); }), HasSubstr("do not fit"));
  EXPECT_THAT(refusal([&] { quantize(MatrixView(weights.data(), 4, 7), 0); }), HasSubstr("4 x 7"));
}

TEST(Dequantize, IsCodeTimesScale) {
  std::mt19937 random(4);
  for (unsigned bits = lsaq::min_bits; bits <= lsaq::max_bits; ++bits)
    for (const ScaleType type : oracle::every_scale) {
      constexpr std::size_t rows = 9, columns = 37, stride = 40;
      const std::vector<float> weights = oracle::random_weights(rows, columns, random);
      const PackedMatrix packed = lsaq::quantize<PerChannel>(MatrixView(weights.data(), rows, columns), bits, type);
      const auto out = std::make_unique<float[]>((rows - 1) * stride + columns);
      std::fill_n(out.get(), (rows - 1) * stride + columns, nan_value);
      lsaq::dequantize(packed.view(), {out.get(), rows, columns, stride});
      for (std::size_t r = 0; r < rows; ++r) {
        const std::vector<int> codes = oracle::codes_of(packed.view(), r);
        ASSERT_EQ(lsaq::scale_at(packed.view(), r), oracle::scale_of(packed.view(), r));
        for (std::size_t c = 0; c < columns; ++c) ASSERT_EQ(lsaq::code_at(packed.view(), r, c), codes[c]) << "row " << r << ", column " << c;
        for (std::size_t c = 0; c < columns; ++c)
          ASSERT_EQ(out[r * stride + c], static_cast<float>(codes[c]) * oracle::scale_of(packed.view(), r)) << "row " << r << ", column " << c;
        for (std::size_t c = columns; c < stride && r + 1 < rows; ++c) ASSERT_TRUE(std::isnan(out[r * stride + c]));
      }
    }
}

TEST(Dequantize, RefusesAnotherShape) {
  const std::vector<float> weights(6, 1);
  const PackedMatrix packed = Quantizer<PerChannel, 8>{}(MatrixView(weights.data(), 2, 3));
  float out[6];
  EXPECT_THROW(lsaq::dequantize(packed.view(), {out, 3, 2}), lsaq::InvalidArgument);
  EXPECT_THROW(lsaq::dequantize(packed.view(), {out, 2, 2}), lsaq::InvalidArgument);
}

} // namespace quantizer_test
