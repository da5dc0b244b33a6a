// Batch normalisation: statistics of the columns of rows, and the activation behind the normalised values.
#pragma once
#include <yoke/cpu/activation.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/scratch.hpp>

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// Mean and sum of squared differences from it, of each of some columns over so many rows.
template <class A>
struct column_moments {
  A *mean, *squares;
  extent_t rows = 0;

  /// Those of these rows and of others together (Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for
  /// computing sample variances", 1979), for `width` columns from `first` on.
  void merge(column_moments const& other, extent_t first, extent_t width) {
    auto const all = static_cast<A>(rows + other.rows);
    auto const theirs = static_cast<A>(other.rows) / all, both = theirs * static_cast<A>(rows);
    for_lanes<A>(width, [&](auto const& at) {
      auto *const m = mean + first, *const q = squares + first;
      auto const before = at(m), difference = at(other.mean + first) - before;
      at(m, before + difference * theirs);
      at(q, at(q) + (at(other.squares + first) + difference * difference * both));
    });
    rows += other.rows;
  }
};

/// Of `rows` rows that are read twice, and should be few enough for a cache.
template <class T, class A>
void moments_of(T const* x, extent_t rows, extent_t width, column_moments<A>& to) {
  auto const share = A{1} / static_cast<A>(rows);
  std::fill_n(to.mean, width, A{0});
  std::fill_n(to.squares, width, A{0});
  for (extent_t r = 0; r < rows; ++r)
    map_line(
        width, store::accumulate, [](auto v) { return v; }, to.mean, x + r * width);
  map_line(
      width, store::overwrite, [=](auto v) { return v * share; }, to.mean, to.mean);
  for (extent_t r = 0; r < rows; ++r)
    map_line(
        width, store::accumulate, [](auto v, auto m) { return (v - m) * (v - m); }, to.squares, x + r * width,
        to.mean);
  to.rows = rows;
}

/// gain / deviation, for each column.
template <class A>
void column_scale(extent_t width, A const* variance, A const* gain, A epsilon, A* scale) {
  map_line(
      width, store::overwrite, [=](auto v, auto g) { return g / square_root(v + epsilon); }, scale, variance,
      gain);
}

}  // namespace detail

/// Mean and biased variance (width) of the columns of x (rows, width). Blocks of a few rows are read twice, and merged:
/// nothing cancels however far from 0 a column lies, and the result does not depend on the number of threads.
template <class T>
void batch_statistics(context<T>& c, view<std::type_identity_t<T> const, 2> x,
                      view<accumulator_t<std::type_identity_t<T>>, 1> mean,
                      view<accumulator_t<std::type_identity_t<T>>, 1> variance) {
  using A = accumulator_t<T>;
  using moments = detail::column_moments<A>;
  auto const rows = x.extent(0), width = x.extent(1);
  auto const block = std::max<extent_t>(16, (rows + 63) / 64), blocks = (rows + block - 1) / block;
  auto const few = std::clamp<extent_t>(32768 / std::max<extent_t>(width, 1), 4, 32);
  auto* const parts = c.template scratch<A>(2 * blocks * width);
  auto const part = [&](extent_t b) { return moments{parts + 2 * b * width, parts + (2 * b + 1) * width}; };
  parallel_for(blocks, std::max<extent_t>(1, detail::least_rows(width) / block),
               [&](extent_t first, extent_t last) {
                 detail::scratch<A> memory{2 * width};
                 moments next{memory.take(width), memory.take(width)};
                 for (auto b = first; b < last; ++b) {
                   auto all = part(b);
                   auto const end = std::min(rows, (b + 1) * block);
                   for (auto r = b * block; r < end; r += few) {
                     auto& to = all.rows == 0 ? all : next;
                     detail::moments_of(x.data + r * width, std::min(few, end - r), width, to);
                     if (&to == &next)
                       all.merge(next, 0, width);
                   }
                 }
               });
  parallel_for(width, detail::least_elements / 16, [&](extent_t first, extent_t last) {
    moments all{mean.data, variance.data};
    std::fill(mean.data + first, mean.data + last, A{0});
    std::fill(variance.data + first, variance.data + last, A{0});
    for (extent_t b = 0; b < blocks; ++b) {
      auto next = part(b);
      next.rows = std::min(rows, (b + 1) * block) - b * block;
      all.merge(next, first, last - first);
    }
    auto const share = A{1} / static_cast<A>(std::max<extent_t>(rows, 1));
    detail::map_line(
        last - first, store::overwrite, [=](auto q) { return q * share; }, variance.data + first,
        variance.data + first);
  });
}

/// y = f((x - mean) / sqrt(variance + epsilon) * gain + bias), column by column of x (rows, width).
template <class T>
void batch_norm_forward(context<T>&, activation kind, view<std::type_identity_t<T> const, 2> x,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> variance,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                        view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                        accumulator_t<std::type_identity_t<T>> epsilon, view<std::type_identity_t<T>, 2> y) {
  using A = accumulator_t<T>;
  auto const width = x.extent(1);
  detail::with_activation(kind, [&](auto f) {
    parallel_for(x.extent(0), detail::least_rows(width), [&](extent_t first, extent_t last) {
      auto* const scale = detail::scratch<A>{width}.take(width);
      detail::column_scale(width, variance.data, gain.data, epsilon, scale);
      for (auto r = first; r < last; ++r)
        detail::map_line(
            width, store::overwrite, [=](auto v, auto m, auto s, auto b) { return f.value((v - m) * s + b); },
            y.data + r * width, x.data + r * width, mean.data, static_cast<A const*>(scale), bias.data);
    });
  });
}

/// The gradient of batch_norm_forward: x, mean, variance, gain, bias, epsilon, dy -> dx with `how`; dgain and dbias
/// (width) accumulate. Each of the three may be absent. `own`: mean and variance are those of x, and functions of it;
/// else they are constants.
template <class T>
void batch_norm_backward(context<T>& c, activation kind, bool own, view<std::type_identity_t<T> const, 2> x,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> mean,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> variance,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> gain,
                         view<accumulator_t<std::type_identity_t<T>> const, 1> bias,
                         accumulator_t<std::type_identity_t<T>> epsilon,
                         view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx,
                         store how, view<accumulator_t<std::type_identity_t<T>>, 1> dgain,
                         view<accumulator_t<std::type_identity_t<T>>, 1> dbias) {
  using A = accumulator_t<T>;
  auto const rows = x.extent(0), width = x.extent(1);
  // Kept while other kernels' memory is in use. u is the gradient before the activation: y = f(d scale + bias), d = x -
  // mean; the sums over rows of u d and of u; dx = scale (u - shift - d tilt).
  detail::scratch<A, 2> memory{5 * width};
  auto *const scale = memory.take(width), *const along = memory.take(width), *const sum = memory.take(width);
  auto *const tilt = memory.take(width), *const shift = memory.take(width);
  detail::column_scale(width, variance.data, gain.data, epsilon, scale);
  std::fill_n(tilt, width, A{0});
  std::fill_n(shift, width, A{0});

  detail::with_activation(kind, [&](auto f) {
    if (dgain.extent(0) != 0 || dbias.extent(0) != 0 || (own && dx.extent(0) != 0)) {
      auto const add = [&](extent_t first, extent_t last, A* sums) {
        for (auto r = first; r < last; ++r)
          detail::for_lanes<A>(width, [&](auto const& at) {
            auto const d = at(x.data + r * width) - at(mean.data);
            auto const u = f.slope(d * at(scale) + at(bias.data)) * at(dy.data + r * width);
            at(sums, at(sums) + u * d);
            at(sums + width, at(sums + width) + u);
          });
      };
      detail::sum_over_rows(c, rows, width, store::overwrite, add, along, sum);
      detail::for_lanes<A>(width, [&](auto const& at) {
        auto const inverse = A{1} / detail::square_root(at(variance.data) + epsilon), a = at(along),
                   s = at(sum);
        if (dgain.extent(0) != 0)
          at(dgain.data, at(dgain.data) + a * inverse);
        if (dbias.extent(0) != 0)
          at(dbias.data, at(dbias.data) + s);
        if (own) {
          auto const share = A{1} / static_cast<A>(std::max<extent_t>(rows, 1));
          at(tilt, a * inverse * inverse * share);
          at(shift, s * share);
        }
      });
    }
    if (dx.extent(0) == 0)
      return;
    parallel_for(rows, detail::least_rows(width), [&](extent_t first, extent_t last) {
      for (auto r = first; r < last; ++r)
        detail::map_line(
            width, how,
            [=](auto v, auto up, auto m, auto s, auto b, auto t, auto h) {
              auto const d = v - m;
              return s * (f.slope(d * s + b) * up - h - d * t);
            },
            dx.data + r * width, x.data + r * width, dy.data + r * width, mean.data,
            static_cast<A const*>(scale), bias.data, static_cast<A const*>(tilt),
            static_cast<A const*>(shift));
    });
  });
}

}  // namespace yoke::cpu
