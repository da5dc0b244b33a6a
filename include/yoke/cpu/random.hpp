// Dropout of elements and of whole segments. What is kept is a function of seed, step, stream,
// sample and element alone.
#pragma once
#include <yoke/core/random.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cpu/lines.hpp>

#include <algorithm>
#include <array>
#include <type_traits>

namespace yoke::cpu {

/// to = or += from / (1 - rate) where an element is kept, else 0: element (row in the segment,
/// column) of a sample draws word n % 4 of quad n / 4, n = row * width + column.
template <class T>
void dropout(context<T>&, random_key key, std::uint64_t stream, float rate, segments const& runs,
             view<std::type_identity_t<T> const, 2> from, view<std::type_identity_t<T>, 2> to, store how) {
  using A = accumulator_t<T>;
  auto const width = from.extent(1);
  auto const scale = 1 / (1 - static_cast<A>(rate));
  parallel_for(runs.count, 1, [&](extent_t first, extent_t last) {
    for (auto s = first; s < last; ++s) {
      auto const n = runs.length(s) * width;
      auto const* const x = from.data + runs.begin(s) * width;
      auto* const y = to.data + runs.begin(s) * width;
      for (extent_t i = 0; i < n; i += 4) {
        auto const words = key.draw(stream, static_cast<std::uint64_t>(s), static_cast<std::uint64_t>(i / 4));
        for (extent_t j = i; j < std::min(i + 4, n); ++j) {
          auto const factor = uniform(words[static_cast<std::size_t>(j - i)]) >= rate ? scale : A{0};
          auto const v = static_cast<A>(x[j]) * factor;
          y[j] = static_cast<T>(how == store::overwrite ? v : static_cast<A>(y[j]) + v);
        }
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
  parallel_for(runs.count, 1, [&](extent_t first, extent_t last) {
    for (auto s = first; s < last; ++s) {
      auto const kept = uniform(key.draw(stream, static_cast<std::uint64_t>(s), 0)[0]) >= rate;
      auto const scale = kept ? 1 / (1 - static_cast<A>(rate)) : A{0};
      auto const offset = runs.begin(s) * width;
      detail::map_line(
          runs.length(s) * width, how, [=](auto v) { return v * scale; }, to.data + offset,
          from.data + offset);
    }
  });
}

}  // namespace yoke::cpu
