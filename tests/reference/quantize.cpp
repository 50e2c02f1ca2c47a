// lsaq_reference_quantize MODEL TENSOR ELEMENT OUTDIR FORMAT...: what quantizer.py compares with numpy. The tensor's weights as numbers of the type ELEMENT
// (F16, BF16, F32) are quantized to each FORMAT, "BITS,SCALE,GROUPING,RANGE" as in 4,F16,group:32,full, and written packed as OUTDIR/0.bin, OUTDIR/1.bin ...
#include <lsaq/formats/model_source.hpp>
#include <lsaq/quantization/quantizer.hpp>
#include <lsaq/thread_pool.hpp>

#include <cstdio>
#include <fstream>
#include <sstream>

namespace {

using lsaq::PackedFormat;

/// One of the names of `values`. Throws InvalidArgument.
template <class T> T named(const std::string& text, std::initializer_list<T> values) {
  for (const T value : values)
    if (text == name_of(value)) return value;
  lsaq::fail<lsaq::InvalidArgument>("'" + text + "' is not known");
}

PackedFormat parse(const std::string& text) {
  std::istringstream stream(text);
  std::string bits, scale, grouping, range;
  std::getline(stream, bits, ','), std::getline(stream, scale, ','), std::getline(stream, grouping, ','), std::getline(stream, range);
  PackedFormat format;
  format.bits = static_cast<unsigned>(std::stoul(bits));
  format.scale = named(scale, {lsaq::ScaleType::f16, lsaq::ScaleType::bf16, lsaq::ScaleType::f32});
  format.range = named(range, {lsaq::CodeRange::symmetric, lsaq::CodeRange::full});
  if (grouping.starts_with("group:")) format.grouping.columns = static_cast<std::uint32_t>(std::stoul(grouping.substr(6)));
  format.grouping.whole_matrix = grouping == "tensor";
  if (grouping != format.grouping.name()) lsaq::fail<lsaq::InvalidArgument>("'" + grouping + "' is not known");
  return format;
}

void run(const std::string& path, const std::string& name, const std::string& element, const std::string& out, const std::vector<std::string>& formats) {
  const lsaq::ModelSource model = lsaq::ModelSource::open(path);
  const lsaq::TensorInfo& tensor = model.at(name);
  std::vector<float> weights(tensor.rows * tensor.columns);
  model.read_rows(tensor, 0, tensor.rows, weights.data());
  std::vector<lsaq::f16> halves;
  std::vector<lsaq::bf16> brains;
  lsaq::MatrixView view(weights.data(), tensor.rows, tensor.columns);
  const auto type = named(element, {lsaq::ElementType::f16, lsaq::ElementType::bf16, lsaq::ElementType::f32});
  if (type == lsaq::ElementType::f16) {
    for (const float weight : weights) halves.push_back(lsaq::to_f16(weight));
    view = {halves.data(), tensor.rows, tensor.columns};
  } else if (type == lsaq::ElementType::bf16) {
    for (const float weight : weights) brains.push_back(lsaq::to_bf16(weight));
    view = {brains.data(), tensor.rows, tensor.columns};
  }
  lsaq::ThreadPool pool;
  for (std::size_t i = 0; i < formats.size(); ++i) {
    const lsaq::PackedMatrix packed = lsaq::quantize(view, parse(formats[i]), pool);
    const std::string file = out + "/" + std::to_string(i) + ".bin";
    std::ofstream stream(file, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(packed.view().data), static_cast<std::streamsize>(packed.bytes()));
    if (!stream.flush()) lsaq::fail<lsaq::IoError>(file + ": can't be written");
  }
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: lsaq_reference_quantize MODEL TENSOR ELEMENT OUTDIR FORMAT...\n");
    return 2;
  }
  try {
    run(argv[1], argv[2], argv[3], argv[4], {argv + 5, argv + argc});
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "lsaq_reference_quantize: %s\n", error.what());
    return 1;
  }
}
