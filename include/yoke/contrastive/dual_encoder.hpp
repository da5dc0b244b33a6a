// Two towers and a learned temperature: the model that contrastive training yokes together.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <cmath>
#include <utility>

namespace yoke::contrastive {

/// Image: (tape, value<4>) -> (batch, embedding). Text: (tape, tokens) -> (captions, embedding). Any types of that
/// form; inputs of other forms go with batches of their own (inputs.hpp).
template <class Image, class Text>
struct dual_encoder {
  Image image;
  Text text;
  extent_t embedding;        // both towers' width
  parameter<1> logit_scale;  // (1), the logarithm of the factor on cosine similarities

  /// The factor starts at CLIP's 1/0.07.
  dual_encoder(scope s, Image image_tower, Text text_tower, extent_t width, float initial_scale = 1 / 0.07f)
      : image{std::move(image_tower)},
        text{std::move(text_tower)},
        embedding{width},
        logit_scale{s.constant("logit_scale", shape{1}, std::log(initial_scale))} {}
};

}  // namespace yoke::contrastive
