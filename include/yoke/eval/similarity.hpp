// Dot products of many rows with many rows, tile by tile: what zero-shot classification and
// retrieval share.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

namespace yoke::eval {

/// Each row divided by its L2 norm, (rows, width); a row of zeros stays. Values that are not finite
/// are a precondition_error that names the row.
inline std::vector<float> normalized_rows(view<float const, 2> rows) {
  auto const width = rows.extent(1);
  std::vector<float> result(static_cast<std::size_t>(rows.size()));
  for (extent_t r = 0; r < rows.extent(0); ++r) {
    auto const* from = rows.data + r * width;
    auto* to = result.data() + r * width;
    double squares = 0;
    for (extent_t k = 0; k < width; ++k) squares += static_cast<double>(from[k]) * from[k];
    expects(std::isfinite(squares),
            [&] { return "embeddings: row " + std::to_string(r) + " holds a value not finite"; });
    auto const scale = squares > 0 ? 1 / std::sqrt(squares) : 0.;
    for (extent_t k = 0; k < width; ++k) to[k] = static_cast<float>(from[k] * scale);
  }
  return result;
}

namespace detail {

inline constexpr extent_t tile_rows = 4, tile_columns = 32;
using tile = std::array<std::array<float, tile_columns>, tile_rows>;

/// Rows of a matrix laid out for `similarities`: tiles of 32 rows, transposed, the last one filled
/// up with zeros.
class packed_rows {
 public:
  explicit packed_rows(extent_t width) : width_{width} {}
  packed_rows(float const* rows, extent_t count, extent_t width) : width_{width} {
    for (extent_t first = 0; first < count; first += tile_columns)
      append(std::min(tile_columns, count - first), [&](extent_t c) { return rows + (first + c) * width; });
  }
  /// Adds one tile of up to 32 rows; `row(c)` points at the c-th.
  template <class Row>
  void append(extent_t count, Row row) {
    auto const begin = values_.size();
    values_.resize(begin + static_cast<std::size_t>(width_ * tile_columns));
    auto* to = values_.data() + begin;
    for (extent_t c = 0; c < count; ++c) {
      float const* from = row(c);
      for (extent_t k = 0; k < width_; ++k) to[k * tile_columns + c] = from[k];
    }
  }
  void clear() { values_.clear(); }
  float const* tile_at(extent_t t) const { return values_.data() + t * width_ * tile_columns; }

 private:
  extent_t width_;
  std::vector<float> values_;
};

/// Four rows times one packed tile. Every score is summed in the same order with the same
/// instructions wherever it stands in a tile, so equal rows score equal to the bit and a tie is a
/// tie on every machine.
[[gnu::noinline]] inline void similarities(std::array<float const*, tile_rows> const& rows,
                                           float const* columns, extent_t width, tile& scores) {
  tile sums{};
  for (extent_t k = 0; k < width; ++k)
    for (std::size_t r = 0; r < tile_rows; ++r) {
      auto const a = rows[r][k];
      for (std::size_t c = 0; c < tile_columns; ++c)
        sums[r][c] += a * columns[k * tile_columns + static_cast<extent_t>(c)];
    }
  scores = sums;
}

/// Four consecutive rows from `first` on; past the last row the last one again.
inline std::array<float const*, tile_rows> four_rows(float const* rows, extent_t first, extent_t count,
                                                     extent_t width) {
  std::array<float const*, tile_rows> four{};
  for (extent_t r = 0; r < tile_rows; ++r)
    four[static_cast<std::size_t>(r)] = rows + std::min(first + r, count - 1) * width;
  return four;
}

}  // namespace detail
}  // namespace yoke::eval
