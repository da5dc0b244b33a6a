// AdafactorW's step for one parameter. The parameter moves by the first moment before that is rounded to bf16, as in
// big_vision's scale_by_adafactor.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/columns.cuh>
#include <yoke/cuda/scratch_plan.cuh>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// What is one for all elements of a step.
template <class A>
struct adafactor_step {
  A scale, epsilon, rate, shrink, beta1, rest1, beta2, rest2;
  std::uint32_t first_key, second_key;

  explicit adafactor_step(adafactor_coefficients const& w)
      : scale{static_cast<A>(w.gradient_scale)},
        epsilon{static_cast<A>(w.epsilon)},
        rate{static_cast<A>(w.rate)},
        shrink{static_cast<A>(1 - w.rate * w.decay)},
        beta1{static_cast<A>(w.beta1)},
        rest1{static_cast<A>(1 - w.beta1)},
        beta2{static_cast<A>(w.beta2)},
        rest2{static_cast<A>(1 - w.beta2)},
        first_key{w.rounding.first},
        second_key{w.rounding.second} {}

  /// What rounded_at_random makes of v with the rounding_bits of an element.
  __device__ bf16 round(float v, extent_t element) const {
    auto x = static_cast<std::uint32_t>(element) * 0x9E3779B9u + first_key;
    x = ((x ^ (x >> 15)) * 0x7feb352du) ^ second_key;
    x = ((x ^ (x >> 12)) * 0x846ca68bu) >> 16;
    auto const u = __float_as_uint(v);
    bool const is_nan = (u & 0x7fffffffu) > 0x7f800000u;
    bf16 r;
    r.bits = static_cast<std::uint16_t>((is_nan ? u | 0x400000u : u + x) >> 16);
    return r;
  }

  /// N elements from number `element` on move; `scaled` is the gradient over the root of its second moment. compute may
  /// be null.
  template <int N, class G, class F, class M, class T>
  __device__ void move(pack<A, N> const& scaled, extent_t element, G* gradient, F* first_moment, M* master,
                       T* compute) const {
    auto m = load<N>(first_moment + element), p = load<N>(master + element);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      m.at[k] = m.at[k] * beta1 + scaled.at[k] * rest1;
      p.at[k] = p.at[k] * shrink - m.at[k] * rate;
    }
    save<N>(gradient + element, pack<accumulator_t<G>, N>{}, store::overwrite);
    if constexpr (std::is_same_v<F, A>) {
      save<N>(first_moment + element, m, store::overwrite);
    } else {
      pack<float, N> rounded;
#pragma unroll
      for (int k = 0; k < N; ++k) rounded.at[k] = static_cast<float>(m.at[k]);
      save<N>(first_moment + element, rounded, store::overwrite);
    }
    if constexpr (std::is_same_v<M, bf16>) {
      pack<bf16, N> rounded;
#pragma unroll
      for (int k = 0; k < N; ++k) rounded.at[k] = round(static_cast<float>(p.at[k]), element + k);
      *reinterpret_cast<pack<bf16, N>*>(master + element) = rounded;
    } else {
      save<N>(master + element, p, store::overwrite);
    }
    if (compute != nullptr)
      save<N>(compute + element, p, store::overwrite);
  }
};

/// Tile blockIdx.x of the columns and piece blockIdx.y of the rows of x: the sums of squares of each row's part, in
/// (tiles, rows), and of each column's, in (pieces, columns). A warp has a row at a time, a lane N columns.
template <int N, class G, class A = accumulator_t<G>>
static __global__ void __launch_bounds__(column_threads)
    adafactor_squares_kernel(column_tiles tiles, G const* x, extent_t rows, int columns, extent_t each,
                             A* row_sums, A* column_sums) {
  int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int const column = (static_cast<int>(blockIdx.x) * 32 + lane) * N;
  auto const first = extent_t{blockIdx.y} * each, last = first + each < rows ? first + each : rows;
  pack<A, N> sum{};
#pragma unroll 4
  for (auto r = first + warp; r < last; r += tiles.rows) {
    A of_row = 0;
    if (column < columns) {
      auto const v = load<N>(x + r * columns + column);
#pragma unroll
      for (int k = 0; k < N; ++k) {
        auto const square = v.at[k] * v.at[k];
        of_row += square;
        sum.at[k] += square;
      }
    }
    of_row = warp_sum(of_row);
    if (lane == 0)
      row_sums[extent_t{blockIdx.x} * rows + r] = of_row;
  }
  sum_block_rows(tiles, warp, sum);
  if (warp == 0 && column < columns)
    save<N>(column_sums + extent_t{blockIdx.y} * columns + column, sum, store::overwrite);
}

/// Sums of squares in parts (count, n), and the running means (n) that they go into.
template <class A>
struct mean_squares {
  A const* parts;
  int count;
  extent_t n;
  A scale;  // of a sum: the gradient's squared, over the number of its terms
  A* means;
  A* factors;  // 1 / root of the mean; null: not wanted
};

/// blockIdx.y chooses.
template <class A>
static __global__ void __launch_bounds__(column_threads)
    adafactor_means_kernel(adafactor_step<A> step, mean_squares<A> rows, mean_squares<A> columns) {
  auto const& of = blockIdx.y == 0 ? rows : columns;
  auto const stride = extent_t{gridDim.x} * column_threads;
  for (auto i = extent_t{blockIdx.x} * column_threads + threadIdx.x; i < of.n; i += stride) {
    A sum = 0;
#pragma unroll 4
    for (int part = 0; part < of.count; ++part) sum += of.parts[part * of.n + i];
    auto const mean = of.means[i] * step.beta2 + (sum * of.scale + step.epsilon) * step.rest2;
    of.means[i] = mean;
    if (of.factors != nullptr)
      of.factors[i] = 1 / square_root(mean);
  }
}

inline constexpr int factor_threads = 1024;

/// By one block: factors (rows) = scale root(mean of `means` / row_means). `means` (n) are those of rows or of columns:
/// both have the mean of all squares.
template <class A>
static __global__ void __launch_bounds__(factor_threads)
    adafactor_factors_kernel(double scale, A const* means, extent_t n, A const* row_means, extent_t rows,
                             A* factors) {
  double sum = 0;
  for (extent_t i = threadIdx.x; i < n; i += factor_threads) sum += static_cast<double>(means[i]);
  auto const mean = block_sum<factor_threads>(sum) / static_cast<double>(n);
  for (extent_t r = threadIdx.x; r < rows; r += factor_threads)
    factors[r] = static_cast<A>(scale * square_root(mean / static_cast<double>(row_means[r])));
}

template <int N, class A, class G, class F, class M, class T>
static __global__ void __launch_bounds__(column_threads)
    adafactor_factored_kernel(column_tiles tiles, adafactor_step<A> step, extent_t rows, int columns,
                              A const* row_factors, A const* column_factors, G* gradient, F* first_moment,
                              M* master, T* compute) {
  auto const place = column_place::of<N>(tiles, static_cast<int>(blockIdx.x), columns);
  if (!place.there)
    return;
  auto const of_column = load<N>(column_factors + place.column);
  auto const stride = extent_t{gridDim.y} * tiles.rows;
#pragma unroll 2
  for (auto r = extent_t{blockIdx.y} * tiles.rows + place.row; r < rows; r += stride) {
    auto const element = r * columns + place.column;
    auto const factor = row_factors[r];
    auto scaled = load<N>(gradient + element);
#pragma unroll
    for (int k = 0; k < N; ++k) scaled.at[k] *= factor * of_column.at[k];
    step.template move<N>(scaled, element, gradient, first_moment, master, compute);
  }
}

template <int N, class A, class G, class F, class M, class T>
static __global__ void __launch_bounds__(map_threads)
    adafactor_kernel(adafactor_step<A> step, extent_t n, G* gradient, A* second_moment, F* first_moment,
                     M* master, T* compute) {
  auto const move = [&]<int Count>(std::integral_constant<int, Count>, extent_t i) {
    auto g = load<Count>(gradient + i), v = load<Count>(second_moment + i);
#pragma unroll
    for (int k = 0; k < Count; ++k) {
      g.at[k] *= step.scale;
      v.at[k] = v.at[k] * step.beta2 + (g.at[k] * g.at[k] + step.epsilon) * step.rest2;
      g.at[k] /= square_root(v.at[k]);
    }
    save<Count>(second_moment + i, v, store::overwrite);
    step.template move<Count>(g, i, gradient, first_moment, master, compute);
  };
  auto const stride = extent_t{gridDim.x} * map_threads * N;
  for (auto i = (extent_t{blockIdx.x} * map_threads + threadIdx.x) * N; i < n; i += stride) {
    if (i + N <= n)
      move(std::integral_constant<int, N>{}, i);
    else
      for (auto j = i; j < n; ++j) move(std::integral_constant<int, 1>{}, j);
  }
}

}  // namespace detail

/// A matrix (rows, columns) whose second moment is estimated by its means over columns and over rows:
/// v = row_means x column_means / mean(row_means). Gradients, accumulators or elements, are zeroed behind the read;
/// master values are accumulators, or bf16 rounded at random; `compute`, their rounded copy, is optional. Of a share of a
/// matrix, sum_shares(sums of rows, sums of columns), each in parts, adds the other shares' squares to those of the axis
/// that is cut.
template <class T, class G, class M, class SumShares = nothing_to_sum>
void adafactor_update(context<T>& c, adafactor_coefficients w, view<G, 2> gradient,
                      view<accumulator_t<std::type_identity_t<T>>, 1> row_means,
                      view<accumulator_t<std::type_identity_t<T>>, 1> column_means,
                      view<first_moment_t<accumulator_t<std::type_identity_t<T>>>, 2> first_moment,
                      view<M, 2> master, view<std::type_identity_t<T>, 2> compute,
                      SumShares const& sum_shares = {}) {
  using A = accumulator_t<T>;
  using F = first_moment_t<A>;
  static_assert(std::is_same_v<G, A> || std::is_same_v<G, T>, "gradients are accumulators or elements");
  static_assert(std::is_same_v<M, A> || std::is_same_v<M, bf16>, "master values are accumulators or bf16");
  auto const rows = gradient.extent(0), columns = gradient.extent(1);
  if (gradient.size() == 0)
    return;
  detail::adafactor_step<A> const step(w);
  auto* const copy = compute.extent(0) == 0 ? nullptr : compute.data;
  constexpr int Read = detail::wide<G>, N = detail::neighbours<G, F, M, T>;
  bool const whole_reads = columns % Read == 0 && detail::packs_are_aligned<Read>(gradient.data);
  bool const whole = columns % N == 0 && detail::packs_are_aligned<N>(gradient.data) &&
                     detail::packs_are_aligned<N>(first_moment.data) &&
                     detail::packs_are_aligned<N>(master.data) && detail::packs_are_aligned<N>(copy);

  // What is summed in which order depends on the shape alone: the same bits on every card.
  auto const width = extent_t{32} * (whole_reads ? Read : 1), across = (columns + width - 1) / width;
  detail::column_tiles const squares{32, detail::column_threads / 32, static_cast<int>(across)};
  auto const pieces = detail::row_pieces::of(rows, 64, std::max<extent_t>(1, 1024 / across));
  detail::scratch_plan plan;
  auto const row_sums_at = plan.take<A>(across * rows), column_sums_at = plan.take<A>(pieces.count * columns),
             row_factors_at = plan.take<A>(rows), column_factors_at = plan.take<A>(columns);
  auto* const memory = plan.memory(c);
  auto const numbers = [&](extent_t at) { return reinterpret_cast<A*>(memory + at); };
  auto *const row_sums = numbers(row_sums_at), *const column_sums = numbers(column_sums_at);
  auto *const row_factors = numbers(row_factors_at), *const column_factors = numbers(column_factors_at);

  detail::launch(
      c, dim3(static_cast<unsigned>(across), static_cast<unsigned>(pieces.count)), detail::column_threads, 0,
      whole_reads ? detail::adafactor_squares_kernel<Read, G> : detail::adafactor_squares_kernel<1, G>,
      squares, gradient.data, rows, static_cast<int>(columns), pieces.each, row_sums, column_sums);
  sum_shares(view<A, 1>{row_sums, {{across * rows}}}, view<A, 1>{column_sums, {{pieces.count * columns}}});
  auto const all_rows = w.whole_rows > 0 ? w.whole_rows : rows,
             all_columns = w.whole_columns > 0 ? w.whole_columns : columns;
  auto const square = w.gradient_scale * w.gradient_scale;
  detail::mean_squares<A> const of_rows{
      row_sums,       static_cast<int>(across),
      rows,           static_cast<A>(square / static_cast<double>(all_columns)),
      row_means.data, nullptr};
  detail::mean_squares<A> const of_columns{
      column_sums,       pieces.count,  columns, static_cast<A>(square / static_cast<double>(all_rows)),
      column_means.data, column_factors};
  auto blocks = detail::blocks_for(c, std::max(rows, columns), detail::column_threads);
  blocks.y = 2;
  detail::launch(c, blocks, detail::column_threads, 0, detail::adafactor_means_kernel<A>, step, of_rows,
                 of_columns);
  detail::launch(c, dim3(1), detail::factor_threads, 0, detail::adafactor_factors_kernel<A>, w.gradient_scale,
                 all_rows == rows ? row_means.data : column_means.data, all_rows == rows ? rows : columns,
                 row_means.data, rows, row_factors);
  auto const tiles = detail::column_tiles::of(columns, whole ? N : 1);
  detail::launch(c, detail::blocks_of_rows(c, tiles, rows), detail::column_threads, 0,
                 whole ? detail::adafactor_factored_kernel<N, A, G, F, M, T>
                       : detail::adafactor_factored_kernel<1, A, G, F, M, T>,
                 tiles, step, rows, static_cast<int>(columns), row_factors, column_factors, gradient.data,
                 first_moment.data, master.data, copy);
}

/// The same for a vector, or for a matrix too narrow to be factored: every element has a second moment of its own.
template <class T, class G, class M>
void adafactor_update(context<T>& c, adafactor_coefficients w, view<G, 1> gradient,
                      view<accumulator_t<std::type_identity_t<T>>, 1> second_moment,
                      view<first_moment_t<accumulator_t<std::type_identity_t<T>>>, 1> first_moment,
                      view<M, 1> master, view<std::type_identity_t<T>, 1> compute) {
  using A = accumulator_t<T>;
  using F = first_moment_t<A>;
  static_assert(std::is_same_v<G, A> || std::is_same_v<G, T>, "gradients are accumulators or elements");
  static_assert(std::is_same_v<M, A> || std::is_same_v<M, bf16>, "master values are accumulators or bf16");
  auto* const copy = compute.extent(0) == 0 ? nullptr : compute.data;
  detail::adafactor_step<A> const step(w);
  auto const run = [&](int each, auto* kernel) {
    detail::launch(c, detail::blocks_for(c, gradient.size(), extent_t{each} * detail::map_threads),
                   detail::map_threads, 0, kernel, step, gradient.size(), gradient.data, second_moment.data,
                   first_moment.data, master.data, copy);
  };
  constexpr int N = detail::neighbours<G, F, M, T>;
  if (detail::packs_are_aligned<N>(gradient.data) && detail::packs_are_aligned<N>(second_moment.data) &&
      detail::packs_are_aligned<N>(first_moment.data) && detail::packs_are_aligned<N>(master.data) &&
      detail::packs_are_aligned<N>(copy))
    run(N, detail::adafactor_kernel<N, A, G, F, M, T>);
  else
    run(1, detail::adafactor_kernel<1, A, G, F, M, T>);
}

}  // namespace yoke::cuda
