// How ranks' values become one, on every communicator that sums by itself: in the order of the ranks, rounded once.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/tensor.hpp>
#include <yoke/parallel/communicator.hpp>

#include <algorithm>

namespace yoke::parallel::detail {

/// Combines as many elements of each of the sources, of which source(r) is rank r's, in the accumulator's type. take(i,
/// values, n) gets the results from element i on, n at a time, when no source is read there any more.
template <element T, class Source, class Take>
void combine(std::size_t ranks, Source const& source, extent_t elements, reduction how, Take const& take) {
  using A = accumulator_t<T>;
  constexpr extent_t most = 1024;  // so that what is summed stays close to the processor
  A sums[most];
  T values[most];
  for (extent_t i = 0; i < elements; i += most) {
    auto const n = std::min(most, elements - i);
    T const* const first = source(0) + i;
    for (extent_t k = 0; k < n; ++k) sums[k] = static_cast<A>(first[k]);
    for (std::size_t r = 1; r < ranks; ++r) {
      T const* const other = source(r) + i;
      if (how == reduction::sum)
        for (extent_t k = 0; k < n; ++k) sums[k] += static_cast<A>(other[k]);
      else
        for (extent_t k = 0; k < n; ++k) sums[k] = std::max(sums[k], static_cast<A>(other[k]));
    }
    for (extent_t k = 0; k < n; ++k) values[k] = static_cast<T>(sums[k]);
    take(i, values, n);
  }
}

}  // namespace yoke::parallel::detail
