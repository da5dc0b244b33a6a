// Numbers on the device: elements to accumulators and back, several at a time.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/tensor.hpp>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace yoke::cuda::detail {

/// An element in its accumulator's type. yoke::bf16's own conversions are the host's.
__device__ inline float widen(bf16 v) {
  return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
}
__device__ inline float widen(float v) {
  return v;
}
__device__ inline double widen(double v) {
  return v;
}

/// The nearest T (ties to even).
template <class T, class A>
__device__ inline T narrow(A v) {
  if constexpr (std::is_same_v<T, bf16>) {
    bf16 r;
    r.bits = __bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(v)));
    return r;
  } else {
    return static_cast<T>(v);
  }
}

/// N neighbours that are read or written at once; as aligned as they are long, up to 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) pack {
  T at[N];
};
/// Elements of T in 16 bytes.
template <class T>
inline constexpr int wide = static_cast<int>(16 / sizeof(T));

/// What a store does with a value and what was there.
template <class T, class A>
__device__ inline void put(T* to, A value, store how) {
  *to = narrow<T>(how == store::overwrite ? value : static_cast<A>(widen(*to)) + value);
}

}  // namespace yoke::cuda::detail
