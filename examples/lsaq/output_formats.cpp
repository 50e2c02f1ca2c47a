#include "output_formats.hpp"

#include <lsaq/models/compressed_tensors_export.hpp>
#include <lsaq/models/gguf_export.hpp>
#include <lsaq/models/quantized_layers.hpp>

#include <fmt/format.h>

namespace command {

namespace llama = lsaq::llama;

namespace {

constexpr const char* key_name = "export.key"; ///< in a folder that is not complete: whose shards these are

/// A folder by its name, without a slash behind it.
std::filesystem::path without_slash(const std::filesystem::path& path) { return path.has_filename() ? path : path.parent_path(); }

/// Where a folder grows until it is complete.
std::filesystem::path partial_of(const std::filesystem::path& out) { return without_slash(out).native() + ".partial"; }

/// Makes the folder, or keeps what an earlier run with the same key has left there. What no export has left is not touched.
void prepare_folder(const std::filesystem::path& partial, const std::string& key) {
  const std::filesystem::path key_file = partial / key_name;
  std::error_code error;
  if (std::filesystem::is_regular_file(key_file, error) && read_file(key_file) == key) return;
  bool is_ours = std::filesystem::is_directory(std::filesystem::symlink_status(partial, error));
  if (is_ours && !std::filesystem::exists(key_file, error))
    for (std::filesystem::directory_iterator entry(partial, error), end; !error && entry != end; entry.increment(error))
      is_ours &= entry->path().filename().native().starts_with(".lsaq-"); // ended before the key was written
  if (!is_ours && std::filesystem::exists(std::filesystem::symlink_status(partial, error)))
    lsaq::fail<lsaq::IoError>(lsaq::printable_path(partial) +
                              ": is in the way of the export, and no earlier one has left it; move it, or choose another --output");
  std::filesystem::remove_all(partial, error);
  if (!std::filesystem::create_directory(partial, error))
    lsaq::fail<lsaq::IoError>(lsaq::printable_path(partial) + ": cannot make this folder: " + error.message());
  lsaq::AtomicFile file(key_file);
  file.write(key);
  file.commit();
}

/// Removes what is no part of an export from its folder: the key, and what a run that was killed has left.
void remove_others(const std::filesystem::path& folder, const llama::CompressedTensorsExport& made) {
  std::set<std::filesystem::path> wanted;
  for (const llama::CompressedTensorsExport::Shard& shard : made.shards()) wanted.insert(shard.name);
  for (const auto& [name, text] : made.texts()) wanted.insert(name);
  for (const std::filesystem::path& source : made.copies()) wanted.insert(source.filename());
  std::error_code error;
  std::vector<std::filesystem::path> others;
  for (std::filesystem::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (!wanted.contains(entry->path().filename())) others.push_back(entry->path());
  for (const std::filesystem::path& other : others) std::filesystem::remove(other, error);
}

/// A format whose parts an export writes, linear by linear.
template <class Export> OutputFormat format_of(const std::shared_ptr<const Export>& made) {
  OutputFormat format;
  format.part_bytes = [made](std::size_t part) { return made->part_bytes(part); };
  format.write_outer = [made](std::size_t part, const WriteBytes& write) { made->write_outer(part, write); };
  format.write_layer = [made](std::size_t layer, const RoundedLayers& layers, const WriteBytes& write) {
    made->write_layer(
        layer, [&](const TakeLinear& take) { layers.each_linear(layer, take); }, write);
  };
  return format;
}

} // namespace

OutputFormat packed_format(const Model& model, const lsaq::PlanFile& plan, lsaq::Grouping grouping, lsaq::ElementType unquantized,
                           const std::filesystem::path& out) {
  const llama::Config& config = model.config;
  OutputFormat format;
  format.files = {
      {out, llama::quantized_layers_header(config, plan.plan, grouping, unquantized, lsaq::plan_to_json(plan).dump()), 0, llama::export_parts(config)}};
  format.part_bytes = [&config, plan = plan.plan, grouping, unquantized](std::size_t part) {
    if (part == llama::embedding_part || part == llama::last_part(config)) return lsaq::Bytes{0};
    return llama::quantized_layer_bytes(config, part - 1, plan, grouping, unquantized);
  };
  format.write_outer = [](std::size_t, const WriteBytes&) {};
  format.write_layer = [&config](std::size_t layer, const RoundedLayers& layers, const WriteBytes& write) {
    llama::write_quantized_layer(config, layers.whole(layer), write);
  };
  return format;
}

OutputFormat gguf_format(const Model& model, const lsaq::PlanFile& plan, lsaq::ElementType unquantized, const std::filesystem::path& out) {
  const auto made = std::make_shared<const llama::GgufExport>(model.source, model.config, plan.plan, unquantized, llama::GgufExport::provenance(plan));
  OutputFormat format = format_of(made);
  format.files = {{out, made->header(), 0, llama::export_parts(model.config)}};
  return format;
}

OutputFormat folder_format(const Model& model, const lsaq::PlanFile& plan, lsaq::Grouping grouping, lsaq::ElementType unquantized, lsaq::Bytes shard_bytes,
                           const std::filesystem::path& named) {
  const std::filesystem::path out = without_slash(named), partial = partial_of(named);
  if (std::filesystem::exists(std::filesystem::symlink_status(out)))
    lsaq::fail<lsaq::InvalidArgument>("--output: " + lsaq::printable_path(out) +
                                      " is there already; a folder is never overwritten, name one that is not there");
  const auto made = std::make_shared<const llama::CompressedTensorsExport>(model.source, model.config, plan, grouping, unquantized, shard_bytes);
  OutputFormat format = format_of(made);
  for (const llama::CompressedTensorsExport::Shard& shard : made->shards())
    format.files.push_back({partial / shard.name, shard.header, shard.first_part, shard.end_part});
  format.prepare = [partial](const std::string& key) { prepare_folder(partial, key); };
  format.finish = [made, partial, out] {
    for (const auto& [name, text] : made->texts()) {
      lsaq::AtomicFile file(partial / name);
      file.write(text);
      file.commit();
    }
    for (const std::filesystem::path& source : made->copies()) {
      const lsaq::MappedFile content = lsaq::MappedFile::open(source);
      lsaq::AtomicFile file(partial / source.filename());
      file.write(content.bytes());
      file.commit();
    }
    remove_others(partial, *made);
    std::error_code error;
    std::filesystem::rename(partial, out, error);
    if (error) lsaq::fail<lsaq::IoError>(lsaq::printable_path(out) + ": cannot rename the finished folder to this path: " + error.message());
  };
  format.notes = made->notes();
  for (const auto& [name, text] : made->texts()) format.texts += name + text;
  return format;
}

void refuse_overwriting(const char* option, const std::filesystem::path& out, const Model& model, const std::filesystem::path& plan) {
  std::error_code error;
  const auto refuse_if = [&](const std::filesystem::path& input, const std::filesystem::path& written, const char* what) {
    if (std::filesystem::equivalent(input, written, error))
      lsaq::fail<lsaq::InvalidArgument>(fmt::format("{}: {} is {}; it is never overwritten", option, lsaq::printable_path(written), what));
  };
  std::vector<std::filesystem::path> inputs(model.source.files().begin(), model.source.files().end());
  if (!model.source.is_gguf()) {
    inputs.insert(inputs.end(), {model.source.path() / "config.json", model.source.path() / "model.safetensors.index.json"});
    for (const std::string_view name : llama::companion_files) inputs.push_back(model.source.path() / name);
  }
  for (const char* suffix : {"", ".partial", ".partial.json"}) {
    for (const std::filesystem::path& input : inputs) refuse_if(input, out.native() + suffix, "the model itself");
    refuse_if(plan, out.native() + suffix, "the plan");
  }
  // Or a folder that would be made anew, with the model in it.
  for (std::filesystem::path folder = std::filesystem::weakly_canonical(model.source.path(), error); folder.has_relative_path(); folder = folder.parent_path())
    refuse_if(folder, partial_of(out), "where the model is");
}

} // namespace command
