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
  /// `then` is applied to what is normalised, in the same pass.
  auto operator()(auto& t, auto x, activation then) const {
    return ops::layer_norm_activation(t, x, gain, bias, then, epsilon);
  }
};

}  // namespace yoke::nn
