// Pictures of noise with captions of random tokens: what the benchmarks of whole steps train on.
#pragma once
#include <yoke/contrastive/inputs.hpp>
#include <yoke/core/random.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace bench {

struct pairs_options {
  yoke::extent_t batch = 0;
  yoke::extent_t side = 224;  // of the pictures, in pixels
  yoke::extent_t vocabulary = 0;
  yoke::extent_t context_length = 77;
  yoke::extent_t caption_length =
      0;  // 0: real lengths, 6 to 40 tokens with a mean of 14.4, as in Flickr's captions
};

class pairs {
 public:
  explicit pairs(pairs_options const& o) : options_{o} {
    using namespace yoke;
    random_sequence random{7};
    pixels_.resize(static_cast<std::size_t>(o.batch * o.side * o.side * 3));
    // A prime number of bytes, over and over: no two pictures begin at the same of them.
    constexpr std::size_t fresh = 8'388'593;
    for (std::size_t i = 0; i < pixels_.size(); ++i)
      pixels_[i] = i < fresh ? static_cast<std::uint8_t>(random.bits()) : pixels_[i - fresh];
    for (extent_t i = 0; i < o.batch; ++i) {
      extent_t n = o.caption_length;
      if (n == 0)
        n = 6 + static_cast<extent_t>(std::min(34.0, -8.7 * std::log(1 - random.uniform())));
      for (extent_t k = 0; k < n; ++k)
        ids_.push_back(static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(o.vocabulary))));
      offsets_.push_back(static_cast<std::int32_t>(ids_.size()));
    }
  }

  yoke::extent_t tokens() const { return static_cast<yoke::extent_t>(ids_.size()); }
  yoke::contrastive::pixel_batch images() const {
    return {.pixels = {pixels_.data(), {{options_.batch, options_.side, options_.side, 3}}}};
  }
  yoke::contrastive::caption_batch captions() const {
    return {{yoke::segments::packed({offsets_.data(), {{options_.batch + 1}}}, options_.context_length),
             {ids_.data(), {{tokens()}}}}};
  }

 private:
  pairs_options options_;
  std::vector<std::uint8_t> pixels_;
  std::vector<std::int32_t> ids_, offsets_{0};
};

}  // namespace bench
