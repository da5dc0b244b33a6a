// A gate for each column of a segment: the second half of squeeze and excitation.
#pragma once
#include <yoke/cuda/activation.cuh>
#include <yoke/cuda/columns.cuh>
#include <yoke/cuda/runs.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// The part of a block: a piece of the rows of a segment, and a tile of columns.
struct gate_part {
  extent_t first, last;  // rows
  int segment, tile;

  __device__ static gate_part of(runs const& segments, column_tiles const& tiles, int each) {
    int const s = static_cast<int>(blockIdx.x) / tiles.tiles;
    int const piece = static_cast<int>(blockIdx.y) * each, length = segments.length(s);
    auto const begin = segments.begin(s);
    return {begin + min(piece, length), begin + min(piece + each, length), s,
            static_cast<int>(blockIdx.x) - s * tiles.tiles};
  }
};

template <int N, class T>
__device__ inline pack<accumulator_t<T>, N> open_gates(T const* z) {
  auto v = load<N>(z);
#pragma unroll
  for (int k = 0; k < N; ++k) v.at[k] = logistic(v.at[k]).value;
  return v;
}

template <int N, class T>
static __global__ void __launch_bounds__(column_threads)
    gate_kernel(runs segments, column_tiles tiles, int each, T const* x, T const* z, int width, T* y) {
  auto const part = gate_part::of(segments, tiles, each);
  auto const place = column_place::of<N>(tiles, part.tile, width);
  if (!place.there)
    return;
  auto const open = open_gates<N>(z + extent_t{part.segment} * width + place.column);
#pragma unroll 4
  for (auto r = part.first + place.row; r < part.last; r += tiles.rows) {
    auto v = load<N>(x + r * width + place.column);
#pragma unroll
    for (int k = 0; k < N; ++k) v.at[k] *= open.at[k];
    save<N>(y + r * width + place.column, v, store::overwrite);
  }
}

/// dx (null: not wanted), and the sums over the part's rows of x dy: a line of `sums` (segments, pieces, width; null:
/// not wanted).
template <int N, class T>
static __global__ void __launch_bounds__(column_threads)
    gate_backward_kernel(runs segments, column_tiles tiles, int each, T const* x, T const* z, T const* dy,
                         int width, T* dx, store how, accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  auto const part = gate_part::of(segments, tiles, each);
  auto const place = column_place::of<N>(tiles, part.tile, width);
  pack<A, N> sum{};
  if (place.there) {
    auto const open = open_gates<N>(z + extent_t{part.segment} * width + place.column);
#pragma unroll 2
    for (auto r = part.first + place.row; r < part.last; r += tiles.rows) {
      auto up = load<N>(dy + r * width + place.column);
      if (sums != nullptr) {
        auto const v = load<N>(x + r * width + place.column);
#pragma unroll
        for (int k = 0; k < N; ++k) sum.at[k] += v.at[k] * up.at[k];
      }
      if (dx != nullptr) {
#pragma unroll
        for (int k = 0; k < N; ++k) up.at[k] *= open.at[k];
        save<N>(dx + r * width + place.column, up, how);
      }
    }
  }
  if (sums == nullptr)
    return;
  sum_block_rows(tiles, place.row, sum);
  if (place.there && place.row == 0)
    save<N>(sums + (extent_t{part.segment} * gridDim.y + blockIdx.y) * width + place.column, sum,
            store::overwrite);
}

template <class T>
static __global__ void __launch_bounds__(column_threads)
    gate_logits_kernel(extent_t n, int pieces, int width, T const* z, accumulator_t<T> const* sums, T* dz,
                       store how) {
  using A = accumulator_t<T>;
  auto const i = extent_t{blockIdx.x} * column_threads + threadIdx.x;
  if (i >= n)
    return;
  auto const segment = i / width, column = i - segment * width;
  A sum = 0;
#pragma unroll 4
  for (int piece = 0; piece < pieces; ++piece) sum += sums[(segment * pieces + piece) * width + column];
  put(dz + i, logistic(widen(z[i])).slope * sum, how);
}

/// How the rows of a segment are shared out; by the shapes alone, so that sums have the same bits on every card.
inline row_pieces gate_pieces(runs const& segments, column_tiles const& tiles) {
  return row_pieces::of(segments.longest, extent_t{8} * tiles.rows, 32);
}
inline dim3 gate_blocks(runs const& segments, column_tiles const& tiles, row_pieces const& pieces) {
  return dim3(static_cast<unsigned>(segments.count) * static_cast<unsigned>(tiles.tiles),
              static_cast<unsigned>(pieces.count));
}

}  // namespace detail

/// y = x times the logistic function of its segment's line of logits: x (rows, width), z (segments, width).
template <class T>
void gate_forward(context<T>& c, segments const& segments, view<std::type_identity_t<T> const, 2> x,
                  view<std::type_identity_t<T> const, 2> z, view<std::type_identity_t<T>, 2> y) {
  constexpr int N = detail::wide<T>;
  auto const width = x.extent(1);
  if (x.size() == 0)
    return;
  auto const runs = detail::on_device(segments);
  bool const whole = width % N == 0 && detail::packs_are_aligned<N>(x.data, z.data, y.data);
  auto const tiles = detail::column_tiles::of(width, whole ? N : 1);
  auto const pieces = detail::gate_pieces(runs, tiles);
  detail::launch(c, detail::gate_blocks(runs, tiles, pieces), detail::column_threads, 0,
                 whole ? detail::gate_kernel<N, T> : detail::gate_kernel<1, T>, runs, tiles,
                 static_cast<int>(pieces.each), x.data, z.data, static_cast<int>(width), y.data);
}

/// The gradient of gate_forward: x, z, dy -> dx and dz, each with a `how` of its own, each optional. Sums over a
/// segment's rows are in accumulators, and have the same bits every time.
template <class T>
void gate_backward(context<T>& c, segments const& segments, view<std::type_identity_t<T> const, 2> x,
                   view<std::type_identity_t<T> const, 2> z, view<std::type_identity_t<T> const, 2> dy,
                   view<std::type_identity_t<T>, 2> dx, store dx_how, view<std::type_identity_t<T>, 2> dz,
                   store dz_how) {
  using A = accumulator_t<T>;
  constexpr int N = detail::wide<T>;
  auto const width = x.extent(1), logits = segments.count * width;
  bool const has_dx = dx.extent(0) != 0, has_dz = dz.extent(0) != 0;
  if (logits == 0 || (!has_dx && !has_dz))
    return;
  auto const runs = detail::on_device(segments);
  bool const whole = width % N == 0 && detail::packs_are_aligned<N>(x.data, z.data, dy.data, dx.data);
  auto const tiles = detail::column_tiles::of(width, whole ? N : 1);
  auto const pieces = detail::gate_pieces(runs, tiles);
  auto* const sums = has_dz ? c.template scratch<A>(logits * pieces.count) : nullptr;
  detail::launch(c, detail::gate_blocks(runs, tiles, pieces), detail::column_threads, 0,
                 whole ? detail::gate_backward_kernel<N, T> : detail::gate_backward_kernel<1, T>, runs, tiles,
                 static_cast<int>(pieces.each), x.data, z.data, dy.data, static_cast<int>(width),
                 has_dx ? dx.data : nullptr, dx_how, sums);
  if (!has_dz)
    return;
  auto const blocks = (logits + detail::column_threads - 1) / detail::column_threads;
  detail::launch(c, dim3(static_cast<unsigned>(blocks)), detail::column_threads, 0,
                 detail::gate_logits_kernel<T>, logits, pieces.count, static_cast<int>(width), z.data, sums,
                 dz.data, dz_how);
}

}  // namespace yoke::cuda
