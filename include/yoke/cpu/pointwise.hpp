// Element by element: activations, sums, conversions, pixels.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/activation.hpp>
#include <yoke/cpu/lines.hpp>

#include <array>
#include <cstdint>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// to = or += f(from...), all of one size, over the threads.
template <class T, class F, class... From>
void map_parallel(extent_t n, store how, F const& f, T* to, From const*... from) {
  parallel_for(n, least_elements, [&](extent_t first, extent_t last) {
    map_line(last - first, how, f, to + first, (from + first)...);
  });
}

}  // namespace detail

/// y = f(x)
template <class T>
void activation_forward(context<T>&, activation kind, view<std::type_identity_t<T> const, 1> x,
                        view<std::type_identity_t<T>, 1> y) {
  detail::with_activation(kind, [&](auto g) {
    detail::map_parallel(
        x.size(), store::overwrite, [g](auto v) { return g.value(v); }, y.data, x.data);
  });
}

/// dx = or += f'(x) dy
template <class T>
void activation_backward(context<T>&, activation kind, view<std::type_identity_t<T> const, 1> x,
                         view<std::type_identity_t<T> const, 1> dy, view<std::type_identity_t<T>, 1> dx,
                         store how) {
  detail::with_activation(kind, [&](auto g) {
    detail::map_parallel(
        x.size(), how, [g](auto v, auto d) { return g.slope(v) * d; }, dx.data, x.data, dy.data);
  });
}

/// y = a + b
template <class T>
void add(context<T>&, view<std::type_identity_t<T> const, 1> a, view<std::type_identity_t<T> const, 1> b,
         view<std::type_identity_t<T>, 1> y) {
  detail::map_parallel(
      y.size(), store::overwrite, [](auto p, auto q) { return p + q; }, y.data, a.data, b.data);
}

/// to = or += from, between any two of the element and its accumulator.
template <class T, class X, class Y>
void convert(context<T>&, view<X const, 1> from, view<Y, 1> to, store how) {
  detail::map_parallel(
      to.size(), how, [](auto x) { return x; }, to.data, from.data);
}

/// Every element is `value`.
template <class T, class Y>
void fill(context<T>&, view<Y, 1> to, double value) {
  auto const v = static_cast<Y>(value);
  parallel_for(to.size(), detail::least_elements,
               [&](extent_t first, extent_t last) { std::fill(to.data + first, to.data + last, v); });
}

/// rows (pixels, 3) = (bytes / 255 - mean) / deviation, by channel.
template <class T>
void normalize_pixels(context<T>&, std::array<float, 3> mean, std::array<float, 3> deviation,
                      view<std::uint8_t const, 2> bytes, view<std::type_identity_t<T>, 2> rows) {
  using A = accumulator_t<T>;
  constexpr extent_t period = 48;  // whole pixels, and whole vectors of any width
  std::array<A, period> scale, shift;
  for (std::size_t i = 0; i < period; ++i) {
    scale[i] = 1 / (255 * static_cast<A>(deviation[i % 3]));
    shift[i] = -static_cast<A>(mean[i % 3]) / static_cast<A>(deviation[i % 3]);
  }
  parallel_for((bytes.size() + period - 1) / period, detail::least_rows(period),
               [&](extent_t first, extent_t last) {
                 for (auto p = first; p < last; ++p) {
                   auto const* const from = bytes.data + p * period;
                   auto* const to = rows.data + p * period;
                   auto const n = std::min(period, bytes.size() - p * period);
                   for (extent_t i = 0; i < n; ++i) {
                     auto const k = static_cast<std::size_t>(i);
                     to[i] = static_cast<T>(static_cast<A>(from[i]) * scale[k] + shift[k]);
                   }
                 }
               });
}

}  // namespace yoke::cpu
