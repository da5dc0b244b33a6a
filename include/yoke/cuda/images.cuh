// Kernels over images (batch, height, width, channels): a thread has a pack of channels of one pixel, in all images
// that are its block's.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/lines.cuh>

#include <algorithm>

namespace yoke::cuda::detail {

inline constexpr int image_threads = 256;

/// The extents of images, all that kernels need to find a pixel.
struct image_shape {
  int height, width, channels;

  static image_shape of(shape<4> const& s) {
    return {static_cast<int>(s[1]), static_cast<int>(s[2]), static_cast<int>(s[3])};
  }
  /// Where a pixel is, in elements from the images' first.
  __device__ extent_t at(int image, int row, int column) const {
    return ((extent_t{image} * height + row) * width + column) * channels;
  }
};

/// A window along one axis, as kernels see it.
struct window_axis {
  int size, stride, padding;

  static window_axis of(window const& w) {
    return {static_cast<int>(w.size), static_cast<int>(w.stride), static_cast<int>(w.padding)};
  }
};

struct axis_range {
  int first, last;
};
/// The pixels of an axis of n that are under window number i.
__device__ inline axis_range pixels_under(window_axis w, int i, int n) {
  int const begin = i * w.stride - w.padding;
  return {max(begin, 0), min(begin + w.size, n)};
}
/// The windows, of n along an axis, that pixel i is under.
__device__ inline axis_range windows_over(window_axis w, int i, int n) {
  int const place = i + w.padding;
  return {place < w.size ? 0 : (place - w.size) / w.stride + 1, min(n, place / w.stride + 1)};
}

/// The pixel and the channel that are a thread's.
struct image_place {
  int row, column, channel;
  bool there;

  template <int N>
  __device__ static image_place of(image_shape const& s) {
    int const packs = s.channels / N;
    int const i = static_cast<int>(blockIdx.x) * image_threads + static_cast<int>(threadIdx.x);
    int const pixel = i / packs, row = pixel / s.width;
    return {row, pixel - row * s.width, (i - pixel * packs) * N, row < s.height};
  }
};

/// Calls f(image) for each image that is the block's.
template <class F>
__device__ inline void for_images(int images, F const& f) {
  for (int image = static_cast<int>(blockIdx.y); image < images; image += static_cast<int>(gridDim.y))
    f(image);
}

/// Blocks for the packs of N channels of images.
inline dim3 blocks_of_images(shape<4> const& images, int each) {
  auto const packs = images[1] * images[2] * (images[3] / each);
  return dim3(static_cast<unsigned>((packs + image_threads - 1) / image_threads),
              static_cast<unsigned>(std::min<extent_t>(images[0], 65535)));
}

}  // namespace yoke::cuda::detail
