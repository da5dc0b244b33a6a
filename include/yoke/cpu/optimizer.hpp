// The optimiser's passes over the flat blocks of parameters.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/vector_math.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>

namespace yoke::cpu {

/// The sum of squares of elements or accumulators in double precision, the same for any number of
/// threads; not finite when an element is not.
template <class T, class V>
double squared_norm(context<T>& c, view<V, 1> x) {
  static_assert(std::is_same_v<V const, T const> || std::is_same_v<V const, accumulator_t<T> const>,
                "the squares are of elements or of accumulators");
  constexpr extent_t block = 1 << 14, strands = 16;
  auto const blocks = (x.size() + block - 1) / block;
  auto* const sums = c.template scratch<double>(blocks);
  parallel_for(blocks, 1, [&](extent_t first, extent_t last) {
    for (auto b = first; b < last; ++b) {
      std::array<double, strands> sum{};
      auto const* const v = x.data + b * block;
      auto const n = std::min(block, x.size() - b * block);
      extent_t i = 0;
      for (; i + strands <= n; i += strands)
        for (extent_t k = 0; k < strands; ++k) {
          auto const d = static_cast<double>(v[i + k]);
          sum[static_cast<std::size_t>(k)] += d * d;
        }
      for (; i < n; ++i) sum[0] += static_cast<double>(v[i]) * static_cast<double>(v[i]);
      sums[b] = 0;
      for (auto s : sum) sums[b] += s;
    }
  });
  double total = 0;
  for (extent_t b = 0; b < blocks; ++b) total += sums[b];
  return total;
}

/// One step of AdamW as PyTorch takes it, and the gradient zeroed behind the read; `compute`, the
/// rounded copy of the parameters, is optional.
template <class T>
void adam_w_update(context<T>&, adam_w_coefficients w,
                   view<accumulator_t<std::type_identity_t<T>>, 1> gradient,
                   view<accumulator_t<std::type_identity_t<T>>, 1> first_moment,
                   view<accumulator_t<std::type_identity_t<T>>, 1> second_moment,
                   view<accumulator_t<std::type_identity_t<T>>, 1> master,
                   view<std::type_identity_t<T>, 1> compute) {
  using A = accumulator_t<T>;
  auto const scale = static_cast<A>(w.gradient_scale), shrink = static_cast<A>(1 - w.rate * w.decay),
             beta1 = static_cast<A>(w.beta1), rest1 = static_cast<A>(1 - w.beta1),
             beta2 = static_cast<A>(w.beta2), rest2 = static_cast<A>(1 - w.beta2),
             size = static_cast<A>(w.rate / w.correction1),
             root = static_cast<A>(1 / std::sqrt(w.correction2)), epsilon = static_cast<A>(w.epsilon);
  parallel_for(gradient.size(), detail::least_elements, [&](extent_t first, extent_t last) {
    auto *const g = gradient.data + first, *const m = first_moment.data + first,
                *const v = second_moment.data + first, *const p = master.data + first;
    auto* const copy = compute.extent(0) == 0 ? nullptr : compute.data + first;
    detail::for_lanes<A>(last - first, [&](auto const& at) {
      auto const x = at(g) * scale;
      auto const a = at(m) * beta1 + x * rest1;
      auto const b = at(v) * beta2 + x * x * rest2;
      auto const y = at(p) * shrink - size * (a / (detail::square_root(b) * root + epsilon));
      at(g, detail::lanes_t<A>{});
      at(m, a);
      at(v, b);
      at(p, y);
      if (copy != nullptr)
        at(copy, y);
    });
  });
}

}  // namespace yoke::cpu
