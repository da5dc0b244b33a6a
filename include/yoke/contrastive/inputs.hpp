// Batches as the step wants them: `count()`, the samples [first, first + n) as an input on a tape, and
// `resident(context)`, the batch where the context's kernels can read it.
#pragma once
#include <yoke/autograd/tape.hpp>

#include <array>

namespace yoke::contrastive {

/// Where the arrays of a batch lie: in the host's memory, or already in the device's.
enum class place { host, device };

/// The batch in the context's own memory: `b` itself, or a copy on the activation stack. Batches without a member of
/// that name are taken to be there.
template <class C, class Batch>
decltype(auto) resident_batch(C& c, Batch const& b) {
  if constexpr (requires { b.resident(c); })
    return b.resident(c);
  else
    return (b);
}

/// Bytes of images (batch, height, width, 3), brought to (byte/255 - mean) / deviation a
/// micro-batch at a time.
struct pixel_batch {
  view<std::uint8_t const, 4> pixels;
  std::array<float, 3> mean{0.48145466f, 0.4578275f, 0.40821073f};  // CLIP's
  std::array<float, 3> deviation{0.26862954f, 0.26130258f, 0.27577711f};
  place where = place::host;

  extent_t count() const { return pixels.extent(0); }
  template <class C>
  value<4> on(tape<C>& t, extent_t first, extent_t n) const {
    expects(pixels.extent(3) == 3, "pixel_batch: images have three channels");
    auto const part = slice(pixels, first, n);
    auto y = make<typename C::element>(t.context(), part.shape);
    normalize_pixels(t.context(), mean, deviation, as_rows(part), as_rows(y));
    return t.constant(y);
  }
  template <class C>
  pixel_batch resident(C& c) const {
    auto there = *this;
    if (where == place::host)
      there.pixels = yoke::resident(c, pixels);
    there.where = place::device;
    return there;
  }
};

/// Packed captions. Their offsets are in the host's memory in any case, and in the device's as well when `where` says so.
struct caption_batch {
  yoke::tokens tokens;
  place where = place::host;

  extent_t count() const { return tokens.count(); }
  template <class C>
  caption_batch resident(C& c) const {
    auto there = *this;
    if (where == place::host) {
      there.tokens.ids = yoke::resident(c, tokens.ids);
      if (auto const& runs = tokens.captions; runs.offsets != nullptr)
        there.tokens.captions.device_offsets =
            yoke::resident(c, view<std::int32_t const, 1>{runs.offsets, {{runs.count + 1}}}).data;
    }
    there.where = place::device;
    return there;
  }
  yoke::tokens on(auto&, extent_t first, extent_t n) const { return tokens.slice(first, n); }
};

/// Ready values of the context's element type, such as features computed elsewhere; the first axis
/// is the batch.
template <class E, int Rank>
struct value_batch {
  view<E const, Rank> values;
  place where = place::host;

  extent_t count() const { return values.extent(0); }
  template <class C>
  value_batch resident(C& c) const {
    return where == place::device ? *this : value_batch{yoke::resident(c, values), place::device};
  }
  value<Rank> on(auto& t, extent_t first, extent_t n) const { return t.constant(slice(values, first, n)); }
};

}  // namespace yoke::contrastive
