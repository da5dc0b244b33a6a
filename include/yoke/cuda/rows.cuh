// Rows spread over teams of threads, a warp or a block each, with their elements in registers; and sums over rows.
#pragma once
#include <yoke/cuda/lines.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda::detail {

/// Threads of a block whose teams have `Team`.
template <int Team>
inline constexpr int team_block = Team < 128 ? 128 : Team;

template <int Team>
using team_of = std::integral_constant<int, Team>;

/// Blocks for `teams` teams.
template <int Team>
dim3 team_blocks(extent_t teams) {
  constexpr int each = team_block<Team> / Team;
  return dim3(static_cast<unsigned>((teams + each - 1) / each));
}

/// The number of this thread's team.
template <int Team>
__device__ inline extent_t team_number() {
  return extent_t{blockIdx.x} * (team_block<Team> / Team) + threadIdx.x / Team;
}
template <int Team>
__device__ inline int team_lane() {
  return static_cast<int>(threadIdx.x) % Team;
}

/// Each of `values` becomes its sum over the team.
template <int Team, class V, int Count>
__device__ inline void team_sums(V (&values)[Count]) {
  if constexpr (Team == 32) {
#pragma unroll
    for (int i = 0; i < Count; ++i) values[i] = warp_sum(values[i]);
  } else {
    block_sums<Team>(values);
  }
}
template <int Team, class V>
__device__ inline V team_sum(V v) {
  V values[1] = {v};
  team_sums<Team>(values);
  return values[0];
}

/// Calls f(slot, i) for this thread's packs of a row, N elements from i on; slot numbers those that are held in
/// registers and is `Slots` for all that follow.
template <int N, int Team, int Slots, class F>
__device__ inline void for_packs(int width, F const& f) {
  int const first = team_lane<Team>() * N;
#pragma unroll
  for (int slot = 0; slot < Slots; ++slot)
    if (first + slot * Team * N < width)
      f(slot, first + slot * Team * N);
#pragma unroll 1
  for (int i = first + Slots * Team * N; i < width; i += Team * N) f(Slots, i);
}

/// Elements that a thread holds of a row that is read twice or more; what is wider is read again.
inline constexpr int forward_elements = 32;

/// A thread's share of one row, as stored.
template <class T, int N, int Team, int Slots>
struct row_share {
  T const* row;
  pack<T, N> held[Slots];

  __device__ void load(T const* from, int width) {
    row = from;
    for_packs<N, Team, Slots>(width, [&](int slot, int i) {
      if (slot < Slots)
        held[slot] = *reinterpret_cast<pack<T, N> const*>(from + i);
    });
  }
  __device__ pack<accumulator_t<T>, N> operator()(int slot, int i) const {
    if (slot == Slots)
      return detail::load<N>(row + i);
    pack<accumulator_t<T>, N> v;
#pragma unroll
    for (int k = 0; k < N; ++k) v.at[k] = widen(held[slot].at[k]);
    return v;
  }
};

inline constexpr int column_warps = 16;

/// Line blockIdx.y of `to` = or += the sum of its `each` rows: a warp has every 16th row, a lane N columns.
template <int N, class X>
static __global__ void __launch_bounds__(column_warps * 32)
    sum_columns_kernel(X const* from, extent_t rows, int width, extent_t each, accumulator_t<X>* to,
                       store how) {
  using A = accumulator_t<X>;
  __shared__ A sums[column_warps * 32 * N];
  int const thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  int const first_column = static_cast<int>(blockIdx.x) * 32 * N, column = first_column + lane * N;
  auto const first = extent_t{blockIdx.y} * each, last = first + each < rows ? first + each : rows;
  pack<A, N> sum{};
  if (column < width) {
#pragma unroll 4
    for (auto r = first + warp; r < last; r += column_warps) {
      auto const v = load<N>(from + r * width + column);
#pragma unroll
      for (int k = 0; k < N; ++k) sum.at[k] += v.at[k];
    }
  }
#pragma unroll
  for (int k = 0; k < N; ++k) sums[thread * N + k] = sum.at[k];
  __syncthreads();
  for (int j = thread; j < 32 * N && first_column + j < width; j += column_warps * 32) {
    A total = 0;
    for (int w = 0; w < column_warps; ++w) total += sums[w * 32 * N + j];
    put(to + extent_t{blockIdx.y} * width + first_column + j, total, how);
  }
}

/// to (parts, width) = or += the sums of each `each` of the rows of `from` (rows, width).
template <class X>
void sum_columns(device& d, X const* from, extent_t rows, extent_t width, extent_t parts, extent_t each,
                 accumulator_t<X>* to, store how) {
  constexpr int N = wide<X>;
  auto const run = [&](int n, auto* kernel) {
    dim3 const blocks(static_cast<unsigned>((width + 32 * n - 1) / (32 * n)), static_cast<unsigned>(parts));
    launch(d, blocks, column_warps * 32, 0, kernel, from, rows, static_cast<int>(width), each, to, how);
  };
  if (width % N == 0 && packs_are_aligned<N>(from))
    run(N, sum_columns_kernel<N, X>);
  else
    run(1, sum_columns_kernel<1, X>);
}

}  // namespace yoke::cuda::detail
