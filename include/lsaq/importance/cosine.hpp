// Cosine: how far a layer turns the residual stream.
#pragma once

#include <lsaq/importance/policy.hpp>

namespace lsaq::inline v0::inline LSAQ_BASELINE {

/// I = 1 - cos(input, output) of a layer's states, averaged over positions (LWQ, arXiv 2406.17415; Block Influence of ShortGPT, arXiv 2403.03853).
///
/// Sums in double: residuals reach 26,000, and squares overflow narrower ones. Two zero vectors count as equal.
struct Cosine {
  static constexpr std::string_view name = "cosine";

  struct Options {
    double first_position = 0; ///< as of Jaccard
  };

  static double score(const Options& options, MatrixView entering, MatrixView leaving) noexcept {
    return over_positions(entering.rows, options.first_position, [&](std::size_t p) {
      const auto* a = static_cast<const float*>(entering.data) + p * entering.stride;
      const auto* b = static_cast<const float*>(leaving.data) + p * leaving.stride;
      double ab = 0, aa = 0, bb = 0;
      for (std::size_t i = 0; i < entering.columns; ++i) {
        ab += double{a[i]} * b[i];
        aa += double{a[i]} * a[i];
        bb += double{b[i]} * b[i];
      }
      const double norms = std::sqrt(aa) * std::sqrt(bb);
      return norms == 0 ? (aa == bb ? 0.0 : 1.0) : 1.0 - std::clamp(ab / norms, -1.0, 1.0);
    });
  }
};

static_assert(has_metric_name<Cosine> && scores_hidden_states<Cosine>);

} // namespace lsaq::inline v0::inline LSAQ_BASELINE
