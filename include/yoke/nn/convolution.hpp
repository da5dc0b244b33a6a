// Convolutions over images (batch, height, width, channels): of all channels together, and of each on its own.
#pragma once
#include <yoke/ops/convolution.hpp>
#include <yoke/ops/linear.hpp>

#include <cmath>

namespace yoke::nn {

struct convolution_config {
  extent_t in, out;
  yoke::window window{};
  bool bias = true;
  float deviation = 0;  // of the initial weights; 0: 1 / sqrt(size * size * in)
};

/// (batch, height, width, in) -> (batch, …, …, out), extents as the window gives them. Parameters: weight (out,
/// size * size * in), each row (y, x, channel), and bias (out).
struct convolution {
  parameter<2> weight;
  parameter<1> bias;
  yoke::window window;

  convolution(scope s, convolution_config const& c)
      : weight{s.weight("weight", shape{c.out, c.window.size * c.window.size * c.in}, deviation(c))},
        window{c.window} {
    if (c.bias)
      bias = s.constant("bias", shape{c.out}, 0);
  }
  value<4> operator()(auto& t, value<4> x) const {
    if (window.size == 1 && window.stride == 1 && window.padding == 0)
      return ops::linear(t, x, weight, bias);
    return ops::convolution(t, x, weight, bias, window);
  }

 private:
  static float deviation(convolution_config const& c) {
    return c.deviation > 0 ? c.deviation
                           : 1 / std::sqrt(static_cast<float>(c.window.size * c.window.size * c.in));
  }
};

struct depthwise_config {
  extent_t channels;
  yoke::window window{};
};

/// (batch, height, width, channels) -> (batch, …, …, channels): one filter a channel. Parameter: weight
/// (size * size, channels), rows (y, x), of deviation 1 / size.
struct depthwise_convolution {
  parameter<2> weight;
  yoke::window window;

  depthwise_convolution(scope s, depthwise_config const& c)
      : weight{s.weight("weight", shape{c.window.size * c.window.size, c.channels},
                        1 / static_cast<float>(c.window.size))},
        window{c.window} {}
  value<4> operator()(auto& t, value<4> x) const { return ops::depthwise(t, x, weight, window); }
};

}  // namespace yoke::nn
