// Layer normalisation and the activation behind it in one pass over memory: the normalised values are never stored.
#pragma once
#include <yoke/cpu/activation.hpp>
#include <yoke/cpu/normalize.hpp>
#include <yoke/cpu/scratch.hpp>

#include <cmath>
#include <type_traits>

namespace yoke::cpu {

/// y = f(layer_norm(x)) for each row, mean and 1 / deviation (rows) kept for the backward pass, which computes the rest
/// again from x.
template <class T>
void layer_norm_activation_forward(context<T>& c, activation kind, view<std::type_identity_t<T> const, 2> x,
                                   view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                                   view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                                   accumulator_t<std::type_identity_t<T>> epsilon,
                                   view<std::type_identity_t<T>, 2> y,
                                   view<accumulator_t<std::type_identity_t<T>>, 1> mean,
                                   view<accumulator_t<std::type_identity_t<T>>, 1> reciprocal_deviation) {
  using A = accumulator_t<T>;
  if (kind == activation::identity)
    return layer_norm_forward(c, x, gain, bias, epsilon, y, mean, reciprocal_deviation);
  auto const width = x.extent(1);
  auto const share = A{1} / static_cast<A>(width);
  detail::with_activation(kind, [&](auto f) {
    parallel_for(x.extent(0), detail::least_rows(width), [&](extent_t first, extent_t last) {
      auto const statistics = [&](extent_t r) {
        auto const* const row = x.data + r * width;
        auto const m = share * detail::sum_line<A>(
                                   width, [](auto v) { return v; }, row);
        mean.data[r] = m;
        reciprocal_deviation.data[r] = 1 / std::sqrt(detail::sum_of_squares(width, row, m) * share + epsilon);
      };
      statistics(first);
      for (auto r = first; r < last; ++r) {
        if (r + 1 < last)
          statistics(r + 1);  // a row ahead: the processor waits for its sums while it works on this row
        detail::map_line(
            width, store::overwrite,
            [f, m = mean.data[r], s = reciprocal_deviation.data[r]](auto v, auto g, auto b) {
              return f.value((v - m) * s * g + b);
            },
            y.data + r * width, x.data + r * width, gain.data, bias.data);
      }
    });
  });
}

/// The gradient of layer_norm_activation_forward: x, gain, bias, mean, 1 / deviation, dy -> dx with `how`; dgain and
/// dbias (width) accumulate. Each of the three may be absent.
template <class T>
void layer_norm_activation_backward(
    context<T>& c, activation kind, view<std::type_identity_t<T> const, 2> x,
    view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
    view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
    view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
    view<accumulator_t<std::type_identity_t<T>> const, 1> reciprocal_deviation,
    view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx, store how,
    view<accumulator_t<std::type_identity_t<T>>, 1> dgain,
    view<accumulator_t<std::type_identity_t<T>>, 1> dbias) {
  using A = accumulator_t<T>;
  if (kind == activation::identity)
    return layer_norm_backward(c, x, gain, mean, reciprocal_deviation, dy, dx, how, dgain, dbias);
  auto const width = x.extent(1);
  auto const share = A{1} / static_cast<A>(width);
  detail::with_activation(kind, [&](auto f) {
    auto const add = [&](extent_t first, extent_t last, A* sums) {
      auto* const line = detail::scratch<A>{width}.take(width);  // the gradient before f, in units of 1
      for (auto r = first; r < last; ++r) {
        auto const *const row = x.data + r * width, *const up = dy.data + r * width;
        auto const m = mean.data[r], s = reciprocal_deviation.data[r];
        detail::lanes_t<A> sum{}, along{};
        detail::for_lanes<A>(width, [&](auto const& at) {
          auto const n = (at(row) - m) * s, g = at(gain.data);
          auto const u = f.slope(n * g + at(bias.data)) * at(up);
          at(line, u * g);
          sum += u * g;
          along += u * g * n;
          at(sums, at(sums) + u * n);
          at(sums + width, at(sums + width) + u);
        });
        if (dx.extent(0) == 0)
          continue;
        auto const a = share * s * detail::sum_of_lanes<A>(sum);
        auto const b = share * s * s * detail::sum_of_lanes<A>(along);
        detail::map_line(
            width, how, [=](auto v, auto g) { return g * s - a - (v - m) * b; }, dx.data + r * width, row,
            static_cast<A const*>(line));
      }
    };
    detail::sum_over_rows(c, x.extent(0), width, store::accumulate, add,
                          dgain.extent(0) == 0 ? nullptr : dgain.data,
                          dbias.extent(0) == 0 ? nullptr : dbias.data);
  });
}

}  // namespace yoke::cpu
