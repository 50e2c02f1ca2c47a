// Layers rounded by a policy that looks at calibration statistics, in the place of a WeightLoader.
#pragma once

#include <lsaq/models/llama_calibration.hpp>
#include <lsaq/quantization/rounding.hpp>

#include <chrono>
#include <functional>

namespace lsaq::inline v0::llama {

/// How the linears of a model are rounded; their bits are the plan's.
struct ModelRounding {
  Rounding rounding = Rounding::nearest;
  Grouping grouping = {};
  CodeRange range = CodeRange::symmetric;
  ScaleType scale = ScaleType::f16;
  GptqOptions gptq = {};

  PackedFormat format(unsigned bits) const noexcept { return {.bits = bits, .scale = scale, .grouping = grouping, .range = range}; }
};

/// What rounding a linear cost on the inputs that were held back.
struct RoundingReport {
  std::size_t layer = 0;
  Linear linear = Linear::q;
  unsigned bits = 16;
  Rounding rounding = Rounding::nearest; ///< the policy that was kept
  double output = 0;                     ///< mean |X W^T|^2; 0 without calibration
  double errors[3] = {};                 ///< by Rounding: mean |X (W - W')^T|^2
  double weights = 0;                    ///< |W|^2
  double weight_error = 0;               ///< |W - W'|^2
  double seconds = 0;

  /// Relative squared output error of what was kept; NaN without calibration.
  double relative_error() const noexcept { return output > 0 ? errors[static_cast<std::size_t>(rounding)] / output : std::nan(""); }
  /// Signal to noise of the weights, in decibels.
  double snr() const noexcept { return weight_error > 0 ? 10 * std::log10(weights / weight_error) : std::numeric_limits<double>::infinity(); }
};

} // namespace lsaq::inline v0::llama

namespace lsaq::inline v0::llama::inline LSAQ_BASELINE {

/// Gives layers rounded by a policy, from a WeightLoader's weights and statistics found before.
class RoundingLoader {
public:
  /// `statistics(layer)` gives those of a layer, in the basis that `basis` says; it is asked once for each layer() that quantizes, unless rounding is Nearest.
  RoundingLoader(WeightLoader loader, ModelRounding rounding, std::function<LayerStatistics(std::size_t)> statistics,
                 StatisticsBasis basis = StatisticsBasis::stored)
      : loader_(std::move(loader)), rounding_(rounding), statistics_(std::move(statistics)), basis_(basis) {}

  /// Is told about every linear that was rounded. Nearest codes are then compared with the weights again, which takes longer than finding them.
  RoundingLoader& on_rounded(std::function<void(const RoundingReport&)> report) {
    report_ = std::move(report);
    return *this;
  }

  const WeightLoader& weights() const noexcept { return loader_; }
  const ModelRounding& rounding() const noexcept { return rounding_; }

  template <backend Device> OuterWeights outer(const Device& device) const { return loader_.outer(device); }

  /// As WeightLoader::layer(). Memory: a linear's weights as FP32 three times, one input's statistics transformed, and its factor for GPTQ. Throws what the
  /// loader and the policies throw.
  template <backend Device, class BitsOf> LayerWeights layer(const Device& device, std::size_t layer, BitsOf&& bits_of) const {
    LayerWeights found = with_rounding(device, layer, [&](auto&& round) { return loader_.layer(device, layer, bits_of, rounding_.format(0), round); });
    for (std::size_t i = 0; i < linears_per_layer; ++i) report_nearest(layer, static_cast<Linear>(i), found.linears[i], device.executor());
    return found;
  }

  /// As WeightLoader::each_linear(), in the same memory, with one linear at a time beside it.
  template <backend Device, class BitsOf, class Take> void each_linear(const Device& device, std::size_t layer, BitsOf&& bits_of, Take&& take) const {
    with_rounding(device, layer, [&](auto&& round) {
      loader_.each_linear(device, layer, bits_of, rounding_.format(0), round, [&](Linear linear, DeployedMatrix matrix) {
        report_nearest(layer, linear, matrix, device.executor());
        take(linear, std::move(matrix));
      });
    });
  }

private:
  /// Calls act(round) with what rounds the linears of a layer in their order; statistics and factors are kept from one to the next that has the same input.
  template <backend Device, class Act> auto with_rounding(const Device& device, std::size_t layer, Act&& act) const {
    LayerStatistics stored;
    std::optional<InputStatistics> inputs;
    std::optional<GptqFactor> factor;
    LinearInput current = LinearInput::attention;
    bool any = false;
    return act([&](Linear linear, unsigned bits) -> std::optional<PackedMatrix> {
      if (rounding_.rounding == Rounding::nearest) return std::nullopt;
      if (!any) stored = statistics_(layer);
      const LinearInput input = input_of(linear);
      if (!any || input != current) {
        factor.reset();
        inputs = transformed(std::move(stored[static_cast<std::size_t>(input)]), loader_.transform().get(), layer, input, loader_.gain_of(layer, input), basis_,
                             device.executor());
        current = input;
        any = true;
        if (rounding_.rounding == Rounding::gptq) factor.emplace(*inputs, rounding_.gptq, device.executor());
      }
      const auto start = std::chrono::steady_clock::now();
      const std::vector<float> weights = loader_.weights_of(layer, linear);
      const MatrixShape shape = shape_of(loader_.config(), linear);
      RoundedMatrix rounded = round_guarded(device, MatrixView(weights.data(), shape.rows, shape.columns), *inputs, factor ? &*factor : nullptr,
                                            rounding_.rounding, rounding_.format(bits));
      if (report_) {
        RoundingReport report{.layer = layer, .linear = linear, .bits = bits, .rounding = rounded.rounding, .output = rounded.output};
        std::copy(std::begin(rounded.errors), std::end(rounded.errors), report.errors);
        report.weights = sum_of_squares(MatrixView(weights.data(), shape.rows, shape.columns));
        report.weight_error = rounded.weight_error;
        report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        report_(report);
      }
      return std::move(rounded.packed);
    });
  }

  void report_nearest(std::size_t layer, Linear linear, const DeployedMatrix& matrix, ExecutorRef executor) const {
    const PackedMatrix* packed = matrix.packed();
    if (!report_ || rounding_.rounding != Rounding::nearest || packed == nullptr) return;
    RoundingReport report{.layer = layer, .linear = linear, .bits = packed->bits()};
    const std::vector<float> weights = loader_.weights_of(layer, linear);
    const MatrixView view(weights.data(), packed->rows(), packed->columns());
    std::vector<float> difference(weights.size());
    const MutableMatrixView left(difference.data(), packed->rows(), packed->columns());
    rounding_difference(packed->view(), view, left, executor);
    report.weights = sum_of_squares(view);
    report.weight_error = sum_of_squares(left);
    report_(report);
  }

  WeightLoader loader_;
  ModelRounding rounding_;
  std::function<LayerStatistics(std::size_t)> statistics_;
  StatisticsBasis basis_;
  std::function<void(const RoundingReport&)> report_;
};

/// Rounds a model layer by layer, each on the inputs that the rounded layers before it give: errors of earlier layers are seen and made up for where they can
/// be.
///
/// Unlike statistics of the unquantized model these are good for one plan and one rounding only. Refers to its arguments.
template <backend Device> class SequentialRounding {
public:
  /// `loader` is the transformed model's. Throws as LayerwisePass.
  SequentialRounding(const Config& config, const WeightLoader& loader, ModelRounding rounding, const OuterWeights& outer, const Device& device,
                     const Windows& windows)
      : loader_(loader), device_(device), pass_(config, loader, outer, device, windows), collector_(config, device, windows),
        rounding_(
            loader, rounding, [this](std::size_t) { return std::move(statistics_); }, StatisticsBasis::transformed) {}

  SequentialRounding(const SequentialRounding&) = delete;
  SequentialRounding& operator=(const SequentialRounding&) = delete;

  /// For on_rounded().
  RoundingLoader& rounding() noexcept { return rounding_; }

  /// The pass through the rounded layers so far: its boundary and states are what resume_at() takes.
  const LayerwisePass<Device>& pass() const noexcept { return pass_; }
  void resume_at(std::size_t boundary, std::span<const float> states) { pass_.resume_at(boundary, states); }

  /// The next layer, rounded. Runs all windows twice through it. on_window(w) is called before each window; what it throws ends the rounding. Throws as
  /// RoundingLoader::layer().
  template <class BitsOf, class OnWindow> LayerWeights next(BitsOf&& bits_of, OnWindow&& on_window) {
    const std::size_t layer = pass_.boundary();
    statistics_ = collect_statistics(collector_, on_window, [&](auto&& begin_window, auto&& on_input) {
      pass_.look_at_layer(loader_.layer(device_, layer, [](std::string_view) { return 16u; }), begin_window, on_input);
    });
    LayerWeights rounded = rounding_.layer(device_, layer, bits_of);
    pass_.run_layer_with(rounded, on_window, [](LinearInput, MatrixView) {});
    return rounded;
  }

private:
  const WeightLoader& loader_;
  const Device& device_;
  LayerwisePass<Device> pass_;
  LayerStatisticsCollector<Device> collector_;
  LayerStatistics statistics_;
  RoundingLoader rounding_;
};

} // namespace lsaq::inline v0::llama::inline LSAQ_BASELINE
