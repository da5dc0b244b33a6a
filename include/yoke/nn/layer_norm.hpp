// Layer normalisation with a learned gain and bias.
#pragma once
#include <yoke/ops/normalize.hpp>

namespace yoke::nn {

/// Any shape whose last axis is `width`. Parameters: gain (width), bias (width).
struct layer_norm {
  parameter<1> gain, bias;
  double epsilon;

  layer_norm(scope s, extent_t width, double eps = 1e-5)
      : gain{s.constant("gain", shape{width}, 1)}, bias{s.constant("bias", shape{width}, 0)}, epsilon{eps} {}
  auto operator()(auto& t, auto x) const { return ops::layer_norm(t, x, gain, bias, epsilon); }
};

}  // namespace yoke::nn
