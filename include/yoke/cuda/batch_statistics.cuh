// Mean and variance of the columns of rows: a few rows in registers at a time, merged so that nothing cancels however
// far from 0 a column lies.
#pragma once
#include <yoke/cuda/columns.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Mean and sum of squared differences from it, of each of N columns over so many rows.
template <int N, class A>
struct column_moments {
  pack<A, N> mean{}, squares{};
  extent_t rows = 0;

  /// Those of these rows and of others together (Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for
  /// computing sample variances", 1979).
  __device__ void merge(column_moments const& other) {
    if (other.rows == 0)
      return;
    auto const theirs = static_cast<A>(other.rows) / static_cast<A>(rows + other.rows),
               both = theirs * static_cast<A>(rows);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      auto const difference = other.mean.at[k] - mean.at[k];
      mean.at[k] += difference * theirs;
      squares.at[k] += other.squares.at[k] + difference * difference * both;
    }
    rows += other.rows;
  }
};

/// The moments of all rows of the block where row is 0, as sum_block_rows merges sums.
template <int N, class A>
__device__ inline void merge_block_rows(column_tiles const& t, int row, column_moments<N, A>& v) {
  __shared__ A parts[2 * column_threads * N];
  __shared__ extent_t numbers[column_threads];
  int const thread = static_cast<int>(threadIdx.x);
  for (int rows = t.rows; rows > 1;) {
    int const half = (rows + 1) / 2;
    __syncthreads();  // what was there has been read
    if (row >= half && row < rows) {
#pragma unroll
      for (int k = 0; k < N; ++k) {
        parts[k * column_threads + thread] = v.mean.at[k];
        parts[(N + k) * column_threads + thread] = v.squares.at[k];
      }
      numbers[thread] = v.rows;
    }
    __syncthreads();
    if (row + half < rows) {
      int const other = thread + half * t.across;
      column_moments<N, A> theirs;
#pragma unroll
      for (int k = 0; k < N; ++k) {
        theirs.mean.at[k] = parts[k * column_threads + other];
        theirs.squares.at[k] = parts[(N + k) * column_threads + other];
      }
      theirs.rows = numbers[other];
      v.merge(theirs);
    }
    rows = half;
  }
}

/// Piece blockIdx.y of the rows of x -> its line of `mean` and of `squares` (pieces, width).
template <int N, class T>
static __global__ void __launch_bounds__(column_threads)
    batch_moments_kernel(column_tiles tiles, T const* x, extent_t rows, int width, extent_t each,
                         accumulator_t<T>* mean, accumulator_t<T>* squares) {
  using A = accumulator_t<T>;
  constexpr int together = 4;
  auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x), width);
  auto const first = extent_t{blockIdx.y} * each, last = first + each < rows ? first + each : rows;
  column_moments<N, A> all;
  if (place.there)
    for (auto r = first + place.row; r < last; r += together * tiles.rows) {
      auto const left = (last - r + tiles.rows - 1) / tiles.rows;
      int const count = left < together ? static_cast<int>(left) : together;
      pack<A, N> v[together] = {};
#pragma unroll
      for (int i = 0; i < together; ++i)
        if (i < count)
          v[i] = load<N>(x + (r + i * tiles.rows) * width + place.column);
      column_moments<N, A> few;
      few.rows = count;
      auto const share = 1 / static_cast<A>(count);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        A sum = 0;
#pragma unroll
        for (int i = 0; i < together; ++i) sum += v[i].at[k];
        few.mean.at[k] = sum * share;
#pragma unroll
        for (int i = 0; i < together; ++i) {
          auto const difference = i < count ? v[i].at[k] - few.mean.at[k] : A(0);
          few.squares.at[k] += difference * difference;
        }
      }
      all.merge(few);
    }
  merge_block_rows(tiles, place.row, all);
  if (place.there && place.row == 0) {
    save<N>(mean + extent_t{blockIdx.y} * width + place.column, all.mean, store::overwrite);
    save<N>(squares + extent_t{blockIdx.y} * width + place.column, all.squares, store::overwrite);
  }
}

/// The pieces' moments -> mean and variance (width) of all rows.
template <class A>
static __global__ void __launch_bounds__(column_threads)
    join_moments_kernel(column_tiles tiles, A const* means, A const* squares, extent_t rows, int width,
                        extent_t each, int pieces, A* mean, A* variance) {
  auto const place = column_place::of<1>(tiles, static_cast<int>(blockIdx.x), width);
  column_moments<1, A> all;
  if (place.there)
    for (int piece = place.row; piece < pieces; piece += tiles.rows) {
      auto const left = rows - piece * each, i = extent_t{piece} * width + place.column;
      column_moments<1, A> part;
      part.mean = {means[i]}, part.squares = {squares[i]};
      part.rows = left < each ? left : each;
      all.merge(part);
    }
  merge_block_rows(tiles, place.row, all);
  if (place.there && place.row == 0) {
    mean[place.column] = all.mean.at[0];
    variance[place.column] = rows == 0 ? A(0) : all.squares.at[0] / static_cast<A>(rows);
  }
}

}  // namespace detail

/// Mean and biased variance (width) of the columns of x (rows, width), the same bits every time.
template <class T>
void batch_statistics(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                      view<accumulator_t<std::type_identity_t<T>>, 1> mean,
                      view<accumulator_t<std::type_identity_t<T>>, 1> variance) {
  using A = accumulator_t<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  if (width == 0)
    return;
  auto const pieces = [&](detail::column_tiles const& t) {
    return detail::row_pieces::of(rows, extent_t{16} * t.rows, std::max(1, 512 / t.tiles));
  };
  auto const run = [&](detail::column_tiles const& tiles, auto* kernel) {
    auto const p = pieces(tiles);
    auto* const means = c.template scratch<A>(2 * p.count * width);
    auto* const squares = means + p.count * width;
    detail::launch(c, dim3(static_cast<unsigned>(tiles.tiles), static_cast<unsigned>(p.count)),
                   detail::column_threads, 0, kernel, tiles, x.data, rows, static_cast<int>(width), p.each,
                   means, squares);
    // few columns a block: the pieces are many, and their columns may be few
    auto const few = detail::column_tiles::of(width, 1, 32);
    detail::launch(c, dim3(static_cast<unsigned>(few.tiles)), detail::column_threads, 0,
                   detail::join_moments_kernel<A>, few, means, squares, rows, static_cast<int>(width), p.each,
                   p.count, mean.data, variance.data);
  };
  constexpr int N = detail::wide<T>;
  if (width % N == 0 && detail::packs_are_aligned<N>(x.data))
    run(detail::column_tiles::of(width, N), detail::batch_moments_kernel<N, T>);
  else
    run(detail::column_tiles::of(width, 1), detail::batch_moments_kernel<1, T>);
}

}  // namespace yoke::cuda
