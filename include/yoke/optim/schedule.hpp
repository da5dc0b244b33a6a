// The learning rate as a function of the step: linear warm-up, then constant, linear or cosine
// decay.
#pragma once
#include <yoke/core/expects.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace yoke::optim {

/// How the rate falls from its peak.
enum class decay { constant, linear, cosine };

/// The learning rate: a linear warm-up, then a decay. Steps are those of the optimiser.
struct schedule {
  double peak = 5e-4;
  std::int64_t warmup = 0;  // steps from peak / warmup up to peak
  std::int64_t steps = 0;   // in all
  optim::decay decay = decay::cosine;
  double floor = 0;  // the rate at `steps`, unless the decay is constant

  /// The rate of step 0, 1, …; past the last step, the floor (OpenCLIP's schedule of the same
  /// name).
  double operator()(std::int64_t step) const {
    expects(step >= 0, "schedule: the step is not negative");
    if (step < warmup)
      return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
    if (decay == decay::constant || steps <= warmup)
      return peak;
    auto const progress =
        std::min(1.0, static_cast<double>(step - warmup) / static_cast<double>(steps - warmup));
    auto const share =
        decay == decay::linear ? 1 - progress : 0.5 * (1 + std::cos(std::numbers::pi * progress));
    return floor + (peak - floor) * share;
  }
};

}  // namespace yoke::optim
