// Attention without tensor cores: for float and double, and for heads that the tensor cores' tiles do not fit. A warp
// goes through one query's keys, or one key's queries, its lanes side by side along the head's width.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/numeric.cuh>
#include <yoke/cuda/reduce.cuh>
#include <yoke/cuda/runs.cuh>

namespace yoke::cuda::detail {

inline constexpr int plain_warps = 4;  // of a block

/// The widest head that a warp holds in registers.
inline constexpr int plain_width = 256;

/// What every kernel of attention reads. Pointers to rows are of the first element of head 0.
template <class T>
struct attention_inputs {
  runs segments;
  T const* qkv = nullptr;   // (rows, 3 width): queries, keys, values
  T const* bias = nullptr;  // (heads, side, side), optional
  extent_t width = 0;       // of all heads
  int heads = 0, head_width = 0, side = 0;
  bool causal = false;
  accumulator_t<T> scale = 1;         // 1 / sqrt(head width)
  accumulator_t<T>* lse = nullptr;    // (heads, rows)
  T const* dout = nullptr;            // (rows, width); of the backward pass, like
  accumulator_t<T>* delta = nullptr;  // (heads, rows): sums of dout * out along each row
};

template <class A>
__device__ inline A exp_of_logit(A v) {
  if constexpr (sizeof(A) == sizeof(double))
    return exp(v);
  else
    return expf(v);
}
template <class A>
__device__ inline A log_of_sum(A v) {
  if constexpr (sizeof(A) == sizeof(double))
    return log(v);
  else
    return logf(v);
}

/// One row of a head, `Parts` elements a lane: element 32 p + lane is at[p]. Zero beyond the head's width.
template <class A, int Parts>
struct lane_row {
  A at[Parts];

  template <class T>
  __device__ void load(T const* row, int width) {
    int const lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int p = 0; p < Parts; ++p) at[p] = p * 32 + lane < width ? A(widen(row[p * 32 + lane])) : A(0);
  }
  template <class T>
  __device__ void save(T* row, int width, A by, store how) const {
    int const lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int p = 0; p < Parts; ++p)
      if (p * 32 + lane < width)
        put(row + p * 32 + lane, at[p] * by, how);
  }
  __device__ void clear() {
#pragma unroll
    for (int p = 0; p < Parts; ++p) at[p] = 0;
  }
  __device__ void add(A by, lane_row const& v) {
#pragma unroll
    for (int p = 0; p < Parts; ++p) at[p] += by * v.at[p];
  }
  __device__ void multiply(A by) {
#pragma unroll
    for (int p = 0; p < Parts; ++p) at[p] *= by;
  }
  /// Every lane takes part and gets the sum.
  __device__ A dot(lane_row const& v) const {
    A sum = 0;
#pragma unroll
    for (int p = 0; p < Parts; ++p) sum += at[p] * v.at[p];
    return warp_sum(sum);
  }
};

/// The row that a warp works on: number `place` of segment `segment`, head `head`. Blocks are (segments * blocks of
/// `plain_warps` rows of the longest, heads).
struct plain_row {
  int segment, place, head;

  __device__ plain_row(runs const& r) {
    int const blocks = (r.longest + plain_warps - 1) / plain_warps;
    segment = static_cast<int>(blockIdx.x) / blocks;
    place = static_cast<int>(blockIdx.x) % blocks * plain_warps + static_cast<int>(threadIdx.x) / 32;
    head = static_cast<int>(blockIdx.y);
  }
};
inline dim3 plain_blocks(runs const& r, int heads) {
  return dim3(static_cast<unsigned>(r.count * ((r.longest + plain_warps - 1) / plain_warps)),
              static_cast<unsigned>(heads));
}

/// The logit of query i and key j of a head.
template <class T, int Parts, class A = accumulator_t<T>>
__device__ inline A plain_logit(attention_inputs<T> const& x, int head, int i, int j,
                                lane_row<A, Parts> const& q, lane_row<A, Parts> const& k) {
  auto logit = x.scale * q.dot(k);
  if (x.bias != nullptr)
    logit += widen(x.bias[(static_cast<extent_t>(head) * x.side + i) * x.side + j]);
  return logit;
}

template <class T, int Parts>
static __global__ void __launch_bounds__(plain_warps * 32)
    plain_attention_forward_kernel(attention_inputs<T> x, T* out) {
  using A = accumulator_t<T>;
  plain_row const at(x.segments);
  int const length = x.segments.length(at.segment);
  if (at.place >= length)
    return;
  auto const begin = x.segments.begin(at.segment);
  auto const* const keys = x.qkv + begin * 3 * x.width + x.width + at.head * x.head_width;
  lane_row<A, Parts> q, row, sum;
  q.load(keys + at.place * 3 * x.width - x.width, x.head_width);
  sum.clear();
  A most = 0, total = 0;
  int const last = x.causal ? at.place + 1 : length;
  for (int j = 0; j < last; ++j) {
    row.load(keys + j * 3 * x.width, x.head_width);
    auto const logit = plain_logit(x, at.head, at.place, j, q, row);
    if (j == 0 || logit > most) {  // the same in all lanes
      auto const shrink = j == 0 ? A(0) : exp_of_logit(most - logit);
      sum.multiply(shrink);
      total *= shrink;
      most = logit;
    }
    auto const e = exp_of_logit(logit - most);
    total += e;
    row.load(keys + j * 3 * x.width + x.width, x.head_width);
    sum.add(e, row);
  }
  sum.save(out + (begin + at.place) * x.width + at.head * x.head_width, x.head_width, 1 / total,
           store::overwrite);
  if (threadIdx.x % 32 == 0)
    x.lse[at.head * x.segments.rows + begin + at.place] = most + log_of_sum(total);
}

/// delta = the sum of dout * out along each row of each head.
template <class T, int Parts>
static __global__ void __launch_bounds__(plain_warps * 32)
    plain_delta_kernel(attention_inputs<T> x, T const* out) {
  using A = accumulator_t<T>;
  auto const row = static_cast<extent_t>(blockIdx.x) * plain_warps + threadIdx.x / 32;
  if (row >= x.segments.rows)
    return;
  auto const first = row * x.width + blockIdx.y * static_cast<extent_t>(x.head_width);
  lane_row<A, Parts> a, b;
  a.load(out + first, x.head_width);
  b.load(x.dout + first, x.head_width);
  auto const sum = a.dot(b);
  if (threadIdx.x % 32 == 0)
    x.delta[blockIdx.y * x.segments.rows + row] = sum;
}

/// A probability and the gradient of its logit.
template <class A>
struct plain_gradient {
  A probability, dlogit;
};
template <class T, int Parts, class A = accumulator_t<T>>
__device__ inline plain_gradient<A> gradient_of_logit(attention_inputs<T> const& x, int head, extent_t begin,
                                                      int i, int j, lane_row<A, Parts> const& q,
                                                      lane_row<A, Parts> const& k,
                                                      lane_row<A, Parts> const& v,
                                                      lane_row<A, Parts> const& dout) {
  auto const row = head * x.segments.rows + begin + i;
  auto const p = exp_of_logit(plain_logit(x, head, i, j, q, k) - x.lse[row]);
  return {p, p * (dout.dot(v) - x.delta[row])};
}

/// dq, a warp a query; or dk and dv, a warp a key.
template <class T, int Parts, bool OfKeys>
static __global__ void __launch_bounds__(plain_warps * 32)
    plain_attention_backward_kernel(attention_inputs<T> x, T* dqkv, store how) {
  using A = accumulator_t<T>;
  plain_row const at(x.segments);
  int const length = x.segments.length(at.segment);
  if (at.place >= length)
    return;
  auto const begin = x.segments.begin(at.segment);
  auto const step = 3 * x.width;
  auto const* const queries = x.qkv + begin * step + at.head * x.head_width;
  auto const* const douts = x.dout + begin * x.width + at.head * x.head_width;
  auto* const to = dqkv + (begin + at.place) * step + at.head * x.head_width;
  lane_row<A, Parts> q, k, v, dout, first, second;
  first.clear();
  if constexpr (OfKeys) {
    second.clear();
    k.load(queries + at.place * step + x.width, x.head_width);
    v.load(queries + at.place * step + 2 * x.width, x.head_width);
    for (int i = x.causal ? at.place : 0; i < length; ++i) {
      q.load(queries + i * step, x.head_width);
      dout.load(douts + i * x.width, x.head_width);
      auto const g = gradient_of_logit(x, at.head, begin, i, at.place, q, k, v, dout);
      first.add(g.dlogit, q);
      second.add(g.probability, dout);
    }
    first.save(to + x.width, x.head_width, x.scale, how);
    second.save(to + 2 * x.width, x.head_width, A(1), how);
  } else {
    q.load(queries + at.place * step, x.head_width);
    dout.load(douts + at.place * x.width, x.head_width);
    for (int j = 0; j < (x.causal ? at.place + 1 : length); ++j) {
      k.load(queries + j * step + x.width, x.head_width);
      v.load(queries + j * step + 2 * x.width, x.head_width);
      first.add(gradient_of_logit(x, at.head, begin, at.place, j, q, k, v, dout).dlogit, k);
    }
    first.save(to, x.head_width, x.scale, how);
  }
}

/// dbias, a warp an element: the segments that reach it, in order. Blocks are (side * blocks of columns, heads).
template <class T, int Parts>
static __global__ void __launch_bounds__(plain_warps * 32)
    plain_attention_bias_kernel(attention_inputs<T> x, T* dbias, store how) {
  using A = accumulator_t<T>;
  int const across = (x.side + plain_warps - 1) / plain_warps, head = static_cast<int>(blockIdx.y);
  int const i = static_cast<int>(blockIdx.x) / across;
  int const j = static_cast<int>(blockIdx.x) % across * plain_warps + static_cast<int>(threadIdx.x) / 32;
  if (j >= x.side)
    return;
  A sum = 0;
  lane_row<A, Parts> q, k, v, dout;
  for (int s = 0; s < x.segments.count; ++s) {
    int const length = x.segments.length(s);
    if (i >= length || j >= length || (x.causal && j > i))
      continue;
    auto const begin = x.segments.begin(s);
    auto const* const queries = x.qkv + begin * 3 * x.width + head * x.head_width;
    q.load(queries + i * 3 * x.width, x.head_width);
    k.load(queries + j * 3 * x.width + x.width, x.head_width);
    v.load(queries + j * 3 * x.width + 2 * x.width, x.head_width);
    dout.load(x.dout + (begin + i) * x.width + head * x.head_width, x.head_width);
    sum += gradient_of_logit(x, head, begin, i, j, q, k, v, dout).dlogit;
  }
  if (threadIdx.x % 32 == 0)
    put(dbias + (static_cast<extent_t>(head) * x.side + i) * x.side + j, sum, how);
}

/// Calls f with the number of elements of a lane as a constant: enough for the head's width.
template <class F>
void with_parts(int head_width, F const& f) {
  if (head_width <= 32)
    f(std::integral_constant<int, 1>{});
  else if (head_width <= 64)
    f(std::integral_constant<int, 2>{});
  else if (head_width <= 128)
    f(std::integral_constant<int, 4>{});
  else
    f(std::integral_constant<int, plain_width / 32>{});
}

template <class T>
void plain_attention_forward(device& c, attention_inputs<T> const& x, T* out) {
  with_parts(x.head_width, [&](auto parts) {
    launch(c, plain_blocks(x.segments, x.heads), plain_warps * 32, 0,
           plain_attention_forward_kernel<T, parts()>, x, out);
  });
}

template <class T>
void plain_attention_backward(device& c, attention_inputs<T> x, T const* out, T* dqkv, store how, T* dbias,
                              store bias_how) {
  x.delta = c.template scratch<accumulator_t<T>>(x.heads * x.segments.rows);
  with_parts(x.head_width, [&](auto parts) {
    constexpr int threads = plain_warps * 32, n = parts();
    auto const heads = static_cast<unsigned>(x.heads);
    auto const rows = (x.segments.rows + plain_warps - 1) / plain_warps;
    launch(c, dim3(static_cast<unsigned>(rows), heads), threads, 0, plain_delta_kernel<T, n>, x, out);
    auto const blocks = plain_blocks(x.segments, x.heads);
    launch(c, blocks, threads, 0, plain_attention_backward_kernel<T, n, true>, x, dqkv, how);
    launch(c, blocks, threads, 0, plain_attention_backward_kernel<T, n, false>, x, dqkv, how);
    if (dbias == nullptr)
      return;
    auto const across = (x.side + plain_warps - 1) / plain_warps;
    launch(c, dim3(static_cast<unsigned>(x.side * across), heads), threads, 0,
           plain_attention_bias_kernel<T, n>, x, dbias, bias_how);
  });
}

}  // namespace yoke::cuda::detail
