// Layers rounded one after another on what the rounded layers before them give.
#pragma once

#include "checkpoint.hpp"
#include "device.hpp"

#include <lsaq/models/llama_rounding.hpp>

namespace command {

/// Layers rounded on what the rounded layers before them give, with a checkpoint of those states.
class SequentialLayers {
public:
  /// `key`: everything the rounding depends on. `windows` must outlive it.
  SequentialLayers(const lsaq::llama::RoundingLoader& loader, const Windows& windows, const Device& device, const std::string& key)
      : weights_(loader.weights()), outer_(weights_.outer(device)), rounding_(weights_.config(), weights_, loader.rounding(), outer_, device, windows),
        checkpoint_("sequential rounding " + key) {}

  lsaq::llama::RoundingLoader& rounding() { return rounding_.rounding(); }

  /// Goes on at a layer, if that is what was saved.
  bool resume_at(std::size_t layer) {
    const std::optional<Checkpoint::Contents> saved = checkpoint_.read();
    if (!saved || saved->boundary != layer) return false;
    rounding_.resume_at(layer, saved->states);
    return true;
  }

  template <class BitsOf> lsaq::llama::LayerWeights next(BitsOf&& bits_of) {
    return rounding_.next(bits_of, [](std::size_t) { check_interrupt(); });
  }

  void save() { checkpoint_.write(rounding_.pass().boundary(), rounding_.pass().states(), {}); }
  void finish() const { checkpoint_.remove(); }

private:
  lsaq::llama::WeightLoader weights_;
  lsaq::llama::OuterWeights outer_;
  lsaq::llama::SequentialRounding<Device> rounding_;
  Checkpoint checkpoint_;
};

} // namespace command
