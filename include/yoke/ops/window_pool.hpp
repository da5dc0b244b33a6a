// The largest or the mean of the pixels under a moving window: downsampling of images.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

/// The maximum or mean under a window that slides over an image.
struct window_pool_op {
  window_pool_kind kind;
  yoke::window window;

  template <class C>
  auto forward(tape<C>& t, value<4> const& x) const {
    auto y = make<typename C::element>(
        t.context(), shape{x.shape[0], window.output(x.shape[1]), window.output(x.shape[2]), x.shape[3]});
    window_pool_forward(t.context(), kind, window, t(x), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 4> dy, value<4> const& x) const {
    if (auto dx = t.gradient_of(x))
      window_pool_backward(t.context(), kind, window, t(x), dy, dx.data, dx.how);
  }
};

/// Images (batch, height, width, channels) -> (batch, window.output(height), window.output(width), channels). A window
/// of size 1 takes every stride-th pixel. A maximum's gradient goes to the first pixel that has it.
template <class C>
value<4> window_pool(tape<C>& t, value<4> x, window_pool_kind kind, window w) {
  expects(w.size > 0 && w.stride > 0 && w.padding >= 0 && w.padding < w.size,
          "window_pool: size and stride are positive, the padding is less than the size");
  expects(x.shape[1] + 2 * w.padding >= w.size && x.shape[2] + 2 * w.padding >= w.size,
          "window_pool: the window fits into the padded image");
  return t.apply(window_pool_op{kind, w}, x);
}

}  // namespace yoke::ops
