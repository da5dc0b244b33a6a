// Convolutions of images (batch, height, width, channels): dense, and one filter for each channel.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <algorithm>
#include <string>

namespace yoke::ops {

namespace detail {

/// The images that a window gives, with so many channels.
inline shape<4> windowed(window w, shape<4> x, extent_t channels) {
  return {{x[0], w.output(x[1]), w.output(x[2]), channels}};
}

/// What every window demands of the images that it moves over.
inline void expect_window(char const* op, window w, shape<4> x) {
  expects(w.size > 0 && w.stride > 0 && w.padding >= 0,
          [&] { return std::string(op) + ": a window has a size and a stride, and no negative padding"; });
  expects(std::min(x[1], x[2]) + 2 * w.padding >= w.size, [&] {
    return std::string(op) + ": images of " + std::to_string(x[1]) + " x " + std::to_string(x[2]) +
           " with their padding hold a window of " + std::to_string(w.size);
  });
}

}  // namespace detail

/// A dense two-dimensional convolution (NHWC) with a bias.
struct convolution_op {
  static constexpr bool expensive = true;
  window w;

  template <class C>
  auto forward(tape<C>& t, value<4> const& x, parameter<2> const& weight, parameter<1> const& bias) const {
    auto y = make<typename C::element>(t.context(), detail::windowed(w, x.shape, weight.shape[0]));
    convolution_forward(t.context(), w, t(x), t(weight), t(bias), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 4> dy, value<4> const& x,
                parameter<2> const& weight, parameter<1> const& bias) const {
    auto& c = t.context();
    if (auto dw = t.gradient_of(weight))
      convolution_backward_weights(c, w, t(x), dy, dw.data, dw.how);
    if (auto db = t.gradient_of(bias); db && bias.shape[0] > 0)
      sum_rows(c, as_rows(dy), db.data, db.how);
    if (auto dx = t.gradient_of(x))
      convolution_backward_input(c, w, t(weight), dy, dx.data, dx.how);
  }
};

/// Not `expensive`: it takes as long as an activation.
struct depthwise_op {
  window w;

  template <class C>
  auto forward(tape<C>& t, value<4> const& x, parameter<2> const& weight) const {
    auto y = make<typename C::element>(t.context(), detail::windowed(w, x.shape, x.shape[3]));
    depthwise_forward(t.context(), w, t(x), t(weight), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 4> dy, value<4> const& x,
                parameter<2> const& weight) const {
    auto& c = t.context();
    if (auto dw = t.gradient_of(weight))
      depthwise_backward_weights(c, w, t(x), dy, dw.data, dw.how);
    if (auto dx = t.gradient_of(x))
      depthwise_backward_input(c, w, t(weight), dy, dx.data, dx.how);
  }
};

/// x (batch, height, width, in), weight (out, size size in) in the order (y, x, channel) of the window, bias (out) or
/// absent (extent 0) -> (batch, height, width, out), height and width as w.output has them.
template <class C>
value<4> convolution(tape<C>& t, value<4> x, parameter<2> weight, parameter<1> bias, window w) {
  detail::expect_window("convolution", w, x.shape);
  expects(weight.shape[1] == w.size * w.size * x.shape[3], [&] {
    return "convolution: the weight's width " + std::to_string(weight.shape[1]) + " is that of a window of " +
           std::to_string(w.size) + " x " + std::to_string(w.size) + " pixels of " +
           std::to_string(x.shape[3]) + " channels";
  });
  expects(bias.shape[0] == 0 || bias.shape[0] == weight.shape[0],
          "convolution: the bias has the weight's rows");
  return t.apply(convolution_op{w}, x, weight, bias);
}

/// Each channel by a filter of its own: x (batch, height, width, channels), weight (size size, channels) in the order
/// (y, x) of the window -> (batch, height, width, channels), height and width as w.output has them.
template <class C>
value<4> depthwise(tape<C>& t, value<4> x, parameter<2> weight, window w) {
  detail::expect_window("depthwise", w, x.shape);
  expects(weight.shape == shape{w.size * w.size, x.shape[3]},
          "depthwise: the weight is (size size, channels)");
  return t.apply(depthwise_op{w}, x, weight);
}

}  // namespace yoke::ops
