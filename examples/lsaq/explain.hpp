// Every number of a plan's bytes, and how it comes about.
#pragma once

#include "planning.hpp"

namespace command {

/// A part of a plan's bytes.
struct ExplainedBytes {
  std::string part; ///< a member of the plan's bytes: "weights", "kv_cache"; or "while_quantizing", which is none
  std::string text; ///< "49152 tokens x 576 x 2 bytes"
  lsaq::Bytes bytes = 0;
};

/// Parts that add up to the plan's bytes, and what quantizing so takes beside them for a while. `reserve` is --reserve as it was given.
std::vector<ExplainedBytes> explain(const lsaq::llama::Config& config, const lsaq::PlanFile& file, const Quantization& quantization,
                                    const std::string& reserve);

/// The parts as a table.
std::string explained_table(const std::vector<ExplainedBytes>& parts);

} // namespace command
