// AdafactorW's step for one parameter. The parameter moves by the first moment before that is rounded to bf16, as in
// big_vision's scale_by_adafactor.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/vector_math.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

/// A bf16 that is stored by cutting a float in half.
struct cut_bf16 {
  std::uint16_t bits;
};
inline void save(cut_bf16* p, lanes_t<float> v) {
  using half = std::uint16_t __attribute__((vector_size(vector_bytes / 2)));
  using words = std::uint32_t __attribute__((vector_size(vector_bytes)));
  auto const h = __builtin_convertvector(std::bit_cast<words>(v) >> 16, half);
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}

/// What, cut, is rounded_at_random of the elements from number `first` on.
inline lanes_t<float> add_at_random(rounding_key key, extent_t first, lanes_t<float> v) {
  using words = std::uint32_t __attribute__((vector_size(vector_bytes)));
  auto const lane = __builtin_convertvector(numbered<float>(), words);
  auto const u = std::bit_cast<words>(v);
  auto const sum = u + rounding_bits(key, static_cast<std::uint32_t>(first), lane);
  return std::bit_cast<lanes_t<float>>((u & 0x7fffffffu) > 0x7f800000u ? u | 0x400000u : sum);
}

/// What is one for all elements of a step.
template <class A>
struct adafactor_step {
  A rate, shrink, beta1, rest1, beta2, rest2;
  rounding_key rounding;
  template <class V>
  static constexpr extent_t ahead = 1024 / sizeof(V);  // elements in 16 cache lines

  explicit adafactor_step(adafactor_coefficients const& w)
      : rate{static_cast<A>(w.rate)},
        shrink{static_cast<A>(1 - w.rate * w.decay)},
        beta1{static_cast<A>(w.beta1)},
        rest1{static_cast<A>(1 - w.beta1)},
        beta2{static_cast<A>(w.beta2)},
        rest2{static_cast<A>(1 - w.beta2)},
        rounding{w.rounding} {}

  /// Elements from..from+n move; scaled(at, g) is the gradient over the root of its second moment.
  template <class G, class F, class M, class T, class Scaled>
  void move(extent_t from, extent_t n, G* gradient, F* first_moment, M* master, T* compute,
            Scaled const& scaled) const {
    auto *const g = gradient + from, *const p = master + from;
    auto* const m = first_moment + from;
    auto* const copy = compute == nullptr ? nullptr : compute + from;
    for_lanes<A>(n, [&](auto const& at) {
      // Earlier than the processor would by itself: a copy keeps memory busy with less between two reads.
      __builtin_prefetch(g + at.i + ahead<G>, 1);
      __builtin_prefetch(m + at.i + ahead<F>, 1);
      __builtin_prefetch(p + at.i + ahead<M>, 1);
      auto const a = at(m) * beta1 + scaled(at, at(g)) * rest1;
      auto const y = at(p) * shrink - a * rate;
      at(g, lanes_t<A>{});
      at(m, a);
      if constexpr (std::is_same_v<M, bf16>)
        at(reinterpret_cast<cut_bf16*>(p), add_at_random(rounding, from + at.i, y));
      else
        at(p, y);
      if (copy != nullptr)
        at(copy, y);
    });
  }
};

/// Adds the squares of `Together` rows from x on: sums[k] = that of row k, column_sums += those of columns.
template <int Together, class A, class G>
void sum_squares(G const* x, extent_t width, A* sums, A* column_sums) {
  lanes_t<A> sum[Together]{};
  auto const add = [&](auto const& at) __attribute__((always_inline)) {  // or the sums would live in memory
    auto column = at(column_sums);
    for_each_of<Together, 1>([&](auto k, auto) {
      auto const v = at(x + k * width);
      sum[k] += v * v;
      column += v * v;
    });
    at(column_sums, column);
  };
  constexpr extent_t w = lanes<A>::count;
  extent_t i = 0;
  for (; i + w <= width; i += w) add(whole_lanes<A>{i});
  if (i < width)
    add(last_lanes<A>{i, width - i});
  for_each_of<Together, 1>([&](auto k, auto) { sums[k] = sum_of_lanes<A>(sum[k]); });
}

}  // namespace detail

/// A matrix (rows, columns) whose second moment is estimated by its means over columns and over rows:
/// v = row_means x column_means / mean(row_means). Gradients, accumulators or elements, are zeroed behind the read;
/// master values are accumulators, or bf16 rounded at random; `compute`, their rounded copy, is optional.
template <class T, class G, class M>
void adafactor_update(context<T>& c, adafactor_coefficients w, view<G, 2> gradient,
                      view<accumulator_t<std::type_identity_t<T>>, 1> row_means,
                      view<accumulator_t<std::type_identity_t<T>>, 1> column_means,
                      view<first_moment_t<accumulator_t<std::type_identity_t<T>>>, 2> first_moment,
                      view<M, 2> master, view<std::type_identity_t<T>, 2> compute) {
  using A = accumulator_t<T>;
  static_assert(std::is_same_v<G, A> || std::is_same_v<G, T>, "gradients are accumulators or elements");
  static_assert(std::is_same_v<M, A> || std::is_same_v<M, bf16>, "master values are accumulators or bf16");
  detail::adafactor_step<A> const step{w};
  auto const rows = gradient.extent(0), columns = gradient.extent(1);
  if (gradient.size() == 0)
    return;
  auto const square = w.gradient_scale * w.gradient_scale;

  // Rows go in blocks that depend on their number alone, so that sums do not depend on that of threads.
  auto const block = std::max<extent_t>(16, (rows + 255) / 256 * 4), blocks = (rows + block - 1) / block;
  auto* const sums = c.template scratch<A>(blocks * columns + columns + rows);
  auto *const factors = sums + blocks * columns, *const row_sums = factors + columns;
  parallel_for(blocks, std::max<extent_t>(1, detail::least_rows(columns) / block),
               [&](extent_t first, extent_t last) {
                 for (auto b = first; b < last; ++b) {
                   auto* const column_sums = sums + b * columns;
                   std::fill_n(column_sums, columns, A{0});
                   auto const end = std::min(rows, (b + 1) * block);
                   auto r = b * block;
                   for (; r + 4 <= end; r += 4)
                     detail::sum_squares<4>(gradient.data + r * columns, columns, row_sums + r, column_sums);
                   for (; r < end; ++r)
                     detail::sum_squares<1>(gradient.data + r * columns, columns, row_sums + r, column_sums);
                 }
               });
  double total = 0;
  for (extent_t r = 0; r < rows; ++r) {
    auto const mean = static_cast<double>(row_sums[r]) * (square / static_cast<double>(columns)) + w.epsilon;
    row_means.data[r] =
        static_cast<A>(w.beta2 * static_cast<double>(row_means.data[r]) + (1 - w.beta2) * mean);
    total += static_cast<double>(row_means.data[r]);
  }
  auto const mean = total / static_cast<double>(rows);
  parallel_for(columns, detail::least_elements / 16, [&](extent_t first, extent_t last) {
    for (extent_t b = 1; b < blocks; ++b)
      detail::map_line(
          last - first, store::accumulate, [](auto x) { return x; }, sums + first,
          sums + b * columns + first);
    auto const scale = static_cast<A>(square / static_cast<double>(rows)),
               epsilon = static_cast<A>(w.epsilon);
    detail::for_lanes<A>(last - first, [&](auto const& at) {
      auto* const v = column_means.data + first;
      auto const x = at(v) * step.beta2 + (at(sums + first) * scale + epsilon) * step.rest2;
      at(v, x);
      at(factors + first, 1 / detail::square_root(x));
    });
  });

  auto* const copy = compute.extent(0) == 0 ? nullptr : compute.data;
  parallel_for(rows, detail::least_rows(columns), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r) {
      auto const factor =
          static_cast<A>(w.gradient_scale * std::sqrt(mean / static_cast<double>(row_means.data[r])));
      step.move(r * columns, columns, gradient.data, first_moment.data, master.data, copy,
                [&](auto const& at, auto g) { return g * factor * at(factors); });
    }
  });
}

/// The same for a vector, or for a matrix too narrow to be factored: every element has a second moment of its own.
template <class T, class G, class M>
void adafactor_update(context<T>&, adafactor_coefficients w, view<G, 1> gradient,
                      view<accumulator_t<std::type_identity_t<T>>, 1> second_moment,
                      view<first_moment_t<accumulator_t<std::type_identity_t<T>>>, 1> first_moment,
                      view<M, 1> master, view<std::type_identity_t<T>, 1> compute) {
  using A = accumulator_t<T>;
  static_assert(std::is_same_v<G, A> || std::is_same_v<G, T>, "gradients are accumulators or elements");
  static_assert(std::is_same_v<M, A> || std::is_same_v<M, bf16>, "master values are accumulators or bf16");
  detail::adafactor_step<A> const step{w};
  auto const scale = static_cast<A>(w.gradient_scale), epsilon = static_cast<A>(w.epsilon);
  auto* const copy = compute.extent(0) == 0 ? nullptr : compute.data;
  parallel_for(gradient.size(), detail::least_elements, [&](extent_t first, extent_t last) {
    auto* const v = second_moment.data + first;
    step.move(first, last - first, gradient.data, first_moment.data, master.data, copy,
              [&](auto const& at, auto g) {
                auto const x = g * scale;
                auto const b = at(v) * step.beta2 + (x * x + epsilon) * step.rest2;
                at(v, b);
                return x / detail::square_root(b);
              });
  });
}

}  // namespace yoke::cpu
