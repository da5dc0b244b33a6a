// Blocks of threads over rows of channels: side by side over columns, the rest over rows. What belongs to a column
// stays in a thread's registers, and narrow rows leave no thread idle.
#pragma once
#include <yoke/cuda/lines.cuh>

#include <algorithm>

namespace yoke::cuda::detail {

inline constexpr int column_threads = 256;

/// How a block's threads share out a tile of columns, N columns each, and rows.
struct column_tiles {
  int across, rows, tiles;  // threads side by side, rows at once; tiles of a whole row

  /// For rows of `width` columns, at most `most` threads side by side. `width` is not 0.
  static column_tiles of(extent_t width, int each, int most = column_threads) {
    auto const packs = (width + each - 1) / each, tiles = (packs + most - 1) / most;
    auto const across = (packs + tiles - 1) / tiles;
    return {static_cast<int>(across), static_cast<int>(column_threads / across), static_cast<int>(tiles)};
  }
};

/// Blocks for loops that go through all rows in strides of the grid.
inline dim3 blocks_of_rows(device const& d, column_tiles const& tiles, extent_t rows) {
  auto const most = std::max(1, d.processors() * 16 / tiles.tiles);
  return dim3(static_cast<unsigned>(tiles.tiles),
              static_cast<unsigned>(std::min<extent_t>((rows + tiles.rows - 1) / tiles.rows, most)));
}

/// A thread's place: the first of its columns, and its row among those that a block has at once.
struct column_place {
  int column, row;
  bool there;  // false: the thread has nothing to do, but takes part in sums

  template <int N>
  __device__ static column_place of(column_tiles const& t, int tile, int width) {
    int const thread = static_cast<int>(threadIdx.x), row = thread / t.across;
    int const column = (tile * t.across + thread - row * t.across) * N;
    return {column, row, row < t.rows && column < width};
  }
};

/// v becomes the sum over the block's rows, in an order of its own, where row is 0. All threads of the block take part;
/// those that are not there have zeros.
template <int N, class A>
__device__ inline void sum_block_rows(column_tiles const& t, int row, pack<A, N>& v) {
  __shared__ A parts[column_threads * N];
  int const thread = static_cast<int>(threadIdx.x);
  for (int rows = t.rows; rows > 1;) {
    int const half = (rows + 1) / 2;
    __syncthreads();  // what was there has been read
    if (row >= half && row < rows)
#pragma unroll
      for (int k = 0; k < N; ++k) parts[k * column_threads + thread] = v.at[k];
    __syncthreads();
    if (row + half < rows)
#pragma unroll
      for (int k = 0; k < N; ++k) v.at[k] += parts[k * column_threads + thread + half * t.across];
    rows = half;
  }
}

/// to (n) = or += the sum over the `count` lines of parts (count, n), in their order.
template <class A, class W>
static __global__ void __launch_bounds__(column_threads)
    add_parts_kernel(A const* parts, int count, extent_t n, W* to, store how) {
  auto const stride = extent_t{gridDim.x} * column_threads;
  for (auto i = extent_t{blockIdx.x} * column_threads + threadIdx.x; i < n; i += stride) {
    A sum = 0;
#pragma unroll 8
    for (int p = 0; p < count; ++p) sum += parts[p * n + i];
    put(to + i, sum, how);
  }
}
template <class A, class W>
void add_parts(device& d, A const* parts, int count, extent_t n, W* to, store how) {
  launch(d, blocks_for(d, n, column_threads), column_threads, 0, add_parts_kernel<A, W>, parts, count, n, to,
         how);
}

/// `rows` in pieces of `each`, so that no more than `most` and none without need is less than `least`: what depends on
/// the shape alone gives the same sums on every card.
struct row_pieces {
  extent_t each;
  int count;

  static row_pieces of(extent_t rows, extent_t least, extent_t most) {
    auto const each = std::max(least, (rows + most - 1) / std::max<extent_t>(most, 1));
    return {each, static_cast<int>((rows + each - 1) / each)};
  }
};

}  // namespace yoke::cuda::detail
