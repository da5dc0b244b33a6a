// Sums and maxima over the threads of a warp or a block. Every thread gets the result, and the same bits every time.
#pragma once
#include <cuda_runtime.h>

namespace yoke::cuda::detail {

inline constexpr unsigned whole_warp = 0xffffffffu;

__device__ inline float larger(float a, float b) {
  return fmaxf(a, b);
}
__device__ inline double larger(double a, double b) {
  return fmax(a, b);
}

/// The sum over the warp. Every lane takes part. V is float or double, here and below.
template <class V>
__device__ inline V warp_sum(V v) {
  for (int distance = 16; distance > 0; distance /= 2) v += __shfl_xor_sync(whole_warp, v, distance);
  return v;
}

/// The maximum over the warp; a NaN is passed over where a lane has a number.
template <class V>
__device__ inline V warp_max(V v) {
  for (int distance = 16; distance > 0; distance /= 2)
    v = larger(v, __shfl_xor_sync(whole_warp, v, distance));
  return v;
}

/// Each of `values` becomes its sum over a block of `Threads` threads, all of which take part.
template <int Threads, class V, int Count>
__device__ inline void block_sums(V (&values)[Count]) {
  constexpr int warps = Threads / 32;
  static_assert(Threads % 32 == 0 && warps <= 32);
  for (int i = 0; i < Count; ++i) values[i] = warp_sum(values[i]);
  if constexpr (warps > 1) {
    __shared__ V parts[Count * warps];
    int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    __syncthreads();  // the results of an earlier call have been read
    if (lane == 0)
      for (int i = 0; i < Count; ++i) parts[i * warps + warp] = values[i];
    __syncthreads();
    for (int i = 0; i < Count; ++i) {
      V sum = parts[i * warps];
      for (int w = 1; w < warps; ++w) sum += parts[i * warps + w];
      values[i] = sum;
    }
  }
}

/// The sum over a block of `Threads` threads.
template <int Threads, class V>
__device__ inline V block_sum(V v) {
  V values[1] = {v};
  block_sums<Threads>(values);
  return values[0];
}

/// The maximum over a block of `Threads` threads, all of which take part.
template <int Threads, class V>
__device__ inline V block_max(V v) {
  constexpr int warps = Threads / 32;
  static_assert(Threads % 32 == 0 && warps <= 32);
  v = warp_max(v);
  if constexpr (warps > 1) {
    __shared__ V parts[warps];
    int const lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
    __syncthreads();  // the result of an earlier call has been read
    if (lane == 0)
      parts[warp] = v;
    __syncthreads();
    v = parts[0];
    for (int w = 1; w < warps; ++w) v = larger(v, parts[w]);
  }
  return v;
}

}  // namespace yoke::cuda::detail
