// The contrastive loss's kernels: what a tile of logits adds to the sums of exponentials of its
// rows and columns, and the gradient that takes its place.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/parallel.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// A tile is worked on in blocks of so many columns, which the caller's scratch is made for, by so
/// many rows: small enough to be read twice from the nearest cache. Blocks do not depend on the
/// number of threads, nor do the sums.
inline constexpr extent_t logit_columns = 256;
inline constexpr extent_t logit_rows = 32;

/// One row of a block.
template <class A>
using logit_line = std::array<A, static_cast<std::size_t>(logit_columns)>;

template <class A>
using ordered_t = std::conditional_t<sizeof(A) == 4, std::int32_t, std::int64_t>;

/// Integers in the order of floating-point numbers: compilers vectorise their maximum always, that
/// of floating-point numbers only when told that there are no NaN.
template <class A>
ordered_t<A> ordered(A value) {
  auto const bits = std::bit_cast<ordered_t<A>>(value);
  return bits ^ ((bits >> (8 * sizeof(A) - 1)) & std::numeric_limits<ordered_t<A>>::max());
}
template <class A>
A from_ordered(ordered_t<A> o) {
  return std::bit_cast<A>(o ^ ((o >> (8 * sizeof(A) - 1)) & std::numeric_limits<ordered_t<A>>::max()));
}

inline double logit_exp(double x) {
  return std::exp(x);
}
inline float logit_exp(float x) {
  auto const low = std::bit_cast<std::uint32_t>(-87.0f);
  x = std::bit_cast<float>(std::min(std::bit_cast<std::uint32_t>(x), low));
  auto const n = static_cast<std::int32_t>(x * 1.44269504f + 1024.5f) - 1024;
  auto const f = static_cast<float>(n);
  auto const r = (x - f * 0.693359375f) + f * 2.12194440e-4f;
  auto p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r * r + r + 1) * std::bit_cast<float>((n + 127) << 23);
}

/// The sum of a line in 16 strands, which vectorises without leave to reorder.
template <class A>
A sum_of(A const* x, extent_t n) {
  constexpr extent_t strands = 16;
  std::array<A, static_cast<std::size_t>(strands)> sums{};
  extent_t i = 0;
  for (; i + strands <= n; i += strands)
    for (extent_t k = 0; k < strands; ++k) sums[static_cast<std::size_t>(k)] += x[i + k];
  A sum = 0;
  for (; i < n; ++i) sum += x[i];
  for (auto s : sums) sum += s;
  return sum;
}

/// `rows` lines of `n` logits: partial maximum and sum of each row, column sums and maxima merged.
template <class A>
void block_statistics(A const* tile, extent_t stride, extent_t rows, extent_t n, A scale, A* row_maximum,
                      A* row_sum, A* column_maximum, A* column_sum) {
  logit_line<ordered_t<A>> most;
  logit_line<A> line;
  for (extent_t j = 0; j < n; ++j) most[static_cast<std::size_t>(j)] = ordered(column_maximum[j]);
  for (extent_t i = 0; i < rows; ++i) {
    auto const* const x = tile + i * stride;
    auto* const m = most.data();
    auto row = std::numeric_limits<ordered_t<A>>::min();
    for (extent_t j = 0; j < n; ++j) {
      auto const o = ordered(scale * x[j]);
      row = std::max(row, o);
      m[j] = std::max(m[j], o);
    }
    row_maximum[i] = from_ordered<A>(row);
  }
  for (extent_t j = 0; j < n; ++j) {
    auto const maximum = from_ordered<A>(most[static_cast<std::size_t>(j)]);
    column_sum[j] *= logit_exp(column_maximum[j] - maximum);
    column_maximum[j] = maximum;
  }
  for (extent_t i = 0; i < rows; ++i) {
    auto const* const x = tile + i * stride;
    auto* const e = line.data();
    auto const maximum = row_maximum[i];
    for (extent_t j = 0; j < n; ++j) e[j] = logit_exp(scale * x[j] - maximum);
    row_sum[i] = sum_of(e, n);
    for (extent_t j = 0; j < n; ++j) column_sum[j] += logit_exp(scale * x[j] - column_maximum[j]);
  }
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
  expects(scratch.size() >= 2 * rows * blocks, "logit_statistics: scratch for a tile");
  auto* const partial = scratch.data;  // (blocks, maximum and sum, rows)
  parallel_for(blocks, 1, [&](extent_t first, extent_t last) {
    for (auto b = first; b < last; ++b) {
      auto const j = b * detail::logit_columns, n = std::min(detail::logit_columns, columns - j);
      for (extent_t i = 0; i < rows; i += detail::logit_rows)
        detail::block_statistics(tile.data + i * columns + j, columns, std::min(detail::logit_rows, rows - i),
                                 n, scale, partial + 2 * b * rows + i, partial + (2 * b + 1) * rows + i,
                                 column_maximum.data + j, column_sum.data + j);
    }
  });
  for (extent_t b = 0; b < blocks; ++b) {
    auto const *const maximum = partial + 2 * b * rows, *const sum = maximum + rows;
    for (extent_t i = 0; i < rows; ++i) {
      auto const old = row_maximum.data[i];
      auto const top = detail::from_ordered<A>(std::max(detail::ordered(old), detail::ordered(maximum[i])));
      row_sum.data[i] =
          row_sum.data[i] * detail::logit_exp(old - top) + sum[i] * detail::logit_exp(maximum[i] - top);
      row_maximum.data[i] = top;
    }
  }
  for (auto i = std::max<extent_t>(0, -diagonal); i < std::min(rows, columns - diagonal); ++i)
    pair.data[i] = scale * tile.data[i * columns + i + diagonal];
}

/// Makes a sum relative to `maximum` one relative to `larger`.
template <class T, class A = accumulator_t<T>>
void rescale_sums(context<T>&, view<A const, 1> maximum, view<A const, 1> larger, view<A, 1> sum) {
  for (extent_t i = 0; i < sum.size(); ++i)
    sum.data[i] *= detail::logit_exp(maximum.data[i] - larger.data[i]);
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
    detail::logit_line<A> line;
    for (auto i = first; i < last; ++i) {
      auto* const x = tile.data + i * columns;
      auto const lse = row.data[i];
      auto const own = i + diagonal;
      auto const paired = own >= 0 && own < columns;
      auto const pair = paired ? x[own] : A{0};
      double sum = 0;
      for (extent_t j = 0; j < columns; j += detail::logit_columns) {
        auto const n = std::min(detail::logit_columns, columns - j);
        auto* const y = x + j;
        auto const* const c = column.data + j;
        auto* const along = line.data();
        for (extent_t k = 0; k < n; ++k) {
          auto const g = detail::logit_exp(scale * y[k] - lse) + detail::logit_exp(scale * y[k] - c[k]);
          along[k] = g * y[k];
          y[k] = factor * g;
        }
        sum += static_cast<double>(detail::sum_of(along, n));
      }
      if (paired) {
        x[own] -= 2 * factor;
        sum -= 2 * static_cast<double>(pair);
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
