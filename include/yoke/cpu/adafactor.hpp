// AdafactorW's step for one parameter. The parameter moves by the first moment before that is rounded to bf16, as in
// big_vision's scale_by_adafactor.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/lines.hpp>
#include <yoke/cpu/vector_math.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace yoke::cpu {

namespace detail {

using word_lanes = std::uint32_t __attribute__((vector_size(vector_bytes)));

/// A bf16 that is stored by cutting a float in half.
struct cut_bf16 {
  std::uint16_t bits;
};
inline void save(cut_bf16* p, lanes_t<float> v) {
  using half = std::uint16_t __attribute__((vector_size(vector_bytes / 2)));
  auto const h = __builtin_convertvector(std::bit_cast<word_lanes>(v) >> 16, half);
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}

/// What, cut, is rounded_at_random of the elements first + rest.
inline lanes_t<float> add_at_random(rounding_key key, extent_t first, word_lanes rest, lanes_t<float> v) {
  auto const u = std::bit_cast<word_lanes>(v);
  auto const sum = u + rounding_bits(key, static_cast<std::uint32_t>(first), rest);
  return std::bit_cast<lanes_t<float>>((u & 0x7fffffffu) > 0x7f800000u ? u | 0x400000u : sum);
}
/// What, cut, is v to the nearest, ties to even.
inline lanes_t<float> add_to_nearest(lanes_t<float> v) {
  auto const u = std::bit_cast<word_lanes>(v);
  auto const sum = u + 0x7fffu + ((u >> 16) & 1u);
  return std::bit_cast<lanes_t<float>>((u & 0x7fffffffu) > 0x7f800000u ? u | 0x400000u : sum);
}

/// As many elements as two vectors have, apart by their places: bf16 in memory take one instruction each where two
/// vectors in order take two or three.
struct lane_pair {
  static constexpr extent_t count = 2 * lanes<float>::count;
  lanes_t<float> even, odd;

  static lane_pair load(bf16 const* p) {
    word_lanes w;
    std::memcpy(&w, p, sizeof w);
    return {std::bit_cast<lanes_t<float>>(w << 16), std::bit_cast<lanes_t<float>>(w & 0xffff0000u)};
  }
  void save_cut(bf16* p) const {
    auto const w = (std::bit_cast<word_lanes>(even) >> 16) | (std::bit_cast<word_lanes>(odd) & 0xffff0000u);
    std::memcpy(static_cast<void*>(p), &w, sizeof w);
  }
  /// Puts a line of floats into the order in which pairs want them: even places, then odd ones, of each `count`.
  static void reorder(float* line, extent_t n) {
    for (extent_t i = 0; i + count <= n; i += count) {
      std::array<float, count> odd;
      for (extent_t k = 0; k < count / 2; ++k) {
        odd[static_cast<std::size_t>(k)] = line[i + 2 * k + 1];
        line[i + k] = line[i + 2 * k];
      }
      std::copy_n(odd.data(), count / 2, line + i + count / 2);
    }
  }
};

/// What is one for all elements of a step.
template <class A>
struct adafactor_step {
  A rate, shrink, beta1, rest1, beta2, rest2;
  rounding_key rounding;

  explicit adafactor_step(adafactor_coefficients const& w)
      : rate{static_cast<A>(w.rate)},
        shrink{static_cast<A>(1 - w.rate * w.decay)},
        beta1{static_cast<A>(w.beta1)},
        rest1{static_cast<A>(1 - w.beta1)},
        beta2{static_cast<A>(w.beta2)},
        rest2{static_cast<A>(1 - w.beta2)},
        rounding{w.rounding} {}

  lanes_t<A> moment(lanes_t<A> m, lanes_t<A> scaled) const { return m * beta1 + scaled * rest1; }
  lanes_t<A> moved(lanes_t<A> p, lanes_t<A> m) const { return p * shrink - m * rate; }

  /// Earlier than the processor would by itself: a copy keeps memory busy with less to do between two reads.
  template <class... V>
  static void prefetch(V*... at) {
    (__builtin_prefetch(at + 1024 / sizeof(V), 1), ...);
  }

  /// Elements from..from+n move; scaled(at, g) is the gradient over the root of its second moment.
  template <class G, class F, class M, class T, class Scaled>
  void move(extent_t from, extent_t n, G* gradient, F* first_moment, M* master, T* compute,
            Scaled const& scaled) const {
    auto* const g = gradient + from;
    auto* const m = first_moment + from;
    auto* const p = master + from;
    auto* const copy = compute == nullptr ? nullptr : compute + from;
    for_lanes<A>(n, [&](auto const& at) {
      prefetch(g + at.i, m + at.i, p + at.i);
      auto const a = moment(at(m), scaled(at, at(g)));
      auto const y = moved(at(p), a);
      at(g, lanes_t<A>{});
      at(m, a);
      if constexpr (std::is_same_v<M, bf16>)
        at(reinterpret_cast<cut_bf16*>(p),
           add_at_random(rounding, from + at.i, __builtin_convertvector(numbered<float>(), word_lanes), y));
      else
        at(p, y);
      if (copy != nullptr)
        at(copy, y);
    });
  }

  /// The same for whole pairs of vectors of a row whose numbers are all bf16: scaled = g * factor * its column's, in
  /// the order of pairs. A third less work.
  void move_pairs(extent_t from, extent_t n, bf16* gradient, bf16* first_moment, bf16* master, A factor,
                  A const* columns) const {
    auto const lane = __builtin_convertvector(numbered<float>(), word_lanes);
    for (extent_t i = 0; i < n; i += lane_pair::count) {
      auto *const g = gradient + from + i, *const m = first_moment + from + i, *const p = master + from + i;
      prefetch(g, m, p);
      auto const x = lane_pair::load(g), before = lane_pair::load(m), y = lane_pair::load(p);
      lane_pair const a{moment(before.even, x.even * factor * load(columns + i)),
                        moment(before.odd, x.odd * factor * load(columns + i + lane_pair::count / 2))};
      lane_pair{}.save_cut(g);
      lane_pair{add_to_nearest(a.even), add_to_nearest(a.odd)}.save_cut(m);
      lane_pair{add_at_random(rounding, from + i, lane * 2u, moved(y.even, a.even)),
                add_at_random(rounding, from + i, lane * 2u + 1u, moved(y.odd, a.odd))}
          .save_cut(p);
    }
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
/// master values are accumulators, or bf16 rounded at random; `compute`, their rounded copy, is optional. Of a share of a
/// matrix, sum_shares(sums of rows, sums of columns) adds the other shares' squares to those of the axis that is cut.
template <class T, class G, class M, class SumShares = nothing_to_sum>
void adafactor_update(context<T>& c, adafactor_coefficients w, view<G, 2> gradient,
                      view<accumulator_t<std::type_identity_t<T>>, 1> row_means,
                      view<accumulator_t<std::type_identity_t<T>>, 1> column_means,
                      view<first_moment_t<accumulator_t<std::type_identity_t<T>>>, 2> first_moment,
                      view<M, 2> master, view<std::type_identity_t<T>, 2> compute,
                      SumShares const& sum_shares = {}) {
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
  parallel_for(columns, detail::least_elements / 16, [&](extent_t first, extent_t last) {
    for (extent_t b = 1; b < blocks; ++b)
      detail::map_line(
          last - first, store::accumulate, [](auto x) { return x; }, sums + first,
          sums + b * columns + first);
  });
  sum_shares(view<A, 1>{row_sums, {{rows}}}, view<A, 1>{sums, {{columns}}});
  auto const all_rows = w.whole_rows > 0 ? w.whole_rows : rows,
             all_columns = w.whole_columns > 0 ? w.whole_columns : columns;
  auto const mean_of = [](view<A, 1> v) {
    double total = 0;
    for (extent_t i = 0; i < v.size(); ++i) total += static_cast<double>(v.data[i]);
    return total / static_cast<double>(v.size());
  };
  for (extent_t r = 0; r < rows; ++r) {
    auto const mean =
        static_cast<double>(row_sums[r]) * (square / static_cast<double>(all_columns)) + w.epsilon;
    row_means.data[r] =
        static_cast<A>(w.beta2 * static_cast<double>(row_means.data[r]) + (1 - w.beta2) * mean);
  }
  parallel_for(columns, detail::least_elements / 16, [&](extent_t first, extent_t last) {
    auto const scale = static_cast<A>(square / static_cast<double>(all_rows)),
               epsilon = static_cast<A>(w.epsilon);
    detail::for_lanes<A>(last - first, [&](auto const& at) {
      auto* const v = column_means.data + first;
      auto const x = at(v) * step.beta2 + (at(sums + first) * scale + epsilon) * step.rest2;
      at(v, x);
      at(factors + first, 1 / detail::square_root(x));
    });
  });

  // Both means of means are that of all squares; a share has all of the axis that is not cut.
  auto const mean = mean_of(all_rows == rows ? row_means : column_means);
  auto* const copy = compute.extent(0) == 0 ? nullptr : compute.data;
  extent_t paired = 0;  // columns that are taken in pairs of vectors
  if constexpr (std::is_same_v<G, bf16> && std::is_same_v<M, bf16>)
    if (copy == nullptr) {
      paired = columns / detail::lane_pair::count * detail::lane_pair::count;
      detail::lane_pair::reorder(factors, paired);
    }
  parallel_for(rows, detail::least_rows(columns), [&](extent_t first, extent_t last) {
    for (auto r = first; r < last; ++r) {
      auto const factor =
          static_cast<A>(w.gradient_scale * std::sqrt(mean / static_cast<double>(row_means.data[r])));
      auto const begin = r * columns;
      if constexpr (std::is_same_v<G, bf16> && std::is_same_v<M, bf16>)
        step.move_pairs(begin, paired, gradient.data, first_moment.data, master.data, factor, factors);
      step.move(begin + paired, columns - paired, gradient.data, first_moment.data, master.data, copy,
                [&](auto const& at, auto g) { return g * factor * at(factors + paired); });
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
