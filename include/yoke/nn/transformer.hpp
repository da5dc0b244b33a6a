// The pre-norm transformer (Radford et al., "Language models are unsupervised multitask learners",
// 2019) over packed rows: self-attention, then an MLP, each behind a layer norm and added to its
// input.
#pragma once
#include <yoke/autograd/remat.hpp>
#include <yoke/nn/dropout.hpp>
#include <yoke/nn/layer_norm.hpp>
#include <yoke/nn/linear.hpp>
#include <yoke/ops/attention.hpp>

#include <vector>

namespace yoke::nn {

/// Of a stack of transformer blocks.
struct transformer_config {
  extent_t width = 512;
  extent_t layers = 12;
  extent_t heads = 8;
  extent_t mlp_width = 0;  // 0: 4 * width
  yoke::activation activation = yoke::activation::gelu;
  double norm_epsilon = 1e-5;
  bool causal = false;
  float dropout = 0;           // of each branch's output
  float stochastic_depth = 0;  // of the last block; earlier ones less, linearly from 0
  rematerialize remat = rematerialize::nothing;
  nn::model_parallel model_parallel = nn::model_parallel::none;
};

/// Multi-head self-attention: one matrix for queries, keys and values, one for the output.
struct attention {
  attention_shape settings;  // of the heads that this rank has
  linear qkv, out;

  attention(scope s, transformer_config const& c)
      : settings{heads_of_rank(s, c.model_parallel, c.heads), c.causal},
        qkv{s / "qkv",
            {.in = c.width,
             .out = 3 * c.width,
             .deviation = 1 / std::sqrt(float(c.width)),
             .split = column_or_gathered(s, c.model_parallel, 3 * c.width),
             .groups = 3}},
        out{s / "out",
            {.in = c.width,
             .out = c.width,
             .deviation = residual_deviation(c),
             .split = row_or_gathered(s, c.model_parallel, c.width, c.width)}} {
    expects(c.heads > 0 && c.width % c.heads == 0, "transformer: the width is a multiple of the heads");
  }
  value<2> operator()(auto& t, value<2> x, segments const& runs) const {
    return out(t, ops::attention(t, qkv(t, x), runs, settings));
  }

  /// CLIP's initial deviation of a matrix that writes to the residual stream.
  static float residual_deviation(transformer_config const& c) {
    return 1 / std::sqrt(static_cast<float>(2 * c.layers * c.width));
  }
};

/// width -> mlp_width, GELU, -> width.
struct mlp {
  linear up, down;
  activation kind;

  mlp(scope s, transformer_config const& c)
      : up{s / "up",
           {.in = c.width,
            .out = hidden(c),
            .deviation = 1 / std::sqrt(float(2 * c.width)),
            .split = column_or_gathered(s, c.model_parallel, hidden(c))}},
        down{s / "down",
             {.in = hidden(c),
              .out = c.width,
              .deviation = attention::residual_deviation(c),
              .split = row_or_gathered(s, c.model_parallel, hidden(c), c.width)}},
        kind{c.activation} {}
  auto operator()(auto& t, auto x) const { return down(t, ops::activate(t, up(t, x), kind)); }

  static extent_t hidden(transformer_config const& c) { return c.mlp_width > 0 ? c.mlp_width : 4 * c.width; }
};

/// Attention and an MLP, each behind a LayerNorm and beside a shortcut (pre-norm): (tokens, width) -> the same shape.
struct transformer_block {
  layer_norm norm_attention, norm_mlp;
  nn::attention attend;
  nn::mlp feed_forward;
  dropout drop_attention, drop_mlp;
  stochastic_depth skip_attention, skip_mlp;

  transformer_block(scope s, transformer_config const& c, float depth_rate)
      : norm_attention{s / "norm_attention", c.width, c.norm_epsilon},
        norm_mlp{s / "norm_mlp", c.width, c.norm_epsilon},
        attend{s / "attention", c},
        feed_forward{s / "mlp", c},
        drop_attention{s / "drop_attention", c.dropout},
        drop_mlp{s / "drop_mlp", c.dropout},
        skip_attention{s / "skip_attention", depth_rate},
        skip_mlp{s / "skip_mlp", depth_rate} {}

  value<2> operator()(auto& t, value<2> x, segments const& runs) const {
    auto const a = drop_attention(t, attend(t, norm_attention(t, x), runs), runs);
    x = ops::sum(t, x, skip_attention(t, a, runs));
    auto const m = drop_mlp(t, feed_forward(t, norm_mlp(t, x)), runs);
    return ops::sum(t, x, skip_mlp(t, m, runs));
  }
};

/// (rows, width) -> (rows, width) over the runs of rows.
struct transformer {
  std::vector<transformer_block> blocks;
  rematerialize remat_policy;

  transformer(scope s, transformer_config const& c) : remat_policy{c.remat} {
    for (extent_t i = 0; i < c.layers; ++i) {
      auto const rate =
          c.layers > 1 ? c.stochastic_depth * float(i) / float(c.layers - 1) : c.stochastic_depth;
      blocks.emplace_back(s / "block" / i, c, rate);
    }
  }
  value<2> operator()(auto& t, value<2> x, segments const& runs) const {
    return run_blocks(t, remat_policy, std::span{blocks}, x, runs);
  }
};

}  // namespace yoke::nn
