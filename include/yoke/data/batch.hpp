// What a loader delivers: images, packed captions, labels, and the place where the next batch begins.
#pragma once
#include <yoke/core/segments.hpp>
#include <yoke/core/tensor.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace yoke::data {

/// A place in a stream of samples. Part of a checkpoint; a loader that starts there delivers what one that never stopped
/// would. Ranks that share out an epoch by samples are at one place, of the whole epoch; by shards each is at a place of
/// its own, because it skips its own bad samples.
struct position {
  std::uint64_t epoch = 0;
  std::uint64_t sample =
      0;          // samples of the epoch, or of the rank's part of it, that are behind, bad ones included
  int ranks = 1;  // among which the epoch is shared out by shards; 1: `sample` is of the whole epoch

  bool operator==(position const&) const = default;
};

/// A batch of samples; a loader reuses its storage.
struct batch {
  shape<4> image_shape{{0, 0, 0, 3}};    // (batch, height, width, 3)
  std::vector<std::uint8_t> pixels{};    // image_shape
  std::vector<std::int32_t> tokens{};    // the ids of all captions, one after the other
  std::vector<std::int32_t> offsets{0};  // (batch + 1): where each caption begins in `tokens`
  std::vector<std::int32_t> labels{};    // (batch): class, or -1
  std::vector<std::string> captions{};   // (batch) when the loader was asked to keep them, else empty
  position after{};                      // where the next batch begins

  extent_t size() const { return image_shape[0]; }
  view<std::uint8_t const, 4> images() const { return {pixels.data(), image_shape}; }
  view<std::int32_t const, 1> token_ids() const {
    return {tokens.data(), {{static_cast<extent_t>(tokens.size())}}};
  }
  view<std::int32_t const, 1> label_ids() const {
    return {labels.data(), {{static_cast<extent_t>(labels.size())}}};
  }
  /// The runs of `tokens` that are captions.
  segments token_segments() const {
    extent_t longest = 0;
    for (std::size_t i = 1; i < offsets.size(); ++i)
      longest = std::max<extent_t>(longest, offsets[i] - offsets[i - 1]);
    return segments::packed({offsets.data(), {{static_cast<extent_t>(offsets.size())}}}, longest);
  }
};

}  // namespace yoke::data
