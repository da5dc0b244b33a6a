// Batch normalisation with a learned gain and bias (Ioffe & Szegedy, arXiv 1502.03167).
#pragma once
#include <yoke/ops/batch_norm.hpp>

namespace yoke::nn {

/// Any shape whose last axis is `width`. Training tapes normalise with the mean and variance of the rows at hand, which
/// the running values follow; others with the running values. Parameters: gain (width), bias (width); statistics: mean
/// (width), variance (width).
///
/// The rows at hand are those of one micro-batch on one rank: k micro-batches are not one batch, and N ranks are not
/// one, as they are with layer_norm. It is meant for weights that were trained with it.
struct batch_norm {
  parameter<1> gain, bias;
  statistic<1> mean, variance;
  double epsilon;

  batch_norm(scope s, extent_t width, double eps = 1e-5)
      : gain{s.constant("gain", shape{width}, 1)},
        bias{s.constant("bias", shape{width}, 0)},
        mean{s.statistic("mean", shape{width}, 0)},
        variance{s.statistic("variance", shape{width}, 1)},
        epsilon{eps} {}
  /// `then` is applied to what is normalised, in the same pass.
  auto operator()(auto& t, auto x, activation then = activation::identity) const {
    return ops::batch_norm(t, x, gain, bias, mean, variance, then, epsilon);
  }
};

}  // namespace yoke::nn
