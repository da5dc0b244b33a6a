// Lines of elements: neighbours read and written together in accumulators, and kernels that go through lines element by
// element or hold rows in registers.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/numeric.cuh>
#include <yoke/cuda/reduce.cuh>

#include <algorithm>
#include <cstdint>

namespace yoke::cuda::detail {

/// How many neighbours make 16 bytes of the narrowest of these types.
template <class... T>
inline constexpr int neighbours = std::max({wide<T>...});

/// Whether packs of N elements from each of these addresses on are aligned.
template <int N, class... T>
bool packs_are_aligned(T const*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % alignof(pack<T, N>) == 0) && ...);
}

/// N neighbours as accumulators.
template <int N, class T>
__device__ inline pack<accumulator_t<T>, N> load(T const* from) {
  auto const stored = *reinterpret_cast<pack<T, N> const*>(from);
  pack<accumulator_t<T>, N> v;
#pragma unroll
  for (int k = 0; k < N; ++k) v.at[k] = widen(stored.at[k]);
  return v;
}

/// N neighbours = or += v.
template <int N, class T>
__device__ inline void save(T* to, pack<accumulator_t<T>, N> v, store how) {
  auto* const all = reinterpret_cast<pack<T, N>*>(to);
  if (how == store::accumulate) {
    auto const before = load<N>(to);
#pragma unroll
    for (int k = 0; k < N; ++k) v.at[k] += before.at[k];
  }
  pack<T, N> stored;
#pragma unroll
  for (int k = 0; k < N; ++k) stored.at[k] = narrow<T>(v.at[k]);
  *all = stored;
}

__device__ inline float square_root(float v) {
  return sqrtf(v);
}
__device__ inline double square_root(double v) {
  return sqrt(v);
}

inline constexpr int map_threads = 256;

template <int N, class T, class F, class... A>
__device__ inline void map_pack(F const& f, T* to, store how, pack<A, N> const&... from) {
  pack<accumulator_t<T>, N> v;
#pragma unroll
  for (int k = 0; k < N; ++k) v.at[k] = f(from.at[k]...);
  save<N>(to, v, how);
}

template <int N, class F, class T, class... From>
static __global__ void __launch_bounds__(map_threads)
    map_kernel(F f, extent_t n, store how, T* to, From const*... from) {
  auto const stride = extent_t{gridDim.x} * map_threads * N;
  for (auto i = (extent_t{blockIdx.x} * map_threads + threadIdx.x) * N; i < n; i += stride) {
    if (i + N <= n)
      map_pack<N>(f, to + i, how, load<N>(from + i)...);
    else
      for (auto j = i; j < n; ++j) map_pack<1>(f, to + j, how, load<1>(from + j)...);
  }
}

/// to = or += f(from...) for n elements; F is a struct whose operator() takes and gives accumulators.
template <class F, class T, class... From>
void map(device& d, F f, extent_t n, store how, T* to, From const*... from) {
  constexpr int N = neighbours<T, From...>;
  auto const run = [&](int each, auto* kernel) {
    launch(d, blocks_for(d, n, extent_t{each} * map_threads), map_threads, 0, kernel, f, n, how, to, from...);
  };
  if (packs_are_aligned<N>(to, from...))
    run(N, map_kernel<N, F, T, From...>);
  else
    run(1, map_kernel<1, F, T, From...>);
}

}  // namespace yoke::cuda::detail
