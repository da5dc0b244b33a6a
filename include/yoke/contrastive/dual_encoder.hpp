// Two towers and a learned temperature: the model that contrastive training yokes together.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <cmath>
#include <utility>

namespace yoke::contrastive {

/// Image: (tape, value<4>) -> (batch, embedding). Text: (tape, tokens) -> (captions, embedding).
/// Any types of that form.
template <class Image, class Text>
struct dual_encoder {
  Image image;
  Text text;
  parameter<1> logit_scale;  // (1), the logarithm of the factor on cosine similarities

  /// The factor starts at 1/0.07 as CLIP's.
  dual_encoder(scope s, Image i, Text x, float initial_scale = 1 / 0.07f)
      : image{std::move(i)},
        text{std::move(x)},
        logit_scale{s.constant("logit_scale", shape{1}, std::log(initial_scale))} {}
};

}  // namespace yoke::contrastive
