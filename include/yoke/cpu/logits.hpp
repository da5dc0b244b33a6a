// The contrastive loss's kernels: what a tile of logits adds to the sums of exponentials of its
// rows and columns, and the gradient that takes its place.
#pragma once
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/parallel.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// A tile is worked on in blocks of so many rows and columns: small enough to be read twice from the
/// nearest cache. Blocks do not depend on the number of threads, nor do the sums.
inline constexpr extent_t logit_rows = 32;
inline constexpr extent_t logit_columns = 256;

template <class A>
using logit_line = std::array<A, static_cast<std::size_t>(logit_columns)>;

/// Within this range exponentials relative to any of the numbers neither vanish nor overflow, and
/// the same one serves a logit's row and its column.
template <class A>
inline constexpr A shared_range = std::is_same_v<A, double> ? A{600} : A{80};

template <class A>
struct bounds {
  A low, high;

  bool shared() const { return high - low <= shared_range<A>; }
};
template <class A>
bounds<A> bounds_of(A const* x, extent_t n) {
  auto const [low, high] = std::minmax_element(x, x + n);
  return {*low, *high};
}

/// The first elements at x times `scale`, at most a vector of the `left` that there are; `beyond`
/// behind them.
template <class A>
lanes_t<A> load_logits(A const* x, extent_t left, A scale, A beyond) {
  if (left >= lanes<A>::count) [[likely]]
    return load(x) * scale;
  auto v = broadcast(beyond);
  for (int k = 0; k < left; ++k) v[k] = x[k] * scale;
  return v;
}

template <class A>
lanes_t<A> smaller(lanes_t<A> a, lanes_t<A> b) {
  return a < b ? a : b;
}

/// x *= e^(from - to) for n elements.
template <class A>
void change_reference(extent_t n, A* x, A const* from, A const* to) {
  map_line(
      n, store::overwrite, [](auto v, auto f, auto t) { return v * exponential(f - t); }, x, x, from, to);
}

/// Up to 32 rows of up to 256 columns: maximum and sum of each row within them; columns are merged,
/// in lines whose surplus means nothing.
template <class A>
void block_statistics(A const* tile, extent_t stride, extent_t rows, extent_t n, A scale, A* row_maximum,
                      A* row_sum, logit_line<A>& column_maximum, logit_line<A>& column_sum) {
  constexpr extent_t step = lanes<A>::count;
  constexpr A lowest = std::numeric_limits<A>::lowest();
  auto* const maximum = column_maximum.data();
  auto* const sum = column_sum.data();
  auto const before = column_maximum;
  auto least = broadcast(-lowest);
  for (extent_t i = 0; i < rows; ++i) {
    auto const* const x = tile + i * stride;
    auto most = broadcast(lowest);
    for (extent_t j = 0; j < n; j += step) {
      auto const v = load_logits(x + j, n - j, scale, scale * x[j]);
      most = larger<A>(most, v);
      least = smaller<A>(least, v);
      save(maximum + j, larger<A>(load(maximum + j), v));
    }
    logit_line<A> line;
    save(line.data(), most);
    row_maximum[i] = bounds_of(line.data(), step).high;
  }
  change_reference(n, sum, before.data(), maximum);

  logit_line<A> line;
  save(line.data(), least);
  bounds<A> const all{bounds_of(line.data(), step).low, bounds_of(row_maximum, rows).high};
  if (all.shared()) {
    logit_line<A> reference, part{};
    reference.fill(all.high);
    for (extent_t i = 0; i < rows; ++i) {
      lanes_t<A> along{};
      for (extent_t j = 0; j < n; j += step) {
        auto const e = exponential(load_logits(tile + i * stride + j, n - j, scale, lowest) - all.high);
        along += e;
        save(part.data() + j, load(part.data() + j) + e);
      }
      row_sum[i] = sum_of_lanes<A>(along);
    }
    change_reference(rows, row_sum, reference.data(), row_maximum);
    change_reference(n, part.data(), reference.data(), maximum);
    map_line(
        n, store::accumulate, [](auto v) { return v; }, sum, part.data());
  } else {
    for (extent_t i = 0; i < rows; ++i) {
      lanes_t<A> along{};
      for (extent_t j = 0; j < n; j += step) {
        auto const v = load_logits(tile + i * stride + j, n - j, scale, lowest);
        along += exponential(v - row_maximum[i]);
        save(sum + j, load(sum + j) + exponential(v - load(maximum + j)));
      }
      row_sum[i] = sum_of_lanes<A>(along);
    }
  }
}

/// Up to 32 rows of up to 256 columns of products become scale * weight * (softmax over the row +
/// softmax over the column); `total` of each row takes the sum of that without the factor, times the
/// product. `factor` is scale * weight.
template <class A>
void block_gradient(A* tile, extent_t stride, extent_t rows, extent_t n, A scale, A factor, A const* row,
                    A const* column, double* total) {
  auto const replace = [&](extent_t i, auto const& softmaxes) {
    lanes_t<A> along{};
    for_lanes<A>(n, [&](auto const& at) {
      auto* const x = tile + i * stride;
      auto const product = at(x);
      auto const g = softmaxes(product * scale, at);
      along += g * product;
      at(x, g * factor);
    });
    total[i] += static_cast<double>(sum_of_lanes<A>(along));
  };
  auto const r = bounds_of(row, rows), c = bounds_of(column, n);
  if (bounds<A> const all{std::min(r.low, c.low), std::max(r.high, c.high)}; all.shared()) {
    auto const middle = all.low + (all.high - all.low) / 2;
    logit_line<A> reference, by_row, by_column;
    reference.fill(middle);
    by_row.fill(A{1});
    by_column.fill(A{1});
    change_reference(rows, by_row.data(), reference.data(), row);
    change_reference(n, by_column.data(), reference.data(), column);
    for (extent_t i = 0; i < rows; ++i)
      replace(i, [&, mine = by_row[static_cast<std::size_t>(i)]](lanes_t<A> v, auto const& at) {
        return exponential(v - middle) * (at(by_column.data()) + mine);
      });
  } else {
    for (extent_t i = 0; i < rows; ++i)
      replace(i, [&](lanes_t<A> v, auto const& at) {
        return exponential(v - row[i]) + exponential(v - at(column));
      });
  }
}

/// Calls f(first, count) for each block of at most `size` of [first, last).
template <class F>
void for_blocks(extent_t first, extent_t last, extent_t size, F const& f) {
  for (; first < last; first += size) f(first, std::min(size, last - first));
}

}  // namespace detail

/// Merges a tile's logits scale * tile into maximum and sum of its rows and columns, and stores
/// those with column = row + diagonal in `pair`.
template <class T, class A = accumulator_t<T>>
void logit_statistics(context<T>& c, std::type_identity_t<A> scale, extent_t diagonal, view<A const, 2> tile,
                      view<A, 1> row_maximum, view<A, 1> row_sum, view<A, 1> column_maximum,
                      view<A, 1> column_sum, view<A, 1> pair) {
  auto const rows = tile.extent(0), columns = tile.extent(1);
  auto const blocks = (columns + detail::logit_columns - 1) / detail::logit_columns;
  auto* const partial = c.template scratch<A>(2 * rows * blocks);  // (blocks, maximum and sum, rows)
  parallel_for(blocks, 1, [&](extent_t begin, extent_t end) {
    for (auto b = begin; b < end; ++b) {
      auto const j = b * detail::logit_columns, n = std::min(detail::logit_columns, columns - j);
      auto *const row = partial + 2 * b * rows, *const maximum = column_maximum.data + j,
                  *const sum = column_sum.data + j;
      detail::logit_line<A> local_maximum{}, local_sum{};
      std::copy_n(maximum, n, local_maximum.begin());
      std::copy_n(sum, n, local_sum.begin());
      detail::for_blocks(0, rows, detail::logit_rows, [&](extent_t i, extent_t m) {
        detail::block_statistics(tile.data + i * columns + j, columns, m, n, scale, row + i, row + rows + i,
                                 local_maximum, local_sum);
      });
      std::copy_n(local_maximum.begin(), n, maximum);
      std::copy_n(local_sum.begin(), n, sum);
    }
  });
  for (extent_t b = 0; b < blocks; ++b)  // a tile's rows are few
    detail::for_blocks(0, rows, detail::logit_columns, [&](extent_t i, extent_t m) {
      auto const *const other = partial + 2 * b * rows + i, *const other_sum = other + rows;
      auto *const maximum = row_maximum.data + i, *const sum = row_sum.data + i;
      detail::logit_line<A> before, part;
      std::copy_n(maximum, m, before.begin());
      std::copy_n(other_sum, m, part.begin());
      detail::map_line(m, store::overwrite, detail::larger<A>, maximum, maximum, other);
      detail::change_reference(m, sum, before.data(), maximum);
      detail::change_reference(m, part.data(), other, maximum);
      detail::map_line(
          m, store::accumulate, [](auto v) { return v; }, sum, part.data());
    });
  for (auto i = std::max<extent_t>(0, -diagonal); i < std::min(rows, columns - diagonal); ++i)
    pair.data[i] = scale * tile.data[i * columns + i + diagonal];
}

/// Makes a sum relative to `maximum` one relative to `larger`.
template <class T, class A = accumulator_t<T>>
void rescale_sums(context<T>&, view<A const, 1> maximum, view<A const, 1> larger, view<A, 1> sum) {
  detail::change_reference(sum.size(), sum.data, maximum.data, larger.data);
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
  auto const rows = tile.extent(0), columns = tile.extent(1);
  auto const factor = scale * weight;
  auto const blocks = (rows + detail::logit_rows - 1) / detail::logit_rows;
  parallel_for(blocks, 1, [&](extent_t begin, extent_t end) {
    auto const last = std::min(rows, end * detail::logit_rows);
    detail::for_blocks(begin * detail::logit_rows, last, detail::logit_rows, [&](extent_t i, extent_t m) {
      std::array<double, detail::logit_rows> sums{};
      auto const for_pairs = [&](auto const& f) {  // f(row in the block, column in the tile)
        for (extent_t k = 0; k < m; ++k)
          if (auto const own = i + k + diagonal; own >= 0 && own < columns)
            f(static_cast<std::size_t>(k), tile.data[(i + k) * columns + own]);
      };
      for_pairs([&](std::size_t k, A product) { sums[k] = -2 * static_cast<double>(product); });
      detail::for_blocks(0, columns, detail::logit_columns, [&](extent_t j, extent_t n) {
        detail::block_gradient(tile.data + i * columns + j, columns, m, n, scale, factor, row.data + i,
                               column.data + j, sums.data());
      });
      for_pairs([&](std::size_t, A& g) { g -= 2 * factor; });
      for (extent_t k = 0; k < m; ++k) {
        auto const sum = static_cast<double>(weight) * sums[static_cast<std::size_t>(k)];
        total.data[i + k] = how == store::overwrite ? sum : total.data[i + k] + sum;
      }
    });
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
