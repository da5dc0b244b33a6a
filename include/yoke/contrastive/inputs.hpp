// Batches as the step wants them: `count()`, and the samples [first, first + n) as an input on a
// tape.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <array>

namespace yoke::contrastive {

/// Bytes of images (batch, height, width, 3), brought to (byte/255 - mean) / deviation a
/// micro-batch at a time.
struct pixel_batch {
  view<std::uint8_t const, 4> pixels;
  std::array<float, 3> mean{0.48145466f, 0.4578275f, 0.40821073f};  // CLIP's
  std::array<float, 3> deviation{0.26862954f, 0.26130258f, 0.27577711f};

  extent_t count() const { return pixels.extent(0); }
  template <class C>
  value<4> on(tape<C>& t, extent_t first, extent_t n) const {
    expects(pixels.extent(3) == 3, "pixel_batch: images have three channels");
    auto const part = slice(pixels, first, n);
    auto y = make<typename C::element>(t.context(), part.shape);
    normalize_pixels(t.context(), mean, deviation, as_rows(part), as_rows(y));
    return t.constant(y);
  }
};

/// Packed captions.
struct caption_batch {
  yoke::tokens tokens;

  extent_t count() const { return tokens.count(); }
  yoke::tokens on(auto&, extent_t first, extent_t n) const { return tokens.slice(first, n); }
};

/// Ready values of the context's element type, such as features computed elsewhere; the first axis
/// is the batch.
template <class E, int Rank>
struct value_batch {
  view<E const, Rank> values;

  extent_t count() const { return values.extent(0); }
  value<Rank> on(auto& t, extent_t first, extent_t n) const { return t.constant(slice(values, first, n)); }
};

}  // namespace yoke::contrastive
