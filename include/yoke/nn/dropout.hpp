// Dropout and stochastic depth as layers: active on training tapes only, each with a random stream
// of its own.
#pragma once
#include <yoke/ops/pointwise.hpp>

namespace yoke::nn {

/// Zeroes elements with probability `rate` and scales the others by 1 / (1 - rate).
struct dropout {
  float rate;
  std::uint64_t stream;

  dropout(scope const& s, float r) : rate{r}, stream{hash(s.path())} {}
  value<2> operator()(auto& t, value<2> x, segments const& runs) const {
    return t.training() && rate > 0 ? ops::element_dropout(t, x, runs, rate, stream) : x;
  }
};

/// Zeroes the branch of whole samples with probability `rate` and scales the others by 1 / (1 -
/// rate).
struct stochastic_depth {
  float rate;
  std::uint64_t stream;

  stochastic_depth(scope const& s, float r) : rate{r}, stream{hash(s.path())} {}
  value<2> operator()(auto& t, value<2> x, segments const& runs) const {
    return t.training() && rate > 0 ? ops::stochastic_depth(t, x, runs, rate, stream) : x;
  }
};

}  // namespace yoke::nn
