// The vision transformer (Dosovitskiy et al., arXiv 2010.11929) as CLIP trains it (Radford et al., arXiv 2103.00020):
// patches, an optional class token, learned positions, a norm before and after the blocks, a projection.
#pragma once
#include <yoke/nn/transformer.hpp>
#include <yoke/ops/tokens.hpp>

#include <optional>

namespace yoke::towers {

/// How the tokens become one embedding: the class token's row; the mean of the patches' rows, without a class token;
/// or that mean beside a class token, which only attends (OpenCLIP's "avg").
enum class vit_pool { class_token, mean, mean_beside_class_token };

/// Height and width in pixels; one number is a square.
struct image_extent {
  extent_t height, width;

  constexpr image_extent(extent_t square) : height{square}, width{square} {}
  constexpr image_extent(extent_t h, extent_t w) : height{h}, width{w} {}
};

/// Of a ViT image tower (arXiv 2010.11929); the defaults are ViT-B/32.
struct vit_config {
  image_extent image_size = 224;  // both multiples of the patch size
  extent_t patch_size = 32;
  extent_t channels = 3;
  extent_t width = 768;
  extent_t layers = 12;
  extent_t heads = 12;
  extent_t mlp_width = 0;  // 0: 4 * width
  extent_t embedding = 512;
  vit_pool pool = vit_pool::class_token;
  bool norm_before = true;       // a layer norm ahead of the blocks
  bool norm_after_pool = false;  // of a mean: the norm is of the mean, not of the rows that go into it
  double norm_epsilon = 1e-5;
  yoke::activation activation = yoke::activation::gelu;
  float dropout = 0;
  float stochastic_depth = 0;
  rematerialize remat = rematerialize::nothing;
  nn::model_parallel model_parallel = nn::model_parallel::none;

  extent_t patches() const { return (image_size.height / patch_size) * (image_size.width / patch_size); }
  bool has_class_token() const { return pool != vit_pool::mean; }
  extent_t tokens() const { return patches() + (has_class_token() ? 1 : 0); }
};

/// Images (batch, height, width, channels) -> (batch, embedding), not normalised.
class vit {
 public:
  vit(scope s, vit_config const& c)
      : config_{checked(c)},
        patch_{s / "patch",
               {.in = c.patch_size * c.patch_size * c.channels,
                .out = c.width,
                .bias = false,
                .split = nn::gathered_rows(s, c.model_parallel, c.width)}},
        positions_{s.weight("positions", shape{c.tokens(), c.width}, deviation(c))},
        blocks_{s,
                {.width = c.width,
                 .layers = c.layers,
                 .heads = c.heads,
                 .mlp_width = c.mlp_width,
                 .activation = c.activation,
                 .norm_epsilon = c.norm_epsilon,
                 .dropout = c.dropout,
                 .stochastic_depth = c.stochastic_depth,
                 .remat = c.remat,
                 .model_parallel = c.model_parallel}},
        norm_after_{s / "norm_after", c.width, c.norm_epsilon},
        projection_{s / "projection",
                    {.in = c.width,
                     .out = c.embedding,
                     .bias = false,
                     .deviation = deviation(c),
                     .split = nn::gathered_rows(s, c.model_parallel, c.embedding)}} {
    if (c.norm_before)
      norm_before_.emplace(s / "norm_before", c.width, c.norm_epsilon);
    if (c.has_class_token())
      class_token_ = s.weight("class_token", shape{c.width}, deviation(c));
  }

  value<2> operator()(auto& t, value<4> images) const {
    auto const [height, width] = config_.image_size;
    expects(images.shape[1] == height && images.shape[2] == width && images.shape[3] == config_.channels,
            [rows = height, columns = width, channels = config_.channels] {
              return "vit: images are " + std::to_string(rows) + " x " + std::to_string(columns) +
                     " pixels of " + std::to_string(channels) + " channels";
            });
    auto const count = images.shape[0];
    auto const runs = segments::uniform(count, config_.tokens());
    auto x = patch_(t, ops::patches(t, images, config_.patch_size));
    x = ops::with_positions(t, x, count, class_token_, positions_);
    x = blocks_(t, norm_before_ ? (*norm_before_)(t, x) : x, runs);
    auto const kind = config_.pool == vit_pool::class_token ? pool_kind::first
                      : config_.has_class_token()           ? pool_kind::mean_rest
                                                            : pool_kind::mean;
    if (kind == pool_kind::first || config_.norm_after_pool)  // only the pooled rows need the norm
      return projection_(t, norm_after_(t, ops::pool(t, x, runs, kind)));
    return projection_(t, ops::pool(t, norm_after_(t, x), runs, kind));
  }

  vit_config const& config() const { return config_; }

 private:
  static float deviation(vit_config const& c) { return 1 / std::sqrt(static_cast<float>(c.width)); }
  static vit_config const& checked(vit_config const& c) {
    expects(c.patch_size > 0 && c.patches() > 0 && c.image_size.height % c.patch_size == 0 &&
                c.image_size.width % c.patch_size == 0,
            "vit: the image size is a multiple of the patch size");
    expects(c.width > 0 && c.layers >= 0 && c.embedding > 0, "vit: width and embedding are positive");
    return c;
  }

  vit_config config_;
  nn::linear patch_;
  parameter<1> class_token_;
  parameter<2> positions_;
  std::optional<nn::layer_norm> norm_before_;
  nn::transformer blocks_;
  nn::layer_norm norm_after_;
  nn::linear projection_;
};

}  // namespace yoke::towers
