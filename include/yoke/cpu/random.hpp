// Dropout of elements and of whole segments. What is kept is a function of seed, step, stream,
// sample and element alone.
#pragma once
#include <yoke/core/random.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cpu/lines.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// What random_key::draw gives, for many quads at once in a form that compilers vectorise.
class quads {
 public:
  static constexpr std::size_t count = 64;

  quads(random_key key, std::uint64_t stream, std::uint64_t sample)
      : sample_{key.first_sample + sample}, key_{mix(mix(key.seed, stream), key.step)} {}

  /// words[4 i + j] is word j of quad first + i.
  void draw(std::uint64_t first, std::array<std::uint32_t, 4 * count>& words) const {
    alignas(64) std::array<std::uint32_t, count> a, b, c, d;
    for (std::size_t i = 0; i < count; ++i) {
      a[i] = static_cast<std::uint32_t>(first + i);
      b[i] = static_cast<std::uint32_t>((first + i) >> 32);
      c[i] = static_cast<std::uint32_t>(sample_);
      d[i] = static_cast<std::uint32_t>(sample_ >> 32);
    }
    auto k0 = static_cast<std::uint32_t>(key_), k1 = static_cast<std::uint32_t>(key_ >> 32);
    for (int round = 0; round < 10; ++round) {
      for (std::size_t i = 0; i < count; ++i) {
        auto const p = std::uint64_t{0xD2511F53u} * a[i], q = std::uint64_t{0xCD9E8D57u} * c[i];
        a[i] = static_cast<std::uint32_t>(q >> 32) ^ b[i] ^ k0;
        b[i] = static_cast<std::uint32_t>(q);
        c[i] = static_cast<std::uint32_t>(p >> 32) ^ d[i] ^ k1;
        d[i] = static_cast<std::uint32_t>(p);
      }
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    for (std::size_t i = 0; i < count; ++i) {
      words[4 * i] = a[i];
      words[4 * i + 1] = b[i];
      words[4 * i + 2] = c[i];
      words[4 * i + 3] = d[i];
    }
  }

 private:
  std::uint64_t sample_, key_;
};

}  // namespace detail

/// to = or += from / (1 - rate) where an element is kept, else 0: element (row in the segment,
/// column) of a sample draws word n % 4 of quad n / 4, n = row * width + column, and is kept when
/// that is at least `rate`.
template <class T>
void dropout(context<T>&, random_key key, std::uint64_t stream, float rate, segments const& runs,
             view<std::type_identity_t<T> const, 2> from, view<std::type_identity_t<T>, 2> to, store how) {
  using A = accumulator_t<T>;
  constexpr extent_t chunk = 4 * detail::quads::count;
  auto const width = from.extent(1);
  auto const scale = 1 / (1 - static_cast<A>(rate));
  auto const least = static_cast<std::uint32_t>(std::ceil(rate * 0x1p24f)) << 8;  // of the words kept
  parallel_for(runs.count, 1, [&](extent_t first, extent_t last) {
    alignas(64) std::array<std::uint32_t, chunk> words;
    alignas(64) std::array<A, chunk> kept;  // 1 or 0
    for (auto s = first; s < last; ++s) {
      detail::quads const source(key, stream, static_cast<std::uint64_t>(s));
      auto const begin = runs.begin(s) * width, n = runs.length(s) * width;
      for (extent_t i = 0; i < n; i += chunk) {
        source.draw(static_cast<std::uint64_t>(i / 4), words);
        for (std::size_t j = 0; j < words.size(); ++j) kept[j] = words[j] >= least ? A{1} : A{0};
        auto const keep = [=](auto v, auto k) { return k > 0 ? v * scale : decltype(v){}; };
        detail::map_line(std::min(chunk, n - i), how, keep, to.data + begin + i, from.data + begin + i,
                         kept.data());
      }
    }
  });
}

/// to = or += from / (1 - rate) for the segments that are kept, else 0: one draw each.
template <class T>
void drop_path(context<T>&, random_key key, std::uint64_t stream, float rate, segments const& runs,
               view<std::type_identity_t<T> const, 2> from, view<std::type_identity_t<T>, 2> to, store how) {
  using A = accumulator_t<T>;
  auto const width = from.extent(1);
  auto const scale = 1 / (1 - static_cast<A>(rate));
  parallel_for(runs.count, 1, [&](extent_t first, extent_t last) {
    for (auto s = first; s < last; ++s) {
      auto const begin = runs.begin(s) * width, n = runs.length(s) * width;
      if (uniform(key.draw(stream, static_cast<std::uint64_t>(s), 0)[0]) >= rate)
        detail::map_line(
            n, how, [=](auto v) { return v * scale; }, to.data + begin, from.data + begin);
      else if (how == store::overwrite)
        std::fill_n(to.data + begin, n, T{});
    }
  });
}

}  // namespace yoke::cpu
