// Depthwise convolutions of images, each channel with a filter of its own: 3 x 3 with padding 1 at the speed of memory,
// any other window by plain loops.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/depthwise_lines.hpp>
#include <yoke/cpu/depthwise_sums.hpp>
#include <yoke/cpu/partial_sums.hpp>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// Along one axis, where the number under a tap of the window is: for a place of the output, the place in an input of
/// `extent` pixels; -1 when it is none.
struct window_source {
  window w;

  extent_t operator()(extent_t place, extent_t tap, extent_t extent) const {
    auto const at = place * w.stride - w.padding + tap;
    return at >= 0 && at < extent ? at : -1;
  }
};
/// The other way: for a place of the input, the place in an output of `extent` pixels to which it goes by a tap.
struct window_target {
  window w;

  extent_t operator()(extent_t place, extent_t tap, extent_t extent) const {
    auto const at = place + w.padding - tap;
    return at >= 0 && at % w.stride == 0 && at / w.stride < extent ? at / w.stride : -1;
  }
};

/// Line `y` of image `image` of the images `to`, channels from `channel` on: sums over all taps of weights times what
/// `reach` (one of the two above) finds of the images `from`.
template <class T, class Reach>
void gather_line(Reach const& reach, view<T const, 4> from, view<T const, 2> weights, view<T, 4> to,
                 store how, extent_t image, extent_t y, extent_t channel) {
  using A = accumulator_t<T>;
  auto const size = reach.w.size, height = from.extent(1), width = from.extent(2), channels = from.extent(3);
  auto* out = to.data + (image * to.extent(1) + y) * to.extent(2) * channels + channel;
  for (extent_t x = 0; x < to.extent(2); ++x, out += channels)
    for_lanes<A>(channels - channel, [&](auto const& at) {
      lanes_t<A> sum{};
      for (extent_t i = 0; i < size; ++i)
        if (auto const row = reach(y, i, height); row >= 0)
          for (extent_t j = 0; j < size; ++j)
            if (auto const column = reach(x, j, width); column >= 0)
              sum += at(from.data + ((image * height + row) * width + column) * channels + channel) *
                     at(weights.data + (i * size + j) * channels + channel);
      at(out, how == store::accumulate ? at(out) + sum : sum);
    });
}

/// True where the loops of depthwise_lines.hpp and depthwise_sums.hpp hold.
constexpr bool is_usual(window w) {
  return w.size == 3 && w.padding == 1 && (w.stride == 1 || w.stride == 2);
}

/// True where results go past the caches: large ones, written by whole lines.
template <class T>
bool streams(view<T, 4> to, store how) {
  constexpr extent_t element = sizeof(T);
  return can_stream && how == store::overwrite && to.size() * element >= streamed_bytes &&
         channel_block<accumulator_t<T>>::count * element % streamed_line == 0 &&
         to.extent(3) * element % streamed_line == 0 &&
         reinterpret_cast<std::uintptr_t>(to.data) % streamed_line == 0;
}

/// All lines of `to`, by Slide as far as it goes and gather_line beyond. `flipped`: the first tap of a line goes to the
/// right.
template <class Slide, class T, class Reach>
void depthwise_lines(Reach const& reach, bool flipped, view<T const, 4> from, view<T const, 2> weights,
                     view<T, 4> to, store how) {
  auto const height = from.extent(1), channels = from.extent(3), lines = to.extent(0) * to.extent(1);
  auto const from_line = from.extent(2) * channels, to_line = to.extent(2) * channels;
  auto const from_lines = from.extent(0) * height;
  bool const streaming = streams(to, how);
  parallel_for(lines, least_rows(to_line), [&](extent_t first, extent_t last) {
    for (auto i = first; i < last; ++i) {
      auto const image = i / to.extent(1), y = i % to.extent(1);
      depthwise_line<T> line{};
      extent_t furthest = 0;
      for (extent_t tap = 0; tap < 3; ++tap)
        if (auto const row = reach(y, tap, height); row >= 0) {
          auto const r = line.rows++;
          line.from[r] = from.data + (image * height + row) * from_line;
          line.weights[r] = weights.data + (3 * tap + (flipped ? 2 : 0)) * channels;
          furthest = std::max(furthest, image * height + row);
        }
      line.width = from.extent(2), line.out_width = to.extent(2);
      line.channels = channels, line.tap_step = flipped ? -channels : channels;
      line.to = to.data + i * to_line, line.ahead_to = to.data + std::min(i + 1, lines - 1) * to_line;
      line.accumulate = how == store::accumulate, line.streaming = streaming;
      for (auto& p : line.ahead) {
        furthest = std::min(furthest + 1, from_lines - 1);
        p = from.data + furthest * from_line;
      }
      if (auto const done = run_by_blocks<Slide>(line); done < channels)
        gather_line(reach, from, weights, to, how, image, y, done);
    }
    if (streaming)
      finish_streaming();
  });
}

/// The same by gather_line alone.
template <class T, class Reach>
void gather_lines(Reach const& reach, view<T const, 4> from, view<T const, 2> weights, view<T, 4> to,
                  store how) {
  parallel_for(to.extent(0) * to.extent(1), least_rows(to.extent(2) * to.extent(3)),
               [&](extent_t first, extent_t last) {
                 for (auto i = first; i < last; ++i)
                   gather_line(reach, from, weights, to, how, i / to.extent(1), i % to.extent(1), 0);
               });
}

}  // namespace detail

/// y (batch, height, width, channels) = the sum over the window of x times weights (size size, channels), in the order
/// (y, x) of the window.
template <class T>
void depthwise_forward(context<T>&, window w, view<std::type_identity_t<T> const, 4> x,
                       view<std::type_identity_t<T> const, 2> weights, view<std::type_identity_t<T>, 4> y) {
  detail::window_source const reach{w};
  if (!detail::is_usual(w))
    detail::gather_lines<T>(reach, x, weights, y, store::overwrite);
  else if (w.stride == 1)
    detail::depthwise_lines<detail::slide_by_one, T>(reach, false, x, weights, y, store::overwrite);
  else
    detail::depthwise_lines<detail::slide_by_two, T>(reach, false, x, weights, y, store::overwrite);
}

/// The gradient of depthwise_forward in x: weights, dy -> dx with `how`.
template <class T>
void depthwise_backward_input(context<T>&, window w, view<std::type_identity_t<T> const, 2> weights,
                              view<std::type_identity_t<T> const, 4> dy, view<std::type_identity_t<T>, 4> dx,
                              store how) {
  detail::window_target const reach{w};
  if (!detail::is_usual(w))
    detail::gather_lines<T>(reach, dy, weights, dx, how);
  else if (w.stride == 1)
    detail::depthwise_lines<detail::slide_by_one, T>(reach, true, dy, weights, dx, how);
  else
    detail::depthwise_lines<detail::spread_by_two, T>(reach, false, dy, weights, dx, how);
}

namespace detail {

/// sums (size size, channels) += what line `y` of dy's image `image` gives, channels from `channel` on.
template <class T, class A>
void sum_line(window_source const& reach, view<T const, 4> x, view<T const, 4> dy, A* sums, extent_t image,
              extent_t y, extent_t channel) {
  auto const size = reach.w.size, height = x.extent(1), width = x.extent(2), channels = x.extent(3);
  auto const* up = dy.data + (image * dy.extent(1) + y) * dy.extent(2) * channels + channel;
  for (extent_t place = 0; place < dy.extent(2); ++place, up += channels)
    for (extent_t i = 0; i < size; ++i)
      if (auto const row = reach(y, i, height); row >= 0)
        for (extent_t j = 0; j < size; ++j)
          if (auto const column = reach(place, j, width); column >= 0)
            map_line(
                channels - channel, store::accumulate, [](auto a, auto b) { return a * b; },
                sums + (i * size + j) * channels + channel,
                x.data + ((image * height + row) * width + column) * channels + channel, up);
}

/// The same for a usual window and whole blocks of channels; the number of channels that are done.
template <class T, class A>
extent_t sum_blocks(window_source const& reach, view<T const, 4> x, view<T const, 4> dy, A* sums,
                    extent_t image, extent_t y) {
  auto const height = x.extent(1), channels = x.extent(3), lines = dy.extent(0) * dy.extent(1);
  auto const x_line = x.extent(2) * channels, up_line = dy.extent(2) * channels;
  auto const line_number = image * dy.extent(1) + y;
  depthwise_pair<T> line{};
  extent_t furthest = 0;
  for (extent_t tap = 0; tap < 3; ++tap)
    if (auto const row = reach(y, tap, height); row >= 0) {
      auto const r = line.rows++;
      furthest = image * height + row;
      line.from[r] = x.data + furthest * x_line;
      line.sums[r] = sums + 3 * tap * channels;
    }
  line.width = x.extent(2), line.up_width = dy.extent(2), line.channels = channels;
  line.up = dy.data + line_number * up_line;
  line.ahead_up = dy.data + std::min(line_number + 1, lines - 1) * up_line;
  for (auto& p : line.ahead) {
    furthest = std::min(furthest + 1, x.extent(0) * height - 1);
    p = x.data + furthest * x_line;
  }
  return reach.w.stride == 1 ? run_by_blocks<sum_by_one>(line) : run_by_blocks<sum_by_two>(line);
}

}  // namespace detail

/// The gradient of depthwise_forward in the weights: x, dy -> dweights (size size, channels) with `how`.
template <class T, class W>
void depthwise_backward_weights(context<T>& c, window w, view<std::type_identity_t<T> const, 4> x,
                                view<std::type_identity_t<T> const, 4> dy, view<W, 2> dweights, store how) {
  using A = accumulator_t<T>;
  constexpr extent_t most_blocks = 64;
  detail::window_source const reach{w};
  auto const height = dy.extent(1), channels = dy.extent(3), n = dweights.size();
  detail::line_blocks const blocks{dy.extent(0) * height, most_blocks};
  auto* const parts = c.template scratch<A>(blocks.count * n);
  parallel_for(blocks.count, detail::least_rows(blocks.length * dy.extent(2) * channels),
               [&](extent_t first, extent_t last) {
                 for (auto b = first; b < last; ++b) {
                   auto* const sums = parts + b * n;
                   std::fill_n(sums, n, A{0});
                   extent_t done = 0;
                   for (auto i = blocks.begin(b); i < blocks.end(b); ++i) {
                     if (detail::is_usual(w))
                       done = detail::sum_blocks<T>(reach, x, dy, sums, i / height, i % height);
                     if (done < channels)
                       detail::sum_line<T>(reach, x, dy, sums, i / height, i % height, done);
                   }
                   for (extent_t tap = 0; tap < w.size * w.size; ++tap)
                     for (extent_t channel = 0; channel < done; channel += detail::channel_block<A>::count) {
                       auto* const p = sums + tap * channels + channel;
                       detail::save_joined<T>(p, detail::load_block(p));
                     }
                 }
               });
  detail::add_parts(parts, blocks.count, n, dweights.data, how);
}

}  // namespace yoke::cpu
