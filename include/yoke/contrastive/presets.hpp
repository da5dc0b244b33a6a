// Ready models: OpenCLIP's vision transformers by name, and small ones of the same structure for a laptop.
#pragma once
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/towers/text_transformer.hpp>
#include <yoke/towers/vit.hpp>

#include <array>
#include <optional>
#include <string_view>
#include <utility>

namespace yoke::contrastive {

/// Both towers of a CLIP model.
struct clip_config {
  towers::vit_config image{};
  towers::text_transformer_config text{};
  logit_config logits{};  // siglip_logits for the sigmoid loss

  /// Both towers rematerialise, or neither.
  clip_config& rematerialized(rematerialize policy) {
    image.remat = text.remat = policy;
    return *this;
  }
  /// Both towers are shared by the ranks of a model axis.
  clip_config& sharded(nn::model_parallel how) {
    image.model_parallel = text.model_parallel = how;
    return *this;
  }
};

using clip_model = dual_encoder<towers::vit, towers::text_transformer>;

/// Parameters "image.…", "text.…" and "logit_scale" below the scope, and "logit_bias" where there is to be one.
inline clip_model clip(scope s, clip_config const& c) {
  expects(c.image.embedding == c.text.embedding, "clip: both towers have one embedding width");
  return {s, towers::vit{s / "image", c.image}, towers::text_transformer{s / "text", c.text},
          c.image.embedding, c.logits};
}

/// The names that `clip_preset` knows.
inline constexpr std::array<std::string_view, 7> clip_preset_names{
    "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14", "tiny", "small", "scenes"};

/// OpenCLIP's ViT-B-32, ViT-B-16, ViT-L-14, ViT-H-14; "small" and "tiny", of 32 x 32 pixels and 16 tokens; "scenes",
/// for the built-in data. Null for any other name.
inline std::optional<clip_config> clip_preset(std::string_view name) {
  if (name == "ViT-B-32")
    return clip_config{};
  if (name == "ViT-B-16")
    return clip_config{.image = {.patch_size = 16}};
  if (name == "ViT-L-14")
    return clip_config{
        .image = {.patch_size = 14, .width = 1024, .layers = 24, .heads = 16, .embedding = 768},
        .text = {.width = 768, .heads = 12, .embedding = 768}};
  if (name == "ViT-H-14")
    return clip_config{
        .image = {.patch_size = 14, .width = 1280, .layers = 32, .heads = 16, .embedding = 1024},
        .text = {.width = 1024, .layers = 24, .heads = 16, .embedding = 1024}};
  auto const laptop = [](extent_t width, extent_t image_layers, extent_t text_layers, extent_t heads) {
    return clip_config{.image = {.image_size = 32,
                                 .patch_size = 4,
                                 .width = width,
                                 .layers = image_layers,
                                 .heads = heads,
                                 .embedding = width},
                       .text = {.vocabulary = 1024,
                                .context_length = 16,
                                .width = width,
                                .layers = text_layers,
                                .heads = heads,
                                .embedding = width}};
  };
  if (name == "small")
    return laptop(192, 6, 4, 3);
  if (name == "tiny")
    return laptop(128, 4, 2, 4);
  if (name == "scenes")
    return laptop(96, 4, 2, 3);
  return std::nullopt;
}

}  // namespace yoke::contrastive
