// Matrix products that live in the caches: register-blocked, on one thread, for the tiles of
// attention. Larger products are oneDNN's.
#pragma once
#include <yoke/cpu/lanes.hpp>

#include <algorithm>
#include <array>
#include <utility>

namespace yoke::cpu::detail {

/// Where element (row, k) of the left operand is: data[row * row_step + k * k_step].
template <class A>
struct left_operand {
  A const* data;
  extent_t row_step, k_step;
};

/// A row-major block whose rows are whole vectors.
template <class A>
struct block {
  A* data;
  extent_t step;
};

/// c (Rows, Vectors whole vectors) = or += left (Rows, depth) b (depth, Vectors)
template <class A, int Rows, int Vectors>
void multiply_tile(extent_t depth, left_operand<A> left, block<A const> b, block<A> c, bool accumulate) {
  constexpr int n = lanes<A>::count;
  lanes_t<A> sum[Rows][Vectors];
  for_each_of<Rows, Vectors>(
      [&](auto r, auto v) { sum[r][v] = accumulate ? load(c.data + r * c.step + v * n) : lanes_t<A>{}; });
  auto const* a = left.data;
  auto const* row = b.data;
  for (extent_t k = 0; k < depth; ++k, a += left.k_step, row += b.step) {
    lanes_t<A> right[Vectors];
    for_each_of<1, Vectors>([&](auto, auto v) { right[v] = load(row + v * n); });
    for_each_of<Rows, Vectors>([&](auto r, auto v) { sum[r][v] += a[r * left.row_step] * right[v]; });
  }
  for_each_of<Rows, Vectors>([&](auto r, auto v) { save(c.data + r * c.step + v * n, sum[r][v]); });
}

/// Rows of a tile for each width: sums and one row of b fill the registers, and at least 8 sums
/// hide the latency of a multiply-add.
inline constexpr std::array<int, 4> tile_rows =
    vector_registers == 32 ? std::array{12, 12, 8, 6} : std::array{6, 6, 0, 0};
inline constexpr int tile_vectors = vector_registers == 32 ? 4 : 2;
inline constexpr int most_tile_rows = 12;

template <class A>
using tile_function = void (*)(extent_t, left_operand<A>, block<A const>, block<A>, bool);

/// The tile for `Vectors` and every number of rows from 1.
template <class A, int Vectors>
inline constexpr auto tiles = []<int... R>(std::integer_sequence<int, R...>) {
  return std::array<tile_function<A>, sizeof...(R)>{&multiply_tile<A, R + 1, Vectors>...};
}
(std::make_integer_sequence<int, tile_rows[Vectors - 1]>{});

template <class A>
tile_function<A> tile(extent_t rows, extent_t vectors) {
  auto const r = static_cast<std::size_t>(rows - 1);
  if (vectors == 1)
    return tiles<A, 1>[r];
  if constexpr (tile_vectors == 4) {
    if (vectors == 4)
      return tiles<A, 4>[r];
    if (vectors == 3)
      return tiles<A, 3>[r];
  }
  return tiles<A, 2>[r];
}

/// What a tile of rows needs of the whole product: depth [first, last), columns from vector `skip`.
struct needed {
  extent_t first, last, skip;
};

/// c (rows, vectors) = or += left b, a tile at a time; trim(first row, last row) says what of the
/// tile is wanted.
template <class A, class Trim>
void multiply(extent_t rows, extent_t vectors, left_operand<A> left, block<A const> b, block<A> c,
              bool accumulate, Trim const& trim) {
  constexpr extent_t n = lanes<A>::count;
  auto const groups = (vectors + tile_vectors - 1) / tile_vectors;
  for (extent_t g = 0; g < groups; ++g) {
    auto const begin = vectors * g / groups, end = vectors * (g + 1) / groups;
    auto const height = extent_t{tile_rows[static_cast<std::size_t>(end - begin - 1)]};
    for (extent_t r = 0; r < rows; r += height) {
      auto const count = std::min(height, rows - r);
      needed const part = trim(r, r + count);
      auto const from = std::max(begin, part.skip);
      if (from >= end)
        continue;
      tile<A>(count, end - from)(
          part.last - part.first,
          {left.data + r * left.row_step + part.first * left.k_step, left.row_step, left.k_step},
          {b.data + part.first * b.step + from * n, b.step}, {c.data + r * c.step + from * n, c.step},
          accumulate);
    }
  }
}

}  // namespace yoke::cpu::detail
