// Tables of relative positions for images of another size.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>

#include <algorithm>
#include <cmath>

namespace yoke::nn {

namespace detail {

/// Between which two of `from` points the i-th of `to` lies when both cover the same stretch, and how far.
struct table_place {
  extent_t low, high;
  double share;

  table_place(extent_t i, extent_t from, extent_t to) {
    auto const at =
        (static_cast<double>(i) + 0.5) * static_cast<double>(from) / static_cast<double>(to) - 0.5;
    auto const inside = std::clamp(at, 0.0, static_cast<double>(from - 1));
    low = static_cast<extent_t>(inside);
    high = std::min(low + 1, from - 1);
    share = inside - static_cast<double>(low);
  }
};

}  // namespace detail

/// A table (heads, 2 height - 1, 2 width - 1) of one grid becomes that of another: bilinear between the old entries,
/// the outermost of which serve beyond them (CoAtNet, arXiv 2106.04803, section A.1). Both in the host's memory.
template <class T>
void resize_relative_table(view<T const, 3> from, view<T, 3> to) {
  expects(from.extent(0) == to.extent(0), "a relative table keeps its heads when it is resized");
  auto const heads = from.extent(0), old_rows = from.extent(1), old_columns = from.extent(2);
  auto const rows = to.extent(1), columns = to.extent(2);
  expects(old_rows % 2 == 1 && old_columns % 2 == 1 && rows % 2 == 1 && columns % 2 == 1,
          "a relative table has 2 height - 1 rows and 2 width - 1 columns");
  for (extent_t h = 0; h < heads; ++h) {
    auto const* const head = from.data + h * old_rows * old_columns;
    auto const at = [&](extent_t y, extent_t x) { return static_cast<double>(head[y * old_columns + x]); };
    for (extent_t y = 0; y < rows; ++y)
      for (extent_t x = 0; x < columns; ++x) {
        detail::table_place const v{y, old_rows, rows}, u{x, old_columns, columns};
        auto const above = std::lerp(at(v.low, u.low), at(v.low, u.high), u.share);
        auto const below = std::lerp(at(v.high, u.low), at(v.high, u.high), u.share);
        to.data[(h * rows + y) * columns + x] = static_cast<T>(std::lerp(above, below, v.share));
      }
  }
}

}  // namespace yoke::nn
