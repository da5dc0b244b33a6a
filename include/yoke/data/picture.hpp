// One image in memory, and one sample as a source hands it to a loader.
#pragma once
#include <yoke/core/tensor.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace yoke::data {

/// An 8-bit RGB image: (height, width, 3), row-major.
struct picture {
  extent_t height = 0;
  extent_t width = 0;
  std::vector<std::uint8_t> pixels{};

  /// Changes the size and keeps the storage; the pixels are then unspecified.
  void resize(extent_t rows, extent_t columns) {
    height = rows;
    width = columns;
    pixels.resize(static_cast<std::size_t>(rows * columns * 3));
  }
  view<std::uint8_t const, 3> hwc() const { return {pixels.data(), {{height, width, 3}}}; }
  view<std::uint8_t, 3> hwc() { return {pixels.data(), {{height, width, 3}}}; }
};

/// One image with what belongs to it.
struct sample {
  picture image{};
  std::string caption{};    // UTF-8, not blank; empty when captions were not asked for
  std::int32_t label = -1;  // the class; -1 for none
  // All labels of the image, where they were asked for: as classes, or as names, UTF-8 and not blank.
  std::vector<std::int32_t> classes{};
  std::vector<std::string> names{};
};

/// What a loader wants of each sample. A sample that lacks something wanted is a bad sample.
struct wanted {
  bool captions = true;
  bool labels = false;      // sample::label
  bool images = true;       // a reader alone can do without, a loader cannot
  bool all_labels = false;  // sample::classes or sample::names
};

}  // namespace yoke::data
