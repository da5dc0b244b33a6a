// Convolutions of images as matrix products: the pixels under the windows of some lines are laid out as rows in scratch
// memory, and multiplied there.
#pragma once
#include <yoke/cuda/matmul.cuh>
#include <yoke/cuda/pointwise.cuh>
#include <yoke/cuda/scratch_plan.cuh>
#include <yoke/cuda/unfold.cuh>

#include <algorithm>
#include <cstddef>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Lines in equal chunks whose rows, `width` a line of `columns` numbers each, take no more memory than this, which
/// fits into the second cache of large cards; by the shapes alone, so that sums have the same bits on every card.
struct line_chunks {
  static constexpr extent_t bytes = extent_t{32} << 20;
  extent_t lines, each;

  template <class T>
  static line_chunks of(extent_t lines, extent_t width, extent_t columns) {
    auto const line = std::max<extent_t>(1, width * columns * static_cast<extent_t>(sizeof(T)));
    auto const most = std::max<extent_t>(1, bytes / line), count = (lines + most - 1) / most;
    return {lines, count == 0 ? 0 : (lines + count - 1) / count};
  }
  bool several() const { return each < lines; }
  /// Calls f(begin, end) for each chunk.
  template <class F>
  void for_each(F const& f) const {
    for (extent_t begin = 0; begin < lines; begin += each) f(begin, std::min(lines, begin + each));
  }
};

inline window_run whole_run(window w) {
  return {static_cast<int>(-w.padding), static_cast<int>(w.stride), static_cast<int>(w.size)};
}

/// The pixels of dx at one phase of each axis: a convolution of dy with the taps that reach them.
template <class T>
void convolve_phase(context<T>& c, window w, window_phase down, window_phase along, view<T const, 2> weights,
                    view<T const, 4> dy, view<T, 4> dx, store how) {
  using A = accumulator_t<T>;
  auto const in = dx.extent(3), out = dy.extent(3), height = down.places(dx.extent(1)),
             width = along.places(dx.extent(2)), lines = dx.extent(0) * height,
             columns = down.run.count * along.run.count * out;
  if (lines * width == 0)
    return;
  auto const chunks = line_chunks::of<T>(lines, width, columns);
  scratch_plan plan;
  auto const turned_at = plan.take<T>(columns * in), rows_at = plan.take<T>(chunks.each * width * columns),
             sums_at = plan.take<A>(w.stride == 1 ? 0 : chunks.each * width * in);
  auto* const memory = plan.memory(c);
  auto* const turned = reinterpret_cast<T*>(memory + turned_at);
  auto* const rows = reinterpret_cast<T*>(memory + rows_at);
  launch(c, blocks_for(c, columns * in, unfold_threads), unfold_threads, 0, turn_weights_kernel<T>,
         static_cast<int>(w.size), down, along, static_cast<int>(out), static_cast<int>(in), weights.data,
         turned);
  view<T const, 2> const matrix{turned, {{columns, in}}};
  chunks.for_each([&](extent_t begin, extent_t end) {
    auto const count = (end - begin) * width;
    if (columns > 0)
      unfold<T>(c, dy, down.run, along.run, height, width, begin, end, rows);
    view<T const, 2> const windows{rows, {{count, columns}}};
    if (w.stride == 1) {
      view<T, 2> const to{dx.data + begin * width * in, {{count, in}}};
      return gemm(c, transpose::no, transpose::no, windows, matrix, to, how);
    }
    view<A, 2> const sums{reinterpret_cast<A*>(memory + sums_at), {{count, in}}};
    gemm(c, transpose::no, transpose::no, windows, matrix, sums, store::overwrite);
    launch(c, blocks_for(c, count * in, unfold_threads), unfold_threads, 0, spread_kernel<T>,
           image_shape::of(dx.shape), down, along, static_cast<int>(height), static_cast<int>(width), begin,
           end, sums.data, dx.data, how);
  });
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
  if (y.size() == 0)
    return;
  auto const chunks = detail::line_chunks::of<T>(y.extent(0) * height, width, columns);
  detail::scratch_plan plan;
  auto const rows_at = plan.take<T>(chunks.each * width * columns), room_at = plan.take<T>(out);
  auto* const memory = plan.memory(c);
  auto* const rows = reinterpret_cast<T*>(memory + rows_at);
  auto* const room = reinterpret_cast<T*>(memory + room_at);
  auto const run = detail::whole_run(w);
  chunks.for_each([&](extent_t begin, extent_t end) {
    auto const count = (end - begin) * width;
    detail::unfold<T>(c, x, run, run, height, width, begin, end, rows);
    view<T const, 2> const windows{rows, {{count, columns}}};
    view<T, 2> const to{y.data + begin * width * out, {{count, out}}};
    detail::linear_with_room<T>(c, windows, weights, bias, to, room);
  });
}

/// The gradient of convolution_forward in x: weights, dy -> dx with `how`. As a convolution itself, of dy with turned
/// weights: one for each place that a pixel can have between strides.
template <class T>
void convolution_backward_input(context<T>& c, window w, view<std::type_identity_t<T> const, 2> weights,
                                view<std::type_identity_t<T> const, 4> dy,
                                view<std::type_identity_t<T>, 4> dx, store how) {
  if (dx.size() == 0)
    return;
  for (extent_t phase = 0; phase < w.stride * w.stride; ++phase) {
    detail::window_phase const down(w, phase / w.stride), along(w, phase % w.stride);
    detail::convolve_phase<T>(c, w, down, along, weights, dy, dx, how);
  }
}

/// The gradient of convolution_forward in the weights: x, dy -> dweights (out, size size in), elements or accumulators,
/// with `how`; the same bits every time.
template <class T, class W>
void convolution_backward_weights(context<T>& c, window w, view<std::type_identity_t<T> const, 4> x,
                                  view<std::type_identity_t<T> const, 4> dy, view<W, 2> dweights, store how) {
  using A = accumulator_t<T>;
  auto const height = dy.extent(1), width = dy.extent(2), out = dy.extent(3), columns = dweights.extent(1);
  auto const chunks = detail::line_chunks::of<T>(dy.size() == 0 ? 0 : dy.extent(0) * height, width, columns);
  // chunks are summed in accumulators: elements are rounded once
  bool const apart = !std::is_same_v<W, A> && chunks.several();
  detail::scratch_plan plan;
  auto const rows_at = plan.take<T>(chunks.each * width * columns),
             sums_at = plan.take<A>(apart ? dweights.size() : 0);
  auto* const memory = plan.memory(c);
  auto* const rows = reinterpret_cast<T*>(memory + rows_at);
  auto const add = [&](extent_t begin, extent_t end, auto to, store each) {
    auto const run = detail::whole_run(w);
    auto const count = (end - begin) * width;
    if (count > 0)
      detail::unfold<T>(c, x, run, run, height, width, begin, end, rows);
    view<T const, 2> const up{dy.data + begin * width * out, {{count, out}}},
        windows{rows, {{count, columns}}};
    gemm(c, transpose::yes, transpose::no, up, windows, to, each);
  };
  if (chunks.lines == 0)
    return add(0, 0, dweights, how);
  view<A, 2> const sums{reinterpret_cast<A*>(memory + sums_at), dweights.shape};
  chunks.for_each([&](extent_t begin, extent_t end) {
    if (apart)
      add(begin, end, sums, begin == 0 ? store::overwrite : store::accumulate);
    else
      add(begin, end, dweights, begin == 0 ? how : store::accumulate);
  });
  if (apart)
    convert(c, view<A const, 1>{as_flat(sums)}, as_flat(dweights), how);
}

}  // namespace yoke::cuda
