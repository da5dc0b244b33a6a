// Gradients of weights are sums over all pixels: parts over blocks of lines that depend on the number of lines alone,
// so that the result does not depend on that of threads, and their sum, rounded once.
#pragma once
#include <yoke/cpu/lines.hpp>

#include <algorithm>

namespace yoke::cpu::detail {

/// Lines [0, lines) in at most `most` blocks, all but the last of a multiple of `step` lines.
struct line_blocks {
  extent_t lines, length, count;

  line_blocks(extent_t n, extent_t most, extent_t step = 1)
      : lines{n},
        length{std::max<extent_t>(1, (n + most * step - 1) / (most * step)) * step},
        count{(n + length - 1) / length} {}
  extent_t begin(extent_t block) const { return block * length; }
  extent_t end(extent_t block) const { return std::min(lines, (block + 1) * length); }
};

/// to (n) = or += the sum of parts (count, n), in their order.
template <class A, class W>
void add_parts(A const* parts, extent_t count, extent_t n, W* to, store how) {
  parallel_for(n, least_rows(count), [&](extent_t first, extent_t last) {
    for_lanes<A>(last - first, [&](auto const& at) {
      auto sum = how == store::accumulate ? at(to + first) : lanes_t<A>{};
      for (extent_t i = 0; i < count; ++i) sum += at(parts + i * n + first);
      at(to + first, sum);
    });
  });
}

}  // namespace yoke::cpu::detail
