// A matrix and, unless it is told otherwise, a bias.
#pragma once
#include <yoke/ops/linear.hpp>

#include <cmath>

namespace yoke::nn {

struct linear_config {
  extent_t in, out;
  bool bias = true;
  float deviation = 0;  // of the initial weights; 0: 1 / sqrt(in)
};

/// (…, in) -> (…, out). Parameters: weight (out, in), bias (out).
struct linear {
  parameter<2> weight;
  parameter<1> bias;

  linear(scope s, linear_config c)
      : weight{s.weight("weight", shape{c.out, c.in},
                        c.deviation > 0 ? c.deviation : 1 / std::sqrt(static_cast<float>(c.in)))} {
    if (c.bias)
      bias = s.constant("bias", shape{c.out}, 0);
  }
  auto operator()(auto& t, auto x) const { return ops::linear(t, x, weight, bias); }
};

}  // namespace yoke::nn
