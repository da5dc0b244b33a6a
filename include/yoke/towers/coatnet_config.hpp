// What there is to choose about a CoAtNet.
#pragma once
#include <yoke/autograd/remat.hpp>
#include <yoke/nn/mbconv.hpp>
#include <yoke/towers/vit.hpp>

#include <string>
#include <vector>

namespace yoke::towers {

enum class coatnet_block { mbconv, attention };

/// Blocks of one kind and width at one resolution. The first takes the stride.
struct coatnet_stage {
  coatnet_block kind;
  extent_t blocks;
  extent_t width;
  extent_t stride = 2;  // 1: at the resolution of the stage before
};

/// Of a CoAtNet image tower (arXiv 2106.04803); coatnet_presets.hpp has those of the paper.
struct coatnet_config {
  image_extent image_size = 224;  // both multiples of all strides together
  extent_t channels = 3;
  extent_t stem_width = 64;
  extent_t stem_blocks = 2;  // 3 x 3 convolutions; the first takes the stride
  extent_t stem_stride = 2;
  bool stem_bias = true;
  std::vector<coatnet_stage> stages;
  extent_t head_width = 32;
  extent_t expansion = 4;  // of a stage's width, inside its blocks
  double squeezed = 0.25;  // of a stage's width, inside the squeeze-and-excitation
  extent_t embedding = 0;  // 0: no projection, the last stage's width
  nn::stride_in strided = nn::stride_in::expand;
  window_pool_kind pool = window_pool_kind::max;  // where a block halves its images, on the way around it
  yoke::activation activation = yoke::activation::gelu;
  yoke::activation squeeze_activation = yoke::activation::silu;
  double norm_epsilon = 1e-5;        // of the norms in stem and MBConv
  double layer_norm_epsilon = 1e-5;  // of those in attention, MLP and at the end
  float stochastic_depth = 0;        // of the last block; earlier ones less, linearly from 0
  rematerialize remat = rematerialize::nothing;
  nn::model_parallel model_parallel = nn::model_parallel::none;

  /// All strides together: one pixel of the last stage is this many of the image.
  extent_t stride() const {
    auto product = stem_stride;
    for (auto const& s : stages) product *= s.stride;
    return product;
  }
  extent_t blocks() const {
    extent_t n = 0;
    for (auto const& s : stages) n += s.blocks;
    return n;
  }
  /// The width of what the tower gives.
  extent_t features() const { return embedding > 0 ? embedding : stages.back().width; }
};

/// The configuration itself if it describes a tower; else contract_violation says what is wrong.
inline coatnet_config const& checked(coatnet_config const& c) {
  expects(c.stem_width > 0 && c.stem_blocks > 0 && c.stem_stride > 0 && c.channels > 0,
          "coatnet: the stem has a width, convolutions and a stride");
  expects(!c.stages.empty(), "coatnet: there is a stage");
  for (auto const& s : c.stages) {
    expects(s.blocks > 0 && s.width > 0 && s.stride > 0,
            "coatnet: every stage has blocks, a width and a stride");
    expects(s.kind == coatnet_block::mbconv || (c.head_width > 0 && s.width % c.head_width == 0), [&] {
      return "coatnet: an attention stage's width, here " + std::to_string(s.width) +
             ", is a multiple of the head width " + std::to_string(c.head_width);
    });
  }
  expects(c.image_size.height > 0 && c.image_size.width > 0 && c.image_size.height % c.stride() == 0 &&
              c.image_size.width % c.stride() == 0,
          [&] {
            return "coatnet: images of " + std::to_string(c.image_size.height) + " x " +
                   std::to_string(c.image_size.width) + " pixels are a multiple of the strides, " +
                   std::to_string(c.stride());
          });
  expects(c.stochastic_depth >= 0 && c.stochastic_depth < 1, "coatnet: 0 <= stochastic depth < 1");
  return c;
}

}  // namespace yoke::towers
