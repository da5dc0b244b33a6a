// Two towers and a learned temperature: the model that contrastive training yokes together.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <cmath>
#include <optional>
#include <utility>

namespace yoke::contrastive {

/// How cosine similarities become logits at first: times a factor, and for the sigmoid loss plus a bias. Both are learned.
struct logit_config {
  float scale = 1 / 0.07f;      // CLIP's
  std::optional<float> bias{};  // empty: there is none

  bool operator==(logit_config const&) const = default;
};

/// Where training with the sigmoid loss begins (SigLIP, arXiv 2303.15343, section 3.2): so many more pairs are wrong than
/// right that all are taken to be wrong.
inline constexpr logit_config siglip_logits{.scale = 10, .bias = -10};

/// Image: (tape, value<4>) -> (batch, embedding). Text: (tape, tokens) -> (captions, embedding). Any types of that
/// form; inputs of other forms go with batches of their own (inputs.hpp).
template <class Image, class Text>
struct dual_encoder {
  Image image;
  Text text;
  extent_t embedding;                        // both towers' width
  parameter<1> logit_scale;                  // (1), the logarithm of the factor on cosine similarities
  std::optional<parameter<1>> logit_bias{};  // (1), where the configuration has one

  /// The factor starts at CLIP's 1/0.07.
  dual_encoder(scope s, Image image_tower, Text text_tower, extent_t width, float initial_scale = 1 / 0.07f)
      : dual_encoder{s, std::move(image_tower), std::move(text_tower), width,
                     logit_config{.scale = initial_scale}} {}
  dual_encoder(scope s, Image image_tower, Text text_tower, extent_t width, logit_config const& logits)
      : image{std::move(image_tower)},
        text{std::move(text_tower)},
        embedding{width},
        logit_scale{s.constant("logit_scale", shape{1}, std::log(logits.scale))} {
    if (logits.bias)
      logit_bias = s.constant("logit_bias", shape{1}, *logits.bias);
  }
};

}  // namespace yoke::contrastive
