// Between OpenCLIP's model configurations and Yoke's towers: what a name, a file or a checkpoint says a model is.
#pragma once
#include <yoke/contrastive/presets.hpp>
#include <yoke/io/open_clip_file.hpp>

#include <cmath>
#include <string>
#include <string_view>
#include <sys/stat.h>

namespace yoke::train {

namespace detail {

inline activation gelu_of(io::open_clip_config const& c, bool tanh) {
  return c.quick_gelu ? activation::gelu_quick : tanh ? activation::gelu_tanh : activation::gelu;
}

}  // namespace detail

/// The towers that OpenCLIP would build.
inline contrastive::clip_config from_open_clip(io::open_clip_config const& c) {
  using vision = io::open_clip_vision;
  using text = io::open_clip_text;
  auto const& v = c.vision;
  auto const& x = c.text;
  contrastive::clip_config model;
  model.image = {.image_size = v.image_size,
                 .patch_size = v.patch_size,
                 .width = v.width,
                 .layers = v.layers,
                 .heads = v.heads(),
                 .mlp_width = v.mlp_width(),
                 .embedding = c.embed_dim,
                 .pool = v.pool == vision::pool_type::tok ? towers::vit_pool::class_token
                         : v.class_token                  ? towers::vit_pool::mean_beside_class_token
                                                          : towers::vit_pool::mean,
                 .norm_before = !v.no_ln_pre,
                 .norm_after_pool = v.final_ln_after_pool,
                 .norm_epsilon = v.norm_epsilon,
                 .activation = detail::gelu_of(c, v.tanh_gelu)};
  model.text = {
      .vocabulary = x.vocab_size,
      .context_length = x.context_length,
      .width = x.width,
      .layers = x.layers,
      .heads = x.heads,
      .mlp_width = x.mlp_width(),
      .embedding = c.embed_dim,
      .pool = x.pool == text::pool_type::mean ? towers::text_pool::mean : towers::text_pool::end_token,
      .causal = !x.no_causal_mask,
      .activation = detail::gelu_of(c, x.tanh_gelu),
      .norm_epsilon = x.norm_epsilon};
  if (c.init_logit_scale != io::open_clip_config{}.init_logit_scale)
    model.logits.scale = static_cast<float>(std::exp(c.init_logit_scale));
  if (c.init_logit_bias)
    model.logits.bias = static_cast<float>(*c.init_logit_bias);
  return model;
}

/// The inverse, for square images and towers with one kind of GELU.
inline io::open_clip_config to_open_clip(contrastive::clip_config const& model) {
  auto const& image = model.image;
  auto const& text = model.text;
  expects(image.image_size.height == image.image_size.width, "to_open_clip: square images");
  expects((image.activation == activation::gelu_quick) == (text.activation == activation::gelu_quick),
          "to_open_clip: QuickGELU in both towers or in neither");
  auto const ratio = [](extent_t mlp, extent_t width) {
    return mlp == 0 ? 4.0 : static_cast<double>(mlp) / static_cast<double>(width);
  };
  io::open_clip_config c;
  c.embed_dim = image.embedding;
  c.quick_gelu = image.activation == activation::gelu_quick;
  c.vision.image_size = image.image_size.height;
  c.vision.patch_size = image.patch_size;
  c.vision.width = image.width;
  c.vision.layers = image.layers;
  c.vision.head_width = image.width / image.heads;
  c.vision.mlp_ratio = ratio(image.mlp_width, image.width);
  c.vision.pool = image.pool == towers::vit_pool::class_token ? io::open_clip_vision::pool_type::tok
                                                              : io::open_clip_vision::pool_type::avg;
  c.vision.class_token = image.has_class_token();
  c.vision.no_ln_pre = !image.norm_before;
  c.vision.final_ln_after_pool = image.norm_after_pool;
  c.vision.norm_epsilon = image.norm_epsilon;
  c.vision.tanh_gelu = image.activation == activation::gelu_tanh;
  c.text.vocab_size = text.vocabulary;
  c.text.context_length = text.context_length;
  c.text.width = text.width;
  c.text.layers = text.layers;
  c.text.heads = text.heads;
  c.text.mlp_ratio = ratio(text.mlp_width, text.width);
  c.text.pool = text.pool == towers::text_pool::mean ? io::open_clip_text::pool_type::mean
                                                     : io::open_clip_text::pool_type::argmax;
  c.text.no_causal_mask = !text.causal;
  c.text.norm_epsilon = text.norm_epsilon;
  c.text.tanh_gelu = text.activation == activation::gelu_tanh;
  if (model.logits.scale != contrastive::logit_config{}.scale)
    c.init_logit_scale = std::log(static_cast<double>(model.logits.scale));
  if (model.logits.bias)
    c.init_logit_bias = *model.logits.bias;
  return c;
}

/// A preset by its name, or the OpenCLIP configuration file of that path. io::error names what it knows.
inline contrastive::clip_config clip_model_config(std::string const& name_or_file) {
  if (auto const preset = contrastive::clip_preset(name_or_file))
    return *preset;
  struct stat status {};
  if (::stat(name_or_file.c_str(), &status) == 0)
    return from_open_clip(io::read_open_clip_config(name_or_file));
  std::string known;
  for (auto const name : contrastive::clip_preset_names) known.append(known.empty() ? "" : ", ").append(name);
  throw io::error(name_or_file, "", "neither a file nor the name of a model; there are " + known);
}

}  // namespace yoke::train
