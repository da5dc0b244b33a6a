// The same numbers under another shape: nothing is copied, and both values gather one gradient.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

/// All axes but the last folded into one: (…, width) -> (rows, width).
template <int R>
value<2> as_rows(value<R> x) {
  auto const width = x.shape[R - 1];
  return {x.data, {{width == 0 ? 0 : x.shape.size() / width, width}}, x.slot};
}

/// Rows of pixels (rows, channels) -> images (batch, height, width, channels).
inline value<4> as_images(value<2> x, shape<4> images) {
  expects(images.size() == x.shape.size() && images[3] == x.shape[1],
          "as_images: one row for each pixel, as wide as the images have channels");
  return {x.data, images, x.slot};
}

}  // namespace yoke::ops
