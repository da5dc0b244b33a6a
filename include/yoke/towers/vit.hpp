// The vision transformer (Dosovitskiy et al., arXiv 2010.11929) as CLIP trains it (Radford et al.,
// arXiv 2103.00020): patches, an optional class token, learned positions, a norm before and after
// the blocks, a projection.
#pragma once
#include <yoke/nn/transformer.hpp>
#include <yoke/ops/tokens.hpp>

#include <string_view>

namespace yoke::towers {

/// How the tokens become one embedding: the class token's row, or the mean of the patches' rows (no
/// class token).
enum class vit_pool { class_token, mean };

struct vit_config {
  extent_t image_size = 224;  // square, a multiple of the patch
  extent_t patch_size = 32;
  extent_t channels = 3;
  extent_t width = 768;
  extent_t layers = 12;
  extent_t heads = 12;
  extent_t mlp_width = 0;  // 0: 4 * width
  extent_t embedding = 512;
  vit_pool pool = vit_pool::class_token;
  gelu_kind gelu = gelu_kind::erf;
  float dropout = 0;
  float stochastic_depth = 0;
  rematerialize remat = rematerialize::nothing;

  extent_t patches() const { return (image_size / patch_size) * (image_size / patch_size); }
  extent_t tokens() const { return patches() + (pool == vit_pool::class_token ? 1 : 0); }
};

/// Images (batch, size, size, channels) -> (batch, embedding), not normalised.
class vit {
 public:
  vit(scope s, vit_config const& c)
      : config_{checked(c)},
        patch_{s / "patch",
               {.in = c.patch_size * c.patch_size * c.channels, .out = c.width, .bias = false}},
        positions_{s.weight("positions", shape{c.tokens(), c.width}, deviation(c))},
        norm_before_{s / "norm_before", c.width},
        blocks_{s,
                {.width = c.width,
                 .layers = c.layers,
                 .heads = c.heads,
                 .mlp_width = c.mlp_width,
                 .gelu = c.gelu,
                 .dropout = c.dropout,
                 .stochastic_depth = c.stochastic_depth,
                 .remat = c.remat}},
        norm_after_{s / "norm_after", c.width},
        projection_{s / "projection",
                    {.in = c.width, .out = c.embedding, .bias = false, .deviation = deviation(c)}} {
    if (c.pool == vit_pool::class_token)
      class_token_ = s.weight("class_token", shape{c.width}, deviation(c));
  }

  value<2> operator()(auto& t, value<4> images) const {
    expects(
        images.shape[1] == config_.image_size && images.shape[2] == config_.image_size &&
            images.shape[3] == config_.channels,
        [&] { return "vit: images are " + std::to_string(config_.image_size) + " pixels square"; });
    auto const count = images.shape[0];
    auto const runs = segments::uniform(count, config_.tokens());
    auto x = patch_(t, ops::patches(t, images, config_.patch_size));
    x = ops::with_positions(t, x, count, class_token_, positions_);
    x = blocks_(t, norm_before_(t, x), runs);
    if (config_.pool == vit_pool::class_token)  // only the pooled rows need the norm
      return projection_(t, norm_after_(t, ops::pool(t, x, runs, pool_kind::first)));
    return projection_(t, ops::pool(t, norm_after_(t, x), runs, pool_kind::mean));
  }

  vit_config const& config() const { return config_; }

 private:
  static float deviation(vit_config const& c) { return 1 / std::sqrt(static_cast<float>(c.width)); }
  static vit_config const& checked(vit_config const& c) {
    expects(c.patch_size > 0 && c.image_size > 0 && c.image_size % c.patch_size == 0,
            "vit: the image size is a multiple of the patch size");
    expects(c.width > 0 && c.layers >= 0 && c.embedding > 0,
            "vit: width and embedding are positive");
    return c;
  }

  vit_config config_;
  nn::linear patch_;
  parameter<1> class_token_;
  parameter<2> positions_;
  nn::layer_norm norm_before_;
  nn::transformer blocks_;
  nn::layer_norm norm_after_;
  nn::linear projection_;
};

}  // namespace yoke::towers
