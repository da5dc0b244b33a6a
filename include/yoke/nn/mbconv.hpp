// The inverted bottleneck (Sandler et al., arXiv 1801.04381) with squeeze-and-excitation and its norm ahead, as CoAtNet
// stacks it (Dai et al., arXiv 2106.04803, section A.1): widen, filter each channel, gate, narrow.
#pragma once
#include <yoke/nn/convolution.hpp>
#include <yoke/nn/images.hpp>
#include <yoke/nn/shortcut.hpp>
#include <yoke/nn/squeeze_excitation.hpp>

namespace yoke::nn {

/// Which convolution of a block that halves its images takes the stride: the first 1 x 1, as in CoAtNet's paper and the
/// cheaper; or the depthwise one, which sees every pixel (0.2 to 0.4 points better on ImageNet for CoAtNet-0 and 1).
enum class stride_in { expand, depthwise };

/// Of an mbconv block (CoAtNet, arXiv 2106.04803, appendix A).
struct mbconv_config {
  extent_t in, out;
  extent_t stride = 1;
  extent_t expansion = 4;  // of `out`, between the two 1 x 1 convolutions
  double squeezed = 0.25;  // of `out`, in the squeeze-and-excitation
  stride_in strided = stride_in::expand;
  window_pool_kind pool = window_pool_kind::max;
  yoke::activation activation = yoke::activation::gelu;
  yoke::activation squeeze_activation = yoke::activation::silu;
  double norm_epsilon = 1e-5;
  float stochastic_depth = 0;
  float branch_gain = 1;  // factor of the initial deviation of the matrix that ends the branch
  nn::model_parallel model_parallel = nn::model_parallel::none;  // its matrices are gathered either way
};

/// (batch, height, width, in) -> (batch, height / stride, width / stride, out): shortcut(x) + branch(norm(x)). `Norm`
/// is layer_norm, or batch_norm, whose statistics are of the micro-batch at hand.
template <class Norm>
struct mbconv {
  Norm norm, norm_expanded, norm_filtered;
  convolution expand;
  depthwise_convolution filter;
  squeeze_excitation gate;
  linear shrink;
  nn::shortcut shortcut;
  nn::stochastic_depth skip;
  activation kind;
  extent_t stride, width;

  mbconv(scope s, mbconv_config const& c)
      : norm{s / "norm", c.in, c.norm_epsilon},
        norm_expanded{s / "norm_expanded", inner(c), c.norm_epsilon},
        norm_filtered{s / "norm_filtered", inner(c), c.norm_epsilon},
        expand{s / "expand",
               {.in = c.in,
                .out = inner(c),
                .window = {.size = 1, .stride = stride_of(c, stride_in::expand), .padding = 0},
                .bias = false,
                .model_parallel = c.model_parallel}},
        filter{s / "filter",
               {.channels = inner(c),
                .window = {.size = 3, .stride = stride_of(c, stride_in::depthwise), .padding = 1}}},
        gate{s / "gate",
             {.width = inner(c),
              .squeezed = squeezed(c),
              .activation = c.squeeze_activation,
              .model_parallel = c.model_parallel}},
        shrink{s / "shrink",
               {.in = inner(c),
                .out = c.out,
                .deviation = c.branch_gain / std::sqrt(static_cast<float>(inner(c))),
                .split = gathered_rows(s, c.model_parallel, c.out)}},
        shortcut{s / "shortcut",
                 {.in = c.in,
                  .out = c.out,
                  .stride = c.stride,
                  .pool = c.pool,
                  .model_parallel = c.model_parallel}},
        skip{s / "skip", c.stochastic_depth},
        kind{c.activation},
        stride{c.stride},
        width{c.out} {}

  value<4> operator()(auto& t, value<4> x) const {
    auto y = expand(t, norm(t, x));
    y = filter(t, norm_expanded(t, y, kind));
    y = shrink(t, gate(t, norm_filtered(t, y, kind)));
    return ops::sum(t, shortcut(t, x), skip_images(t, skip, y));
  }
  /// What comes of images of this shape.
  shape<4> output_shape(shape<4> in) const { return {{in[0], in[1] / stride, in[2] / stride, width}}; }

 private:
  static extent_t inner(mbconv_config const& c) { return c.expansion * c.out; }
  static extent_t squeezed(mbconv_config const& c) {
    return std::max(extent_t{1}, static_cast<extent_t>(c.squeezed * static_cast<double>(c.out)));
  }
  static extent_t stride_of(mbconv_config const& c, stride_in which) {
    return c.strided == which ? c.stride : 1;
  }
};

}  // namespace yoke::nn
