// Depthwise convolutions of images, each channel with a filter of its own: 3 x 3 by windows that slide through
// registers, any other by plain loops.
#pragma once
#include <yoke/cuda/columns.cuh>
#include <yoke/cuda/images.cuh>

#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Channels of a thread: their nine weights are in registers.
template <class T>
inline constexpr int depthwise_neighbours = wide<T> < 4 ? wide<T> : 4;
// Pixels of a line that a thread goes through, at most.
inline constexpr extent_t depthwise_strip = 16;
// Threads side by side over channels: the rest have lines below each other, which share what they read.
inline constexpr int depthwise_across = 32;

/// A thread's line of the images `to`, its strip of it and its channels.
struct depthwise_place {
  int image, row, first, last, channel;
  bool there;

  template <int N>
  __device__ static depthwise_place of(column_tiles const& tiles, int images, image_shape const& to,
                                       int strip) {
    auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x) % tiles.tiles, to.channels);
    auto const line = extent_t{static_cast<int>(blockIdx.x) / tiles.tiles} * tiles.rows + place.row;
    int const first = static_cast<int>(blockIdx.y) * strip, image = static_cast<int>(line / to.height);
    return {image,        static_cast<int>(line - extent_t{image} * to.height),
            first,        min(first + strip, to.width),
            place.column, place.there && image < images};
  }
};

/// The pixels under a 3 x 3 window and N channels of them, as it slides along a line. Beyond the edges are zeros.
template <int N, int Stride, class T>
struct sliding_window {
  using A = accumulator_t<T>;
  pack<A, N> under[3][3];  // (row, column)
  T const* lines[3];       // null: beyond the edges
  int width, channels;

  /// At place `first` of the output's line `row`.
  __device__ sliding_window(window_axis w, image_shape const& from, T const* x, int image, int row, int first,
                            int channel)
      : width{from.width}, channels{from.channels} {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      int const at = row * Stride - w.padding + i;
      lines[i] = at >= 0 && at < from.height ? x + from.at(image, at, 0) + channel : nullptr;
    }
#pragma unroll
    for (int j = 0; j < 3 - Stride; ++j) read(Stride + j, first * Stride - w.padding + j);
  }
  __device__ void read(int column, int at) {
    bool const inside = at >= 0 && at < width;
#pragma unroll
    for (int i = 0; i < 3; ++i)
      under[i][column] =
          inside && lines[i] != nullptr ? load<N>(lines[i] + extent_t{at} * channels) : pack<A, N>{};
  }
  /// To the next place, whose window begins at pixel `begin`.
  __device__ void slide(int begin) {
#pragma unroll
    for (int j = 0; j < 3 - Stride; ++j)
#pragma unroll
      for (int i = 0; i < 3; ++i) under[i][j] = under[i][j + Stride];
#pragma unroll
    for (int j = 3 - Stride; j < 3; ++j) read(j, begin + j);
  }
};

/// to = or += the sums under 3 x 3 windows over the images `from` times weights, which Flip turns around.
template <int N, int Stride, bool Flip, class T>
static __global__ void __launch_bounds__(column_threads)
    depthwise_kernel(column_tiles tiles, int strip, window_axis w, int images, image_shape from,
                     image_shape to, T const* x, T const* weights, T* y, store how) {
  using A = accumulator_t<T>;
  auto const place = depthwise_place::of<N>(tiles, images, to, strip);
  if (!place.there)
    return;
  pack<A, N> weight[9];
#pragma unroll
  for (int tap = 0; tap < 9; ++tap)
    weight[tap] = load<N>(weights + (Flip ? 8 - tap : tap) * to.channels + place.channel);
  sliding_window<N, Stride, T> pixels(w, from, x, place.image, place.row, place.first, place.channel);
  auto* out = y + to.at(place.image, place.row, place.first) + place.channel;
#pragma unroll 3
  for (int p = place.first; p < place.last; ++p, out += to.channels) {
    pixels.slide(p * Stride - w.padding);
    pack<A, N> sum{};
#pragma unroll
    for (int tap = 0; tap < 9; ++tap)
#pragma unroll
      for (int k = 0; k < N; ++k) sum.at[k] += weight[tap].at[k] * pixels.under[tap / 3][tap % 3].at[k];
    save<N>(out, sum, how);
  }
}

/// Along one axis, the taps that bring a place and the numbers under them together: tap first + i * step has number
/// source + i * change, for i < count. Forward: a place of the output and pixels; else a pixel and places of the
/// output.
struct tap_run {
  int first, step, source, change, count;

  template <bool Forward>
  __device__ static tap_run of(window_axis w, int place, int extent) {
    if (Forward) {
      int const begin = place * w.stride - w.padding, first = max(0, -begin);
      return {first, 1, begin + first, 1, min(w.size, extent - begin) - first};
    }
    int const at = place + w.padding;
    int const late = max(0, at / w.stride - (extent - 1));  // windows beyond the last
    int const first = at % w.stride + late * w.stride;
    return {first, w.stride, at / w.stride - late, -1,
            min((w.size - first + w.stride - 1) / w.stride, at / w.stride - late + 1)};
  }
};

/// The same for any window, or, where not Forward, its adjoint: a pixel of `to` gathers from the windows over it.
template <int N, bool Forward, class T>
static __global__ void __launch_bounds__(image_threads)
    depthwise_gather_kernel(window_axis w, int images, image_shape from, image_shape to, T const* x,
                            T const* weights, T* y, store how) {
  using A = accumulator_t<T>;
  auto const place = image_place::of<N>(to);
  if (!place.there)
    return;
  auto const down = tap_run::of<Forward>(w, place.row, from.height),
             along = tap_run::of<Forward>(w, place.column, from.width);
  for_images(images, [&](int image) {
    pack<A, N> sum{};
    for (int i = 0; i < down.count; ++i)
      for (int j = 0; j < along.count; ++j) {
        int const tap = (down.first + i * down.step) * w.size + along.first + j * along.step;
        auto const v = load<N>(
                       x + from.at(image, down.source + i * down.change, along.source + j * along.change) +
                       place.channel),
                   u = load<N>(weights + tap * to.channels + place.channel);
#pragma unroll
        for (int k = 0; k < N; ++k) sum.at[k] += v.at[k] * u.at[k];
      }
    save<N>(y + to.at(image, place.row, place.column) + place.channel, sum, how);
  });
}

/// A 3 x 3 kernel for all lines of `to`.
template <int Stride, bool Flip, class T>
void slide_depthwise(device& c, window w, view<T const, 4> from, view<T const, 2> weights, view<T, 4> to,
                     store how) {
  auto const run = [&](int each, auto* kernel) {
    auto const tiles = column_tiles::of(to.extent(3), each, depthwise_across);
    auto const lines = to.extent(0) * to.extent(1);
    auto const blocks = (lines + tiles.rows - 1) / tiles.rows * tiles.tiles;
    auto const strips = (to.extent(2) + depthwise_strip - 1) / depthwise_strip;
    launch(c, dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(strips)), column_threads, 0, kernel,
           tiles, static_cast<int>((to.extent(2) + strips - 1) / strips), window_axis::of(w),
           static_cast<int>(to.extent(0)), image_shape::of(from.shape), image_shape::of(to.shape), from.data,
           weights.data, to.data, how);
  };
  constexpr int N = depthwise_neighbours<T>;
  if (to.extent(3) % N == 0 && packs_are_aligned<N>(from.data, weights.data, to.data))
    run(N, depthwise_kernel<N, Stride, Flip, T>);
  else
    run(1, depthwise_kernel<1, Stride, Flip, T>);
}

template <bool Forward, class T>
void gather_depthwise(device& c, window w, view<T const, 4> from, view<T const, 2> weights, view<T, 4> to,
                      store how) {
  auto const run = [&](int each, auto* kernel) {
    launch(c, blocks_of_images(to.shape, each), image_threads, 0, kernel, window_axis::of(w),
           static_cast<int>(to.extent(0)), image_shape::of(from.shape), image_shape::of(to.shape), from.data,
           weights.data, to.data, how);
  };
  constexpr int N = depthwise_neighbours<T>;
  if (to.extent(3) % N == 0 && packs_are_aligned<N>(from.data, weights.data, to.data))
    run(N, depthwise_gather_kernel<N, Forward, T>);
  else
    run(1, depthwise_gather_kernel<1, Forward, T>);
}

}  // namespace detail

/// y (batch, height, width, channels) = the sum over the window of x times weights (size size, channels), in the order
/// (y, x) of the window.
template <class T>
void depthwise_forward(context<T>& c, window w, view<std::type_identity_t<T> const, 4> x,
                       view<std::type_identity_t<T> const, 2> weights, view<std::type_identity_t<T>, 4> y) {
  if (y.size() == 0)
    return;
  if (w.size == 3 && w.stride == 1)
    detail::slide_depthwise<1, false, T>(c, w, x, weights, y, store::overwrite);
  else if (w.size == 3 && w.stride == 2)
    detail::slide_depthwise<2, false, T>(c, w, x, weights, y, store::overwrite);
  else
    detail::gather_depthwise<true, T>(c, w, x, weights, y, store::overwrite);
}

/// The gradient of depthwise_forward in x: weights, dy -> dx with `how`.
template <class T>
void depthwise_backward_input(context<T>& c, window w, view<std::type_identity_t<T> const, 2> weights,
                              view<std::type_identity_t<T> const, 4> dy, view<std::type_identity_t<T>, 4> dx,
                              store how) {
  if (dx.size() == 0)
    return;
  window const back{.size = 3, .stride = 1, .padding = 2 - w.padding};
  if (w.size == 3 && w.stride == 1 && w.padding <= 2)
    detail::slide_depthwise<1, true, T>(c, back, dy, weights, dx, how);
  else
    detail::gather_depthwise<false, T>(c, w, dy, weights, dx, how);
}

}  // namespace yoke::cuda
