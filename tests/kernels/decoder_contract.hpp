// What every path of DecoderKernels must do, each function of the table against plain loops in double precision; the tests of the paths run all of it.
#pragma once

#include "kernels/kernel_contract.hpp"

namespace decoder_contract {

using namespace kernel_cases;
using kernel_contract::Guarded;
using lsaq::CacheRows;
using lsaq::DecoderKernels;
using lsaq::RunningSoftmax;

inline constexpr float infinity = std::numeric_limits<float>::infinity();

/// Every length up to 67, then whole rows.
inline std::vector<std::size_t> every_length(std::size_t first = 0) {
  std::vector<std::size_t> lengths;
  for (std::size_t n = first; n <= 67; ++n) lengths.push_back(n);
  lengths.insert(lengths.end(), {127, 576});
  return lengths;
}

/// n floats that end at a page nobody may read, behind one that stays as it is.
class Buffer {
public:
  Buffer() : memory_(1 << 14) {}

  float* of(std::size_t n) {
    first_ = memory_.last<float>(n + 1);
    *first_ = 17;
    return first_ + 1;
  }
  bool untouched_before() const { return *first_ == 17; }

private:
  Guarded memory_;
  float* first_ = nullptr;
};

/// The distance from `value` to the next float, at least that of the subnormal ones.
inline double last_place(double value) {
  int exponent;
  (void)std::frexp(value, &exponent);
  return std::ldexp(1.0, std::max(exponent - 24, -149));
}

/// All floats from -110 to 0 in steps, through the step of a softmax whose highest score is 0.
inline void takes_exponentials(const CpuKernels& kernels) {
  std::vector<float> in, out;
  double worst = 0;
  for (std::uint32_t bits = 0x80000000u; bits < 0xc2dc0000u; bits += 701) {
    in.push_back(std::bit_cast<float>(bits));
    if (in.size() < 1000) continue;
    out = in;
    RunningSoftmax softmax{0, 0};
    EXPECT_EQ(kernels.decoder->softmax_step(out.data(), out.size(), 1, softmax), 1.0f);
    for (std::size_t i = 0; i < in.size(); ++i) {
      const double exact = std::exp(double{in[i]});
      worst = std::max(worst, std::abs(double{out[i]} - exact) / last_place(exact));
      ASSERT_LE(worst, 2) << std::hexfloat << in[i];
    }
    in.clear();
  }
  testing::Test::RecordProperty("worst_error_in_last_places", std::to_string(worst));
}

inline void takes_exponentials_of_anything(const CpuKernels& kernels) {
  const float some[] = {0.0f, -0.0f, -1e-45f, -87.4f, -103.9f, -104.5f, -1e30f, std::numeric_limits<float>::lowest(), -infinity};
  for (const std::size_t n : {1, 5, 8, 11, 16, 31})
    for (const float value : some) {
      std::vector<float> scores(n, value);
      RunningSoftmax softmax{0, 0};
      kernels.decoder->softmax_step(scores.data(), n, 1, softmax);
      for (const float found : scores) ASSERT_NEAR(double{found}, std::exp(double{value}), 2 * last_place(std::exp(double{value}))) << value;
    }
}

/// Whatever the length and the lane.
inline void keeps_nan(const CpuKernels& kernels) {
  for (std::size_t n = 1; n <= 40; ++n)
    for (std::size_t place = 0; place < n; ++place) {
      RunningSoftmax softmax{0, 0};
      std::vector<float> scores(n, -1.0f), gate(n, 2.0f), up(n, 1.0f);
      scores[place] = gate[place] = std::nanf("");
      kernels.decoder->softmax_step(scores.data(), n, 1, softmax);
      ASSERT_TRUE(std::isnan(scores[place])) << n;
      ASSERT_TRUE(std::isnan(softmax.total)) << n;
      kernels.decoder->gate(gate.data(), up.data(), n);
      ASSERT_TRUE(std::isnan(gate[place])) << n;
      std::vector<lsaq::f16> halves(n);
      kernels.decoder->narrow_finite_f16(gate.data(), n, halves.data());
      for (std::size_t i = 0; i < n; ++i) ASSERT_EQ((halves[i].bits & 0x7fff) > 0x7c00, i == place) << n;
    }
}

/// Scores in pieces give the probabilities of all of them, whatever is highest where.
inline void steps_through_a_softmax(const CpuKernels& kernels) {
  std::mt19937 random(31);
  Buffer buffer;
  for (const std::size_t n : every_length(1))
    for (const float size : {0.01f, 3.0f, 300.0f, 1e30f}) {
      const float scale = 0.125f;
      std::uniform_real_distribution<float> uniform(-size, size);
      RunningSoftmax softmax;
      std::vector<double> scaled;
      std::vector<double> weights;
      for (int piece = 0; piece < 4; ++piece) {
        float* scores = buffer.of(n);
        for (std::size_t i = 0; i < n; ++i) {
          scores[i] = i % 7 == 3 && n > 7 ? -infinity : uniform(random);
          scaled.push_back(double{scores[i]} * double{scale});
        }
        const float shrink = kernels.decoder->softmax_step(scores, n, scale, softmax);
        ASSERT_TRUE(buffer.untouched_before());
        ASSERT_TRUE(shrink >= 0 && shrink <= 1) << shrink;
        for (double& weight : weights) weight *= double{shrink};
        weights.insert(weights.end(), scores, scores + n);
        const double highest = *std::max_element(scaled.begin(), scaled.end());
        ASSERT_EQ(softmax.highest, static_cast<float>(highest)) << n;
        double total = 0;
        for (const double score : scaled) total += std::exp(score - highest);
        const double rounding = 1e-6 + 3e-7 * std::abs(highest); // of a score, relative to its weight
        if (size > 1e6f) continue;                               // differences of such scores mean nothing
        ASSERT_NEAR(double{softmax.total}, total, total * rounding) << n << ", " << size;
        for (std::size_t i = 0; i < scaled.size(); ++i) ASSERT_NEAR(weights[i], std::exp(scaled[i] - highest), rounding) << i << " of " << n << ", " << size;
      }
    }
}

inline void gates(const CpuKernels& kernels) {
  std::mt19937 random(32);
  Buffer gates, ups;
  const float some[] = {0.0f, -0.0f, 1e-40f, 1e4f, -1e4f, 87.5f, -87.5f, -88.8f, -103.0f, -104.5f, 3e38f, -3e38f};
  for (const std::size_t n : every_length())
    for (int round = 0; round < 4; ++round) {
      float *gate = gates.of(n), *up = ups.of(n);
      for (std::size_t i = 0; i < n; ++i) {
        gate[i] = random() % 4 == 0 ? some[random() % std::size(some)] : std::uniform_real_distribution<float>(-20, 20)(random);
        up[i] = std::uniform_real_distribution<float>(-1, 1)(random);
      }
      const std::vector<float> before(gate, gate + n);
      kernels.decoder->gate(gate, up, n);
      ASSERT_TRUE(gates.untouched_before() && ups.untouched_before());
      for (std::size_t i = 0; i < n; ++i) {
        const double x = before[i], exact = x / (1 + std::exp(-x)) * double{up[i]};
        ASSERT_NEAR(double{gate[i]}, exact, 6e-7 * std::abs(exact) + 0x1p-120) << x << ", element " << i << " of " << n;
      }
    }
}

inline void norms(const CpuKernels& kernels) {
  std::mt19937 random(33);
  Buffer input, output;
  for (const ElementType type : {ElementType::f32, ElementType::f16, ElementType::bf16})
    for (const std::size_t n : every_length(1))
      for (const float epsilon : {1e-5f, 0.5f}) {
        const Weights gain({.element = type, .bits = 0}, 1, n, Numbers::whole, random, 0, type == ElementType::f32 ? 0 : 1);
        float *x = input.of(n), *out = output.of(n);
        for (std::size_t i = 0; i < n; ++i) x[i] = std::uniform_real_distribution<float>(-3, 3)(random);
        double squares = 0;
        for (std::size_t i = 0; i < n; ++i) squares += double{x[i]} * double{x[i]};
        const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + double{epsilon});
        const lsaq::Gain stored{gain.rows().data, type};
        kernels.decoder->rms_norm(x, stored, n, epsilon, out);
        ASSERT_TRUE(input.untouched_before() && output.untouched_before());
        for (std::size_t i = 0; i < n; ++i) {
          const double exact = double{x[i]} * scale * gain.at(0, i);
          ASSERT_NEAR(double{out[i]}, exact, 2e-6 * std::abs(exact)) << i << " of " << n << ", " << name_of(type);
        }
        const std::vector<float> apart(out, out + n);
        kernels.decoder->rms_norm(x, stored, n, epsilon, x);
        ASSERT_TRUE(std::equal(apart.begin(), apart.end(), x)) << "in place";
        std::fill_n(x, n, 0.0f);
        kernels.decoder->rms_norm(x, stored, n, epsilon, out);
        ASSERT_TRUE(std::all_of(out, out + n, [](float value) { return value == 0; })) << "zeros stay zeros";
      }
}

inline void rotates(const CpuKernels& kernels) {
  std::mt19937 random(34);
  Buffer heads_memory, cosine_memory, sine_memory;
  for (const bool interleaved : {false, true})
    for (std::size_t half = 1; half <= 67; ++half)
      for (const std::size_t heads : {0, 1, 2, 5}) {
        float *x = heads_memory.of(heads * 2 * half), *cosines = cosine_memory.of(half), *sines = sine_memory.of(half);
        for (std::size_t i = 0; i < half; ++i) {
          const double angle = std::uniform_real_distribution<double>(-9, 9)(random);
          cosines[i] = static_cast<float>(std::cos(angle));
          sines[i] = static_cast<float>(std::sin(angle));
        }
        for (std::size_t i = 0; i < heads * 2 * half; ++i) x[i] = std::uniform_real_distribution<float>(-3, 3)(random);
        const std::vector<float> before(x, x + heads * 2 * half);
        kernels.decoder->rotate(x, heads, half, cosines, sines, interleaved);
        ASSERT_TRUE(heads_memory.untouched_before());
        for (std::size_t h = 0; h < heads; ++h)
          for (std::size_t i = 0; i < half; ++i) {
            const std::size_t first = h * 2 * half + (interleaved ? 2 * i : i), second = first + (interleaved ? 1 : half);
            const double a = before[first], b = before[second], cosine = cosines[i], sine = sines[i];
            ASSERT_NEAR(double{x[first]}, a * cosine - b * sine, 6e-7) << i << " of " << half;
            ASSERT_NEAR(double{x[second]}, b * cosine + a * sine, 6e-7) << i << " of " << half;
          }
      }
}

inline void adds_and_scales(const CpuKernels& kernels) {
  std::mt19937 random(35);
  Buffer left, right;
  for (const std::size_t n : every_length()) {
    float *x = left.of(n), *y = right.of(n);
    for (std::size_t i = 0; i < n; ++i) {
      x[i] = std::uniform_real_distribution<float>(-3, 3)(random);
      y[i] = std::uniform_real_distribution<float>(-3, 3)(random);
    }
    const std::vector<float> before(x, x + n);
    kernels.decoder->add(x, y, n);
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(x[i], before[i] + y[i]) << i << " of " << n;
    kernels.decoder->scale(y, n, 0.3f);
    std::copy(before.begin(), before.end(), x);
    kernels.decoder->scale(x, n, 0.3f);
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(x[i], before[i] * 0.3f) << i << " of " << n;
    ASSERT_TRUE(left.untouched_before() && right.untouched_before());
  }
}

/// What the other contract says of narrowing, but for what is beyond F16.
inline void narrows_to_finite_values(const CpuKernels& kernels) {
  std::mt19937 random(36);
  std::vector<float> values(40007);
  for (float& value : values) value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
  const float some[] = {65504.0f, 65519.9f, 65520.0f, -65536.0f, 1e30f, -1e30f, infinity, -infinity, 0.0f, -0.0f};
  std::copy(std::begin(some), std::end(some), values.begin() + 3);
  std::vector<lsaq::f16> found(values.size()), wanted(values.size());
  kernels.decoder->narrow_finite_f16(values.data(), values.size(), found.data());
  kernels.narrow_f16(values.data(), values.size(), wanted.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isnan(values[i])) continue; // keeps_nan()
    if ((wanted[i].bits & 0x7fff) == 0x7c00) {
      ASSERT_EQ(found[i].bits, (wanted[i].bits & 0x8000) | 0x7bff) << values[i];
    } else {
      ASSERT_EQ(found[i].bits, wanted[i].bits) << values[i];
    }
  }
  Buffer buffer;
  for (std::size_t n = 0; n <= 67; ++n) {
    const Guarded out(256);
    float* in = buffer.of(n);
    std::fill_n(in, n, 1e9f);
    auto* halves = out.last<lsaq::f16>(n);
    kernels.decoder->narrow_finite_f16(in, n, halves);
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(halves[i].bits, 0x7bff) << i << " of " << n;
  }
}

/// Lengths of rows of a type: every tail, and whole heads.
inline std::vector<std::size_t> every_head(ElementType type) {
  if (type == ElementType::q8_0) return {32, 64, 96, 128, 160, 256};
  std::vector<std::size_t> columns;
  for (std::size_t c = 1; c <= 67; ++c) columns.push_back(c);
  columns.insert(columns.end(), {80, 96, 112, 128, 250, 256});
  return columns;
}

inline constexpr ElementType every_type[] = {ElementType::f32, ElementType::f16, ElementType::bf16, ElementType::q8_0};

/// Rows of a cache that end at a page nobody may read, and numbers for the other side of a product with them.
struct CacheCase {
  std::size_t count, columns, heads, stride;
  Weights rows;
  CacheRows cached;

  CacheCase(ElementType type, std::size_t keys, std::size_t width, std::size_t sharing, Numbers numbers, const Guarded& memory, std::mt19937& random)
      : count(keys), columns(width), heads(sharing), stride(keys + sharing % 3), rows({.element = type, .bits = 0}, keys, width, numbers, random, keys % 3) {
    const std::size_t bytes = keys == 0 ? 0 : keys * rows.rows().row_bytes - keys % 3;
    auto* target = memory.last<std::byte>(bytes);
    if (bytes != 0) std::memcpy(target, rows.rows().data, bytes);
    cached = {target, rows.rows().row_bytes, type, width};
  }
};

template <class Act> void each_cache_case(Act&& act) {
  std::mt19937 random(37);
  const Guarded memory(1 << 17);
  for (const ElementType type : every_type)
    for (const std::size_t columns : every_head(type))
      for (const std::size_t heads : {0, 1, 2, 3, 4, 5, 9})
        for (const std::size_t count : {0, 1, 2, 3, 4, 7, 64}) {
          if (columns < 60 && count == 64) continue; // nothing new
          const Numbers numbers = (columns + heads + count) % 2 == 0 ? Numbers::whole : Numbers::any;
          act(CacheCase(type, count, columns, heads, numbers, memory, random), numbers, random);
          ASSERT_FALSE(testing::Test::HasFatalFailure()) << heads << " heads of " << columns << ", " << count << " rows of " << name_of(type);
        }
}

inline void scores_keys(const CpuKernels& kernels) {
  each_cache_case([&](const CacheCase& c, Numbers numbers, std::mt19937& random) {
    const Rows q(c.heads, c.columns, c.columns, numbers, random), scores(c.heads, c.count, c.stride);
    kernels.decoder->score(c.cached, c.count, q.data(), c.heads, scores.data(), c.stride);
    for (std::size_t h = 0; h < c.heads; ++h)
      for (std::size_t k = 0; k < c.count; ++k) expect_sum(scores.at(h, k), product_of(c.rows, k, q, h), numbers);
    expect_gaps_untouched(scores, c.heads, c.count);
  });
}

inline void weighs_values(const CpuKernels& kernels) {
  each_cache_case([&](const CacheCase& c, Numbers numbers, std::mt19937& random) {
    const Rows weights(c.heads, c.count, c.stride, numbers, random), out(c.heads, c.columns, c.columns, numbers, random);
    std::vector<Sum> sums(c.heads * c.columns);
    for (std::size_t h = 0; h < c.heads; ++h)
      for (std::size_t i = 0; i < c.columns; ++i) {
        sums[h * c.columns + i].add(1, out.at(h, i));
        for (std::size_t k = 0; k < c.count; ++k) sums[h * c.columns + i].add(c.rows.at(k, i), weights.at(h, k));
      }
    kernels.decoder->weigh(c.cached, c.count, weights.data(), c.stride, c.heads, out.data());
    for (std::size_t h = 0; h < c.heads; ++h)
      for (std::size_t i = 0; i < c.columns; ++i) expect_sum(out.at(h, i), sums[h * c.columns + i], numbers);
  });
}

} // namespace decoder_contract

/// Defines the tests of the path `isa` in the suite `suite`, without those of NaN, of which -ffast-math says there is none.
#define LSAQ_FINITE_DECODER_CONTRACT(suite, isa)                                                                                                               \
  LSAQ_KERNEL_TEST(suite, isa, TakesExponentials, decoder_contract::takes_exponentials)                                                                        \
  LSAQ_KERNEL_TEST(suite, isa, TakesExponentialsOfAnything, decoder_contract::takes_exponentials_of_anything)                                                  \
  LSAQ_KERNEL_TEST(suite, isa, StepsThroughASoftmax, decoder_contract::steps_through_a_softmax)                                                                \
  LSAQ_KERNEL_TEST(suite, isa, Gates, decoder_contract::gates)                                                                                                 \
  LSAQ_KERNEL_TEST(suite, isa, Norms, decoder_contract::norms)                                                                                                 \
  LSAQ_KERNEL_TEST(suite, isa, Rotates, decoder_contract::rotates)                                                                                             \
  LSAQ_KERNEL_TEST(suite, isa, AddsAndScales, decoder_contract::adds_and_scales)                                                                               \
  LSAQ_KERNEL_TEST(suite, isa, NarrowsToFiniteValues, decoder_contract::narrows_to_finite_values)                                                              \
  LSAQ_KERNEL_TEST(suite, isa, ScoresKeys, decoder_contract::scores_keys)                                                                                      \
  LSAQ_KERNEL_TEST(suite, isa, WeighsValues, decoder_contract::weighs_values)

/// Defines all tests of the path `isa` in the suite `suite`.
#define LSAQ_DECODER_CONTRACT(suite, isa)                                                                                                                      \
  LSAQ_FINITE_DECODER_CONTRACT(suite, isa)                                                                                                                     \
  LSAQ_KERNEL_TEST(suite, isa, KeepsNan, decoder_contract::keeps_nan)
