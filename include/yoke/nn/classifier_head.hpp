// From a tower's features to classes: the head of CoAtNet's pre-training, dropped when contrastive training begins.
#pragma once
#include <yoke/nn/linear.hpp>
#include <yoke/ops/pointwise.hpp>

namespace yoke::nn {

/// Of a classifier_head.
struct classifier_config {
  extent_t width, classes;
  nn::model_parallel model_parallel = nn::model_parallel::none;
};

/// (batch, width), normed by the tower, -> a linear layer of that width, tanh, -> (batch, classes) logits.
struct classifier_head {
  linear hidden, logits;

  classifier_head(scope s, classifier_config const& c)
      : hidden{s / "hidden",
               {.in = c.width, .out = c.width, .split = gathered_rows(s, c.model_parallel, c.width)}},
        logits{s / "logits",
               {.in = c.width, .out = c.classes, .split = gathered_rows(s, c.model_parallel, c.classes)}} {}
  value<2> operator()(auto& t, value<2> x) const {
    return logits(t, ops::activate(t, hidden(t, x), activation::tanh));
  }
};

}  // namespace yoke::nn
