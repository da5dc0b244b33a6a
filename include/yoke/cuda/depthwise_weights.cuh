// The gradients of depthwise convolutions in their weights: sums over pieces of all lines, and over the pieces.
#pragma once
#include <yoke/cuda/depthwise.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Piece blockIdx.y of the lines of dy -> its nine lines of sums (pieces, 9, channels), for 3 x 3 windows.
template <int N, int Stride, class T>
static __global__ void __launch_bounds__(column_threads, 2)
    depthwise_sums_kernel(column_tiles tiles, window_axis w, extent_t lines, extent_t each, image_shape from,
                          image_shape to, T const* x, T const* dy, accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x), to.channels);
  auto const first = extent_t{blockIdx.y} * each, last = first + each < lines ? first + each : lines;
  pack<A, N> sum[9] = {};
  if (place.there)
    for (auto line = first + place.row; line < last; line += tiles.rows) {
      int const image = static_cast<int>(line / to.height),
                row = static_cast<int>(line - extent_t{image} * to.height);
      sliding_window<N, Stride, T> pixels(w, from, x, image, row, 0, place.column);
      auto const* up = dy + to.at(image, row, 0) + place.column;
#pragma unroll(Stride == 1 ? 3 : 1)
      for (int p = 0; p < to.width; ++p, up += to.channels) {
        pixels.slide(p * Stride - w.padding);
        auto const u = load<N>(up);
#pragma unroll
        for (int tap = 0; tap < 9; ++tap)
#pragma unroll
          for (int k = 0; k < N; ++k) sum[tap].at[k] += pixels.under[tap / 3][tap % 3].at[k] * u.at[k];
      }
    }
#pragma unroll
  for (int tap = 0; tap < 9; ++tap) {
    sum_block_rows(tiles, place.row, sum[tap]);
    if (place.there && place.row == 0)
      save<N>(sums + (extent_t{blockIdx.y} * 9 + tap) * to.channels + place.column, sum[tap],
              store::overwrite);
  }
}

/// The same for any window, a tap (blockIdx.z) at a time.
template <int N, class T>
static __global__ void __launch_bounds__(column_threads)
    depthwise_tap_kernel(column_tiles tiles, window_axis w, extent_t lines, extent_t each, image_shape from,
                         image_shape to, T const* x, T const* dy, accumulator_t<T>* sums) {
  auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x), to.channels);
  auto const first = extent_t{blockIdx.y} * each, last = first + each < lines ? first + each : lines;
  int const tap = static_cast<int>(blockIdx.z), down = tap / w.size - w.padding,
            along = tap % w.size - w.padding;
  pack<accumulator_t<T>, N> sum{};
  if (place.there)
    for (auto line = first + place.row; line < last; line += tiles.rows) {
      int const image = static_cast<int>(line / to.height),
                row = static_cast<int>(line - extent_t{image} * to.height);
      int const y = row * w.stride + down;
      if (y < 0 || y >= from.height)
        continue;
      for (int p = 0; p < to.width; ++p) {
        int const at = p * w.stride + along;
        if (at < 0 || at >= from.width)
          continue;
        auto const v = load<N>(x + from.at(image, y, at) + place.column),
                   u = load<N>(dy + to.at(image, row, p) + place.column);
#pragma unroll
        for (int k = 0; k < N; ++k) sum.at[k] += v.at[k] * u.at[k];
      }
    }
  sum_block_rows(tiles, place.row, sum);
  if (place.there && place.row == 0)
    save<N>(sums + (extent_t{blockIdx.y} * gridDim.z + tap) * to.channels + place.column, sum,
            store::overwrite);
}

}  // namespace detail

/// The gradient of depthwise_forward in the weights: x, dy -> dweights (size size, channels), elements or accumulators,
/// with `how`; the same bits every time.
template <class T, class W>
void depthwise_backward_weights(context<T>& c, window w, view<std::type_identity_t<T> const, 4> x,
                                view<std::type_identity_t<T> const, 4> dy, view<W, 2> dweights, store how) {
  using A = accumulator_t<T>;
  auto const n = dweights.size(), channels = dweights.extent(1);
  if (n == 0)
    return;
  bool const slides = w.size == 3 && (w.stride == 1 || w.stride == 2);
  auto const run = [&](int each, auto* by_one, auto* by_two, auto* by_tap) {
    auto const tiles = detail::column_tiles::of(channels, each, detail::depthwise_across);
    auto const lines = dy.size() == 0 ? 0 : dy.extent(0) * dy.extent(1);
    // by the shapes alone, so that sums have the same bits on every card
    auto const pieces = detail::row_pieces::of(lines, tiles.rows, std::max(1, 512 / tiles.tiles));
    auto* const sums = c.template scratch<A>(pieces.count * n);
    detail::launch(c,
                   dim3(static_cast<unsigned>(tiles.tiles), static_cast<unsigned>(pieces.count),
                        slides ? 1u : static_cast<unsigned>(w.size * w.size)),
                   detail::column_threads, 0, slides ? w.stride == 1 ? by_one : by_two : by_tap, tiles,
                   detail::window_axis::of(w), lines, pieces.each, detail::image_shape::of(x.shape),
                   detail::image_shape::of(dy.shape), x.data, dy.data, sums);
    detail::add_parts(c, sums, pieces.count, n, dweights.data, how);
  };
  constexpr int N = detail::depthwise_neighbours<T>;
  if (channels % N == 0 && detail::packs_are_aligned<N>(x.data, dy.data))
    run(N, detail::depthwise_sums_kernel<N, 1, T>, detail::depthwise_sums_kernel<N, 2, T>,
        detail::depthwise_tap_kernel<N, T>);
  else
    run(1, detail::depthwise_sums_kernel<1, 1, T>, detail::depthwise_sums_kernel<1, 2, T>,
        detail::depthwise_tap_kernel<1, T>);
}

}  // namespace yoke::cuda
