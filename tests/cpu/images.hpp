// What the tests of kernels on images share: windows over plain loops in double precision.
#pragma once
#include <yoke/core/kernels.hpp>

#include "checks.hpp"

namespace checks {

using yoke::window;

/// Batch, height, width and channels of an input and what a window makes of its extents.
struct images {
  extent_t batch, height, width;
  yoke::window w;

  bool possible() const { return std::min(height, width) + 2 * w.padding >= w.size; }
  shape<4> input(extent_t channels) const { return {{batch, height, width, channels}}; }
  shape<4> output(extent_t channels) const { return {{batch, w.output(height), w.output(width), channels}}; }
  /// f(pixel of the input, pixel of the output, tap) wherever a tap of the window meets the image.
  template <class F>
  void for_each_meeting(F const& f) const {
    for (extent_t n = 0; n < batch; ++n)
      for (extent_t y = 0; y < w.output(height); ++y)
        for (extent_t x = 0; x < w.output(width); ++x)
          for (extent_t i = 0; i < w.size; ++i)
            for (extent_t j = 0; j < w.size; ++j) {
              auto const row = y * w.stride - w.padding + i, column = x * w.stride - w.padding + j;
              if (row >= 0 && row < height && column >= 0 && column < width)
                f((n * height + row) * width + column, (n * w.output(height) + y) * w.output(width) + x,
                  i * w.size + j);
            }
  }
};

/// `how` of what was there and of sums.
template <class T, int R>
std::vector<double> stored(store how, tensor<T, R> const& before, std::vector<double> sums) {
  for (std::size_t i = 0; i < sums.size(); ++i)
    sums[i] = stored(how, static_cast<double>(before.data[i]), sums[i]);
  return sums;
}

inline std::string name(images const& s) {
  return std::to_string(s.batch) + " images of " + std::to_string(s.height) + " x " +
         std::to_string(s.width) + ", window " + std::to_string(s.w.size) + ", stride " +
         std::to_string(s.w.stride) + ", padding " + std::to_string(s.w.padding);
}

}  // namespace checks
