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
        for (auto i = first; i < last; ++i)  // i: a row of one image
          for (extent_t j = 0; j < columns; ++j) {
            auto const down = detail::pixels_under(w, i % rows, height),
                       across = detail::pixels_under(w, j, width);
            auto const pixel = [&](extent_t r, extent_t c) {
              return x.data + ((i / rows * height + r) * width + c) * channels;
            };
            auto* const to = y.data + (i * columns + j) * channels;
            detail::for_lanes<A>(channels, [&](auto const& at) {
              if (kind == window_pool_kind::max)
                return at(to, detail::window_maximum<A>(down, across, width, at, pixel).value);
              detail::lanes_t<A> sum{};
              detail::for_places(down, across, [&](extent_t r, extent_t c) { sum += at(pixel(r, c)); });
              at(to, sum * share);
            });
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
  parallel_for(x.extent(0) * height, detail::least_rows(width * channels),
               [&](extent_t first, extent_t last) {
                 for (auto i = first; i < last; ++i)  // i: a row of one image
                   for (extent_t j = 0; j < width; ++j) {
                     auto const image = i / height, row = i % height;
                     auto const down = detail::windows_over(w, row, rows),
                                across = detail::windows_over(w, j, columns);
                     auto const pixel = [&](extent_t r, extent_t c) {
                       return x.data + ((image * height + r) * width + c) * channels;
                     };
                     auto const gradient = [&](extent_t r, extent_t c) {
                       return dy.data + ((image * rows + r) * columns + c) * channels;
                     };
                     auto* const to = dx.data + (i * width + j) * channels;
                     detail::for_lanes<A>(channels, [&](auto const& at) {
                       detail::lanes_t<A> sum{};
                       detail::for_places(down, across, [&](extent_t r, extent_t c) {
                         auto const up = at(gradient(r, c));
                         if (kind == window_pool_kind::mean) {
                           sum += up * share;
                           return;
                         }
                         auto const place =
                             detail::window_maximum<A>(detail::pixels_under(w, r, height),
                                                       detail::pixels_under(w, c, width), width, at, pixel)
                                 .place;
                         using number = detail::lane_t<decltype(place)>;
                         sum += place == static_cast<number>(row * width + j) ? up : up * A{0};
                       });
                       at(to, how == store::overwrite ? sum : at(to) + sum);
                     });
                   }
               });
}

}  // namespace yoke::cpu
