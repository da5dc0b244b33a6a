// BASIC (Pham et al., "Combined scaling for zero-shot transfer learning", arXiv 2111.10050): CoAtNet beside a text
// transformer that is mean-pooled and projects to the images' features.
#pragma once
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/towers/coatnet.hpp>
#include <yoke/towers/coatnet_presets.hpp>
#include <yoke/towers/text_transformer.hpp>

#include <array>
#include <optional>
#include <string_view>

namespace yoke::contrastive {

/// Both towers of a BASIC model.
struct basic_config {
  towers::coatnet_config image{};
  towers::text_transformer_config text{};
  logit_config logits{};  // siglip_logits for the sigmoid loss

  /// Both towers rematerialise, or neither.
  basic_config& rematerialized(rematerialize policy) {
    image.remat = text.remat = policy;
    return *this;
  }
  /// Both towers are shared by the ranks of a model axis.
  basic_config& sharded(nn::model_parallel how) {
    image.model_parallel = text.model_parallel = how;
    return *this;
  }
};

/// `Norm` is that of the image tower's convolutions. nn::batch_norm takes its statistics from one micro-batch on one
/// rank: a step then depends on the micro-batch, which it does not with nn::layer_norm.
template <class Norm = nn::layer_norm>
using basic_model = dual_encoder<towers::coatnet<Norm>, towers::text_transformer>;

/// Parameters "image.…", "text.…" and "logit_scale" below the scope, and "logit_bias" where there is to be one.
template <class Norm = nn::layer_norm>
basic_model<Norm> basic(scope s, basic_config const& c) {
  expects(c.image.features() == c.text.embedding,
          "basic: the text tower's embedding is as wide as the image's");
  return {s, towers::coatnet<Norm>{s / "image", c.image}, towers::text_transformer{s / "text", c.text},
          c.text.embedding, c.logits};
}

/// The names that `basic_preset` knows.
inline constexpr std::array<std::string_view, 5> basic_preset_names{"basic_s", "basic_m", "basic_l",
                                                                    "basic_cifar", "basic_tiny"};

/// "basic_s", "basic_m", "basic_l": CoAtNet-0, 3 and 7 for images of 224 x 224, as the paper says, and text towers of
/// 6 x 1024, 12 x 1024 and 12 x 2048 with heads of 64, 128 and 128, 32,000 pieces and 64 tokens, which are defaults,
/// not the paper's word. Of the same structure, for 32 x 32 pixels and 16 tokens: "basic_cifar", for two cores, and
/// "basic_tiny", for tests. Null for any other name.
inline std::optional<basic_config> basic_preset(std::string_view name) {
  auto const published = [](std::string_view image, extent_t width, extent_t layers, extent_t head_width) {
    basic_config c{.image = *towers::coatnet_preset(image)};
    c.text = {.vocabulary = 32'000,
              .context_length = 64,
              .width = width,
              .layers = layers,
              .heads = width / head_width,
              .embedding = c.image.features(),
              .pool = towers::text_pool::mean,
              .causal = false};
    return c;
  };
  if (name == "basic_s")
    return published("coatnet_0", 1024, 6, 64);
  if (name == "basic_m")
    return published("coatnet_3", 1024, 12, 128);
  if (name == "basic_l")
    return published("coatnet_7", 2048, 12, 128);

  constexpr auto mbconv = towers::coatnet_block::mbconv, attention = towers::coatnet_block::attention;
  auto const small = [](towers::coatnet_config image, towers::text_transformer_config text) {
    image.image_size = 32;
    text.embedding = image.features();
    text.context_length = 16;
    text.pool = towers::text_pool::mean;
    text.causal = false;
    return basic_config{std::move(image), text};
  };
  if (name == "basic_cifar")  // attention on 8 x 8 and 4 x 4 tokens
    return small(
        {.stem_width = 32,
         .stages = {{mbconv, 2, 32, 1}, {mbconv, 3, 96}, {attention, 1, 128, 1}, {attention, 2, 192}}},
        {.vocabulary = 1024, .width = 128, .layers = 2, .heads = 4});
  if (name == "basic_tiny")  // with CoAtNet-6's and 7's two kinds of blocks at one resolution
    return small({.stem_width = 4,
                  .stages = {{mbconv, 1, 4}, {mbconv, 2, 8}, {attention, 1, 12, 1}, {attention, 1, 16}},
                  .head_width = 4},
                 {.vocabulary = 1024, .width = 8, .layers = 2, .heads = 2});
  return std::nullopt;
}

/// BASIC-S: an image tower of 23.7 M parameters and a text tower of 109 M.
inline basic_model<> basic_s(scope s) {
  return basic(s, *basic_preset("basic_s"));
}
/// BASIC-M: 163 M and 185 M parameters.
inline basic_model<> basic_m(scope s) {
  return basic(s, *basic_preset("basic_m"));
}
/// BASIC-L: 2429 M and 676 M parameters.
inline basic_model<> basic_l(scope s) {
  return basic(s, *basic_preset("basic_l"));
}

}  // namespace yoke::contrastive
