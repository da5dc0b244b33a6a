// Images as the rows of matrix products: the pixels under each window side by side, and weights in the order of the
// gradient's windows.
#pragma once
#include <yoke/cuda/images.cuh>

#include <algorithm>

namespace yoke::cuda::detail {

/// Along one axis, a run of the places of a window, and where the first of them is for the output's place 0: place p of
/// the output sees places first + p * stride + (0 … count) of the input.
struct window_run {
  int first, stride, count;
};

/// Along one axis, the places of the input that are `phase` beyond a multiple of the stride: the taps that reach them,
/// and where they come from. Tap first_tap + (run.count - 1 - k) * stride takes place run.first + p + k of the output
/// to the p-th of these places.
struct window_phase {
  int phase, first_tap, stride;
  window_run run;

  window_phase(window w, extent_t i)
      : phase{static_cast<int>(i)},
        first_tap{static_cast<int>((i + w.padding) % w.stride)},
        stride{static_cast<int>(w.stride)},
        run{0, 1, std::max(0, (static_cast<int>(w.size) - first_tap + stride - 1) / stride)} {
    run.first = static_cast<int>((i + w.padding) / w.stride) - (run.count - 1);
  }
  __device__ int tap(int k) const { return first_tap + (run.count - 1 - k) * stride; }
  /// How many of n places there are.
  extent_t places(extent_t n) const { return (n - phase + stride - 1) / stride; }
};

inline constexpr int unfold_threads = 256;

/// For each output place of lines [begin, end) of `height` lines an image a row of rows: the pixels of x under its
/// window, (y, x, channel), zeros beyond the edges. A warp has a row at a time.
template <int N, class T>
static __global__ void __launch_bounds__(unfold_threads)
    unfold_kernel(image_shape from, window_run down, window_run along, int height, int width, extent_t begin,
                  extent_t end, T const* x, T* rows) {
  int const lane = static_cast<int>(threadIdx.x) % 32, packs = from.channels / N, run = along.count * packs,
            columns = down.count * run;
  auto const warps = extent_t{gridDim.x} * (unfold_threads / 32);
  auto const count = (end - begin) * width;
  for (auto r = extent_t{blockIdx.x} * (unfold_threads / 32) + threadIdx.x / 32; r < count; r += warps) {
    auto const line = begin + r / width;
    int const place = static_cast<int>(r % width), image = static_cast<int>(line / height),
              row = static_cast<int>(line % height) * down.stride + down.first,
              column = place * along.stride + along.first;
    auto* const to = rows + r * columns * N;
    for (int i = lane; i < columns; i += 32) {
      int const k = i / run, rest = i - k * run, j = rest / packs;
      int const at_row = row + k, at_column = column + j;
      pack<T, N> v{};
      if (at_row >= 0 && at_row < from.height && at_column >= 0 && at_column < from.width)
        v = *reinterpret_cast<pack<T, N> const*>(x + from.at(image, at_row, at_column) +
                                                 (rest - j * packs) * N);
      *reinterpret_cast<pack<T, N>*>(to + extent_t{i} * N) = v;
    }
  }
}

template <class T>
void unfold(device& c, view<T const, 4> x, window_run down, window_run along, extent_t height, extent_t width,
            extent_t begin, extent_t end, T* rows) {
  auto const blocks = blocks_for(c, (end - begin) * width, unfold_threads / 32);
  auto const run = [&](auto* kernel) {
    launch(c, blocks, unfold_threads, 0, kernel, image_shape::of(x.shape), down, along,
           static_cast<int>(height), static_cast<int>(width), begin, end, x.data, rows);
  };
  constexpr int N = wide<T>;
  if (x.extent(3) % N == 0 && packs_are_aligned<N>(x.data, rows))
    run(unfold_kernel<N, T>);
  else
    run(unfold_kernel<1, T>);
}

/// The weights (out, size size in) of the taps of two phases as (tap, tap, out, in).
template <class T>
static __global__ void __launch_bounds__(unfold_threads)
    turn_weights_kernel(int size, window_phase down, window_phase along, int out, int in, T const* weights,
                        T* to) {
  auto const n = extent_t{down.run.count} * along.run.count * out * in;
  auto const stride = extent_t{gridDim.x} * unfold_threads;
  for (auto i = extent_t{blockIdx.x} * unfold_threads + threadIdx.x; i < n; i += stride) {
    auto const rest = i / in, channel = i - rest * in, tap = rest / out, o = rest - tap * out;
    int const y = static_cast<int>(tap) / along.run.count, x = static_cast<int>(tap) - y * along.run.count;
    to[i] = weights[(o * size * size + down.tap(y) * size + along.tap(x)) * in + channel];
  }
}

/// Lines [begin, end) of one phase's pixels, `height` an image and `width` a line, to where they are in dx.
template <class T>
static __global__ void __launch_bounds__(unfold_threads)
    spread_kernel(image_shape to, window_phase down, window_phase along, int height, int width,
                  extent_t begin, extent_t end, accumulator_t<T> const* rows, T* dx, store how) {
  auto const n = (end - begin) * width * to.channels, stride = extent_t{gridDim.x} * unfold_threads;
  for (auto i = extent_t{blockIdx.x} * unfold_threads + threadIdx.x; i < n; i += stride) {
    auto const pixel = i / to.channels, line = begin + pixel / width;
    int const place = static_cast<int>(pixel % width), image = static_cast<int>(line / height),
              row = static_cast<int>(line % height);
    put(dx + to.at(image, row * down.stride + down.phase, place * along.stride + along.phase) +
            (i - pixel * to.channels),
        rows[i], how);
  }
}

}  // namespace yoke::cuda::detail
