// Element by element: activations, sums, conversions, pixels.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/activation.cuh>
#include <yoke/cuda/lines.cuh>

#include <array>
#include <cstdint>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

template <class G>
struct activation_value {
  template <class A>
  __device__ A operator()(A x) const {
    return G::value(x);
  }
};
template <class G>
struct activation_gradient {
  template <class A>
  __device__ A operator()(A x, A dy) const {
    return G::slope(x) * dy;
  }
};

struct sum_of_two {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};
struct itself {
  template <class A>
  __device__ A operator()(A x) const {
    return x;
  }
};
template <class A>
struct always {
  A value;
  __device__ A operator()() const { return value; }
};

/// By channel: a byte times scale plus shift.
template <class A>
struct channels {
  A scale[3], shift[3];
};

inline constexpr int pixel_threads =
    192;  // whole pixels, whatever N: a thread's elements start at one channel

template <int N, class T>
static __global__ void __launch_bounds__(pixel_threads)
    normalize_pixels_kernel(channels<accumulator_t<T>> c, std::uint8_t const* bytes, extent_t n, T* rows) {
  using A = accumulator_t<T>;
  int const channel = static_cast<int>(threadIdx.x) * N % 3;
  A scale[3], shift[3];
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    int const from = channel + k < 3 ? channel + k : channel + k - 3;
    scale[k] = from == 0 ? c.scale[0] : from == 1 ? c.scale[1] : c.scale[2];
    shift[k] = from == 0 ? c.shift[0] : from == 1 ? c.shift[1] : c.shift[2];
  }
  auto const stride = extent_t{gridDim.x} * pixel_threads * N;
  for (auto i = (extent_t{blockIdx.x} * pixel_threads + threadIdx.x) * N; i < n; i += stride) {
    if (i + N <= n) {
      auto const from = *reinterpret_cast<pack<std::uint8_t, N> const*>(bytes + i);
      pack<A, N> v;
#pragma unroll
      for (int k = 0; k < N; ++k) v.at[k] = static_cast<A>(from.at[k]) * scale[k % 3] + shift[k % 3];
      save<N>(rows + i, v, store::overwrite);
    } else {
#pragma unroll
      for (int k = 0; k < N; ++k)
        if (i + k < n)
          rows[i + k] = narrow<T>(static_cast<A>(bytes[i + k]) * scale[k % 3] + shift[k % 3]);
    }
  }
}

}  // namespace detail

/// y = f(x)
template <class T>
void activation_forward(context<T>& c, activation kind, view<std::type_identity_t<T> const, 1> x,
                        view<std::type_identity_t<T>, 1> y) {
  detail::with_activation(kind, [&]<class G>(G) {
    detail::map(c, detail::activation_value<G>{}, x.size(), store::overwrite, y.data, x.data);
  });
}

/// dx = or += f'(x) dy
template <class T>
void activation_backward(context<T>& c, activation kind, view<std::type_identity_t<T> const, 1> x,
                         view<std::type_identity_t<T> const, 1> dy, view<std::type_identity_t<T>, 1> dx,
                         store how) {
  detail::with_activation(kind, [&]<class G>(G) {
    detail::map(c, detail::activation_gradient<G>{}, x.size(), how, dx.data, x.data, dy.data);
  });
}

/// y = a + b
template <class T>
void add(context<T>& c, view<std::type_identity_t<T> const, 1> a, view<std::type_identity_t<T> const, 1> b,
         view<std::type_identity_t<T>, 1> y) {
  detail::map(c, detail::sum_of_two{}, y.size(), store::overwrite, y.data, a.data, b.data);
}

/// to = or += from, between any two of the element and its accumulator.
template <class T, class X, class Y>
void convert(context<T>& c, view<X const, 1> from, view<Y, 1> to, store how) {
  detail::map(c, detail::itself{}, to.size(), how, to.data, from.data);
}

/// Every element is `value`.
template <class T, class Y>
void fill(context<T>& c, view<Y, 1> to, double value) {
  using A = accumulator_t<Y>;
  detail::map(c, detail::always<A>{static_cast<A>(value)}, to.size(), store::overwrite, to.data);
}

/// rows (pixels, 3) = (bytes / 255 - mean) / deviation, by channel; the bytes lie in device memory.
template <class T>
void normalize_pixels(context<T>& c, std::array<float, 3> mean, std::array<float, 3> deviation,
                      view<std::uint8_t const, 2> bytes, view<std::type_identity_t<T>, 2> rows) {
  using A = accumulator_t<T>;
  constexpr int N = detail::wide<T>;
  detail::channels<A> channels;
  for (std::size_t i = 0; i < 3; ++i) {
    channels.scale[i] = 1 / (255 * static_cast<A>(deviation[i]));
    channels.shift[i] = -static_cast<A>(mean[i]) / static_cast<A>(deviation[i]);
  }
  auto const run = [&](int each, auto* kernel) {
    detail::launch(c, detail::blocks_for(c, bytes.size(), extent_t{each} * detail::pixel_threads),
                   detail::pixel_threads, 0, kernel, channels, bytes.data, bytes.size(), rows.data);
  };
  if (detail::packs_are_aligned<N>(bytes.data, rows.data))
    run(N, detail::normalize_pixels_kernel<N, T>);
  else
    run(1, detail::normalize_pixels_kernel<1, T>);
}

}  // namespace yoke::cuda
