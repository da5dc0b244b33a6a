// Runs of rows that belong together: the patches of each image, the tokens of each caption. No
// padding anywhere.
#pragma once
#include <yoke/core/expects.hpp>
#include <yoke/core/tensor.hpp>

namespace yoke {

/// `count` consecutive runs of rows. Uniform (every run `longest` rows) when `offsets` is null.
struct segments {
  std::int32_t const* offsets = nullptr;  // count + 1 ascending row numbers; offsets[0] need not be 0
  extent_t count = 0;
  extent_t longest = 0;                          // an upper bound of the runs' lengths
  extent_t rows = 0;                             // all runs together
  std::int32_t const* device_offsets = nullptr;  // the same numbers where kernels read them, if not `offsets`

  static segments uniform(extent_t count, extent_t length) {
    return {nullptr, count, length, count * length, nullptr};
  }
  static segments packed(view<std::int32_t const, 1> offsets, extent_t longest) {
    expects(offsets.extent(0) > 0, "segments: count + 1 offsets");
    auto const n = offsets.extent(0) - 1;
    return {offsets.data, n, longest, offsets.data[n] - offsets.data[0], nullptr};
  }

  extent_t begin(extent_t i) const { return offsets == nullptr ? i * longest : offsets[i] - offsets[0]; }
  extent_t end(extent_t i) const { return begin(i + 1); }
  extent_t length(extent_t i) const { return end(i) - begin(i); }

  /// `n` runs from `first` on; row 0 of the result is row begin(first) of this.
  segments slice(extent_t first, extent_t n) const {
    if (offsets == nullptr)
      return uniform(n, longest);
    return {offsets + first, n, longest, offsets[first + n] - offsets[first],
            device_offsets == nullptr ? nullptr : device_offsets + first};
  }
};

/// Packed captions: one run of token ids, and where each caption begins.
struct tokens {
  segments captions;
  view<std::int32_t const, 1> ids;  // (captions.rows)

  extent_t count() const { return captions.count; }
  tokens slice(extent_t first, extent_t n) const {
    auto const part = captions.slice(first, n);
    return {part, yoke::slice(ids, captions.begin(first), part.rows)};
  }
};

}  // namespace yoke
