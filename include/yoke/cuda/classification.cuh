// The softmax cross-entropy of labelled rows, its gradient and the number of hits in one kernel.
#pragma once
#include <yoke/cuda/rows.cuh>

#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

__device__ inline float exponential(float v) {
  return expf(v);
}
__device__ inline double exponential(double v) {
  return exp(v);
}

inline constexpr int class_threads = 256;

template <class T, class A = accumulator_t<T>>
struct labelled_rows {
  T const* logits;
  std::int32_t const* labels;
  int classes;
  double smoothing;
  A share, peak, scale;  // share: smoothing / classes, peak: 1 - smoothing
  T* dlogits;
  double* losses;  // (rows, 2), and hits
  int* fault_flag;
};

/// A block has a row. A label outside of the classes counts as 0 and is a fault.
template <int N, class T>
static __global__ void __launch_bounds__(class_threads) softmax_cross_entropy_kernel(labelled_rows<T> p) {
  using A = accumulator_t<T>;
  constexpr int Team = class_threads, slots = forward_elements / N;
  extent_t const r = blockIdx.x;
  auto const* const row = p.logits + r * p.classes;
  auto label = p.labels[r];
  if (label < 0 || label >= p.classes) {
    if (threadIdx.x == 0)
      atomicExch(p.fault_flag, static_cast<int>(fault::label));
    label = 0;
  }
  auto const at_label = widen(row[label]);
  row_share<T, N, Team, slots> x;
  x.load(row, p.classes);
  auto most = at_label;
  A earlier = 0;  // numbers before the label that are as large
  for_packs<N, Team, slots>(p.classes, [&](int slot, int i) {
    auto const v = x(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      most = larger(v.at[k], most);
      earlier += i + k < label && v.at[k] == at_label ? A(1) : A(0);
    }
  });
  most = block_max<Team>(most);
  A sums[3] = {0, 0, earlier};  // of exponentials, and of how far numbers are below the largest
  for_packs<N, Team, slots>(p.classes, [&](int slot, int i) {
    auto const v = x(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      sums[0] += exponential(v.at[k] - most);
      sums[1] += most - v.at[k];
    }
  });
  block_sums<Team>(sums);
  if (threadIdx.x == 0) {
    p.losses[2 * r] = log(static_cast<double>(sums[0])) +
                      (1 - p.smoothing) * (static_cast<double>(most) - static_cast<double>(at_label)) +
                      static_cast<double>(p.share) * static_cast<double>(sums[1]);
    p.losses[2 * r + 1] = at_label == most && sums[2] == 0 ? 1 : 0;
  }
  auto const part = 1 / sums[0];
  for_packs<N, Team, slots>(p.classes, [&](int slot, int i) {
    auto v = x(slot, i);
#pragma unroll
    for (int k = 0; k < N; ++k)
      v.at[k] = p.scale * (exponential(v.at[k] - most) * part - p.share - (i + k == label ? p.peak : A(0)));
    save<N>(p.dlogits + r * p.classes + i, v, store::overwrite);
  });
}

/// By one block: totals (2) = the sums of losses and of hits.
template <class A>
static __global__ void __launch_bounds__(class_threads)
    classification_totals_kernel(double const* losses, extent_t rows, A* totals) {
  double sums[2] = {0, 0};
  for (extent_t r = threadIdx.x; r < rows; r += class_threads) {
    sums[0] += losses[2 * r];
    sums[1] += losses[2 * r + 1];
  }
  block_sums<class_threads>(sums);
  if (threadIdx.x < 2)
    totals[threadIdx.x] = static_cast<A>(sums[threadIdx.x]);
}

}  // namespace detail

/// Of logits (rows, classes) and labels (rows): the loss of a row is -sum of q log p, p the softmax, q = 1 - smoothing
/// at the label plus smoothing / classes everywhere (Szegedy et al., arXiv 1512.00567). dlogits = scale (p - q); totals
/// (2) = the sum over rows of the loss, and the number of rows whose first largest logit is the label's. Stable for
/// logits of any size. A label outside of the classes counts as 0, and the host's next read throws precondition_error.
template <class T>
void softmax_cross_entropy(context<T>& c, double smoothing, double scale,
                           view<std::type_identity_t<T> const, 2> logits, view<std::int32_t const, 1> labels,
                           view<std::type_identity_t<T>, 2> dlogits,
                           view<accumulator_t<std::type_identity_t<T>>, 1> totals) {
  using A = accumulator_t<T>;
  constexpr int N = detail::wide<T>;
  auto const rows = logits.extent(0), classes = logits.extent(1);
  expects(rows == 0 || classes > 0, "softmax_cross_entropy: labels are within the classes");
  auto* const losses = c.template scratch<double>(2 * rows);
  detail::labelled_rows<T> const arguments{.logits = logits.data,
                                           .labels = labels.data,
                                           .classes = static_cast<int>(classes),
                                           .smoothing = smoothing,
                                           .share = static_cast<A>(smoothing / static_cast<double>(classes)),
                                           .peak = static_cast<A>(1 - smoothing),
                                           .scale = static_cast<A>(scale),
                                           .dlogits = dlogits.data,
                                           .losses = losses,
                                           .fault_flag = c.fault_flag()};
  bool const whole = classes % N == 0 && detail::packs_are_aligned<N>(logits.data, dlogits.data);
  detail::launch(
      c, dim3(static_cast<unsigned>(rows)), detail::class_threads, 0,
      whole ? detail::softmax_cross_entropy_kernel<N, T> : detail::softmax_cross_entropy_kernel<1, T>,
      arguments);
  detail::launch(c, dim3(1), detail::class_threads, 0, detail::classification_totals_kernel<A>, losses, rows,
                 totals.data);
}

}  // namespace yoke::cuda
