// The largest or the mean of the pixels under a window that moves over images.
#pragma once
#include <yoke/cuda/images.cuh>

#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Of each of N channels, the largest of some pixels and the number of the first that is as large; or NaN, and the last
/// of them.
template <int N, class A>
struct running_maximum {
  pack<A, N> value;
  int place[N];

  __device__ running_maximum(pack<A, N> const& first, int number) : value{first} {
#pragma unroll
    for (int k = 0; k < N; ++k) place[k] = number;
  }
  __device__ void add(pack<A, N> const& v, int number) {
#pragma unroll
    for (int k = 0; k < N; ++k)
      if (v.at[k] > value.at[k] || v.at[k] != v.at[k]) {
        value.at[k] = v.at[k];
        place[k] = number;
      }
  }
};

/// Of the pixels under window (row, column) of `image`, whose channels begin at x; pixels are numbered as in the image.
template <int N, class T>
__device__ inline running_maximum<N, accumulator_t<T>> window_maximum(window_axis w, image_shape const& s,
                                                                      T const* image, int row, int column) {
  auto const down = pixels_under(w, row, s.height), across = pixels_under(w, column, s.width);
  running_maximum<N, accumulator_t<T>> most(load<N>(image + s.at(0, down.first, across.first)),
                                            down.first * s.width + across.first);
  for (int y = down.first; y < down.last; ++y)
    for (int x = across.first; x < across.last; ++x)
      most.add(load<N>(image + s.at(0, y, x)), y * s.width + x);
  return most;
}

template <int N, window_pool_kind Kind, class T>
static __global__ void __launch_bounds__(image_threads)
    window_pool_kernel(window_axis w, int images, image_shape from, image_shape to, T const* x, T* y) {
  using A = accumulator_t<T>;
  auto const place = image_place::of<N>(to);
  if (!place.there)
    return;
  for_images(images, [&](int image) {
    auto const* const in = x + from.at(image, 0, 0) + place.channel;
    auto* const out = y + to.at(image, place.row, place.column) + place.channel;
    if constexpr (Kind == window_pool_kind::max) {
      save<N>(out, window_maximum<N>(w, from, in, place.row, place.column).value, store::overwrite);
    } else {
      auto const down = pixels_under(w, place.row, from.height),
                 across = pixels_under(w, place.column, from.width);
      pack<A, N> sum{};
      for (int r = down.first; r < down.last; ++r)
        for (int c = across.first; c < across.last; ++c) {
          auto const v = load<N>(in + from.at(0, r, c));
#pragma unroll
          for (int k = 0; k < N; ++k) sum.at[k] += v.at[k];
        }
      auto const share = 1 / static_cast<A>(w.size * w.size);
#pragma unroll
      for (int k = 0; k < N; ++k) sum.at[k] *= share;
      save<N>(out, sum, store::overwrite);
    }
  });
}

/// Each pixel of dx gathers from the windows that it is under.
template <int N, window_pool_kind Kind, class T>
static __global__ void __launch_bounds__(image_threads)
    window_pool_backward_kernel(window_axis w, int images, image_shape from, image_shape to, T const* x,
                                T const* dy, T* dx, store how) {
  using A = accumulator_t<T>;
  auto const place = image_place::of<N>(from);
  if (!place.there)
    return;
  auto const down = windows_over(w, place.row, to.height), across = windows_over(w, place.column, to.width);
  int const here = place.row * from.width + place.column;
  auto const share = 1 / static_cast<A>(w.size * w.size);
  for_images(images, [&](int image) {
    pack<A, N> sum{};
    for (int r = down.first; r < down.last; ++r)
      for (int c = across.first; c < across.last; ++c) {
        auto const up = load<N>(dy + to.at(image, r, c) + place.channel);
        if constexpr (Kind == window_pool_kind::max) {
          auto const most = window_maximum<N>(w, from, x + from.at(image, 0, 0) + place.channel, r, c);
#pragma unroll
          for (int k = 0; k < N; ++k) sum.at[k] += most.place[k] == here ? up.at[k] : A(0);
        } else {
#pragma unroll
          for (int k = 0; k < N; ++k) sum.at[k] += up.at[k] * share;
        }
      }
    save<N>(dx + from.at(image, place.row, place.column) + place.channel, sum, how);
  });
}

/// Calls f with the kind as a type.
template <class F>
void with_pool_kind(window_pool_kind kind, F const& f) {
  if (kind == window_pool_kind::max)
    f(std::integral_constant<window_pool_kind, window_pool_kind::max>{});
  else
    f(std::integral_constant<window_pool_kind, window_pool_kind::mean>{});
}

}  // namespace detail

/// x (batch, height, width, channels) -> y, its height and width what the window gives; the padding is less than the
/// window's size. A window with a NaN gives NaN.
template <class T>
void window_pool_forward(context<T>& c, window_pool_kind kind, window w,
                         view<std::type_identity_t<T> const, 4> x, view<std::type_identity_t<T>, 4> y) {
  constexpr int N = detail::wide<T>;
  if (y.size() == 0)
    return;
  bool const whole = x.extent(3) % N == 0 && detail::packs_are_aligned<N>(x.data, y.data);
  detail::with_pool_kind(kind, [&]<window_pool_kind Kind>(std::integral_constant<window_pool_kind, Kind>) {
    detail::launch(c, detail::blocks_of_images(y.shape, whole ? N : 1), detail::image_threads, 0,
                   whole ? detail::window_pool_kernel<N, Kind, T> : detail::window_pool_kernel<1, Kind, T>,
                   detail::window_axis::of(w), static_cast<int>(x.extent(0)),
                   detail::image_shape::of(x.shape), detail::image_shape::of(y.shape), x.data, y.data);
  });
}

/// The gradient of window_pool_forward: x, dy -> dx with `how`. A maximum's goes to the first pixel that has it. What
/// windows that overlap give to one pixel is added in accumulators.
template <class T>
void window_pool_backward(context<T>& c, window_pool_kind kind, window w,
                          view<std::type_identity_t<T> const, 4> x, view<std::type_identity_t<T> const, 4> dy,
                          view<std::type_identity_t<T>, 4> dx, store how) {
  constexpr int N = detail::wide<T>;
  if (dx.size() == 0)
    return;
  bool const whole = x.extent(3) % N == 0 && detail::packs_are_aligned<N>(x.data, dy.data, dx.data);
  detail::with_pool_kind(kind, [&]<window_pool_kind Kind>(std::integral_constant<window_pool_kind, Kind>) {
    detail::launch(c, detail::blocks_of_images(x.shape, whole ? N : 1), detail::image_threads, 0,
                   whole ? detail::window_pool_backward_kernel<N, Kind, T>
                         : detail::window_pool_backward_kernel<1, Kind, T>,
                   detail::window_axis::of(w), static_cast<int>(x.extent(0)),
                   detail::image_shape::of(x.shape), detail::image_shape::of(dy.shape), x.data, dy.data,
                   dx.data, how);
  });
}

}  // namespace yoke::cuda
