// Convolutions over images (batch, height, width, channels): of all channels together, and of each on its own.
#pragma once
#include <yoke/nn/linear.hpp>
#include <yoke/ops/convolution.hpp>

#include <cmath>

namespace yoke::nn {

/// Of a convolution: channels, and the window that it slides.
struct convolution_config {
  extent_t in, out;
  yoke::window window{};
  bool bias = true;
  float deviation = 0;  // of the initial weights; 0: 1 / sqrt(size * size * in)
  nn::model_parallel model_parallel = nn::model_parallel::none;  // of 1 x 1 convolutions; others are whole
};

/// (batch, height, width, in) -> (batch, …, …, out), extents as the window gives them. Parameters: weight (out,
/// size * size * in), each row (y, x, channel), and bias (out).
struct convolution {
  parameter<2> weight;
  parameter<1> bias;
  yoke::window window;
  matmul_split split;

  convolution(scope s, convolution_config const& c)
      : weight{s.weight("weight", shape{c.out, c.window.size * c.window.size * c.in}, deviation(c),
                        weight_decay::yes, split_of(s, c) == matmul_split::gathered ? cut{0, 1} : cut{})},
        window{c.window},
        split{split_of(s, c)} {
    if (c.bias)
      bias = s.constant("bias", shape{c.out}, 0);
  }
  value<4> operator()(auto& t, value<4> x) const {
    if (is_linear(window))
      return ops::linear(t, x, weight, bias, split);
    return ops::convolution(t, x, weight, bias, window);
  }

 private:
  static bool is_linear(yoke::window w) { return w.size == 1 && w.stride == 1 && w.padding == 0; }
  static matmul_split split_of(scope const& s, convolution_config const& c) {
    return is_linear(c.window) ? gathered_rows(s, c.model_parallel, c.out) : matmul_split::none;
  }
  static float deviation(convolution_config const& c) {
    return c.deviation > 0 ? c.deviation
                           : 1 / std::sqrt(static_cast<float>(c.window.size * c.window.size * c.in));
  }
};

/// Of a depthwise_convolution.
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
