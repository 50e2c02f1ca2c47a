// How weights are rounded, for the verbs that quantize: options, what a plan file says, and the loader that does it.
#pragma once

#include "calibration.hpp"
#include "device.hpp"

#include <lsaq/formats/plan_file.hpp>
#include <lsaq/models/llama_rounding.hpp>

namespace command {

/// Rounding, granularity, codes and bases of a quantized model.
struct Quantization {
  lsaq::llama::ModelRounding rounding = {};
  lsaq::llama::TransformOptions transform = {};

  /// What a plan file says. Throws BadInput naming `name` and the field.
  static Quantization of_plan(const lsaq::PlanFile& file, const std::string& name);
  void write_to(lsaq::PlanFile& file) const;
  /// "gptq, groups of 32, full codes, rotated residual stream"
  std::string describe() const;

  bool needs_calibration() const { return rounding.rounding != lsaq::Rounding::nearest; }
  /// The rotations of a model; null if there are none.
  std::shared_ptr<const lsaq::llama::ModelTransform> model_transform(const lsaq::llama::Config& config) const;
};

/// The options as they were given; empty ones leave it to the plan, or the default.
struct RoundingOptions {
  std::string rounding, granularity, codes;
  bool rotate = false, rotate_heads = false, rotate_ffn = false;
  CalibrationOptions calibration = {.windows = 32, .window_length = 512, .fewer_will_do = true};
  bool keep = true; ///< statistics are kept in the cache
};

/// How weights are rounded: what a plan says.
void add_rounding_options(CLI::App& verb, RoundingOptions& options);
/// What clip and gptq look at: for verbs that round.
void add_rounding_calibration_options(CLI::App& verb, RoundingOptions& options);

/// `of_plan` with whatever the options say instead. Throws InvalidArgument.
Quantization quantization_of(const RoundingOptions& options, const Quantization& of_plan = {});

/// "tensor", "channel" or "group:N". Throws InvalidArgument.
lsaq::Grouping parse_granularity(const std::string& text);

/// A loader that quantizes this way. Statistics are measured where they are first needed, with progress, and kept in the user's cache. `model` and `device`
/// must outlive it. Throws BadInput, InvalidArgument, Interrupted, from the loader too.
lsaq::llama::RoundingLoader rounding_loader(const Model& model, const Quantization& quantization, const RoundingOptions& options,
                                            const Device& device);
/// The same with calibration windows already there; none are needed for nearest. `keep`: whether statistics are kept in the cache.
lsaq::llama::RoundingLoader rounding_loader(const Model& model, const Quantization& quantization, Windows windows, bool keep,
                                            const Device& device);

} // namespace command
