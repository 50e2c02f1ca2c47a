// Long measurements survive an interruption: the hidden states and scores of a pass over the layers, saved between layers.
#pragma once

#include "console.hpp"

#include <lsaq/types.hpp>

#include <optional>
#include <span>
#include <vector>

namespace command {

/// Seconds between what is saved of a long computation; LSAQ_CHECKPOINT_SECONDS is for tests.
double seconds_between_checkpoints();

/// The checkpoint of one measurement, in the user's cache folder. Without a key, or without a cache folder, nothing is kept.
class Checkpoint {
public:
  /// What a pass needs to continue.
  struct Contents {
    std::size_t boundary = 0;
    std::vector<float> states;
    std::vector<std::vector<double>> scores;
  };

  /// `key`: everything the measurement depends on.
  explicit Checkpoint(const std::string& key);

  /// What was saved under this key, or nothing; a damaged file, or one of another key, is nothing.
  std::optional<Contents> read() const;

  /// Whether enough time has passed since the last one: writing should not cost more than a few percent.
  bool due() const;

  /// Replaces what was saved; `states` are FP32, without gaps. A checkpoint that can't be written is noted once, and the measurement goes on.
  void write(std::size_t boundary, lsaq::MatrixView states, const std::vector<std::span<const double>>& scores);

  /// The measurement is complete.
  void remove() const;

private:
  std::string key_; ///< also in the file
  std::filesystem::path path_;
  Stopwatch since_last_;
  bool failed_ = false;
};

} // namespace command
