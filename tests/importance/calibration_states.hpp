// Calibration texts for the tests of importance: hidden states of small integers, and Jaccard scores by their definition with sets.
//
// Every projection is exact in FP32, whatever the order of its sum, and ties abound.
#pragma once

#include <lsaq/deployment/cpu.hpp>
#include <lsaq/half.hpp>
#include <lsaq/importance/metric.hpp>

#include <algorithm>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace calibration_states {

inline std::vector<float> random_integers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 9) - 4);
  return values;
}

/// Hidden states of one text: at each boundary positions x hidden.
struct Text {
  std::size_t positions;
  std::size_t hidden;
  std::vector<std::vector<float>> boundaries;

  lsaq::MatrixView at(std::size_t boundary) const { return {boundaries[boundary].data(), positions, hidden}; }
  std::size_t layers() const { return boundaries.size() - 1; }
};

/// States that change a little from one boundary to the next.
inline Text random_text(std::size_t layers, std::size_t positions, std::size_t hidden, unsigned seed) {
  Text text{positions, hidden, {random_integers(positions * hidden, seed)}};
  for (std::size_t b = 1; b <= layers; ++b) {
    text.boundaries.push_back(text.boundaries.back());
    const std::vector<float> step = random_integers(positions * hidden, seed * 1000 + static_cast<unsigned>(b));
    for (std::size_t i = b % 3; i < step.size(); i += 3) text.boundaries.back()[i] += step[i];
  }
  return text;
}

template <class Metric, class Device = lsaq::Backend<lsaq::Cpu>> void observe(Metric& metric, const Text& text, const Device& device = Device()) {
  lsaq::ImportanceWindow window = metric.begin_window();
  for (std::size_t b = 0; b < text.boundaries.size(); ++b) window.observe(b, text.at(b));
  metric.end_window(window, device);
}

/// Ids of the k highest projections of a state: all of them, sorted; ties to the lower id.
inline std::set<std::size_t> top_set(lsaq::MatrixView states, std::size_t position, lsaq::MatrixView embedding, std::size_t k) {
  std::vector<std::pair<double, std::size_t>> all;
  for (std::size_t t = 0; t < embedding.rows; ++t) {
    double sum = 0;
    for (std::size_t i = 0; i < states.columns; ++i)
      sum += double{lsaq::load_element(states.row(position), states.type, i)} * lsaq::load_element(embedding.row(t), embedding.type, i);
    all.emplace_back(-sum, t);
  }
  std::sort(all.begin(), all.end());
  std::set<std::size_t> ids;
  for (std::size_t i = 0; i < k; ++i) ids.insert(all[i].second);
  return ids;
}

/// 1 - |A n B| / |A u B| at one position.
inline double set_distance(lsaq::MatrixView entering, lsaq::MatrixView leaving, std::size_t position, lsaq::MatrixView embedding, std::size_t k) {
  const std::set<std::size_t> a = top_set(entering, position, embedding, k), b = top_set(leaving, position, embedding, k);
  std::set<std::size_t> both = a;
  both.insert(b.begin(), b.end());
  std::size_t shared = 0;
  for (const std::size_t id : a) shared += b.count(id);
  return 1 - static_cast<double>(shared) / static_cast<double>(both.size());
}

/// Counts the states it is asked to project; the CPU projects them. Copies count together.
class CountingDevice {
public:
  explicit CountingDevice(std::vector<std::size_t>& calls) : calls_(&calls) {}

  void top_tokens(lsaq::MatrixView states, lsaq::MatrixView embedding, std::size_t k, std::span<lsaq::ScoredToken> out) const {
    calls_->push_back(states.rows);
    cpu_.top_tokens(states, embedding, k, out);
  }

private:
  std::vector<std::size_t>* calls_; ///< rows of each call
  lsaq::Backend<lsaq::Cpu> cpu_;
};

} // namespace calibration_states
