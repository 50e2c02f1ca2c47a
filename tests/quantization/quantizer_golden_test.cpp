// Committed arrays with their packed bytes, and reference arrays of a real model where they are at hand.
#include <lsaq/quantization/quantizer.hpp>

#include "quantization/oracle.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace quantizer_golden_test {

using lsaq::MatrixView;
using lsaq::PerChannel;
using lsaq::ScaleType;

constexpr std::size_t rows = 4, columns = 33;

// Row r is these integers times unit[r]: an ordinary row, one of ties, a zero row, and one whose scales are subnormal in FP16.
constexpr float unit[rows] = {0x1p-10f, 0.5f, 1.0f, 0x1p-18f};
constexpr int golden_weights[rows][columns] = {
    {-833, -310, 879, -333, -510, -330, 434, 854, 251, 4,    391, -291, -455, 835,  325, 317, -707,
     6,    -240, 658, -487, 199,  749,  393, 293, 856, -300, 848, 812,  829,  -799, 393, -836},
    {254, -254, 5, 27, -21, -33, -3, -7, -17, 13, -29, -23, 17, -39, -27, 27, -35, -31, 33, 23, 31, 35, -35, -25, -1, -37, 41, 31, 23, -11, 17, 33, -23},
    {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {21, 61, 91, 91, 38, -57, -34, 84, 2, -56, -57, -84, 21, 97, 92, -62, -100, -101, 12, -57, 85, 93, 19, 18, 46, -15, -37, 48, 92, 33, 7, 54, -69},
};

struct Golden {
  unsigned bits;
  ScaleType scale;
  const char* bytes; ///< computed with exact fractions in Python: per row the codes, then the four scales
};

constexpr Golden golden[] = {
    {8, ScaleType::f16,
     "0853ff503650bffba481b8563ef9afae1a815ddf3a9decb9aafc55fbf5f80db907808080"
     "ff01828e76707e7c78867274886c728e6e70908c90926e74806e94908c7a889074808080"
     "808080808080808080808080808080808080808080808080808080808080808080808080"
     "9acdf2f2b03855e9833a38179afaf33203018f38ebf59897ba6d52bcf3a989c429808080"
     "ec1e003c00003300"},
    {8, ScaleType::bf16,
     "0753ff503650bffca481b9563ef9afae1a815ddf399decb9aafc55fbf6f80cb907808080"
     "ff01828e76707e7c78867274886c728e6e70908c90926e74806e94908c7a889074808080"
     "808080808080808080808080808080808080808080808080808080808080808080808080"
     "9acdf2f2b03855e9833a38179afaf33203018f38ebf59897ba6d52bcf3a989c429808080"
     "dd3b803f00004c36"},
    {8, ScaleType::f32,
     "0853ff503650bffba481b8563ef9afae1a815ddf3a9decb9aafc55fbf5f80db907808080"
     "ff01828e76707e7c78867274886c728e6e70908c90926e74806e94908c7a889074808080"
     "808080808080808080808080808080808080808080808080808080808080808080808080"
     "9acdf2f2b03855ea833a38169afaf43202018f38ebf59897ba6d51bcf4a989c429808080"
     "f67add3b0000803f000000002e974b36"},
    {4, ScaleType::f16,
     "615f54fb8a6bf4bb82d6a4befaf6feb281888888"
     "1f98778888777897779999777899899887888888"
     "8888888888888888888888888888888888888888"
     "c9ee4be64824f94e1149ee997bb5aec883888888"
     "d92f894c00009c03"},
    {4, ScaleType::bf16,
     "615f54fb8a6bf4bb82d6a4befaf6feb281888888"
     "1f98778888777897779999777899899887888888"
     "8888888888888888888888888888888888888888"
     "c9ee4be64824f94e1149ee997bb5aec883888888"
     "fb3d914100006738"},
    {4, ScaleType::f32,
     "615f54fb8a6bf4bb82d6a4befaf6feb281888888"
     "1f98778888777897779999777899899887888888"
     "8888888888888888888888888888888888888888"
     "c9ee4be64824f94e1149ee997bb5aec883888888"
     "9224fb3d92249141000000006edb6638"},
};

TEST(QuantizerGolden, PackedBytes) {
  float weights[rows * columns];
  for (std::size_t i = 0; i < rows * columns; ++i) weights[i] = static_cast<float>(golden_weights[i / columns][i % columns]) * unit[i / columns];
  for (const Golden& expected : golden)
    EXPECT_EQ(oracle::hex(oracle::bytes_of(lsaq::quantize<PerChannel>(MatrixView(weights, rows, columns), expected.bits, expected.scale))), expected.bytes)
        << expected.bits << " bits, " << name_of(expected.scale) << " scales";
}

TEST(QuantizerGolden, TheOracleAgrees) {
  std::vector<float> weights(rows * columns);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(golden_weights[i / columns][i % columns]) * unit[i / columns];
  for (const Golden& expected : golden) EXPECT_EQ(oracle::hex(oracle::packed(weights, rows, columns, expected.bits, expected.scale)), expected.bytes);
}

/// The elements of a .npy file of one type, row-major; `rows` is the first number of its shape.
template <class T> struct NumpyArray {
  std::size_t rows = 0;
  std::vector<T> values;
};

template <class T> NumpyArray<T> read_numpy(const std::filesystem::path& path, const std::string& type) {
  std::ifstream file(path, std::ios::binary);
  const std::string content{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto refuse = [&](const char* why) { throw std::runtime_error(path.filename().string() + ": " + why); };
  if (content.size() < 10 || !content.starts_with("\x93NUMPY\x01")) refuse("not a .npy file of version 1");
  const std::size_t start = 10 + static_cast<unsigned char>(content[8]) + 256u * static_cast<unsigned char>(content[9]);
  if (start > content.size() || (content.size() - start) % sizeof(T) != 0) refuse("truncated");
  const std::string header = content.substr(10, start - 10);
  if (header.find("'descr': '" + type + "'") == std::string::npos || header.find("'fortran_order': False") == std::string::npos)
    refuse("another element type or order");
  const std::size_t shape = header.find("'shape': (");
  if (shape == std::string::npos) refuse("no shape");
  NumpyArray<T> array{std::stoul(header.substr(shape + 10)), std::vector<T>((content.size() - start) / sizeof(T))};
  std::memcpy(array.values.data(), content.data() + start, content.size() - start);
  return array;
}

TEST(QuantizerGolden, ReferenceArrays) {
  const char* folder = std::getenv("LSAQ_GOLDEN_DIR");
  if (folder == nullptr)
    GTEST_SKIP() << "LSAQ_GOLDEN_DIR: not set to a folder of reference arrays (NAME.fp16.npy, NAME.int8.q.npy, NAME.int8.scale_f32.npy ...)";
  constexpr std::string_view suffix = ".fp16.npy";
  std::size_t tensors = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string file = entry.path().string();
    if (!file.ends_with(suffix)) continue;
    ++tensors;
    const std::string name = file.substr(0, file.size() - suffix.size());
    const auto source = read_numpy<lsaq::f16>(file, "<f2");
    const std::size_t width = source.values.size() / source.rows;
    for (const unsigned bits : {8u, 4u}) {
      const std::string prefix = name + ".int" + std::to_string(bits);
      const auto codes = read_numpy<std::int8_t>(prefix + ".q.npy", "|i1");
      const auto scales = read_numpy<float>(prefix + ".scale_f32.npy", "<f4");
      ASSERT_EQ(codes.values.size(), source.values.size());
      ASSERT_EQ(scales.values.size(), source.rows);
      for (const lsaq::Isa isa : oracle::runnable_paths()) {
        std::vector<std::byte> bytes(lsaq::packed_bytes({source.rows, width}, bits, ScaleType::f32));
        ASSERT_FALSE(lsaq::quantize_rows<PerChannel>(MatrixView(source.values.data(), source.rows, width), 0, {source.rows, width}, bits, ScaleType::f32, bytes,
                                                     {}, lsaq::kernels_of(isa)));
        const lsaq::PackedView packed{bytes.data(), source.rows, width, bits, ScaleType::f32};
        for (std::size_t r = 0; r < source.rows; ++r) {
          ASSERT_EQ(std::bit_cast<std::uint32_t>(oracle::scale_of(packed, r)), std::bit_cast<std::uint32_t>(scales.values[r])) << prefix << ", row " << r;
          const std::vector<int> row = oracle::codes_of(packed, r);
          ASSERT_TRUE(std::equal(row.begin(), row.end(), codes.values.begin() + static_cast<std::ptrdiff_t>(r * width)))
              << prefix << ", row " << r << ", " << name_of(isa);
        }
      }
    }
  }
  EXPECT_GT(tensors, 0u) << "no *.fp16.npy in " << folder;
}

} // namespace quantizer_golden_test
