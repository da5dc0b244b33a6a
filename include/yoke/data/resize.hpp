// Resampling of 8-bit RGB images, bit for bit as Pillow's Image.resize does it: the filter's support grows with
// the reduction, weights have 22 fractional bits, and there are 8 bits between the passes over rows and columns.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace yoke::data {

/// The filters of Pillow's BOX, BILINEAR and BICUBIC (a = -0.5).
enum class resampling { box, bilinear, bicubic };

/// Which way an image is resampled first; the bytes between the two passes make it visible. Up to version 12
/// Pillow takes rows first (save in images over 100 times as high as wide). Version 13 begins with the columns
/// when the height loses more than twice the pixels that the width loses.
enum class pass_order { pillow_13, rows_first };

/// A part of an image, in pixels.
struct rectangle {
  extent_t top = 0;
  extent_t left = 0;
  extent_t height = 0;
  extent_t width = 0;

  bool operator==(rectangle const&) const = default;
};

namespace detail {

/// Rounds to double here and now. Contraction to a fused multiply-add, or -ffast-math, would otherwise change
/// the last bit of a weight.
inline double rounded(double v) {
  double volatile kept = v;
  return kept;
}

inline double filter_support(resampling filter) {
  return filter == resampling::box ? 0.5 : filter == resampling::bilinear ? 1.0 : 2.0;
}

inline double filter_weight(resampling filter, double x) {
  if (filter == resampling::box)
    return x > -0.5 && x <= 0.5 ? 1.0 : 0.0;
  x = x < 0 ? -x : x;
  if (filter == resampling::bilinear)
    return x < 1 ? 1 - x : 0.0;
  if (x < 1) {
    auto const p = rounded(1.5 * x) - 2.5;
    return rounded(rounded(rounded(p) * x) * x) + 1;
  }
  if (x < 2) {
    auto const p = rounded(rounded(x - 5) * x) + 8;
    return -0.5 * rounded(rounded(rounded(p) * x) - 4);
  }
  return 0.0;
}

/// Which source pixels each target pixel of one axis is made of, and their weights.
struct axis_weights {
  static constexpr int fraction = 22;

  extent_t taps = 0;                  // weights kept for each target pixel
  std::vector<extent_t> first{};      // (targets)
  std::vector<extent_t> count{};      // (targets), at most taps
  std::vector<std::int32_t> value{};  // (targets, taps)

  void set(extent_t sources, extent_t targets, resampling filter) {
    auto const scale = static_cast<double>(sources) / static_cast<double>(targets);
    auto const stretch = std::max(scale, 1.0);
    auto const support = rounded(filter_support(filter) * stretch);
    auto const shrink = rounded(1.0 / stretch);
    taps = static_cast<extent_t>(std::ceil(support)) * 2 + 1;
    first.resize(static_cast<std::size_t>(targets));
    count.resize(first.size());
    value.assign(first.size() * static_cast<std::size_t>(taps), 0);
    weights_.resize(static_cast<std::size_t>(taps));
    for (std::size_t t = 0; t < first.size(); ++t) {
      auto const centre = rounded((static_cast<double>(t) + 0.5) * scale);
      auto const begin = std::max(static_cast<extent_t>(rounded(centre - support) + 0.5), extent_t{0});
      auto const end = std::min(static_cast<extent_t>(rounded(centre + support) + 0.5), sources);
      first[t] = begin;
      count[t] = end - begin;
      double sum = 0;
      for (extent_t i = begin; i < end; ++i) {
        auto const offset = rounded(rounded(static_cast<double>(i) - centre) + 0.5);
        auto const w = rounded(filter_weight(filter, rounded(offset * shrink)));
        weights_[static_cast<std::size_t>(i - begin)] = w;
        sum = rounded(sum + w);
      }
      auto* const out = value.data() + t * static_cast<std::size_t>(taps);
      for (extent_t i = 0; i < count[t]; ++i) {
        auto const w = weights_[static_cast<std::size_t>(i)];
        auto const fixed = rounded(rounded(sum != 0 ? w / sum : w) * (1 << fraction));
        out[i] = static_cast<std::int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
      }
    }
  }

 private:
  std::vector<double> weights_{};
};

inline std::uint8_t to_byte(std::int32_t fixed) {
  return static_cast<std::uint8_t>(std::clamp(fixed >> axis_weights::fraction, 0, 255));
}

}  // namespace detail

/// Resizes images and keeps its working memory from one to the next. One thread at a time.
class resizer {
 public:
  /// Resamples `part` of `from` (height, width, 3), looking at nothing outside of it, to fill `to` (height,
  /// width, 3). What Pillow gives for from.crop(part).resize(to).
  void operator()(view<std::uint8_t const, 3> from, rectangle part, view<std::uint8_t, 3> to,
                  resampling filter = resampling::bicubic, pass_order order = pass_order::pillow_13) {
    expects(from.extent(2) == 3 && to.extent(2) == 3, "resize: images have three channels");
    expects(part.height > 0 && part.width > 0 && part.top >= 0 && part.left >= 0 &&
                part.height <= from.extent(0) - part.top && part.width <= from.extent(1) - part.left,
            "resize: the part lies inside the image and is not empty");
    auto const height = to.extent(0), width = to.extent(1);
    expects(height > 0 && width > 0, "resize: the target is not empty");
    auto const source = plane{from.data + (part.top * from.extent(1) + part.left) * 3, from.extent(1) * 3};
    if (part.width != width)
      columns_.set(part.width, width, filter);
    if (part.height != height)
      rows_.set(part.height, height, filter);
    if (part.width == width && part.height == height) {
      for (extent_t y = 0; y < height; ++y)
        std::memcpy(to.data + y * width * 3, source.row(y), static_cast<std::size_t>(width * 3));
    } else if (part.height == height) {
      resize_rows(source, height, part.width, to.data, width);
    } else if (part.width == width) {
      combine_rows(source, to.data, height, width);
    } else if (order == pass_order::pillow_13 && height < part.height &&
               part.height - height > 2 * (part.width - width)) {
      between_.resize(static_cast<std::size_t>(height * part.width * 3));
      combine_rows(source, between_.data(), height, part.width);
      resize_rows({between_.data(), part.width * 3}, height, part.width, to.data, width);
    } else {
      between_.resize(static_cast<std::size_t>(part.height * width * 3));
      resize_rows(source, part.height, part.width, between_.data(), width);
      combine_rows({between_.data(), width * 3}, to.data, height, width);
    }
  }
  /// The whole image.
  void operator()(view<std::uint8_t const, 3> from, view<std::uint8_t, 3> to,
                  resampling filter = resampling::bicubic, pass_order order = pass_order::pillow_13) {
    (*this)(from, rectangle{0, 0, from.extent(0), from.extent(1)}, to, filter, order);
  }

 private:
  static constexpr extent_t strip = 16;         // rows side by side in the first pass
  static constexpr extent_t lanes = strip * 4;  // one pixel of each, with a byte to spare

  /// Rows of pixels that may be part of a wider image.
  struct plane {
    std::uint8_t const* data;
    extent_t stride;  // bytes
    std::uint8_t const* row(extent_t y) const { return data + y * stride; }
  };

  /// Changes the width. Rows go in strips, turned so that one vector holds one column of the strip.
  void resize_rows(plane source, extent_t height, extent_t width, std::uint8_t* target, extent_t targets) {
    turned_.resize(static_cast<std::size_t>(width * lanes));
    for (extent_t top = 0; top < height; top += strip) {
      auto const rows = std::min(strip, height - top);
      for (extent_t r = 0; r < rows; ++r) {
        auto const* from = source.row(top + r);
        auto* to = turned_.data() + r * 4;
        for (extent_t x = 0; x < width; ++x, from += 3, to += lanes) std::memcpy(to, from, 3);
      }
      for (extent_t x = 0; x < targets; ++x) {
        std::array<std::int32_t, lanes> sum;
        sum.fill(1 << (detail::axis_weights::fraction - 1));
        auto const at = static_cast<std::size_t>(x);
        auto const* const weight = columns_.value.data() + x * columns_.taps;
        auto const* pixel = turned_.data() + columns_.first[at] * lanes;
        for (extent_t k = 0; k < columns_.count[at]; ++k, pixel += lanes)
          for (std::size_t i = 0; i < lanes; ++i) sum[i] += weight[k] * pixel[i];
        std::array<std::uint8_t, lanes> bytes;
        for (std::size_t i = 0; i < lanes; ++i) bytes[i] = detail::to_byte(sum[i]);
        for (extent_t r = 0; r < rows; ++r)
          std::memcpy(target + ((top + r) * targets + x) * 3, bytes.data() + r * 4, 3);
      }
    }
  }

  /// Changes the height: each target row is a weighted sum of rows.
  void combine_rows(plane source, std::uint8_t* target, extent_t targets, extent_t width) const {
    constexpr extent_t piece = 128;
    for (extent_t y = 0; y < targets; ++y) {
      auto const at = static_cast<std::size_t>(y);
      auto const* const weight = rows_.value.data() + y * rows_.taps;
      for (extent_t x = 0; x < width * 3; x += piece) {
        auto const n = static_cast<std::size_t>(std::min(piece, width * 3 - x));
        std::array<std::int32_t, piece> sum;
        sum.fill(1 << (detail::axis_weights::fraction - 1));
        for (extent_t k = 0; k < rows_.count[at]; ++k) {
          auto const* const from = source.row(rows_.first[at] + k) + x;
          for (std::size_t i = 0; i < n; ++i) sum[i] += weight[k] * from[i];
        }
        auto* const out = target + y * width * 3 + x;
        for (std::size_t i = 0; i < n; ++i) out[i] = detail::to_byte(sum[i]);
      }
    }
  }

  detail::axis_weights columns_{}, rows_{};
  std::vector<std::uint8_t> turned_{}, between_{};
};

}  // namespace yoke::data
