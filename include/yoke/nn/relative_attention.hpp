// Self-attention over a grid of tokens whose logits know how far apart the tokens are, and the transformer block around
// it, as CoAtNet has them (Dai et al., arXiv 2106.04803, sections 2.1 and A.1).
#pragma once
#include <yoke/nn/images.hpp>
#include <yoke/nn/layer_norm.hpp>
#include <yoke/nn/shortcut.hpp>
#include <yoke/ops/attention.hpp>
#include <yoke/ops/relative_bias.hpp>

namespace yoke::nn {

/// Of a transformer block with relative attention (CoAtNet, arXiv 2106.04803, section 2.1).
struct relative_attention_config {
  extent_t in, out;
  yoke::grid grid;  // of the tokens, after the stride
  extent_t heads;
  extent_t stride = 1;
  extent_t expansion = 4;  // of `out`, in the MLP
  window_pool_kind pool = window_pool_kind::max;
  yoke::activation activation = yoke::activation::gelu;
  double norm_epsilon = 1e-5;
  float stochastic_depth = 0;
  float branch_gain = 1;  // factor of the initial deviation of the matrices that end the branches
  nn::model_parallel model_parallel = nn::model_parallel::none;
};

/// (batch, height, width, in) -> (batch, height, width, out) on images of exactly the grid. Parameters besides the
/// two matrices: table (heads, 2 height - 1, 2 width - 1), of deviation 0.02, whose entry for the places of query and
/// key is added to their logit; it is not decayed.
struct relative_attention {
  attention_shape settings;  // of the heads that this rank has
  linear qkv, out;
  parameter<3> table;
  yoke::grid grid;

  relative_attention(scope s, relative_attention_config const& c)
      : settings{heads_of_rank(s, c.model_parallel, c.heads), false},
        qkv{s / "qkv",
            {.in = c.in,
             .out = 3 * c.out,
             .split = column_or_gathered(s, c.model_parallel, 3 * c.out),
             .groups = 3}},
        out{s / "out",
            {.in = c.out,
             .out = c.out,
             .deviation = c.branch_gain / std::sqrt(static_cast<float>(c.out)),
             .split = row_or_gathered(s, c.model_parallel, c.out, c.out)}},
        table{s.weight("table", shape{c.heads, 2 * c.grid.height - 1, 2 * c.grid.width - 1}, 0.02f,
                       weight_decay::no, c.model_parallel == model_parallel::tensor ? cut{0, 1} : cut{})},
        grid{c.grid} {
    expects(c.heads > 0 && c.out % c.heads == 0, "relative attention: the width is a multiple of the heads");
  }

  value<4> operator()(auto& t, value<4> x) const {
    expects(x.shape[1] == grid.height && x.shape[2] == grid.width, [&] {
      return "relative attention: the table is for a grid of " + std::to_string(grid.height) + " x " +
             std::to_string(grid.width) + " tokens, not " + std::to_string(x.shape[1]) + " x " +
             std::to_string(x.shape[2]);
    });
    auto const bias = ops::relative_bias(t, table, grid);
    auto const y = out(t, ops::attention(t, qkv(t, ops::as_rows(x)), pixels_of(x.shape), settings, bias));
    return ops::as_images(y, {{x.shape[0], x.shape[1], x.shape[2], y.shape[1]}});
  }
};

/// (batch, height, width, in) -> (batch, height / stride, width / stride, out): x' = shortcut(x) +
/// attention(pool(norm(x))), then x' + MLP(norm(x')).
struct relative_attention_block {
  layer_norm norm_attention, norm_mlp;
  relative_attention attend;
  linear up, down;
  nn::shortcut shortcut;
  nn::stochastic_depth skip_attention, skip_mlp;
  activation kind;

  relative_attention_block(scope s, relative_attention_config const& c)
      : norm_attention{s / "norm_attention", c.in, c.norm_epsilon},
        norm_mlp{s / "norm_mlp", c.out, c.norm_epsilon},
        attend{s / "attention", c},
        up{s / "mlp" / "up",
           {.in = c.out,
            .out = c.expansion * c.out,
            .split = column_or_gathered(s, c.model_parallel, c.expansion * c.out)}},
        down{s / "mlp" / "down",
             {.in = c.expansion * c.out,
              .out = c.out,
              .deviation = c.branch_gain / std::sqrt(static_cast<float>(c.expansion * c.out)),
              .split = row_or_gathered(s, c.model_parallel, c.expansion * c.out, c.out)}},
        shortcut{s / "shortcut",
                 {.in = c.in,
                  .out = c.out,
                  .stride = c.stride,
                  .pool = c.pool,
                  .model_parallel = c.model_parallel}},
        skip_attention{s / "skip_attention", c.stochastic_depth},
        skip_mlp{s / "skip_mlp", c.stochastic_depth},
        kind{c.activation} {}

  value<4> operator()(auto& t, value<4> x) const {
    auto const normed = downsample(t, norm_attention(t, x), shortcut.stride, shortcut.pool);
    x = ops::sum(t, shortcut(t, x), skip_images(t, skip_attention, attend(t, normed)));
    auto const m = down(t, ops::activate(t, up(t, norm_mlp(t, x)), kind));
    return ops::sum(t, x, skip_images(t, skip_mlp, m));
  }
  /// What comes of images of this shape.
  shape<4> output_shape(shape<4> in) const {
    return {{in[0], in[1] / shortcut.stride, in[2] / shortcut.stride, norm_mlp.gain.shape[0]}};
  }
};

}  // namespace yoke::nn
