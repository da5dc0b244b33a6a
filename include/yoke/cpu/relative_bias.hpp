// The bias of attention that depends on where the query lies from the key, read from a table.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/scratch.hpp>

#include <algorithm>
#include <type_traits>

namespace yoke::cpu {

/// table (heads, 2 height - 1, 2 width - 1) -> bias (heads, tokens, tokens), tokens row by row of the grid: at
/// [h][q][k] is the entry [h][qy - ky + height - 1][qx - kx + width - 1].
template <class T>
void relative_bias_forward(context<T>&, grid g, view<std::type_identity_t<T> const, 3> table,
                           view<std::type_identity_t<T>, 3> bias) {
  auto const tokens = g.tokens(), line = 2 * g.width - 1;
  parallel_for(table.extent(0) * tokens, detail::least_rows(tokens), [&](extent_t first, extent_t last) {
    for (auto i = first; i < last; ++i) {  // i: a query of one head
      auto const q = i % tokens, qy = q / g.width, qx = q % g.width;
      auto const* const head = table.data + i / tokens * (2 * g.height - 1) * line;
      for (extent_t ky = 0; ky < g.height; ++ky) {
        auto const* const from = head + (qy - ky + g.height - 1) * line + qx;
        std::reverse_copy(from, from + g.width, bias.data + i * tokens + ky * g.width);
      }
    }
  });
}

/// The gradient of relative_bias_forward: dbias -> dtable with `how`, in elements or accumulators. Each entry's sum is
/// in accumulators, in one order for any number of threads.
template <class T, class W>
void relative_bias_backward(context<T>&, grid g, view<std::type_identity_t<T> const, 3> dbias,
                            view<W, 3> dtable, store how) {
  using A = accumulator_t<T>;
  auto const tokens = g.tokens(), line = 2 * g.width - 1, lines = 2 * g.height - 1;
  parallel_for(dtable.extent(0) * lines, detail::least_rows(g.height * g.width * g.width),
               [&](extent_t first, extent_t last) {
                 auto* const sums =
                     detail::scratch<A>{line}.take(line);  // the table's line from its end to its beginning
                 for (auto i = first; i < last; ++i) {     // i: a line of one head's table
                   auto const down = i % lines - (g.height - 1);  // from the keys to the queries
                   auto const* const head = dbias.data + i / lines * tokens * tokens;
                   std::fill_n(sums, line, A{0});
                   for (auto qy = std::max<extent_t>(0, down); qy < std::min(g.height, g.height + down); ++qy)
                     for (extent_t qx = 0; qx < g.width; ++qx) {
                       auto const* const keys = head + (qy * g.width + qx) * tokens + (qy - down) * g.width;
                       auto* const to = sums + g.width - 1 - qx;
                       for (extent_t kx = 0; kx < g.width; ++kx)
                         to[kx] += static_cast<A>(keys[kx]);  // less than a vector
                     }
                   std::reverse(sums, sums + line);
                   detail::map_line(
                       line, how, [](auto v) { return v; }, dtable.data + i * line,
                       static_cast<A const*>(sums));
                 }
               });
}

}  // namespace yoke::cpu
