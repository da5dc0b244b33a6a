// Rows made comparable: layer normalisation and division by the norm; and the sums over rows that
// gradients of biases are.
#pragma once
#include <yoke/cpu/lines.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace yoke::cpu {

/// to (width) = or += the sum of x's rows (rows, width).
template <class T>
void sum_rows(context<T>& c, view<std::type_identity_t<T> const, 2> x,
              view<accumulator_t<std::type_identity_t<T>>, 1> to, store how) {
  auto const width = x.extent(1);
  auto const add = [&](extent_t first, extent_t last, accumulator_t<T>* sums) {
    for (auto r = first; r < last; ++r)
      detail::map_line(
          width, store::accumulate, [](auto v) { return v; }, sums, x.data + r * width);
  };
  detail::sum_over_rows(c, x.extent(0), width, how, add, to.data);
}

namespace detail {

template <class T, class A>
A sum_of_squares(extent_t n, T const* x, A mean) {
  constexpr extent_t w = lanes<A>::count;
  lanes_t<A> sum{};
  extent_t i = 0;
  for (; i + w <= n; i += w) {
    auto const d = load(x + i) - mean;
    sum += d * d;
  }
  auto squares = sum_of_lanes<A>(sum);
  for (; i < n; ++i) {
    auto const d = static_cast<A>(x[i]) - mean;
    squares += d * d;
  }
  return squares;
}

}  // namespace detail

/// y = (x - mean) / sqrt(variance + epsilon) * gain + bias for each row, mean and 1 / deviation
/// (rows) kept for the backward pass.
template <class T>
void layer_norm_forward(context<T>&, view<std::type_identity_t<T> const, 2> x,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                        accumulator_t<std::type_identity_t<T>> epsilon, view<std::type_identity_t<T>, 2> y,
                        view<accumulator_t<std::type_identity_t<T>>, 1> mean,
                        view<accumulator_t<std::type_identity_t<T>>, 1> reciprocal_deviation) {
  using A = accumulator_t<T>;
  auto const width = x.extent(1);
  auto const share = A{1} / static_cast<A>(width);
  parallel_for(x.extent(0), detail::least_rows(width), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r) {
      auto const* const row = x.data + r * width;
      auto const m = share * detail::sum_line<A>(
                                 width, [](auto v) { return v; }, row);
      auto const squares = detail::sum_of_squares(width, row, m);
      auto const s = 1 / std::sqrt(squares * share + epsilon);
      mean.data[r] = m;
      reciprocal_deviation.data[r] = s;
      detail::map_line(
          width, store::overwrite, [=](auto v, auto g, auto b) { return (v - m) * s * g + b; },
          y.data + r * width, row, gain.data, bias.data);
    }
  });
}

/// The gradient of layer_norm_forward: x, gain, mean, 1 / deviation, dy -> dx with `how`; dgain and
/// dbias (width) accumulate. Each of the three may be absent.
template <class T>
void layer_norm_backward(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> reciprocal_deviation,
                         view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx,
                         store how, view<accumulator_t<std::type_identity_t<T>>, 1> dgain,
                         view<accumulator_t<std::type_identity_t<T>>, 1> dbias) {
  using A = accumulator_t<T>;
  auto const width = x.extent(1);
  auto const share = A{1} / static_cast<A>(width);
  auto const row_gradient = [&](extent_t r) {
    auto const *const row = x.data + r * width, *const up = dy.data + r * width;
    auto const m = mean.data[r], s = reciprocal_deviation.data[r];
    detail::lanes_t<A> sum{}, along{};
    detail::for_lanes<A>(width, [&](auto const& at) {
      auto const g = at(up) * at(gain.data);
      sum += g;
      along += g * (at(row) - m);
    });
    auto const a = share * s * detail::sum_of_lanes<A>(sum);
    auto const b = share * s * s * s * detail::sum_of_lanes<A>(along);
    detail::map_line(
        width, how, [=](auto v, auto u, auto g) { return u * g * s - a - (v - m) * b; }, dx.data + r * width,
        row, up, gain.data);
  };
  if (dgain.extent(0) == 0 && dbias.extent(0) == 0) {
    if (dx.extent(0) != 0)
      parallel_for(x.extent(0), detail::least_rows(width), [&](extent_t first, extent_t last) {
        for (auto r = first; r < last; ++r) row_gradient(r);
      });
    return;
  }
  auto const add = [&](extent_t first, extent_t last, A* sums) {
    for (auto r = first; r < last; ++r) {
      if (dx.extent(0) != 0)
        row_gradient(r);
      auto const *const row = x.data + r * width, *const up = dy.data + r * width;
      auto const m = mean.data[r], s = reciprocal_deviation.data[r];
      detail::for_lanes<A>(width, [&](auto const& at) {
        auto const u = at(up);
        at(sums, at(sums) + (at(row) - m) * s * u);
        at(sums + width, at(sums + width) + u);
      });
    }
  };
  detail::sum_over_rows(c, x.extent(0), width, store::accumulate, add,
                        dgain.extent(0) == 0 ? nullptr : dgain.data,
                        dbias.extent(0) == 0 ? nullptr : dbias.data);
}

/// y = x / |x| for each row, the norm taken as at least 1e-12; and 1 / norm (rows).
template <class T, class X, class Y>
void l2_normalize_forward(context<T>&, view<X const, 2> x, view<Y, 2> y,
                          view<accumulator_t<std::type_identity_t<T>>, 1> inverse_norm) {
  using A = accumulator_t<X>;
  auto const width = x.extent(1);
  parallel_for(x.extent(0), detail::least_rows(width), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r) {
      auto const* const row = x.data + r * width;
      auto const norm = std::sqrt(detail::sum_line<A>(
          width, [](auto v) { return v * v; }, row));
      auto const s = 1 / std::max(norm, static_cast<A>(1e-12));
      inverse_norm.data[r] = s;
      detail::map_line(
          width, store::overwrite, [=](auto v) { return v * s; }, y.data + r * width, row);
    }
  });
}

/// The gradient of l2_normalize_forward: y, 1 / norm, dy -> dx with `how`. Rows whose norm was below
/// 1e-12 were only scaled.
template <class T, class X, class Y>
void l2_normalize_backward(context<T>&, view<X const, 2> y,
                           view<accumulator_t<std::type_identity_t<T>> const, 1> inverse_norm,
                           view<std::type_identity_t<X> const, 2> dy, view<Y, 2> dx, store how) {
  using A = accumulator_t<X>;
  auto const width = y.extent(1);
  parallel_for(y.extent(0), detail::least_rows(width), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r) {
      auto const *const row = y.data + r * width, *const up = dy.data + r * width;
      auto const s = inverse_norm.data[r];
      auto const scaled_only = s >= 1 / static_cast<A>(1e-12);
      auto const along = scaled_only ? A{0}
                                     : detail::sum_line<A>(
                                           width, [](auto v, auto u) { return v * u; }, row, up);
      detail::map_line(
          width, how, [=](auto v, auto u) { return (u - v * along) * s; }, dx.data + r * width, row, up);
    }
  });
}

}  // namespace yoke::cpu
