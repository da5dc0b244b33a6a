// The sigmoid loss's kernel: a tile of products becomes its gradient, and the loss comes out of the same pass.
#pragma once
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/logits.hpp>
#include <yoke/cpu/parallel.hpp>
#include <yoke/cpu/vector_math.hpp>

#include <algorithm>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// x, and so far below zero that nothing comes of it in lanes beyond the end of a line.
template <class A>
lanes_t<A> inside(whole_lanes<A>, lanes_t<A> x) {
  return x;
}
template <class A>
lanes_t<A> inside(last_lanes<A> at, lanes_t<A> x) {
  return numbered<A>() < static_cast<A>(at.n) ? x : broadcast(A{-1000});
}

/// A run of products of which none (sign 1) or all (sign -1) belong to pairs becomes factor * g, where g is the slope of
/// the loss log(1 + e^x), x = sign * (scale * product + bias), by the logit; `totals` take the sums of the loss, of g and
/// of g * product.
template <class A>
void sigmoid_run(A* products, extent_t n, A sign, A scale, A bias, A factor, double* totals) {
  for_blocks(0, n, logit_columns, [&](extent_t first, extent_t count) {
    lanes_t<A> loss{}, slope{}, along{};
    for_lanes<A>(count, [&](auto const& at) {
      auto* const p = products + first;
      auto const product = at(p);
      auto const f = softplus(inside(at, product * (sign * scale) + sign * bias));
      auto const g = f.slope * sign;
      loss += f.value;
      slope += g;
      along += g * product;
      at(p, g * factor);
    });
    totals[0] += static_cast<double>(sum_of_lanes<A>(loss));
    totals[1] += static_cast<double>(sum_of_lanes<A>(slope));
    totals[2] += static_cast<double>(sum_of_lanes<A>(along));
  });
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
  auto const factor = scale * weight;
  auto* const sums = c.template scratch<double>(3 * rows);
  parallel_for(rows, detail::least_rows(columns), [&](extent_t begin, extent_t end) {
    for (auto i = begin; i < end; ++i) {
      auto* const sum = sums + 3 * i;
      std::fill_n(sum, 3, 0.0);
      auto const run = [&](extent_t first, extent_t last, A sign) {
        detail::sigmoid_run(tile.data + i * columns + first, last - first, sign, scale, bias, factor, sum);
      };
      auto const pair = i + diagonal;
      if (pair < 0 || pair >= columns) {
        run(0, columns, 1);
        continue;
      }
      run(0, pair, 1);
      run(pair, pair + 1, -1);
      run(pair + 1, columns, 1);
    }
  });
  if (how == store::overwrite)
    std::fill_n(totals.data, 3, 0.0);
  for (extent_t i = 0; i < 3 * rows; ++i) totals.data[i % 3] += sums[i];
}

}  // namespace yoke::cpu
