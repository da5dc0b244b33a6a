// The contrastive loss's kernels that go through a tile of products, once each: what its logits add to the sums of
// exponentials of rows and columns, and the gradient that takes its place.
#pragma once
#include <yoke/cuda/numeric.cuh>
#include <yoke/cuda/reduce.cuh>

#include <cuda_runtime.h>

namespace yoke::cuda::detail {

// A block of threads works on so many rows and columns of a tile: the partition, and with it the order of all sums,
// depends on the tile's shape alone. A lane has `logit_each` columns, a warp `logit_group` rows under way, as many as
// registers hold.
inline constexpr int logit_threads = 256;
inline constexpr int logit_warps = logit_threads / 32;
inline constexpr int logit_rows = 64;
inline constexpr int logit_columns = 256;
inline constexpr int logit_each = logit_columns / 32;
template <class A>
inline constexpr int logit_group = sizeof(A) > 4 ? 2 : 4;
/// Blocks that a multiprocessor is to hold at once.
template <class A>
inline constexpr int logit_blocks = sizeof(A) > 4 ? 1 : 3;
static_assert(logit_columns == logit_threads, "a thread finishes a column");

/// A block's part of a tile: its number and first element each way, and how much of it lies inside.
struct logit_part {
  extent_t row_part, column_part, row, column;
  int rows, columns;

  __device__ logit_part(extent_t all_rows, extent_t all_columns) {
    auto const across = (all_columns + logit_columns - 1) / logit_columns;
    row_part = blockIdx.x / across;
    column_part = blockIdx.x % across;
    row = row_part * logit_rows;
    column = column_part * logit_columns;
    rows = static_cast<int>(all_rows - row < logit_rows ? all_rows - row : logit_rows);
    columns = static_cast<int>(all_columns - column < logit_columns ? all_columns - column : logit_columns);
  }
};

/// The column, in its part, of a lane's element k: neighbours make 16 bytes when rows are aligned, else lanes are
/// neighbours.
template <class A, bool Wide>
__device__ inline int logit_column(int k, int lane) {
  constexpr int n = Wide ? wide<A> : 1;
  return (k / n * 32 + lane) * n + k % n;
}

/// A lane's elements of the first `columns` in a row; 0 for those beyond.
template <class A, bool Wide>
__device__ inline void load_products(A const* row, int columns, int lane, A (&to)[logit_each]) {
  constexpr int n = Wide ? wide<A> : 1;
#pragma unroll
  for (int k = 0; k < logit_each; k += n) {
    pack<A, n> some{};
    if (auto const j = logit_column<A, Wide>(k, lane); j < columns)
      some = *reinterpret_cast<pack<A, n> const*>(row + j);
#pragma unroll
    for (int e = 0; e < n; ++e) to[k + e] = some.at[e];
  }
}
template <class A, bool Wide>
__device__ inline void save_gradients(A* row, int columns, int lane, A const (&from)[logit_each]) {
  constexpr int n = Wide ? wide<A> : 1;
#pragma unroll
  for (int k = 0; k < logit_each; k += n) {
    pack<A, n> some;
#pragma unroll
    for (int e = 0; e < n; ++e) some.at[e] = from[k + e];
    if (auto const j = logit_column<A, Wide>(k, lane); j < columns)
      *reinterpret_cast<pack<A, n>*>(row + j) = some;
  }
}

__device__ inline float exp_of(float v) {
  return expf(v);
}
__device__ inline double exp_of(double v) {
  return exp(v);
}

/// The logit of a product, rounded on its own and not within a fused subtraction: the exponential of a maximum relative
/// to itself is 1.
__device__ inline float logit_of(float scale, float product) {
  return __fmul_rn(scale, product);
}
__device__ inline double logit_of(double scale, double product) {
  return scale * product;
}

/// The statistics of what two sets of logits have, from those of each.
template <class A>
__device__ inline void merge_logits(A& maximum, A& sum, A other_maximum, A other_sum) {
  auto const both = larger(maximum, other_maximum);
  sum = sum * exp_of(maximum - both) + other_sum * exp_of(other_maximum - both);
  maximum = both;
}

template <class A>
struct logit_limits {
  A lowest, minus_infinity;  // the maximum of nothing; a logit that adds nothing
};

/// Maximum and sum of exponentials of each row and of each column within a part. `row_parts` is (parts across, maximum
/// and sum, rows), `column_parts` (parts down, maximum and sum, columns).
template <class A, bool Wide>
static __global__ void __launch_bounds__(logit_threads, logit_blocks<A>)
    logit_statistics_kernel(A const* tile, extent_t rows, extent_t columns, A scale, logit_limits<A> limits,
                            A* row_parts, A* column_parts) {
  __shared__ A maxima[logit_warps * logit_columns];
  __shared__ A sums[logit_warps * logit_columns];
  constexpr int group = logit_group<A>;
  logit_part const part{rows, columns};
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  A maximum[logit_each], sum[logit_each];  // of the lane's columns in the warp's rows
#pragma unroll
  for (int k = 0; k < logit_each; ++k) {
    maximum[k] = limits.lowest;
    sum[k] = 0;
  }
  for (int first = warp * group; first < part.rows; first += logit_warps * group) {
    A v[group][logit_each];
#pragma unroll
    for (int r = 0; r < group; ++r)
      load_products<A, Wide>(tile + (part.row + first + r) * columns + part.column,
                             first + r < part.rows ? part.columns : 0, lane, v[r]);
#pragma unroll
    for (int r = 0; r < group; ++r) {
      auto most = limits.lowest;
#pragma unroll
      for (int k = 0; k < logit_each; ++k) {
        auto const inside = first + r < part.rows && logit_column<A, Wide>(k, lane) < part.columns;
        v[r][k] = inside ? logit_of(scale, v[r][k]) : limits.minus_infinity;
        most = larger(most, v[r][k]);
      }
      most = warp_max(most);
      A along = 0;
#pragma unroll
      for (int k = 0; k < logit_each; ++k) along += exp_of(v[r][k] - most);
      along = warp_sum(along);
      if (lane == r && first + r < part.rows) {
        auto* const to = row_parts + 2 * part.column_part * rows + part.row + first + r;
        to[0] = most;
        to[rows] = along;
      }
    }
#pragma unroll
    for (int k = 0; k < logit_each; ++k) {
      auto most = maximum[k];
#pragma unroll
      for (int r = 0; r < group; ++r) most = larger(most, v[r][k]);
      auto down = sum[k] * exp_of(maximum[k] - most);
#pragma unroll
      for (int r = 0; r < group; ++r) down += exp_of(v[r][k] - most);
      maximum[k] = most;
      sum[k] = down;
    }
  }
#pragma unroll
  for (int k = 0; k < logit_each; ++k) {
    auto const at = warp * logit_columns + logit_column<A, Wide>(k, lane);
    maxima[at] = maximum[k];
    sums[at] = sum[k];
  }
  __syncthreads();
  if (auto const j = static_cast<int>(threadIdx.x); j < part.columns) {
    A most = maxima[j], all = sums[j];
    for (int w = 1; w < logit_warps; ++w)
      merge_logits(most, all, maxima[w * logit_columns + j], sums[w * logit_columns + j]);
    auto* const to = column_parts + 2 * part.row_part * columns + part.column + j;
    to[0] = most;
    to[columns] = all;
  }
}

/// Products become factor * g, g = softmax over the row + softmax over the column - 2 for a pair; `totals` (parts
/// across, rows) takes the sum of g * product of each row within a part.
template <class A, bool Wide>
static __global__ void __launch_bounds__(logit_threads, logit_blocks<A>)
    logit_gradient_kernel(A* tile, extent_t rows, extent_t columns, A scale, A factor, extent_t diagonal,
                          A const* row, A const* column, double* totals) {
  constexpr int group = logit_group<A>;
  logit_part const part{rows, columns};
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  A by_column[logit_each];
#pragma unroll
  for (int k = 0; k < logit_each; ++k) {
    auto const j = logit_column<A, Wide>(k, lane);
    by_column[k] = j < part.columns ? column[part.column + j] : A{0};
  }
  for (int first = warp * group; first < part.rows; first += logit_warps * group) {
    auto* const from = tile + (part.row + first) * columns + part.column;
    A product[group][logit_each];
#pragma unroll
    for (int r = 0; r < group; ++r)
      load_products<A, Wide>(from + r * columns, first + r < part.rows ? part.columns : 0, lane, product[r]);
#pragma unroll
    for (int r = 0; r < group; ++r) {
      if (first + r >= part.rows)
        continue;  // the whole warp
      auto const i = part.row + first + r, own = i + diagonal - part.column;
      auto const by_row = row[i];
      A g[logit_each];
#pragma unroll
      for (int k = 0; k < logit_each; ++k) {
        auto const v = logit_of(scale, product[r][k]);
        g[k] = exp_of(v - by_row) + exp_of(v - by_column[k]);
      }
      if (own >= 0 && own < part.columns) {
#pragma unroll
        for (int k = 0; k < logit_each; ++k)
          if (logit_column<A, Wide>(k, lane) == own)
            g[k] -= 2;
      }
      A along = 0;
#pragma unroll
      for (int k = 0; k < logit_each; ++k) {
        along += logit_column<A, Wide>(k, lane) < part.columns ? g[k] * product[r][k] : A{0};
        g[k] *= factor;
      }
      save_gradients<A, Wide>(from + r * columns, part.columns, lane, g);
      along = warp_sum(along);
      if (lane == 0)
        totals[part.column_part * rows + i] = static_cast<double>(along);
    }
  }
}

}  // namespace yoke::cuda::detail
