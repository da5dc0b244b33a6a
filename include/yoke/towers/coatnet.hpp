// CoAtNet (Dai et al., "CoAtNet: marrying convolution and attention for all data sizes", arXiv 2106.04803): a stem,
// stages of inverted bottlenecks, stages of attention with learned relative positions, the mean of what remains.
#pragma once
#include <yoke/autograd/remat.hpp>
#include <yoke/nn/batch_norm.hpp>
#include <yoke/nn/relative_attention.hpp>
#include <yoke/towers/coatnet_config.hpp>

#include <cmath>
#include <optional>
#include <span>
#include <vector>

namespace yoke::towers {

/// Convolutions of 3 x 3, a norm and an activation between each and the next.
template <class Norm>
struct coatnet_stem {
  std::vector<nn::convolution> convolutions;
  std::vector<Norm> norms;
  activation kind;
  extent_t stride;

  coatnet_stem(scope s, coatnet_config const& c) : kind{c.activation}, stride{c.stem_stride} {
    for (extent_t i = 0; i < c.stem_blocks; ++i) {
      if (i > 0)
        norms.emplace_back(s / "norm" / (i - 1), c.stem_width, c.norm_epsilon);
      convolutions.emplace_back(
          s / "convolution" / i,
          nn::convolution_config{.in = i == 0 ? c.channels : c.stem_width,
                                 .out = c.stem_width,
                                 .window = {.size = 3, .stride = i == 0 ? stride : 1, .padding = 1},
                                 .bias = c.stem_bias});
    }
  }

  value<4> operator()(auto& t, value<4> x) const {
    x = convolutions[0](t, x);
    for (std::size_t i = 1; i < convolutions.size(); ++i) x = convolutions[i](t, norms[i - 1](t, x, kind));
    return x;
  }
  /// What comes of images of this shape.
  shape<4> output_shape(shape<4> in) const {
    return {{in[0], in[1] / stride, in[2] / stride, convolutions[0].weight.shape[0]}};
  }
};

/// The blocks of one stage: all of one kind.
template <class Norm>
struct coatnet_blocks {
  std::vector<nn::mbconv<Norm>> convolutional;
  std::vector<nn::relative_attention_block> attentive;
};

/// Images (batch, height, width, channels) -> (batch, features), not normalised. `Norm` is that of the stem and of
/// MBConv; attention and MLP always have layer_norm.
///
/// With nn::batch_norm (published weights) the statistics are those of one micro-batch on one rank, so that a step in k
/// micro-batches, or on N ranks, is not the step of one batch. With nn::layer_norm it is.
///
/// Initial weights are normal with the variance 1 / inputs of one output; those of the matrix that ends a branch are
/// smaller by the number of branches, so that the stream does not grow with depth.
template <class Norm = nn::layer_norm>
class coatnet {
 public:
  coatnet(scope s, coatnet_config const& c)
      : config_{checked(c)},
        stem_{s / "stem", c},
        norm_{s / "norm", c.stages.back().width, c.layer_norm_epsilon} {
    auto in = c.stem_width;
    grid tokens{c.image_size.height / c.stem_stride, c.image_size.width / c.stem_stride};
    extent_t block = 0;
    for (std::size_t i = 0; i < c.stages.size(); ++i) {
      auto const& stage = c.stages[i];
      auto& blocks = stages_.emplace_back();
      tokens = {tokens.height / stage.stride, tokens.width / stage.stride};
      for (extent_t k = 0; k < stage.blocks; ++k, ++block, in = stage.width)
        add(s / "stage" / static_cast<extent_t>(i) / "block" / k, blocks, stage, in,
            k == 0 ? stage.stride : 1, tokens, depth_rate(block));
    }
    if (c.embedding > 0)
      projection_.emplace(s / "projection",
                          nn::linear_config{.in = in,
                                            .out = c.embedding,
                                            .bias = false,
                                            .split = nn::gathered_rows(s, c.model_parallel, c.embedding)});
  }

  value<2> operator()(auto& t, value<4> images) const {
    auto const [height, width] = config_.image_size;
    expects(images.shape[1] == height && images.shape[2] == width && images.shape[3] == config_.channels,
            [rows = height, columns = width, channels = config_.channels] {
              return "coatnet: images are " + std::to_string(rows) + " x " + std::to_string(columns) +
                     " pixels of " + std::to_string(channels) + " channels";
            });
    auto x = run_block(t, config_.remat, stem_, images);
    for (auto const& stage : stages_) {
      x = run_blocks(t, config_.remat, std::span{stage.convolutional}, x);
      x = run_blocks(t, config_.remat, std::span{stage.attentive}, x);
    }
    auto const y = norm_(t, ops::pool(t, ops::as_rows(x), nn::pixels_of(x.shape), pool_kind::mean));
    return projection_ ? (*projection_)(t, y) : y;
  }

  coatnet_config const& config() const { return config_; }

 private:
  void add(scope s, coatnet_blocks<Norm>& blocks, coatnet_stage const& stage, extent_t in, extent_t stride,
           grid tokens, float depth_rate) {
    auto const& c = config_;
    if (stage.kind == coatnet_block::mbconv)
      blocks.convolutional.emplace_back(s, nn::mbconv_config{.in = in,
                                                             .out = stage.width,
                                                             .stride = stride,
                                                             .expansion = c.expansion,
                                                             .squeezed = c.squeezed,
                                                             .strided = c.strided,
                                                             .pool = c.pool,
                                                             .activation = c.activation,
                                                             .squeeze_activation = c.squeeze_activation,
                                                             .norm_epsilon = c.norm_epsilon,
                                                             .stochastic_depth = depth_rate,
                                                             .branch_gain = branch_gain(),
                                                             .model_parallel = c.model_parallel});
    else
      blocks.attentive.emplace_back(s, nn::relative_attention_config{.in = in,
                                                                     .out = stage.width,
                                                                     .grid = tokens,
                                                                     .heads = stage.width / c.head_width,
                                                                     .stride = stride,
                                                                     .expansion = c.expansion,
                                                                     .pool = c.pool,
                                                                     .activation = c.activation,
                                                                     .norm_epsilon = c.layer_norm_epsilon,
                                                                     .stochastic_depth = depth_rate,
                                                                     .branch_gain = branch_gain(),
                                                                     .model_parallel = c.model_parallel});
  }
  float depth_rate(extent_t block) const {
    auto const last = config_.blocks() - 1;
    return last > 0 ? config_.stochastic_depth * float(block) / float(last) : config_.stochastic_depth;
  }
  float branch_gain() const {
    extent_t branches = 0;
    for (auto const& s : config_.stages)
      branches += s.kind == coatnet_block::mbconv ? s.blocks : 2 * s.blocks;
    return 1 / std::sqrt(static_cast<float>(branches));
  }

  coatnet_config config_;
  coatnet_stem<Norm> stem_;
  std::vector<coatnet_blocks<Norm>> stages_;
  nn::layer_norm norm_;
  std::optional<nn::linear> projection_;
};

}  // namespace yoke::towers
