// Runs a loader to its end and keeps all that it delivers, for tests that compare runs.
#pragma once
#include <yoke/data/loader.hpp>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace delivery {

using namespace yoke::data;

/// A tokenizer: a token for each byte.
inline void letters(std::string_view caption, std::vector<std::int32_t>& ids) {
  for (auto c : caption) ids.push_back(static_cast<unsigned char>(c));
}

/// Everything that a batch holds.
struct record {
  std::vector<std::uint8_t> pixels{};
  std::vector<std::int32_t> tokens{}, offsets{}, labels{};
  std::vector<std::string> captions{};
  position after{};
  bool operator==(record const&) const = default;
};

template <class Source>
std::vector<record> deliver(Source from, loader_options o, std::size_t most = 1000) {
  loader batches{std::move(from), letters, std::move(o)};
  std::vector<record> all;
  batch b;
  while (all.size() < most && batches.next(b))
    all.push_back({b.pixels, b.tokens, b.offsets, b.labels, b.captions, b.after});
  return all;
}

/// Batches of 8 small images, shuffled and augmented, with all that belongs to them.
inline loader_options small(int workers = 2) {
  return {.batch = 8,
          .image_size = 8,
          .seed = 1,
          .augment = {.smallest_area = 0.3, .flip = 0.5},
          .shuffle = 32,
          .keep_captions = true,
          .want = {.captions = true, .labels = true},
          .workers = workers};
}

}  // namespace delivery
