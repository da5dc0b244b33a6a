// Running values of what was observed, such as BatchNorm's means and variances.
#pragma once
#include <yoke/cuda/device.cuh>

#include <type_traits>

namespace yoke::cuda {

namespace detail {

inline constexpr int statistic_threads = 256;

template <class A>
static __global__ void __launch_bounds__(statistic_threads)
    absorb_statistic_kernel(A momentum, extent_t n, A* observations, A const* number, A* values) {
  auto const i = extent_t{blockIdx.x} * statistic_threads + threadIdx.x;
  if (i >= n)
    return;
  if (*number > 0)
    values[i] += momentum * (observations[i] / *number - values[i]);
  observations[i] = 0;
}

}  // namespace detail

/// values (n) += momentum (observations (n) / their number - values), their number being the element behind them; both
/// are zeroed behind the read. Without observations nothing changes.
template <class T>
void absorb_statistic(context<T>& c, float momentum,
                      view<accumulator_t<std::type_identity_t<T>>, 1> observations,
                      view<accumulator_t<std::type_identity_t<T>>, 1> values) {
  using A = accumulator_t<T>;
  auto const n = values.size();
  auto const blocks = (n + detail::statistic_threads - 1) / detail::statistic_threads;
  auto* const number = observations.data + n;
  detail::launch(c, dim3(static_cast<unsigned>(blocks)), detail::statistic_threads, 0,
                 detail::absorb_statistic_kernel<A>, static_cast<A>(momentum), n, observations.data, number,
                 values.data);
  check(cudaMemsetAsync(number, 0, sizeof(A), c.stream()), "cudaMemsetAsync");
}

}  // namespace yoke::cuda
