// What `lsaq quantize` can write: layers for this program, GGUF files, folders of compressed-tensors.
#pragma once

#include "part_writer.hpp"
#include "planning.hpp"

#include <lsaq/models/llama_rounding.hpp>

namespace command {

using WriteBytes = std::function<void(std::span<const std::byte>)>;
using TakeLinear = std::function<void(lsaq::llama::Linear, lsaq::DeployedMatrix)>;

/// Layers as they are rounded, one after another: as a whole, or linear by linear, which takes less memory.
struct RoundedLayers {
  std::function<lsaq::llama::LayerWeights(std::size_t)> whole;
  std::function<void(std::size_t, const TakeLinear&)> each_linear;
};

/// A model in one format: its files, and what is in their parts. The parts are those of export_parts.hpp.
struct OutputFormat {
  std::vector<PartFile> files = {};
  std::function<lsaq::Bytes(std::size_t)> part_bytes = {};
  std::function<void(std::size_t, const WriteBytes&)> write_outer = {}; ///< what is beside the layers
  std::function<void(std::size_t, const RoundedLayers&, const WriteBytes&)> write_layer = {};
  std::function<void()> finish = [] {};                                            ///< when all files are complete
  std::function<void(const std::string& key)> prepare = [](const std::string&) {}; ///< before the files are opened
  std::string texts = {};                                                          ///< small files that the content of the output includes
  std::vector<std::string> notes = {};                                             ///< for people
};

/// Layers in safetensors beside the model they were made from (docs/formats.md).
OutputFormat packed_format(const Model& model, const lsaq::PlanFile& plan, lsaq::Grouping grouping, lsaq::ElementType unquantized,
                           const std::filesystem::path& out);

/// A GGUF file; `plan` is one that gguf_plan() has given.
OutputFormat gguf_format(const Model& model, const lsaq::PlanFile& plan, lsaq::ElementType unquantized, const std::filesystem::path& out);

/// A Hugging Face folder, which grows as OUT.partial. Throws InvalidArgument if OUT is there already; its prepare throws IoError if OUT.partial is something
/// else.
OutputFormat folder_format(const Model& model, const lsaq::PlanFile& plan, lsaq::Grouping grouping, lsaq::ElementType unquantized, lsaq::Bytes shard_bytes,
                           const std::filesystem::path& out);

/// Refuses an `option` whose file or folder is, or would be written through, the plan or a part of the model. Throws InvalidArgument.
void refuse_overwriting(const char* option, const std::filesystem::path& out, const Model& model, const std::filesystem::path& plan);

} // namespace command
