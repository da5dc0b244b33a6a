// Batch normalisation: every column by its own mean and variance, and the activation behind it.
#pragma once
#include <yoke/cuda/activation.cuh>
#include <yoke/cuda/batch_statistics.cuh>
#include <yoke/cuda/columns.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// x (rows, width), and what each column has: y = f(d gain / deviation + bias), d = x - mean.
template <class T, class A = accumulator_t<T>>
struct batch_norm_columns {
  T const* x;
  A const *mean, *variance, *gain, *bias;
  A epsilon;
  extent_t rows;
  int width;
};

/// A thread's columns in registers.
template <int N, class A>
struct normed_columns {
  pack<A, N> mean, scale, bias;

  template <class T>
  __device__ normed_columns(batch_norm_columns<T> const& p, int column)
      : mean{load<N>(p.mean + column)}, scale{load<N>(p.gain + column)}, bias{load<N>(p.bias + column)} {
    auto const variance = load<N>(p.variance + column);
#pragma unroll
    for (int k = 0; k < N; ++k) scale.at[k] /= square_root(variance.at[k] + p.epsilon);
  }
};

template <int N, class F, class T>
static __global__ void __launch_bounds__(column_threads)
    batch_norm_kernel(column_tiles tiles, batch_norm_columns<T> p, T* y) {
  auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x), p.width);
  if (!place.there)
    return;
  normed_columns<N, accumulator_t<T>> const of(p, place.column);
  auto const step = extent_t{gridDim.y} * tiles.rows;
#pragma unroll 2
  for (auto r = extent_t{blockIdx.y} * tiles.rows + place.row; r < p.rows; r += step) {
    auto v = load<N>(p.x + r * p.width + place.column);
#pragma unroll
    for (int k = 0; k < N; ++k)
      v.at[k] = F::value((v.at[k] - of.mean.at[k]) * of.scale.at[k] + of.bias.at[k]);
    save<N>(y + r * p.width + place.column, v, store::overwrite);
  }
}

/// Piece blockIdx.y of the rows -> its line of sums (pieces, 2, width): of u d, and of u, the gradient before f.
template <int N, class F, class T>
static __global__ void __launch_bounds__(column_threads)
    batch_norm_sums_kernel(column_tiles tiles, batch_norm_columns<T> p, T const* dy, extent_t each,
                           accumulator_t<T>* sums) {
  using A = accumulator_t<T>;
  auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x), p.width);
  auto const first = extent_t{blockIdx.y} * each, last = first + each < p.rows ? first + each : p.rows;
  pack<A, N> along{}, sum{};
  if (place.there) {
    normed_columns<N, A> const of(p, place.column);
#pragma unroll 2
    for (auto r = first + place.row; r < last; r += tiles.rows) {
      auto const v = load<N>(p.x + r * p.width + place.column), up = load<N>(dy + r * p.width + place.column);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        auto const d = v.at[k] - of.mean.at[k], u = F::slope(d * of.scale.at[k] + of.bias.at[k]) * up.at[k];
        along.at[k] += u * d;
        sum.at[k] += u;
      }
    }
  }
  sum_block_rows(tiles, place.row, along);
  sum_block_rows(tiles, place.row, sum);
  if (place.there && place.row == 0) {
    auto* const to = sums + extent_t{blockIdx.y} * 2 * p.width + place.column;
    save<N>(to, along, store::overwrite);
    save<N>(to + p.width, sum, store::overwrite);
  }
}

/// The pieces' sums -> dgain and dbias, which may be null, accumulate; `tilt` and `shift` (width) of
/// dx = scale (u - shift - d tilt).
template <class A>
static __global__ void __launch_bounds__(column_threads)
    batch_norm_join_kernel(A const* sums, int pieces, int width, A const* variance, A epsilon, A share,
                           A* dgain, A* dbias, A* tilt, A* shift) {
  int const column = static_cast<int>(blockIdx.x) * column_threads + static_cast<int>(threadIdx.x);
  if (column >= width)
    return;
  A along = 0, sum = 0;
#pragma unroll 4
  for (int i = 0; i < pieces; ++i) {
    along += sums[extent_t{i} * 2 * width + column];
    sum += sums[(extent_t{i} * 2 + 1) * width + column];
  }
  auto const inverse = 1 / square_root(variance[column] + epsilon);
  if (dgain != nullptr)
    dgain[column] += along * inverse;
  if (dbias != nullptr)
    dbias[column] += sum;
  tilt[column] = along * inverse * inverse * share;
  shift[column] = sum * share;
}

/// tilt and shift: null where mean and variance are constants.
template <int N, class F, class T, class A = accumulator_t<T>>
static __global__ void __launch_bounds__(column_threads)
    batch_norm_backward_kernel(column_tiles tiles, batch_norm_columns<T> p, T const* dy, A const* tilts,
                               A const* shifts, T* dx, store how) {
  auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x), p.width);
  if (!place.there)
    return;
  normed_columns<N, A> const of(p, place.column);
  pack<A, N> tilt{}, shift{};
  if (tilts != nullptr) {
    tilt = load<N>(tilts + place.column);
    shift = load<N>(shifts + place.column);
  }
  auto const step = extent_t{gridDim.y} * tiles.rows;
#pragma unroll 2
  for (auto r = extent_t{blockIdx.y} * tiles.rows + place.row; r < p.rows; r += step) {
    auto v = load<N>(p.x + r * p.width + place.column);
    auto const up = load<N>(dy + r * p.width + place.column);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      auto const d = v.at[k] - of.mean.at[k];
      auto const u = F::slope(d * of.scale.at[k] + of.bias.at[k]) * up.at[k];
      v.at[k] = of.scale.at[k] * (u - shift.at[k] - d * tilt.at[k]);
    }
    save<N>(dx + r * p.width + place.column, v, how);
  }
}

}  // namespace detail

/// y = f((x - mean) / sqrt(variance + epsilon) * gain + bias), column by column of x (rows, width).
template <class T>
void batch_norm_forward(context<T>& c, activation kind, view<std::type_identity_t<T> const, 2> x,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> variance,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                        accumulator_t<std::type_identity_t<T>> epsilon, view<std::type_identity_t<T>, 2> y) {
  constexpr int N = detail::wide<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  if (x.size() == 0)
    return;
  detail::batch_norm_columns<T> const columns{x.data,    mean.data, variance.data, gain.data,
                                              bias.data, epsilon,   rows,          static_cast<int>(width)};
  bool const whole = width % N == 0 && detail::packs_are_aligned<N>(x.data, y.data) &&
                     detail::packs_are_aligned<N>(mean.data, variance.data, gain.data, bias.data);
  detail::with_activation(kind, [&]<class F>(F) {
    auto const tiles = detail::column_tiles::of(width, whole ? N : 1);
    detail::launch(c, detail::blocks_of_rows(c, tiles, rows), detail::column_threads, 0,
                   whole ? detail::batch_norm_kernel<N, F, T> : detail::batch_norm_kernel<1, F, T>, tiles,
                   columns, y.data);
  });
}

/// The gradient of batch_norm_forward: x, mean, variance, gain, bias, epsilon, dy -> dx with `how`; dgain and dbias
/// (width) accumulate. Each of the three may be absent. `own`: mean and variance are those of x, and functions of it;
/// else they are constants.
template <class T>
void batch_norm_backward(context<T>& c, activation kind, bool own, view<std::type_identity_t<T> const, 2> x,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> variance,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                         accumulator_t<std::type_identity_t<T>> epsilon,
                         view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx,
                         store how, view<accumulator_t<std::type_identity_t<T>>, 1> dgain,
                         view<accumulator_t<std::type_identity_t<T>>, 1> dbias) {
  using A = accumulator_t<T>;
  constexpr int N = detail::wide<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  bool const has_dx = dx.extent(0) != 0, has_gain = dgain.extent(0) != 0, has_bias = dbias.extent(0) != 0;
  if (x.size() == 0)
    return;
  detail::batch_norm_columns<T> const columns{x.data,    mean.data, variance.data, gain.data,
                                              bias.data, epsilon,   rows,          static_cast<int>(width)};
  bool const whole = width % N == 0 && detail::packs_are_aligned<N>(x.data, dy.data, dx.data) &&
                     detail::packs_are_aligned<N>(mean.data, variance.data, gain.data, bias.data);
  auto const tiles = detail::column_tiles::of(width, whole ? N : 1);
  auto const pieces = detail::row_pieces::of(rows, extent_t{8} * tiles.rows, std::max(1, 256 / tiles.tiles));
  A *tilt = nullptr, *shift = nullptr;
  detail::with_activation(kind, [&]<class F>(F) {
    if (has_gain || has_bias || (own && has_dx)) {
      auto* const coefficients = c.template scratch<A>((2 + 2 * extent_t{pieces.count}) * width);
      auto *const tilts = coefficients, *const shifts = tilts + width, *const sums = shifts + width;
      detail::launch(
          c, dim3(static_cast<unsigned>(tiles.tiles), static_cast<unsigned>(pieces.count)),
          detail::column_threads, 0,
          whole ? detail::batch_norm_sums_kernel<N, F, T> : detail::batch_norm_sums_kernel<1, F, T>, tiles,
          columns, dy.data, pieces.each, sums);
      auto const blocks = (width + detail::column_threads - 1) / detail::column_threads;
      detail::launch(c, dim3(static_cast<unsigned>(blocks)), detail::column_threads, 0,
                     detail::batch_norm_join_kernel<A>, sums, pieces.count, static_cast<int>(width),
                     variance.data, epsilon, 1 / static_cast<A>(rows), has_gain ? dgain.data : nullptr,
                     has_bias ? dbias.data : nullptr, tilts, shifts);
      if (own)
        tilt = tilts, shift = shifts;
    }
    if (has_dx)
      detail::launch(
          c, detail::blocks_of_rows(c, tiles, rows), detail::column_threads, 0,
          whole ? detail::batch_norm_backward_kernel<N, F, T> : detail::batch_norm_backward_kernel<1, F, T>,
          tiles, columns, dy.data, tilt, shift, dx.data, how);
  });
}

}  // namespace yoke::cuda
