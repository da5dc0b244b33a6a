// The contrastive loss's kernels: what a tile of logits adds to the sums of exponentials of its
// rows and columns, and the gradient that takes its place.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/lanes.hpp>
#include <yoke/cpu/parallel.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// A tile is worked on in blocks of so many columns, which the caller's scratch is made for, by so
/// many rows: small enough to be read twice from the nearest cache. Blocks do not depend on the
/// number of threads, nor do the sums.
inline constexpr extent_t logit_columns = 256;
inline constexpr extent_t logit_rows = 32;

/// The first elements at x, up to a vector of them, times `scale`; those beyond `left` are lowest,
/// so that they are no maximum and their exponential is 0.
template <class A>
lanes_t<A> load_logits(A const* x, extent_t left, A scale) {
  if (left >= lanes<A>::count) [[likely]]
    return load(x) * scale;
  auto v = broadcast(std::numeric_limits<A>::lowest());
  for (int k = 0; k < left; ++k) v[k] = x[k] * scale;
  return v;
}

template <class A>
A largest(lanes_t<A> v) {
  auto most = v[0];
  for (int k = 1; k < lanes<A>::count; ++k) most = std::max<A>(most, v[k]);
  return most;
}
template <class A>
A sum_of(lanes_t<A> v) {
  A sum = 0;
  for (int k = 0; k < lanes<A>::count; ++k) sum += v[k];
  return sum;
}

template <class A>
A exponential_of(A x) {
  return exponential(broadcast(x))[0];
}

/// Adds a sum of exponentials relative to `other` to one relative to `maximum`.
template <class A>
void merge_sums(A& maximum, A& sum, A other, A other_sum) {
  auto const top = std::max(maximum, other);
  sum = sum * exponential_of(maximum - top) + other_sum * exponential_of(other - top);
  maximum = top;
}

/// Maxima and sums of up to 256 columns, padded to whole vectors.
template <class A>
struct column_statistics {
  std::array<A, logit_columns> maximum, sum;

  column_statistics(A const* m, A const* s, extent_t n) {
    maximum.fill(std::numeric_limits<A>::lowest());
    sum.fill(A{0});
    std::copy_n(m, n, maximum.begin());
    std::copy_n(s, n, sum.begin());
  }
};

/// Up to 32 rows of up to 256 columns: maximum and sum of each row within them; columns are merged.
template <class A>
void block_statistics(A const* tile, extent_t stride, extent_t rows, extent_t n, A scale, A* row_maximum,
                      A* row_sum, column_statistics<A>& column) {
  constexpr extent_t step = lanes<A>::count;
  auto* const maximum = column.maximum.data();
  auto* const sum = column.sum.data();
  auto const before = column.maximum;
  for (extent_t i = 0; i < rows; ++i) {
    auto const* const x = tile + i * stride;
    auto most = broadcast(std::numeric_limits<A>::lowest());
    for (extent_t j = 0; j < n; j += step) {
      auto const v = load_logits(x + j, n - j, scale);
      most = larger<A>(most, v);
      save(maximum + j, larger<A>(load(maximum + j), v));
    }
    row_maximum[i] = largest<A>(most);
  }
  for (extent_t j = 0; j < n; j += step)
    save(sum + j, load(sum + j) * exponential(load(before.data() + j) - load(maximum + j)));
  for (extent_t i = 0; i < rows; ++i) {
    auto const* const x = tile + i * stride;
    auto const most = broadcast(row_maximum[i]);
    lanes_t<A> along{};
    for (extent_t j = 0; j < n; j += step) {
      auto const v = load_logits(x + j, n - j, scale);
      along += exponential(v - most);
      save(sum + j, load(sum + j) + exponential(v - load(maximum + j)));
    }
    row_sum[i] = sum_of<A>(along);
  }
}

/// One row of logits and its gradient, see logit_gradient; returns the sum of g * product.
template <class A>
double row_gradient(A* x, extent_t n, A scale, A factor, A row, A const* column) {
  constexpr extent_t step = lanes<A>::count;
  double sum = 0;
  for (extent_t first = 0; first < n; first += logit_columns) {
    auto const last = std::min(n, first + logit_columns);
    lanes_t<A> along{};
    for (extent_t j = first; j < last; j += step) {
      auto const whole = last - j >= step;
      lanes_t<A> product{}, lse{};
      if (whole) {
        product = load(x + j);
        lse = load(column + j);
      } else {
        for (extent_t k = 0; k < last - j; ++k) product[k] = x[j + k], lse[k] = column[j + k];
      }
      auto const v = product * scale;
      auto const g = exponential(v - row) + exponential(v - lse);
      along += g * product;
      auto const d = g * factor;
      if (whole)
        save(x + j, d);
      else
        for (extent_t k = 0; k < last - j; ++k) x[j + k] = d[k];
    }
    sum += static_cast<double>(sum_of<A>(along));
  }
  return sum;
}

}  // namespace detail

/// Merges a tile's logits scale * tile into maximum and sum of its rows and columns, and stores
/// those with column = row + diagonal in `pair`. `scratch` holds two numbers a row for every 256
/// columns.
template <class T, class A = accumulator_t<T>>
void logit_statistics(context<T>&, std::type_identity_t<A> scale, extent_t diagonal, view<A const, 2> tile,
                      view<A, 1> scratch, view<A, 1> row_maximum, view<A, 1> row_sum,
                      view<A, 1> column_maximum, view<A, 1> column_sum, view<A, 1> pair) {
  auto const rows = tile.extent(0), columns = tile.extent(1);
  auto const blocks = (columns + detail::logit_columns - 1) / detail::logit_columns;
  expects(scratch.size() >= 2 * rows * blocks, "logit_statistics: two numbers a row and 256 columns");
  auto* const partial = scratch.data;  // (blocks, maximum and sum, rows)
  parallel_for(blocks, 1, [&](extent_t first, extent_t last) {
    for (auto b = first; b < last; ++b) {
      auto const j = b * detail::logit_columns, n = std::min(detail::logit_columns, columns - j);
      detail::column_statistics<A> column{column_maximum.data + j, column_sum.data + j, n};
      for (extent_t i = 0; i < rows; i += detail::logit_rows)
        detail::block_statistics(tile.data + i * columns + j, columns, std::min(detail::logit_rows, rows - i),
                                 n, scale, partial + 2 * b * rows + i, partial + (2 * b + 1) * rows + i,
                                 column);
      std::copy_n(column.maximum.begin(), n, column_maximum.data + j);
      std::copy_n(column.sum.begin(), n, column_sum.data + j);
    }
  });
  for (extent_t b = 0; b < blocks; ++b) {
    auto const *const maximum = partial + 2 * b * rows, *const sum = maximum + rows;
    for (extent_t i = 0; i < rows; ++i)
      detail::merge_sums(row_maximum.data[i], row_sum.data[i], maximum[i], sum[i]);
  }
  for (auto i = std::max<extent_t>(0, -diagonal); i < std::min(rows, columns - diagonal); ++i)
    pair.data[i] = scale * tile.data[i * columns + i + diagonal];
}

/// Makes a sum relative to `maximum` one relative to `larger`.
template <class T, class A = accumulator_t<T>>
void rescale_sums(context<T>&, view<A const, 1> maximum, view<A const, 1> larger, view<A, 1> sum) {
  for (extent_t i = 0; i < sum.size(); ++i) sum.data[i] *= std::exp(maximum.data[i] - larger.data[i]);
}

/// sum = maximum + log(sum).
template <class T, class A = accumulator_t<T>>
void log_sum_exp(context<T>&, view<A const, 1> maximum, view<A, 1> sum) {
  for (extent_t i = 0; i < sum.size(); ++i) sum.data[i] = maximum.data[i] + std::log(sum.data[i]);
}

/// Turns a tile of products into scale * weight * g, g = softmax over the row + softmax over the
/// column - 2 for a pair, given the log-sum-exp of rows and columns; `total` (rows): weight times
/// the sum of g * product.
template <class T, class A = accumulator_t<T>>
void logit_gradient(context<T>&, std::type_identity_t<A> scale, extent_t diagonal,
                    std::type_identity_t<A> weight, view<A const, 1> row, view<A const, 1> column,
                    view<A, 2> tile, view<double, 1> total, store how) {
  auto const columns = tile.extent(1);
  auto const factor = scale * weight;
  parallel_for(tile.extent(0), detail::logit_rows, [&](extent_t first, extent_t last) {
    for (auto i = first; i < last; ++i) {
      auto* const x = tile.data + i * columns;
      auto const own = i + diagonal;
      auto const paired = own >= 0 && own < columns;
      auto const product = paired ? static_cast<double>(x[own]) : 0;
      auto sum = detail::row_gradient(x, columns, scale, factor, row.data[i], column.data);
      if (paired) {
        x[own] -= 2 * factor;
        sum -= 2 * product;
      }
      sum *= static_cast<double>(weight);
      total.data[i] = how == store::overwrite ? sum : total.data[i] + sum;
    }
  });
}

/// What the host reads of a rank's rows: the sum of row + column - 2 pair (log-sum-exp of the rows
/// and of their own columns, the pairs' logits), the number of pairs not below their row's maximum,
/// the sum of `total`.
template <class T, class A = accumulator_t<T>>
std::array<double, 3> logit_totals(context<T>&, view<A const, 1> row_maximum, view<A const, 1> row,
                                   view<A const, 1> column, view<A const, 1> pair,
                                   view<double const, 1> total) {
  std::array<double, 3> sums{};
  for (extent_t i = 0; i < pair.size(); ++i) {
    auto const logit = static_cast<double>(pair.data[i]);
    sums[0] += (static_cast<double>(row.data[i]) - logit) + (static_cast<double>(column.data[i]) - logit);
    sums[1] += pair.data[i] >= row_maximum.data[i] ? 1 : 0;
    sums[2] += total.data[i];
  }
  return sums;
}

}  // namespace yoke::cpu
