// Loops over lines of elements, a vector at a time in accumulators, whatever types they are stored
// in; the last vector may be partly filled.
#pragma once
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/lanes.hpp>
#include <yoke/cpu/parallel.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace yoke::cpu::detail {

/// The least work worth a thread: about 4096 elements.
inline constexpr extent_t least_elements = 4096;

/// Rows of `width` elements that make up the least work.
constexpr extent_t least_rows(extent_t width) {
  return std::max<extent_t>(1, least_elements / std::max<extent_t>(width, 1));
}

/// The first n lanes, zero behind them.
template <class T>
lanes_t<accumulator_t<T>> load_part(T const* p, extent_t n) {
  std::array<T, lanes<accumulator_t<T>>::count> part{};
  std::memcpy(static_cast<void*>(part.data()), p, static_cast<std::size_t>(n) * sizeof(T));
  return load(part.data());
}
template <class T>
void save_part(T* p, extent_t n, lanes_t<accumulator_t<T>> v) {
  std::array<T, lanes<accumulator_t<T>>::count> part;
  save(part.data(), v);
  std::memcpy(static_cast<void*>(p), part.data(), static_cast<std::size_t>(n) * sizeof(T));
}

/// The lanes from element `i` of a line on: at(pointer) loads, at(pointer, value) saves.
template <class A>
struct whole_lanes {
  extent_t i;

  template <class T>
  lanes_t<A> operator()(T const* p) const {
    return load(p + i);
  }
  template <class T>
  void operator()(T* p, lanes_t<A> v) const {
    save(p + i, v);
  }
};
/// The same for the last n elements, less than a vector.
template <class A>
struct last_lanes {
  extent_t i, n;

  template <class T>
  lanes_t<A> operator()(T const* p) const {
    return load_part(p + i, n);
  }
  template <class T>
  void operator()(T* p, lanes_t<A> v) const {
    save_part(p + i, n, v);
  }
};

/// Calls f(at) for each vector of a line of n, where `at` is one of the two above.
template <class A, class F>
void for_lanes(extent_t n, F const& f) {
  constexpr extent_t w = lanes<A>::count;
  extent_t i = 0;
  for (; i + w <= n; i += w) f(whole_lanes<A>{i});
  if (i < n)
    f(last_lanes<A>{i, n - i});
}

/// to[i] = or += f(from[i]...) for n elements.
template <class T, class F, class... From>
void map_line(extent_t n, store how, F const& f, T* to, From const*... from) {
  using A = accumulator_t<T>;
  if (how == store::overwrite)
    for_lanes<A>(n, [&](auto const& at) { at(to, f(at(from)...)); });
  else
    for_lanes<A>(n, [&](auto const& at) { at(to, at(to) + f(at(from)...)); });
}

/// The sum of the lanes, by halves: lane 0 of the result.
template <class A, int Half = lanes<A>::count / 2>
A sum_of_lanes(lanes_t<A> v) {
  if constexpr (Half == 0)
    return v[0];
  else
    return [&]<int... I>(std::integer_sequence<int, I...>) {
      return sum_of_lanes<A, Half / 2>(v + shuffle<A, (I + Half) % lanes<A>::count...>(v, v));
    }
  (std::make_integer_sequence<int, lanes<A>::count>{});
}

/// The sum of f(from[i]...) over n elements, where f(0...) is 0.
template <class A, class F, class... From>
A sum_line(extent_t n, F const& f, From const*... from) {
  lanes_t<A> sum{};
  for_lanes<A>(n, [&](auto const& at) { sum += f(at(from)...); });
  return sum_of_lanes<A>(sum);
}

/// Each of `to` (width; null: not wanted) = or += a sum over rows. add(first, last, sums) adds those of
/// some rows to as many lines of `sums`. Rows go in blocks that depend on their number alone, so that
/// the result does not depend on that of threads.
template <class T, class F, class... A>
void sum_over_rows(context<T>& c, extent_t rows, extent_t width, store how, F const& add, A*... to) {
  using number = accumulator_t<T>;
  constexpr extent_t lines = sizeof...(to);
  auto const block = std::max<extent_t>(16, (rows + 63) / 64);
  auto const blocks = (rows + block - 1) / block;
  auto* const sums = c.template scratch<number>(blocks * lines * width);
  parallel_for(blocks, std::max<extent_t>(1, least_rows(width) / block), [&](extent_t first, extent_t last) {
    for (auto b = first; b < last; ++b) {
      std::fill_n(sums + b * lines * width, lines * width, number{0});
      add(b * block, std::min(rows, (b + 1) * block), sums + b * lines * width);
    }
  });
  parallel_for(width, least_elements / 16, [&](extent_t first, extent_t last) {
    extent_t line = 0;
    auto const merge = [&](number* sum) {
      auto const* const part = sums + line++ * width;
      if (sum == nullptr)
        return;
      if (how == store::overwrite)
        std::fill(sum + first, sum + last, number{0});
      for (extent_t b = 0; b < blocks; ++b)
        map_line(
            last - first, store::accumulate, [](auto x) { return x; }, sum + first,
            part + b * lines * width + first);
    };
    (merge(to), ...);
  });
}

}  // namespace yoke::cpu::detail
