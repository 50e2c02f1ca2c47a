// The hidden states of calibration windows as an engine hands them over: copied at every layer boundary, scored later.
#pragma once

#include <lsaq/half.hpp>
#include <lsaq/types.hpp>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <limits>
#include <vector>

namespace lsaq::inline v0 {

/// What a window holds: `positions` rows of each of `sequences` texts that went through the model together, each text a calibration window of its own.
struct WindowShape {
  std::size_t sequences = 1;
  std::size_t positions = 1;
  std::size_t hidden = 0;

  [[gnu::always_inline]] std::size_t rows() const noexcept { return sequences * positions; }
};

} // namespace lsaq::inline v0

namespace lsaq::inline v0::inline LSAQ_BASELINE {

namespace detail {

/// An atomic that copies with the value it is a part of.
template <class T> struct CopyableAtomic {
  std::atomic<T> value{};

  CopyableAtomic() = default;
  CopyableAtomic(const CopyableAtomic& other) noexcept : value(other.get()) {}
  CopyableAtomic& operator=(const CopyableAtomic& other) noexcept {
    set(other.get());
    return *this;
  }
  T get() const noexcept { return value.load(std::memory_order_relaxed); }
  void set(T now) noexcept { value.store(now, std::memory_order_relaxed); }
};

} // namespace detail

/// Collects hidden states at every boundary. A value: several may be open at once, one for each batch or thread.
///
/// Boundary b is the residual stream entering layer b; boundary n_layers is what leaves the last layer, before the final norm. A window begun with a shape
/// allocates at once and may be filled in parts (split prefill) and by several threads, as long as no row of a boundary is written twice; a window without one
/// takes its shape (one sequence) from the first states it sees, and wants one call a boundary.
class ImportanceWindow {
public:
  explicit ImportanceWindow(std::size_t layers) : seen_(layers + 1) {}

  /// Throws std::bad_alloc, and std::length_error for a shape beyond any memory; nothing is allocated afterwards.
  ImportanceWindow(std::size_t layers, WindowShape shape) : seen_(layers + 1), shape_(shape), fixed_(true) { states_.resize(floats(shape)); }

  /// Copies the rows of `states` (any float type and stride) as rows first_row onwards of `boundary`, where row = sequence * positions + position; the engine
  /// may overwrite them at once.
  ///
  /// noexcept: what goes wrong (boundary out of range or seen twice, rows beyond the shape, shapes that are empty or change, no memory) is kept and thrown by
  /// end_window. Allocates only in a window begun without a shape, at its first boundary, and only if no window before it in this object was as large.
  void observe(std::size_t boundary, MatrixView states, std::size_t first_row = 0) noexcept {
    if (fault() != nullptr) return;
    if (boundary >= seen_.size()) return set_fault("a boundary beyond the last layer was observed");
    if (states.rows == 0 || states.columns == 0) return set_fault("the hidden states have no rows or no columns");
    if (shape_.hidden == 0 && !take_shape(states)) return set_fault("no memory for the window's hidden states");
    if (states.columns != shape_.hidden) return set_fault("the shape of the hidden states changed within the window");
    if (first_row > shape_.rows() || states.rows > shape_.rows() - first_row)
      return set_fault(fixed_ ? "more rows were observed than the window's shape has" : "the shape of the hidden states changed within the window");
    const std::size_t before = seen_[boundary].value.fetch_add(states.rows, std::memory_order_relaxed);
    if (before + states.rows > shape_.rows()) return set_fault("a boundary was observed twice in one window");
    for (std::size_t r = 0; r < states.rows; ++r) copy_row(states.row(r), states.type, row(boundary, first_row + r));
  }

  std::size_t layers() const noexcept { return seen_.size() - 1; }
  const WindowShape& shape() const noexcept { return shape_; }

private:
  template <class> friend class ImportanceMetric;

  /// Floats of all boundaries; the largest number if there is none for it.
  std::size_t floats(const WindowShape& shape) const noexcept {
    std::size_t count = seen_.size();
    for (const std::size_t factor : {shape.sequences, shape.positions, shape.hidden}) {
      if (factor != 0 && count > std::numeric_limits<std::size_t>::max() / factor) return std::numeric_limits<std::size_t>::max();
      count *= factor;
    }
    return count;
  }

  float* row(std::size_t boundary, std::size_t r) noexcept { return states_.data() + (boundary * shape_.rows() + r) * shape_.hidden; }

  void copy_row(const std::byte* from, ElementType type, float* to) const noexcept {
    if (type == ElementType::f32) {
      std::memcpy(to, from, shape_.hidden * sizeof(float));
    } else {
      for (std::size_t i = 0; i < shape_.hidden; ++i) to[i] = load_element(from, type, i);
    }
  }

  bool take_shape(MatrixView first) noexcept {
    const WindowShape shape{1, first.rows, first.columns};
    const std::size_t needed = floats(shape);
#if LSAQ_EXCEPTIONS
    try {
      if (states_.size() < needed) states_.resize(needed);
    } catch (const std::exception&) { // bad_alloc, length_error
      return false;
    }
#else
    if (states_.size() < needed) states_.resize(needed);
#endif
    shape_ = shape;
    return true;
  }

  /// Ready for the next window; memory and a shape that was given stay.
  void empty() noexcept {
    for (auto& seen : seen_) seen.set(0);
    if (!fixed_) shape_ = {.sequences = 1, .positions = 1, .hidden = 0};
  }

  const char* fault() const noexcept { return fault_.get(); }
  void set_fault(const char* sentence) noexcept { fault_.set(sentence); }

  std::vector<float> states_;                             // boundary by boundary, rows x hidden; may be larger than the shape needs
  std::vector<detail::CopyableAtomic<std::size_t>> seen_; // rows seen of each boundary
  WindowShape shape_;
  bool fixed_ = false; // the shape was given
  detail::CopyableAtomic<const char*> fault_;
};

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
