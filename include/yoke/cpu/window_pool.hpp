// The largest or the mean of the pixels under a window that moves over images.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/vector_math.hpp>

#include <algorithm>
#include <bit>
#include <limits>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// [first, last) of one axis.
struct axis_range {
  extent_t first, last;
};
/// The pixels of an axis of n that are under window number i.
inline axis_range pixels_under(window w, extent_t i, extent_t n) {
  auto const begin = i * w.stride - w.padding;
  return {std::max<extent_t>(begin, 0), std::min(begin + w.size, n)};
}
/// The windows, of n along an axis, that pixel i is under.
inline axis_range windows_over(window w, extent_t i, extent_t n) {
  auto const place = i + w.padding;
  return {place < w.size ? 0 : (place - w.size) / w.stride + 1, std::min(n, place / w.stride + 1)};
}

/// Calls f(row, column) for each of both ranges.
template <class F>
void for_places(axis_range down, axis_range across, F const& f) {
  for (auto y = down.first; y < down.last; ++y)
    for (auto x = across.first; x < across.last; ++x) f(y, x);
}

/// The largest of some numbers, and the place of the first that is as large; or NaN, and the place of the last of them.
template <class A>
struct running_maximum {
  using places = typename lanes<A>::bits;
  lanes_t<A> value;
  places place;

  void add(lanes_t<A> v, lane_t<places> at) {
    constexpr auto infinite = std::bit_cast<lane_t<places>>(std::numeric_limits<A>::infinity());
    auto const nan = (std::bit_cast<places>(v) & std::numeric_limits<lane_t<places>>::max()) > infinite;
    auto const better = (v > value) | nan;
    value = better ? v : value;
    place = better ? places{} + at : place;
  }
};

/// Of the pixels under a window, whose channels `at` reads at pixel(row, column); places count pixels of the image.
template <class A, class At, class Pixel>
running_maximum<A> window_maximum(axis_range down, axis_range across, extent_t width, At const& at,
                                  Pixel const& pixel) {
  using places = typename lanes<A>::bits;
  auto const number = [=](extent_t y, extent_t x) { return static_cast<lane_t<places>>(y * width + x); };
  running_maximum<A> most{at(pixel(down.first, across.first)), places{} + number(down.first, across.first)};
  for_places(down, across, [&](extent_t y, extent_t x) { most.add(at(pixel(y, x)), number(y, x)); });
  return most;
}

/// What a window gives to its pixels, by their numbers: all of them the same, or one of them everything.
template <class A>
struct window_gradient {
  using places = typename lanes<A>::bits;
  lanes_t<A> up;
  places place;
  bool to_all;

  lanes_t<A> of(extent_t number) const {
    return to_all ? up : place == static_cast<lane_t<places>>(number) ? up : lanes_t<A>{};
  }
};

}  // namespace detail

/// x (batch, height, width, channels) -> y, its height and width what the window gives; the padding is less than the
/// window's size. A window with a NaN gives NaN.
template <class T>
void window_pool_forward(context<T>&, window_pool_kind kind, window w,
                         view<std::type_identity_t<T> const, 4> x, view<std::type_identity_t<T>, 4> y) {
  using A = accumulator_t<T>;
  auto const height = x.extent(1), width = x.extent(2), channels = x.extent(3);
  auto const rows = y.extent(1), columns = y.extent(2);
  auto const share = A{1} / static_cast<A>(w.size * w.size);
  parallel_for(
      y.extent(0) * rows, detail::least_rows(columns * channels), [&](extent_t first, extent_t last) {
        for (auto i = first; i < last; ++i) {  // i: a row of one image
          auto const* const image = x.data + i / rows * height * width * channels;
          auto const down = detail::pixels_under(w, i % rows, height);
          auto const pixel = [&](extent_t v, extent_t u) { return image + (v * width + u) * channels; };
          for (extent_t c = 0; c < columns; ++c) {
            auto const across = detail::pixels_under(w, c, width);
            auto* const to = y.data + (i * columns + c) * channels;
            detail::for_lanes<A>(channels, [&](auto const& at) {
              if (kind == window_pool_kind::max)
                return at(to, detail::window_maximum<A>(down, across, width, at, pixel).value);
              detail::lanes_t<A> sum{};
              detail::for_places(down, across, [&](extent_t v, extent_t u) { sum += at(pixel(v, u)); });
              at(to, sum * share);
            });
          }
        }
      });
}

/// The gradient of window_pool_forward: x, dy -> dx with `how`. A maximum's goes to the first pixel that has it. What
/// windows that overlap give to one pixel is added in accumulators.
template <class T>
void window_pool_backward(context<T>&, window_pool_kind kind, window w,
                          view<std::type_identity_t<T> const, 4> x, view<std::type_identity_t<T> const, 4> dy,
                          view<std::type_identity_t<T>, 4> dx, store how) {
  using A = accumulator_t<T>;
  auto const height = x.extent(1), width = x.extent(2), channels = x.extent(3);
  auto const rows = dy.extent(1), columns = dy.extent(2);
  auto const share = A{1} / static_cast<A>(w.size * w.size);
  auto const gradient_of = [&](T const* image, T const* up, detail::axis_range down,
                               detail::axis_range across, auto const& at) {
    if (kind == window_pool_kind::mean)
      return detail::window_gradient<A>{at(up) * share, {}, true};
    auto const pixel = [&](extent_t v, extent_t u) { return image + (v * width + u) * channels; };
    return detail::window_gradient<A>{at(up), detail::window_maximum<A>(down, across, width, at, pixel).place,
                                      false};
  };
  auto const give = [how](T* to, auto const& at, detail::lanes_t<A> v) {
    at(to, how == store::overwrite ? v : at(to) + v);
  };
  if (w.stride == w.size && w.padding == 0 && height == rows * w.size && width == columns * w.size)
    // Each pixel is under one window: window by window.
    return parallel_for(x.extent(0) * rows, detail::least_rows(w.size * width * channels),
                        [&](extent_t first, extent_t last) {
                          for (auto i = first; i < last; ++i) {
                            auto const image = i / rows * height * width * channels;
                            auto const down = detail::pixels_under(w, i % rows, height);
                            for (extent_t c = 0; c < columns; ++c) {
                              auto const across = detail::pixels_under(w, c, width);
                              detail::for_lanes<A>(channels, [&](auto const& at) {
                                auto const g = gradient_of(
                                    x.data + image, dy.data + (i * columns + c) * channels, down, across, at);
                                detail::for_places(down, across, [&](extent_t v, extent_t u) {
                                  auto const number = v * width + u;
                                  give(dx.data + image + number * channels, at, g.of(number));
                                });
                              });
                            }
                          }
                        });
  parallel_for(
      x.extent(0) * height, detail::least_rows(width * channels), [&](extent_t first, extent_t last) {
        for (auto i = first; i < last; ++i) {
          auto const image = i / height, v = i % height;
          auto const down = detail::windows_over(w, v, rows);
          for (extent_t u = 0; u < width; ++u)
            detail::for_lanes<A>(channels, [&](auto const& at) {
              detail::lanes_t<A> sum{};
              detail::for_places(down, detail::windows_over(w, u, columns), [&](extent_t r, extent_t c) {
                sum += gradient_of(x.data + image * height * width * channels,
                                   dy.data + ((image * rows + r) * columns + c) * channels,
                                   detail::pixels_under(w, r, height), detail::pixels_under(w, c, width), at)
                           .of(v * width + u);
              });
              give(dx.data + (i * width + u) * channels, at, sum);
            });
        }
      });
}

}  // namespace yoke::cpu
