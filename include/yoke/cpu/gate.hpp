// A gate for each column of a segment: the second half of squeeze and excitation.
#pragma once
#include <yoke/core/segments.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/scratch.hpp>
#include <yoke/cpu/vector_math.hpp>

#include <algorithm>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// Calls f(segment, first, last) for the rows [first, last) of each segment that are among the given ones.
template <class F>
void for_pieces(segments const& runs, extent_t first, extent_t last, F const& f) {
  extent_t low = 0, high = runs.count;  // begin(low) <= first < begin(high)
  while (high - low > 1) {
    auto const middle = low + (high - low) / 2;
    (runs.begin(middle) <= first ? low : high) = middle;
  }
  for (auto s = low; first < last; ++s)
    if (auto const end = std::min(last, runs.end(s)); end > first) {
      f(s, first, end);
      first = end;
    }
}

}  // namespace detail

/// y = x times the logistic function of its segment's line of logits: x (rows, width), z (segments, width).
template <class T>
void gate_forward(context<T>&, segments const& runs, view<std::type_identity_t<T> const, 2> x,
                  view<std::type_identity_t<T> const, 2> z, view<std::type_identity_t<T>, 2> y) {
  using A = accumulator_t<T>;
  auto const width = x.extent(1);
  parallel_for(runs.rows, detail::least_rows(width), [&](extent_t begin, extent_t end) {
    auto* const open = detail::scratch<A>{width}.take(width);
    detail::for_pieces(runs, begin, end, [&](extent_t s, extent_t first, extent_t last) {
      detail::map_line(
          width, store::overwrite, [](auto v) { return detail::logistic(v).value; }, open,
          z.data + s * width);
      for (auto r = first; r < last; ++r)
        detail::map_line(
            width, store::overwrite, [](auto v, auto o) { return v * o; }, y.data + r * width,
            x.data + r * width, static_cast<A const*>(open));
    });
  });
}

/// The gradient of gate_forward: x, z, dy -> dx and dz, each with a `how` of its own, each optional. Sums over a
/// segment's rows are in accumulators, in an order that does not depend on the number of threads.
template <class T>
void gate_backward(context<T>& c, segments const& runs, view<std::type_identity_t<T> const, 2> x,
                   view<std::type_identity_t<T> const, 2> z, view<std::type_identity_t<T> const, 2> dy,
                   view<std::type_identity_t<T>, 2> dx, store dx_how, view<std::type_identity_t<T>, 2> dz,
                   store dz_how) {
  using A = accumulator_t<T>;
  auto const rows = runs.rows, width = x.extent(1);
  auto const block = std::max<extent_t>(16, (rows + 63) / 64), blocks = (rows + block - 1) / block;
  // Block b and segment s share at most one run of rows; no two such runs have the same b + s, since from one to the
  // next b or s grows.
  auto* const sums = c.template scratch<A>(dz.extent(0) == 0 ? 0 : (blocks + runs.count) * width);
  parallel_for(
      blocks, std::max<extent_t>(1, detail::least_rows(width) / block), [&](extent_t begin, extent_t end) {
        auto* const open = detail::scratch<A>{width}.take(width);
        for (auto b = begin; b < end; ++b)
          detail::for_pieces(runs, b * block, std::min(rows, (b + 1) * block),
                             [&](extent_t s, extent_t first, extent_t last) {
                               if (dx.extent(0) != 0)
                                 detail::map_line(
                                     width, store::overwrite,
                                     [](auto v) { return detail::logistic(v).value; }, open,
                                     z.data + s * width);
                               auto* const sum = sums + (b + s) * width;
                               if (dz.extent(0) != 0)
                                 std::fill_n(sum, width, A{0});
                               for (auto r = first; r < last; ++r) {
                                 auto const* const up = dy.data + r * width;
                                 if (dz.extent(0) != 0)
                                   detail::map_line(
                                       width, store::accumulate, [](auto v, auto u) { return v * u; }, sum,
                                       x.data + r * width, up);
                                 if (dx.extent(0) != 0)
                                   detail::map_line(
                                       width, dx_how, [](auto u, auto o) { return u * o; },
                                       dx.data + r * width, up, static_cast<A const*>(open));
                               }
                             });
      });
  if (dz.extent(0) == 0)
    return;
  parallel_for(runs.count, detail::least_rows(width), [&](extent_t begin, extent_t end) {
    auto* const total = detail::scratch<A>{width}.take(width);
    for (auto s = begin; s < end; ++s) {
      std::fill_n(total, width, A{0});
      if (runs.length(s) > 0)
        for (auto b = runs.begin(s) / block; b <= (runs.end(s) - 1) / block; ++b)
          detail::map_line(
              width, store::accumulate, [](auto v) { return v; }, total,
              static_cast<A const*>(sums + (b + s) * width));
      detail::map_line(
          width, dz_how, [](auto v, auto t) { return detail::logistic(v).slope * t; }, dz.data + s * width,
          z.data + s * width, static_cast<A const*>(total));
    }
  });
}

}  // namespace yoke::cpu
