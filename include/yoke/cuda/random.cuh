// Dropout of elements and of whole segments. What is kept is a function of seed, step, stream, sample and element
// alone, the same on every device.
#pragma once
#include <yoke/core/random.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cuda/lines.cuh>
#include <yoke/cuda/runs.cuh>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

struct four_words {
  std::uint32_t at[4];
};

/// A random_key and a stream as kernels take them.
struct draws {
  std::uint64_t key, first_sample;

  /// What random_key::draw gives.
  __device__ four_words draw(std::uint64_t sample, std::uint64_t quad) const {
    auto const s = first_sample + sample;
    auto a = static_cast<std::uint32_t>(quad), b = static_cast<std::uint32_t>(quad >> 32),
         c = static_cast<std::uint32_t>(s), d = static_cast<std::uint32_t>(s >> 32);
    auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      auto const p = std::uint64_t{0xD2511F53u} * a, q = std::uint64_t{0xCD9E8D57u} * c;
      a = static_cast<std::uint32_t>(q >> 32) ^ b ^ k0;
      b = static_cast<std::uint32_t>(q);
      c = static_cast<std::uint32_t>(p >> 32) ^ d ^ k1;
      d = static_cast<std::uint32_t>(p);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    return {{a, b, c, d}};
  }
};

inline draws on_device(random_key key, std::uint64_t stream) {
  return {mix(mix(key.seed, stream), key.step), key.first_sample};
}

/// What is dropped, and what the rest is multiplied with.
template <class A>
struct drop_rate {
  std::uint32_t least;  // of the words whose elements are kept
  A scale;

  explicit drop_rate(float rate)
      : least{static_cast<std::uint32_t>(std::ceil(rate * 0x1p24f)) << 8},
        scale{1 / (1 - static_cast<A>(rate))} {}
};

inline constexpr int drop_threads = 256;

/// Packs of N elements (a multiple of 4) of a segment, loaded and saved whole when `Whole`.
template <int N, bool Whole, class T>
static __global__ void __launch_bounds__(drop_threads)
    dropout_kernel(draws random, drop_rate<accumulator_t<T>> rate, runs segments, int width, T const* from,
                   T* to, store how) {
  using A = accumulator_t<T>;
  for (int s = static_cast<int>(blockIdx.y); s < segments.count; s += static_cast<int>(gridDim.y)) {
    auto const begin = segments.begin(s) * width, n = extent_t{segments.length(s)} * width;
    auto const stride = extent_t{gridDim.x} * drop_threads * N;
    for (auto i = (extent_t{blockIdx.x} * drop_threads + threadIdx.x) * N; i < n; i += stride) {
      std::uint32_t words[N];
#pragma unroll
      for (int q = 0; q < N / 4; ++q) {
        auto const four = random.draw(static_cast<std::uint64_t>(s), static_cast<std::uint64_t>(i / 4 + q));
#pragma unroll
        for (int k = 0; k < 4; ++k) words[4 * q + k] = four.at[k];
      }
      if constexpr (Whole) {
        auto v = load<N>(from + begin + i);
#pragma unroll
        for (int k = 0; k < N; ++k) v.at[k] = words[k] >= rate.least ? v.at[k] * rate.scale : A(0);
        save<N>(to + begin + i, v, how);
      } else {
#pragma unroll
        for (int k = 0; k < N; ++k)
          if (i + k < n)
            put(to + begin + i + k, words[k] >= rate.least ? widen(from[begin + i + k]) * rate.scale : A(0),
                how);
      }
    }
  }
}

/// N elements at a time, each segment begins and ends with whole ones.
template <int N, class T>
static __global__ void __launch_bounds__(drop_threads)
    drop_path_kernel(draws random, drop_rate<accumulator_t<T>> rate, runs segments, int width, T const* from,
                     T* to, store how) {
  using A = accumulator_t<T>;
  for (int s = static_cast<int>(blockIdx.y); s < segments.count; s += static_cast<int>(gridDim.y)) {
    auto const kept = random.draw(static_cast<std::uint64_t>(s), 0).at[0] >= rate.least;
    if (!kept && how == store::accumulate)
      continue;
    auto const begin = segments.begin(s) * width, n = extent_t{segments.length(s)} * width;
    auto const stride = extent_t{gridDim.x} * drop_threads * N;
    for (auto i = (extent_t{blockIdx.x} * drop_threads + threadIdx.x) * N; i < n; i += stride) {
      pack<A, N> v{};
      if (kept) {
        v = load<N>(from + begin + i);
#pragma unroll
        for (int k = 0; k < N; ++k) v.at[k] *= rate.scale;
      }
      save<N>(to + begin + i, v, how);
    }
  }
}

/// Launches one of the two above, made for `each` elements a thread: blocks (x) share a segment, and lines of blocks (y)
/// the segments.
template <class T>
void drop(context<T>& c, int each,
          void (*kernel)(draws, drop_rate<accumulator_t<T>>, runs, int, T const*, T*, store), random_key key,
          std::uint64_t stream, float rate, segments const& of, view<T const, 2> from, view<T, 2> to,
          store how) {
  if (of.count == 0)
    return;
  auto const width = static_cast<int>(from.extent(1));
  auto const share = extent_t{each} * drop_threads;
  auto const longest = (of.longest * width + share - 1) / share;
  auto const wanted = (extent_t{c.processors()} * 16 + of.count - 1) / of.count;
  dim3 const blocks(static_cast<unsigned>(std::min(longest, wanted)),
                    static_cast<unsigned>(std::min(of.count, extent_t{65535})));
  launch(c, blocks, drop_threads, 0, kernel, on_device(key, stream), drop_rate<accumulator_t<T>>{rate},
         on_device(of), width, from.data, to.data, how);
}

}  // namespace detail

/// to = or += from / (1 - rate) where an element is kept, else 0: element (row in the segment, column) of a sample
/// draws word n % 4 of quad n / 4, n = row * width + column, and is kept when that is at least `rate`.
template <class T>
void dropout(context<T>& c, random_key key, std::uint64_t stream, float rate, segments const& runs,
             view<std::type_identity_t<T> const, 2> from, view<std::type_identity_t<T>, 2> to, store how) {
  constexpr int N = std::max(4, detail::wide<T>);
  auto const run = [&](int each, auto* kernel) {
    detail::drop<T>(c, each, kernel, key, stream, rate, runs, from, to, how);
  };
  if (from.extent(1) % N == 0 && detail::packs_are_aligned<N>(from.data, to.data))
    run(N, detail::dropout_kernel<N, true, T>);
  else if (from.extent(1) % 4 == 0 && detail::packs_are_aligned<4>(from.data, to.data))
    run(4, detail::dropout_kernel<4, true, T>);
  else
    run(4, detail::dropout_kernel<4, false, T>);
}

/// to = or += from / (1 - rate) for the segments that are kept, else 0: one draw each.
template <class T>
void drop_path(context<T>& c, random_key key, std::uint64_t stream, float rate, segments const& runs,
               view<std::type_identity_t<T> const, 2> from, view<std::type_identity_t<T>, 2> to, store how) {
  constexpr int N = detail::wide<T>;
  auto const run = [&](int each, auto* kernel) {
    detail::drop<T>(c, each, kernel, key, stream, rate, runs, from, to, how);
  };
  if (from.extent(1) % N == 0 && detail::packs_are_aligned<N>(from.data, to.data))
    run(N, detail::drop_path_kernel<N, T>);
  else
    run(1, detail::drop_path_kernel<1, T>);
}

}  // namespace yoke::cuda
