// Convolutions of images as matrix products: the pixels under the windows of a few lines are laid out as rows in a
// thread's cache and multiplied there.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/matmul.hpp>
#include <yoke/cpu/partial_sums.hpp>
#include <yoke/cpu/scratch.hpp>

#include <algorithm>
#include <numeric>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// Along one axis, a run of the places of a window, and where the first of them is for the output's place 0: place p of
/// the output sees places first + p * stride + (0 … count) of the input.
struct window_run {
  extent_t first, stride, count;
};

/// The pixels of `x` under windows, a row for each output place of lines [begin, end) of `height` lines an image, (y,
/// x, channel) of the window, zeros beyond the edges.
template <class T>
void unfold(view<T const, 4> x, window_run down, window_run along, extent_t height, extent_t width,
            extent_t begin, extent_t end, T* rows) {
  auto const channels = x.extent(3), run = along.count * channels, row = down.count * run;
  for (auto i = begin; i < end; ++i, rows += width * row)
    for (extent_t k = 0; k < down.count; ++k) {
      auto const y = down.first + i % height * down.stride + k;
      bool const inside = y >= 0 && y < x.extent(1);
      auto const* const line = x.data + (i / height * x.extent(1) + y) * x.extent(2) * channels;
      auto* to = rows + k * run;
      for (extent_t place = 0; place < width; ++place, to += row) {
        auto const from = along.first + place * along.stride;
        if (inside && from >= 0 && from + along.count <= x.extent(2)) {
          std::copy_n(line + from * channels, run, to);
          continue;
        }
        std::fill_n(to, run, T{});
        auto const left = std::max<extent_t>(from, 0), right = std::min(from + along.count, x.extent(2));
        if (inside && left < right)
          std::copy_n(line + left * channels, (right - left) * channels, to + (left - from) * channels);
      }
    }
}

/// How many of `lines` lines of `width` places, `columns` numbers each, make up a piece of work: it stays in a thread's
/// cache, there are pieces for many threads, and their places are a multiple of 32 where that can be, which suits
/// products best.
template <class T>
extent_t lines_a_chunk(extent_t lines, extent_t width, extent_t columns) {
  constexpr extent_t bytes = 256 << 10, pieces = 64, usual = 32;
  auto const most = std::min(bytes / std::max<extent_t>(1, width * columns * extent_t{sizeof(T)}),
                             (lines + pieces - 1) / pieces);
  auto const step = usual / std::gcd(width, usual);
  return most >= step ? most / step * step : std::max<extent_t>(1, most);
}

}  // namespace detail

/// y (batch, height, width, out) = bias (out; optional) + the window's pixels of x (batch, height, width, in) times
/// weights (out, size size in), in the order (y, x, channel).
template <class T>
void convolution_forward(context<T>& c, window w, view<std::type_identity_t<T> const, 4> x,
                         view<std::type_identity_t<T> const, 2> weights,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                         view<std::type_identity_t<T>, 4> y) {
  auto const height = y.extent(1), width = y.extent(2), out = y.extent(3), columns = weights.extent(1);
  auto const lines = y.extent(0) * height;
  auto const chunk = detail::lines_a_chunk<T>(lines, width, columns);
  detail::window_run const run{-w.padding, w.stride, w.size};
  parallel_for((lines + chunk - 1) / chunk, 1, [&](extent_t first, extent_t last) {
    detail::scratch<T> memory{chunk * width * columns};
    auto* const rows = memory.take(chunk * width * columns);
    for (auto i = first; i < last; ++i) {
      auto const begin = i * chunk, end = std::min(lines, begin + chunk), count = (end - begin) * width;
      detail::unfold<T>(x, run, run, height, width, begin, end, rows);
      detail::matmul_strided(c, detail::matrix<T const>{rows, count, columns, columns},
                             detail::as_matrix(weights, transpose::yes),
                             detail::matrix<T>{y.data + begin * width * out, count, out, out}, false,
                             bias.extent(0) == 0 ? nullptr : bias.data);
    }
  });
}

namespace detail {

/// Along one axis, the places of the input that are `phase` beyond a multiple of the stride: the taps that reach them,
/// and where they come from. The k-th of the run's places of the output reaches the input by tap(w, k).
struct window_phase {
  extent_t phase, first_tap;
  window_run run;

  window_phase(window w, extent_t i)
      : phase{i},
        first_tap{(i + w.padding) % w.stride},
        run{0, 1, (w.size - first_tap + w.stride - 1) / w.stride} {
    run.first = (i + w.padding) / w.stride - (run.count - 1);
  }
  extent_t tap(window w, extent_t k) const { return first_tap + (run.count - 1 - k) * w.stride; }
};

/// The weights (out, size size in) of the taps of two phases as (tap, tap, out, in).
template <class T>
void turn_weights(window w, window_phase down, window_phase along, view<T const, 2> weights, T* to) {
  auto const out = weights.extent(0), in = weights.extent(1) / (w.size * w.size),
             taps = down.run.count * along.run.count;
  parallel_for(taps * out, least_rows(in), [&](extent_t first, extent_t last) {
    for (auto i = first; i < last; ++i) {
      auto const tap = i / out;
      auto const place = down.tap(w, tap / along.run.count) * w.size + along.tap(w, tap % along.run.count);
      std::copy_n(weights.data + i % out * weights.extent(1) + place * in, in, to + i * in);
    }
  });
}

}  // namespace detail

/// The gradient of convolution_forward in x: weights, dy -> dx with `how`. As a convolution itself, of dy with turned
/// weights: one for each place that a pixel can have between strides.
template <class T>
void convolution_backward_input(context<T>& c, window w, view<std::type_identity_t<T> const, 2> weights,
                                view<std::type_identity_t<T> const, 4> dy,
                                view<std::type_identity_t<T>, 4> dx, store how) {
  auto const in = dx.extent(3), out = dy.extent(3);
  auto* const turned = c.template scratch<T>(weights.size());
  for (extent_t phase = 0; phase < w.stride * w.stride; ++phase) {
    detail::window_phase const down{w, phase / w.stride}, along{w, phase % w.stride};
    detail::turn_weights<T>(w, down, along, weights, turned);
    auto const height = (dx.extent(1) - down.phase + w.stride - 1) / w.stride,
               width = (dx.extent(2) - along.phase + w.stride - 1) / w.stride,
               columns = down.run.count * along.run.count * out, lines = dx.extent(0) * height;
    // lines of pixels that have others between them are no one matrix
    auto const chunk = w.stride == 1 ? detail::lines_a_chunk<T>(lines, width, columns) : 1;
    parallel_for((lines + chunk - 1) / chunk, 1, [&](extent_t first, extent_t last) {
      detail::scratch<T> memory{chunk * width * columns};
      auto* const rows = memory.take(chunk * width * columns);
      for (auto i = first; i < last; ++i) {
        auto const begin = i * chunk, end = std::min(lines, begin + chunk), count = (end - begin) * width;
        detail::unfold<T>(dy, down.run, along.run, height, width, begin, end, rows);
        auto const line = begin / height * dx.extent(1) + begin % height * w.stride + down.phase;
        auto* const to = dx.data + (line * dx.extent(2) + along.phase) * in;
        detail::matmul_strided(c, detail::matrix<T const>{rows, count, columns, columns},
                               detail::matrix<T const>{turned, columns, in, in},
                               detail::matrix<T>{to, count, in, w.stride * in}, how == store::accumulate);
      }
    });
  }
}

/// The gradient of convolution_forward in the weights: x, dy -> dweights (out, size size in) with `how`.
template <class T, class W>
void convolution_backward_weights(context<T>& c, window w, view<std::type_identity_t<T> const, 4> x,
                                  view<std::type_identity_t<T> const, 4> dy, view<W, 2> dweights, store how) {
  using A = accumulator_t<T>;
  constexpr extent_t most_elements = extent_t{1} << 23;
  auto const height = dy.extent(1), width = dy.extent(2), out = dy.extent(3), columns = dweights.extent(1);
  auto const n = dweights.size(), lines = dy.extent(0) * height;
  auto const chunk = detail::lines_a_chunk<T>(lines, width, columns);
  detail::line_blocks const blocks{
      lines, std::clamp<extent_t>(most_elements / std::max<extent_t>(n, 1), 4, 64), chunk};
  auto* const parts = c.template scratch<A>(blocks.count * n);
  detail::window_run const run{-w.padding, w.stride, w.size};
  parallel_for(blocks.count, 1, [&](extent_t first, extent_t last) {
    detail::scratch<T> memory{chunk * width * columns};
    auto* const rows = memory.take(chunk * width * columns);
    for (auto b = first; b < last; ++b)
      for (auto begin = blocks.begin(b); begin < blocks.end(b); begin += chunk) {
        auto const end = std::min(blocks.end(b), begin + chunk), count = (end - begin) * width;
        detail::unfold<T>(x, run, run, height, width, begin, end, rows);
        detail::matmul_strided(
            c, detail::matrix<T const>{dy.data + begin * width * out, count, out, out, true},
            detail::matrix<T const>{rows, count, columns, columns},
            detail::matrix<A>{parts + b * n, out, columns, columns}, begin != blocks.begin(b));
      }
  });
  detail::add_parts(parts, blocks.count, n, dweights.data, how);
}

}  // namespace yoke::cpu
