// Squeeze-and-excitation (Hu et al., arXiv 1709.01507): what an image has on average says how much of each channel
// remains.
#pragma once
#include <yoke/nn/images.hpp>
#include <yoke/nn/linear.hpp>
#include <yoke/ops/gate.hpp>
#include <yoke/ops/pointwise.hpp>
#include <yoke/ops/tokens.hpp>

namespace yoke::nn {

/// Of a squeeze_excitation.
struct squeeze_excitation_config {
  extent_t width, squeezed;
  yoke::activation activation = yoke::activation::silu;
  nn::model_parallel model_parallel = nn::model_parallel::none;
};

/// (batch, height, width, channels) -> the same shape.
struct squeeze_excitation {
  linear squeeze, excite;
  activation kind;

  squeeze_excitation(scope s, squeeze_excitation_config const& c)
      : squeeze{s / "squeeze",
                {.in = c.width, .out = c.squeezed, .split = gathered_rows(s, c.model_parallel, c.squeezed)}},
        excite{s / "excite",
               {.in = c.squeezed, .out = c.width, .split = gathered_rows(s, c.model_parallel, c.width)}},
        kind{c.activation} {}

  value<4> operator()(auto& t, value<4> x) const {
    auto const pixels = pixels_of(x.shape);
    auto const rows = ops::as_rows(x);
    auto const mean = ops::pool(t, rows, pixels, pool_kind::mean);  // (batch, channels)
    auto const logits = excite(t, ops::activate(t, squeeze(t, mean), kind));
    return ops::as_images(ops::gate(t, rows, logits, pixels), x.shape);
  }
};

}  // namespace yoke::nn
