// The contrastive loss's kernels: what a tile of logits adds to the sums of exponentials of its rows and columns, and
// the gradient that takes its place.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/logit_tile.cuh>

#include <array>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Statistics of the parts of rows, or of columns, and where they are merged.
template <class A>
struct logit_lines {
  A const* parts;  // (count, maximum and sum, lines)
  extent_t count, lines;
  A *maximum, *sum;
};

/// 32 rows, or columns, a block: each warp merges some of their parts. Rows also get the logit of their pair.
template <class A>
static __global__ void __launch_bounds__(logit_threads)
    merge_logits_kernel(logit_lines<A> rows, logit_lines<A> columns, A lowest, A scale, extent_t diagonal,
                        A const* tile, A* pair) {
  __shared__ A maxima[logit_threads];
  __shared__ A sums[logit_threads];
  auto const row_blocks = (rows.lines + 31) / 32;
  auto const of_rows = blockIdx.x < row_blocks;
  auto const line = of_rows ? rows : columns;
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  auto const i = (of_rows ? blockIdx.x : blockIdx.x - row_blocks) * 32 + lane;
  auto const inside = i < line.lines;

  A maximum = lowest, sum = 0;
  if (inside)
    for (auto p = static_cast<extent_t>(warp); p < line.count; p += logit_warps) {
      auto const* const part = line.parts + 2 * p * line.lines + i;
      merge_logits(maximum, sum, part[0], part[line.lines]);
    }
  maxima[threadIdx.x] = maximum;
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (warp > 0 || !inside)
    return;
  maximum = line.maximum[i];
  sum = line.sum[i];
  for (int w = 0; w < logit_warps; ++w)
    merge_logits(maximum, sum, maxima[w * 32 + lane], sums[w * 32 + lane]);
  line.maximum[i] = maximum;
  line.sum[i] = sum;
  if (auto const own = i + diagonal; of_rows && own >= 0 && own < columns.lines)
    pair[i] = logit_of(scale, tile[i * columns.lines + own]);
}

template <class A>
static __global__ void rescale_sums_kernel(extent_t n, A const* maximum, A const* larger, A* sum) {
  auto const step = static_cast<extent_t>(gridDim.x) * blockDim.x;
  for (auto i = static_cast<extent_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    sum[i] *= exp_of(maximum[i] - larger[i]);
}

__device__ inline float log_of(float v) {
  return logf(v);
}
__device__ inline double log_of(double v) {
  return log(v);
}

template <class A>
static __global__ void log_sum_exp_kernel(extent_t n, A const* maximum, A* sum) {
  auto const step = static_cast<extent_t>(gridDim.x) * blockDim.x;
  for (auto i = static_cast<extent_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += step)
    sum[i] = maximum[i] + log_of(sum[i]);
}

/// A row's total from those of its parts (count, rows).
static __global__ void add_totals_kernel(double const* parts, extent_t count, extent_t rows, double weight,
                                         double* total, store how) {
  auto const i = static_cast<extent_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= rows)
    return;
  double sum = 0;
#pragma unroll 8
  for (extent_t p = 0; p < count; ++p) sum += parts[p * rows + i];
  put(total + i, weight * sum, how);
}

inline constexpr int totals_rows = 4;  // of a thread

/// Three sums for each block of threads.
template <class A>
static __global__ void __launch_bounds__(logit_threads)
    logit_totals_kernel(extent_t n, A const* row_maximum, A const* row, A const* column, A const* pair,
                        double const* total, double* parts) {
  double sums[3] = {0, 0, 0};
  for (int k = 0; k < totals_rows; ++k) {
    auto const i = (static_cast<extent_t>(blockIdx.x) * totals_rows + k) * logit_threads + threadIdx.x;
    if (i >= n)
      break;
    auto const logit = static_cast<double>(pair[i]);
    sums[0] += (static_cast<double>(row[i]) - logit) + (static_cast<double>(column[i]) - logit);
    sums[1] += pair[i] >= row_maximum[i] ? 1 : 0;
    sums[2] += total[i];
  }
  block_sums<logit_threads>(sums);
  if (threadIdx.x == 0)
    for (int q = 0; q < 3; ++q) parts[blockIdx.x * extent_t{3} + q] = sums[q];
}

/// One block of three warps: the three sums of all blocks.
static __global__ void add_logit_totals_kernel(double const* parts, extent_t count, double* sums, store how) {
  int const lane = threadIdx.x % 32, q = threadIdx.x / 32;
  double sum = 0;
  for (auto p = static_cast<extent_t>(lane); p < count; p += 32) sum += parts[p * 3 + q];
  sum = warp_sum(sum);
  if (lane == 0)
    put(sums + q, sum, how);
}

/// True when every row of a tile begins at a multiple of 16 bytes.
template <class A>
bool aligned_rows(A const* tile, extent_t columns) {
  return columns % wide<A> == 0 && reinterpret_cast<std::uintptr_t>(tile) % 16 == 0;
}

/// How many parts a tile has down and across.
inline std::array<extent_t, 2> logit_parts(extent_t rows, extent_t columns) {
  return {(rows + logit_rows - 1) / logit_rows, (columns + logit_columns - 1) / logit_columns};
}

}  // namespace detail

/// Merges a tile's logits scale * tile into maximum and sum of its rows and columns, and stores those with column =
/// row + diagonal in `pair`.
template <class T, class A = accumulator_t<T>>
void logit_statistics(context<T>& c, std::type_identity_t<A> scale, extent_t diagonal, view<A const, 2> tile,
                      view<A, 1> row_maximum, view<A, 1> row_sum, view<A, 1> column_maximum,
                      view<A, 1> column_sum, view<A, 1> pair) {
  auto const rows = tile.extent(0), columns = tile.extent(1);
  if (rows == 0 || columns == 0)
    return;
  constexpr auto lowest = std::numeric_limits<A>::lowest();
  auto const [down, across] = detail::logit_parts(rows, columns);
  auto* const row_parts = c.template scratch<A>(2 * (across * rows + down * columns));
  auto* const column_parts = row_parts + 2 * across * rows;
  detail::launch(c, dim3(static_cast<unsigned>(down * across)), detail::logit_threads, 0,
                 detail::aligned_rows(tile.data, columns) ? &detail::logit_statistics_kernel<A, true>
                                                          : &detail::logit_statistics_kernel<A, false>,
                 tile.data, rows, columns, scale,
                 detail::logit_limits<A>{lowest, -std::numeric_limits<A>::infinity()}, row_parts,
                 column_parts);
  auto const blocks = (rows + 31) / 32 + (columns + 31) / 32;
  detail::launch(c, dim3(static_cast<unsigned>(blocks)), detail::logit_threads, 0,
                 &detail::merge_logits_kernel<A>,
                 detail::logit_lines<A>{row_parts, across, rows, row_maximum.data, row_sum.data},
                 detail::logit_lines<A>{column_parts, down, columns, column_maximum.data, column_sum.data},
                 lowest, scale, diagonal, tile.data, pair.data);
}

/// Makes a sum relative to `maximum` one relative to `larger`.
template <class T, class A = accumulator_t<T>>
void rescale_sums(context<T>& c, view<A const, 1> maximum, view<A const, 1> larger, view<A, 1> sum) {
  detail::launch(c, detail::blocks_for(c, sum.size(), detail::logit_threads), detail::logit_threads, 0,
                 &detail::rescale_sums_kernel<A>, sum.size(), maximum.data, larger.data, sum.data);
}

/// sum = maximum + log(sum).
template <class T, class A = accumulator_t<T>>
void log_sum_exp(context<T>& c, view<A const, 1> maximum, view<A, 1> sum) {
  detail::launch(c, detail::blocks_for(c, sum.size(), detail::logit_threads), detail::logit_threads, 0,
                 &detail::log_sum_exp_kernel<A>, sum.size(), maximum.data, sum.data);
}

/// Turns a tile of products into scale * weight * g, g = softmax over the row + softmax over the column - 2 for a pair,
/// given the log-sum-exp of rows and columns; `total` (rows): weight times the sum of g * product.
template <class T, class A = accumulator_t<T>>
void logit_gradient(context<T>& c, std::type_identity_t<A> scale, extent_t diagonal,
                    std::type_identity_t<A> weight, view<A const, 1> row, view<A const, 1> column,
                    view<A, 2> tile, view<double, 1> total, store how) {
  auto const rows = tile.extent(0), columns = tile.extent(1);
  auto const [down, across] = detail::logit_parts(rows, columns);
  auto* const parts = c.template scratch<double>(across * rows);
  detail::launch(c, dim3(static_cast<unsigned>(down * across)), detail::logit_threads, 0,
                 detail::aligned_rows(tile.data, columns) ? &detail::logit_gradient_kernel<A, true>
                                                          : &detail::logit_gradient_kernel<A, false>,
                 tile.data, rows, columns, scale, scale * weight, diagonal, row.data, column.data, parts);
  detail::launch(c, dim3(static_cast<unsigned>((rows + 127) / 128)), 128, 0, &detail::add_totals_kernel,
                 parts, across, rows, static_cast<double>(weight), total.data, how);
}

/// What the host reads of a rank's rows: the sum of row + column - 2 pair (log-sum-exp of the rows and of their own
/// columns, the pairs' logits), the number of pairs not below their row's maximum, the sum of `total`.
template <class T, class A = accumulator_t<T>>
std::array<double, 3> logit_totals(context<T>& c, view<A const, 1> row_maximum, view<A const, 1> row,
                                   view<A const, 1> column, view<A const, 1> pair,
                                   view<double const, 1> total) {
  constexpr auto each = detail::totals_rows * detail::logit_threads;
  auto const n = pair.size(), blocks = (n + each - 1) / each;
  auto* const sums = c.template scratch<double>(3 * (blocks + 1));
  auto* const parts = sums + 3;
  detail::launch(c, dim3(static_cast<unsigned>(blocks)), detail::logit_threads, 0,
                 &detail::logit_totals_kernel<A>, n, row_maximum.data, row.data, column.data, pair.data,
                 total.data, parts);
  detail::launch(c, dim3(1), 96, 0, &detail::add_logit_totals_kernel, parts, blocks, sums, store::overwrite);
  std::array<double, 3> found{};
  c.read(sums, 3, found.data());
  return found;
}

}  // namespace yoke::cuda
