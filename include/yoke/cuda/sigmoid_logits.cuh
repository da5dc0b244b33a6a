// The sigmoid loss's kernel: a tile of products becomes its gradient, and the loss comes out of the same pass.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/logit_tile.cuh>
#include <yoke/cuda/logits.cuh>

#include <type_traits>

namespace yoke::cuda {

namespace detail {

__device__ inline float log_of_one_and(float v) {
  return log1pf(v);
}
__device__ inline double log_of_one_and(double v) {
  return log1p(v);
}

/// Products become factor * g, g being the slope of the loss log(1 + e^x), x the logit or for a pair its negative, by the
/// logit; `parts` (parts of the tile, 3) take the sums of the loss, of g and of g * product.
template <class A, bool Wide>
static __global__ void __launch_bounds__(logit_threads, logit_blocks<A>)
    sigmoid_logits_kernel(A* tile, extent_t rows, extent_t columns, A scale, A bias, A factor,
                          extent_t diagonal, double* parts) {
  constexpr int group = logit_group<A>;
  logit_part const part{rows, columns};
  int const lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  A loss = 0, slope = 0, along = 0;  // of the lane's columns in the warp's rows
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
      auto const pair = part.row + first + r + diagonal - part.column;
      A g[logit_each];
#pragma unroll
      for (int k = 0; k < logit_each; ++k) {
        auto const j = logit_column<A, Wide>(k, lane);
        auto const sign = static_cast<A>(j == pair ? -1 : 1);
        auto const x = sign * (logit_of(scale, product[r][k]) + bias);
        auto const e = exp_of(x < 0 ? x : -x), upper = 1 / (1 + e);
        auto const v = sign * (x < 0 ? e * upper : upper);
        if (j < part.columns) {
          loss += (x < 0 ? A{0} : x) + log_of_one_and(e);
          slope += v;
          along += v * product[r][k];
        }
        g[k] = v * factor;
      }
      save_gradients<A, Wide>(from + r * columns, part.columns, lane, g);
    }
  }
  double sums[3] = {static_cast<double>(loss), static_cast<double>(slope), static_cast<double>(along)};
  block_sums<logit_threads>(sums);
  if (threadIdx.x == 0)
    for (int q = 0; q < 3; ++q) parts[blockIdx.x * extent_t{3} + q] = sums[q];
}

}  // namespace detail

/// Turns a tile of products, whose logits are scale * product + bias, into scale * weight * g. The loss of a logit is
/// log(1 + e^logit), of a pair's (column = row + diagonal) log(1 + e^-logit), and g its slope. `totals` (3) take the
/// tile's sums of the loss, of g and of g * product.
template <class T, class A = accumulator_t<T>>
void sigmoid_logits(context<T>& c, std::type_identity_t<A> scale, std::type_identity_t<A> bias,
                    extent_t diagonal, std::type_identity_t<A> weight, view<A, 2> tile,
                    view<double, 1> totals, store how) {
  auto const rows = tile.extent(0), columns = tile.extent(1);
  auto const [down, across] = detail::logit_parts(rows, columns);
  auto* const parts = c.template scratch<double>(3 * down * across);
  detail::launch(c, dim3(static_cast<unsigned>(down * across)), detail::logit_threads, 0,
                 detail::aligned_rows(tile.data, columns) ? &detail::sigmoid_logits_kernel<A, true>
                                                          : &detail::sigmoid_logits_kernel<A, false>,
                 tile.data, rows, columns, scale, bias, scale * weight, diagonal, parts);
  detail::launch(c, dim3(1), 96, 0, &detail::add_logit_totals_kernel, parts, down * across, totals.data, how);
}

}  // namespace yoke::cuda
