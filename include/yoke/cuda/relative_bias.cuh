// The bias of attention that depends on where the query lies from the key, read from a table.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/columns.cuh>

#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// A grid of tokens as kernels see it; `lines` and `line` are the table's extents.
struct token_grid {
  int height, width, tokens, lines, line;

  explicit token_grid(grid const& g)
      : height{static_cast<int>(g.height)},
        width{static_cast<int>(g.width)},
        tokens{static_cast<int>(g.tokens())},
        lines{2 * height - 1},
        line{2 * width - 1} {}
};

/// Packs of N of the n elements of the bias, saved whole where there are so many.
template <int N, class T>
static __global__ void __launch_bounds__(map_threads)
    relative_bias_kernel(token_grid g, extent_t n, T const* table, T* bias) {
  auto const stride = extent_t{gridDim.x} * map_threads * N;
  for (auto i = (extent_t{blockIdx.x} * map_threads + threadIdx.x) * N; i < n; i += stride) {
    auto row = i / g.tokens;  // (head, query)
    int key = static_cast<int>(i - row * g.tokens);
    auto head = row / g.tokens;
    int query = static_cast<int>(row - head * g.tokens);
    pack<accumulator_t<T>, N> v{};
    int const count = n - i < N ? static_cast<int>(n - i) : N;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (k >= count)
        break;
      int const qy = query / g.width, ky = key / g.width;
      int const down = qy - ky + g.height - 1,
                along = query - qy * g.width - (key - ky * g.width) + g.width - 1;
      v.at[k] = widen(table[(head * g.lines + down) * g.line + along]);
      if (++key < g.tokens)
        continue;
      key = 0;
      if (++query == g.tokens)
        query = 0, ++head;
    }
    if (count == N)
      save<N>(bias + i, v, store::overwrite);
    else
      for (int k = 0; k < count; ++k) bias[i + k] = narrow<T>(v.at[k]);
  }
}

/// Block (tile of a line's entries, line of a head's table): the sums over the pairs of query and key that are so far
/// from each other. Neighbours in the line read neighbours among the keys.
template <class T, class W>
static __global__ void __launch_bounds__(column_threads)
    relative_bias_backward_kernel(column_tiles tiles, token_grid g, T const* dbias, W* dtable, store how) {
  auto const place = column_place::of<1>(tiles, static_cast<int>(blockIdx.x) % tiles.tiles, g.line);
  auto const line = static_cast<int>(blockIdx.x) / tiles.tiles, head = line / g.lines;
  int const down = line - head * g.lines - (g.height - 1), along = place.column - (g.width - 1);
  auto const* const from = dbias + extent_t{head} * g.tokens * g.tokens;
  int const first = max(0, down), queries = (min(g.height, g.height + down) - first) * g.width;
  pack<accumulator_t<T>, 1> sum{};
  if (place.there)
    for (int i = place.row; i < queries; i += tiles.rows) {
      int const y = i / g.width, qx = i - y * g.width, kx = qx - along;
      if (kx >= 0 && kx < g.width)
        sum.at[0] +=
            widen(from[extent_t{(first + y) * g.width + qx} * g.tokens + (first + y - down) * g.width + kx]);
    }
  sum_block_rows(tiles, place.row, sum);
  if (place.there && place.row == 0)
    put(dtable + extent_t{line} * g.line + place.column, sum.at[0], how);
}

}  // namespace detail

/// table (heads, 2 height - 1, 2 width - 1) -> bias (heads, tokens, tokens), tokens row by row of the grid: at
/// [h][q][k] is the entry [h][qy - ky + height - 1][qx - kx + width - 1].
template <class T>
void relative_bias_forward(context<T>& c, grid g, view<std::type_identity_t<T> const, 3> table,
                           view<std::type_identity_t<T>, 3> bias) {
  constexpr int N = detail::wide<T>;
  detail::token_grid const of(g);
  auto const run = [&](int each, auto* kernel) {
    detail::launch(c, detail::blocks_for(c, bias.size(), extent_t{each} * detail::map_threads),
                   detail::map_threads, 0, kernel, of, bias.size(), table.data, bias.data);
  };
  if (detail::packs_are_aligned<N>(bias.data))
    run(N, detail::relative_bias_kernel<N, T>);
  else
    run(1, detail::relative_bias_kernel<1, T>);
}

/// The gradient of relative_bias_forward: dbias -> dtable with `how`, in elements or accumulators. Each entry's sum is
/// in accumulators, and has the same bits every time.
template <class T, class W>
void relative_bias_backward(context<T>& c, grid g, view<std::type_identity_t<T> const, 3> dbias,
                            view<W, 3> dtable, store how) {
  if (dtable.size() == 0)
    return;
  detail::token_grid const of(g);
  auto const tiles = detail::column_tiles::of(of.line, 1);
  detail::launch(c, dim3(static_cast<unsigned>(dtable.extent(0) * of.lines * tiles.tiles)),
                 detail::column_threads, 0, detail::relative_bias_backward_kernel<T, W>, tiles, of,
                 dbias.data, dtable.data, how);
}

}  // namespace yoke::cuda
