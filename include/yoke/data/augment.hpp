// From a decoded image to the square that a tower takes: CLIP's preprocessing for evaluation, random resized
// crops and flips for training.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/random.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/data/picture.hpp>
#include <yoke/data/resize.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

namespace yoke::data {

/// What happens to a training image. The defaults are OpenCLIP's.
struct augmentation {
  bool crop = true;            // a random part, resized; otherwise as in evaluation
  double smallest_area = 0.9;  // of the part, as a share of the image
  double largest_area = 1.0;
  double narrowest = 3.0 / 4;  // width / height of the part
  double widest = 4.0 / 3;
  double flip = 0;  // the probability of a left-right flip

  /// For evaluation.
  static constexpr augmentation none() { return {.crop = false}; }
};

/// The part that torchvision's RandomResizedCrop would take, given the same uniform numbers: ten tries at a
/// random area and aspect ratio, then the largest central part of an allowed ratio.
inline rectangle random_part(extent_t height, extent_t width, augmentation const& how,
                             random_sequence& random) {
  expects(how.smallest_area > 0 && how.smallest_area <= how.largest_area && how.narrowest > 0 &&
              how.narrowest <= how.widest,
          "augmentation: positive ranges, smallest first");
  auto const area = static_cast<double>(height) * static_cast<double>(width);
  auto const low = std::log(how.narrowest), high = std::log(how.widest);
  for (int attempt = 0; attempt < 10; ++attempt) {
    auto const target =
        area * (how.smallest_area + (how.largest_area - how.smallest_area) * random.uniform());
    auto const ratio = std::exp(low + (high - low) * random.uniform());
    auto const w = static_cast<extent_t>(std::nearbyint(std::sqrt(target * ratio)));
    auto const h = static_cast<extent_t>(std::nearbyint(std::sqrt(target / ratio)));
    if (w <= 0 || w > width || h <= 0 || h > height)
      continue;
    auto const top = static_cast<extent_t>(random.below(static_cast<std::uint64_t>(height - h + 1)));
    auto const left = static_cast<extent_t>(random.below(static_cast<std::uint64_t>(width - w + 1)));
    return {top, left, h, w};
  }
  auto const ratio = static_cast<double>(width) / static_cast<double>(height);
  auto w = width, h = height;
  if (ratio < how.narrowest)
    h = static_cast<extent_t>(std::nearbyint(static_cast<double>(width) / how.narrowest));
  else if (ratio > how.widest)
    w = static_cast<extent_t>(std::nearbyint(static_cast<double>(height) * how.widest));
  h = std::clamp<extent_t>(h, 1, height);
  w = std::clamp<extent_t>(w, 1, width);
  return {(height - h) / 2, (width - w) / 2, h, w};
}

/// Mirrors (height, width, 3) left to right, in place.
inline void flip_horizontally(view<std::uint8_t, 3> image) {
  auto const height = image.extent(0), width = image.extent(1);
  for (extent_t y = 0; y < height; ++y) {
    auto* left = image.data + y * width * 3;
    auto* right = left + (width - 1) * 3;
    for (; left < right; left += 3, right -= 3)
      for (int c = 0; c < 3; ++c) std::swap(left[c], right[c]);
  }
}

/// Brings images to a size, and keeps its working memory. One thread at a time.
class preprocessor {
 public:
  /// Evaluation: the short side to to.extent(0) (bicubic), then the centre. `to` is square: (size, size, 3).
  void evaluate(view<std::uint8_t const, 3> from, view<std::uint8_t, 3> to) {
    auto const size = to.extent(0), height = from.extent(0), width = from.extent(1);
    expects(to.extent(1) == size, "preprocessor: the target is square");
    if (height == width) {
      resize_(from, to);
      return;
    }
    auto longer = [&](extent_t side, extent_t other) { return std::max(size * side / other, size); };
    scaled_.resize(height <= width ? size : longer(height, width),
                   height <= width ? longer(width, height) : size);
    resize_(from, scaled_.hwc());
    auto centre = [&](extent_t side) {
      return static_cast<extent_t>(std::nearbyint(static_cast<double>(side - size) / 2));
    };
    resize_(std::as_const(scaled_).hwc(), {centre(scaled_.height), centre(scaled_.width), size, size}, to);
  }

  /// Training. What is drawn depends on `random` and the image's size alone.
  void train(view<std::uint8_t const, 3> from, view<std::uint8_t, 3> to, augmentation const& how,
             random_sequence random) {
    auto const flip = random.uniform() < how.flip;
    if (how.crop)
      resize_(from, random_part(from.extent(0), from.extent(1), how, random), to);
    else
      evaluate(from, to);
    if (flip)
      flip_horizontally(to);
  }

 private:
  resizer resize_{};
  picture scaled_{};
};

}  // namespace yoke::data
