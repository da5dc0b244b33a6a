// Zero-shot classification: the class whose prompts lie nearest to an image (Radford et al., CLIP,
// section 3.1).
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/eval/similarity.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace yoke::eval {

/// What zero_shot finds. Shares are in [0, 1].
struct zero_shot_result {
  double top1 = 0, top5 = 0;            // top5 is 1 with five classes or fewer
  double chance = 0;                    // top1 of a guess: 1 / classes
  std::vector<double> per_class;        // top1 of each class's images; NaN for a class without any
  std::vector<std::int64_t> confusion;  // (true class, predicted class), counts of images
  extent_t classes = 0, images = 0;

  /// The mean over classes that have images: each class counts the same.
  double mean_per_class() const {
    double sum = 0, count = 0;
    for (auto share : per_class)
      if (share == share)
        sum += share, ++count;
    return count > 0 ? sum / count : 0;
  }
};

/// One unit row for each class, (classes, width), from the embeddings of its prompts,
/// (classes · templates, width) in the order of `prompts`: each normalised, averaged over the
/// templates, normalised again.
inline std::vector<float> class_weights(view<float const, 2> prompt_embeddings, extent_t templates) {
  expects(templates > 0 && prompt_embeddings.extent(0) % templates == 0,
          "class_weights: the same number of prompts for each class");
  auto const classes = prompt_embeddings.extent(0) / templates, width = prompt_embeddings.extent(1);
  auto const unit = normalized_rows(prompt_embeddings);
  std::vector<float> means(static_cast<std::size_t>(classes * width));
  for (extent_t c = 0; c < classes; ++c)
    for (extent_t k = 0; k < width; ++k) {
      double sum = 0;
      for (extent_t t = 0; t < templates; ++t)
        sum += unit[static_cast<std::size_t>((c * templates + t) * width + k)];
      means[static_cast<std::size_t>(c * width + k)] =
          static_cast<float>(sum / static_cast<double>(templates));
    }
  return normalized_rows({means.data(), {{classes, width}}});
}

/// Classifies each image as the class with the largest dot product, the lower class first in a tie.
/// `images` (count, width) need not be normalised; `weights` (classes, width) come from
/// class_weights; labels are in [0, classes).
inline zero_shot_result zero_shot(view<float const, 2> images, view<float const, 2> weights,
                                  std::span<std::int32_t const> labels) {
  auto const count = images.extent(0), classes = weights.extent(0), width = images.extent(1);
  expects(count > 0 && classes > 0 && width > 0, "zero_shot: at least one image and one class");
  expects(weights.extent(1) == width, "zero_shot: images and weights of the same width");
  expects(static_cast<extent_t>(labels.size()) == count, "zero_shot: one label for each image");
  for (extent_t i = 0; i < count; ++i)
    expects(labels[static_cast<std::size_t>(i)] >= 0 && labels[static_cast<std::size_t>(i)] < classes,
            [&] { return "zero_shot: the label of image " + std::to_string(i) + " is no class"; });
  for (extent_t k = 0; k < weights.size(); ++k)
    expects(std::isfinite(weights.data[k]), "zero_shot: finite weights");

  auto const unit = normalized_rows(images);
  detail::packed_rows const columns{weights.data, classes, width};
  auto const tiles = (classes + detail::tile_columns - 1) / detail::tile_columns;
  std::vector<float> scores(static_cast<std::size_t>(detail::tile_rows * tiles * detail::tile_columns));

  zero_shot_result result;
  result.classes = classes;
  result.images = count;
  result.chance = 1 / static_cast<double>(classes);
  result.confusion.assign(static_cast<std::size_t>(classes * classes), 0);
  extent_t among_five = 0;
  for (extent_t first = 0; first < count; first += detail::tile_rows) {
    auto const rows = detail::four_rows(unit.data(), first, count, width);
    auto const stride = tiles * detail::tile_columns;
    for (extent_t t = 0; t < tiles; ++t) {
      detail::tile found;
      detail::similarities(rows, columns.tile_at(t), width, found);
      for (std::size_t r = 0; r < found.size(); ++r)
        std::copy(found[r].begin(), found[r].end(),
                  scores.begin() + static_cast<extent_t>(r) * stride + t * detail::tile_columns);
    }
    for (extent_t r = 0; r < std::min(detail::tile_rows, count - first); ++r) {
      auto const* row = scores.data() + r * stride;
      extent_t const label = labels[static_cast<std::size_t>(first + r)];
      auto const predicted = std::max_element(row, row + classes) - row;  // the first of equals
      extent_t ahead = 0;
      for (extent_t c = 0; c < classes; ++c)
        ahead += row[c] > row[label] || (row[c] == row[label] && c < label);
      among_five += ahead < 5;
      ++result.confusion[static_cast<std::size_t>(label * classes + predicted)];
    }
  }

  extent_t right = 0;
  for (extent_t c = 0; c < classes; ++c) {
    auto const* row = result.confusion.data() + c * classes;
    std::int64_t total = 0;
    for (extent_t p = 0; p < classes; ++p) total += row[p];
    right += row[c];
    result.per_class.push_back(total > 0 ? static_cast<double>(row[c]) / static_cast<double>(total)
                                         : std::numeric_limits<double>::quiet_NaN());
  }
  result.top1 = static_cast<double>(right) / static_cast<double>(count);
  result.top5 = static_cast<double>(among_five) / static_cast<double>(count);
  return result;
}

}  // namespace yoke::eval
