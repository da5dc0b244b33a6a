// The optimiser's passes over the flat blocks of parameters, and sums that the host reads.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/lines.cuh>

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

template <class A>
static __global__ void add_scalar_kernel(A amount, A* to) {
  if (threadIdx.x == 0)
    *to += amount;
}

inline constexpr int norm_threads = 256;

/// sums[block] = the squares that the block has of n, dealt out N at a time and read so when `Whole`.
template <int N, bool Whole, class V>
static __global__ void __launch_bounds__(norm_threads)
    squared_norm_kernel(V const* x, extent_t n, double* sums) {
  double sum = 0;
  auto const stride = extent_t{gridDim.x} * norm_threads * N;
  for (auto i = (extent_t{blockIdx.x} * norm_threads + threadIdx.x) * N; i < n; i += stride) {
    if (Whole && i + N <= n) {
      auto const v = load<N>(x + i);
#pragma unroll
      for (int k = 0; k < N; ++k) sum += static_cast<double>(v.at[k]) * static_cast<double>(v.at[k]);
    } else {
      for (int k = 0; k < N && i + k < n; ++k) {
        auto const v = static_cast<double>(widen(x[i + k]));
        sum += v * v;
      }
    }
  }
  sum = block_sum<norm_threads>(sum);
  if (threadIdx.x == 0)
    sums[blockIdx.x] = sum;
}

/// By one block: *total = the sum of `count` numbers.
template <class V>
static __global__ void __launch_bounds__(norm_threads) total_kernel(V const* numbers, int count, V* total) {
  V sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += norm_threads) sum += numbers[i];
  sum = block_sum<norm_threads>(sum);
  if (threadIdx.x == 0)
    *total = sum;
}

/// adam_w_coefficients as the update uses them.
template <class A>
struct adam_w_factors {
  A scale, shrink, beta1, rest1, beta2, rest2, size, root, epsilon;

  explicit adam_w_factors(adam_w_coefficients const& w)
      : scale{static_cast<A>(w.gradient_scale)},
        shrink{static_cast<A>(1 - w.rate * w.decay)},
        beta1{static_cast<A>(w.beta1)},
        rest1{static_cast<A>(1 - w.beta1)},
        beta2{static_cast<A>(w.beta2)},
        rest2{static_cast<A>(1 - w.beta2)},
        size{static_cast<A>(w.rate / w.correction1)},
        root{static_cast<A>(1 / std::sqrt(w.correction2))},
        epsilon{static_cast<A>(w.epsilon)} {}
};

template <int N, class A, class T>
__device__ inline void adam_w_pack(adam_w_factors<A> const& w, A* gradient, A* first_moment, A* second_moment,
                                   A* master, T* compute) {
  auto g = load<N>(gradient), m = load<N>(first_moment), v = load<N>(second_moment), p = load<N>(master);
#pragma unroll
  for (int k = 0; k < N; ++k) {
    auto const x = g.at[k] * w.scale;
    m.at[k] = m.at[k] * w.beta1 + x * w.rest1;
    v.at[k] = v.at[k] * w.beta2 + x * x * w.rest2;
    p.at[k] = p.at[k] * w.shrink - w.size * (m.at[k] / (square_root(v.at[k]) * w.root + w.epsilon));
  }
  save<N>(gradient, pack<A, N>{}, store::overwrite);
  save<N>(first_moment, m, store::overwrite);
  save<N>(second_moment, v, store::overwrite);
  save<N>(master, p, store::overwrite);
  if (compute != nullptr)
    save<N>(compute, p, store::overwrite);
}

template <int N, class A, class T>
static __global__ void __launch_bounds__(map_threads)
    adam_w_kernel(adam_w_factors<A> w, extent_t n, A* gradient, A* first_moment, A* second_moment, A* master,
                  T* compute) {
  auto const stride = extent_t{gridDim.x} * map_threads * N;
  auto const at = [&](extent_t i) { return compute == nullptr ? nullptr : compute + i; };
  for (auto i = (extent_t{blockIdx.x} * map_threads + threadIdx.x) * N; i < n; i += stride) {
    if (i + N <= n)
      adam_w_pack<N>(w, gradient + i, first_moment + i, second_moment + i, master + i, at(i));
    else
      for (auto j = i; j < n; ++j)
        adam_w_pack<1>(w, gradient + j, first_moment + j, second_moment + j, master + j, at(j));
  }
}

}  // namespace detail

/// Adds `amount` to a parameter or a result of one element.
template <yoke::element T>
void add_scalar(context<T>& c, double amount, view<accumulator_t<T>, 1> v) {
  using A = accumulator_t<T>;
  detail::launch(c, dim3(1), 32, 0, detail::add_scalar_kernel<A>, static_cast<A>(amount), v.data);
}

/// The sum of squares of elements or accumulators in double precision, the same on every card; not finite when an
/// element is not.
template <class T, class V>
double squared_norm(context<T>& c, view<V, 1> x) {
  using number = std::remove_const_t<V>;
  static_assert(std::is_same_v<number, T> || std::is_same_v<number, accumulator_t<T>>,
                "the squares are of elements or of accumulators");
  if (x.size() == 0)
    return 0;
  constexpr int N = detail::wide<number>;
  constexpr extent_t least = detail::norm_threads * N, most = 1024;
  auto const blocks = std::min((x.size() + least - 1) / least, most);
  auto* const sums = c.template scratch<double>(blocks + 1);
  auto const run = [&](auto* kernel) {
    detail::launch(c, dim3(static_cast<unsigned>(blocks)), detail::norm_threads, 0, kernel, x.data, x.size(),
                   sums);
  };
  if (detail::packs_are_aligned<N>(x.data))
    run(detail::squared_norm_kernel<N, true, number>);
  else
    run(detail::squared_norm_kernel<N, false, number>);
  detail::launch(c, dim3(1), detail::norm_threads, 0, detail::total_kernel<double>, sums,
                 static_cast<int>(blocks), sums + blocks);
  double total = 0;
  c.read(sums + blocks, 1, &total);
  return total;
}

/// One step of AdamW as PyTorch takes it, and the gradient zeroed behind the read; `compute`, the rounded copy of the
/// parameters, is optional.
template <class T>
void adam_w_update(context<T>& c, adam_w_coefficients w,
                   view<accumulator_t<std::type_identity_t<T>>, 1> gradient,
                   view<accumulator_t<std::type_identity_t<T>>, 1> first_moment,
                   view<accumulator_t<std::type_identity_t<T>>, 1> second_moment,
                   view<accumulator_t<std::type_identity_t<T>>, 1> master,
                   view<std::type_identity_t<T>, 1> compute) {
  using A = accumulator_t<T>;
  constexpr int N = detail::wide<A>;
  auto* const copy = compute.extent(0) == 0 ? nullptr : compute.data;
  auto const run = [&](int each, auto* kernel) {
    detail::launch(c, detail::blocks_for(c, gradient.size(), extent_t{each} * detail::map_threads),
                   detail::map_threads, 0, kernel, detail::adam_w_factors<A>{w}, gradient.size(),
                   gradient.data, first_moment.data, second_moment.data, master.data, copy);
  };
  if (detail::packs_are_aligned<N>(gradient.data, first_moment.data, second_moment.data, master.data, copy))
    run(N, detail::adam_w_kernel<N, A, T>);
  else
    run(1, detail::adam_w_kernel<1, A, T>);
}

}  // namespace yoke::cuda
