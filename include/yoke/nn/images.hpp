// Images as rows: convolutions see (batch, height, width, channels); norms, linear layers and attention see one row a
// pixel and one segment an image. Both are the same memory.
#pragma once
#include <yoke/nn/dropout.hpp>
#include <yoke/ops/reshape.hpp>

namespace yoke::nn {

/// The pixels of each image as a segment of rows.
inline segments pixels_of(shape<4> s) {
  return segments::uniform(s[0], s[1] * s[2]);
}

/// Stochastic depth of whole images.
inline value<4> skip_images(auto& t, stochastic_depth const& skip, value<4> x) {
  return ops::as_images(skip(t, ops::as_rows(x), pixels_of(x.shape)), x.shape);
}

}  // namespace yoke::nn
