// Rows in the order of their token ids, those of one id in their own order: a stable radix sort, so that sums over the
// rows of an id have one order.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/reduce.cuh>

#include <algorithm>
#include <bit>
#include <cstdint>

namespace yoke::cuda::detail {

// A block of 8 warps sorts a tile by one digit; each warp has so many keys that are neighbours.
inline constexpr int sort_threads = 256, sort_warps = 8, most_digits = 256, keys_of_lane = 8;
inline constexpr int keys_of_warp = 32 * keys_of_lane, sort_tile = sort_warps * keys_of_warp;

/// One pass: by the `bits` bits of the ids from `shift` on. Ids outside the vocabulary count as 0.
struct digit_pass {
  int rows, vocabulary, shift, bits;

  template <class Id>
  __device__ int id(Id const* ids, int i) const {
    auto const found = ids[i];
    return found >= 0 && found < vocabulary ? found : 0;
  }
  __device__ int digit(int id) const { return (id >> shift) & ((1 << bits) - 1); }

  /// The lanes of the warp whose digit is this lane's; none for a lane without a key.
  __device__ unsigned like(int digit, bool valid) const {
    auto lanes = __ballot_sync(whole_warp, valid);
    for (int b = 0; b < bits; ++b) {
      bool const one = (digit >> b) & 1;
      auto const ones = __ballot_sync(whole_warp, one);
      lanes &= one ? ones : ~ones;
    }
    return valid ? lanes : 0u;
  }
};

/// counts[digit] += the warp's keys that have it, one key of each lane, of which `below` are in lower lanes than this.
/// Returns what was there.
__device__ inline int count_keys(int* counts, int digit, unsigned like, int& below) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  below = __popc(like & ((1u << lane) - 1));
  int const before = like == 0 ? 0 : counts[digit];
  __syncwarp();
  if (like != 0 && below == 0)
    counts[digit] = before + __popc(like);
  __syncwarp();
  return before;
}

/// The keys of each warp, by digit.
template <class Id>
__device__ inline void count_warp(digit_pass const& p, Id const* ids, int first,
                                  int (&counts)[sort_warps][most_digits]) {
  int const thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  for (int w = 0; w < sort_warps; ++w) counts[w][thread] = 0;
  __syncthreads();
  for (int k = 0; k < keys_of_lane; ++k) {
    int const i = first + k * 32 + lane;
    bool const valid = i < p.rows;
    int const digit = valid ? p.digit(p.id(ids, i)) : 0;
    int below;
    count_keys(counts[warp], digit, p.like(digit, valid), below);
  }
  __syncthreads();
}

/// counts[tile][digit]
template <class Id>
static __global__ void __launch_bounds__(sort_threads)
    count_digits_kernel(digit_pass p, Id const* ids, int* counts) {
  __shared__ int of_warps[sort_warps][most_digits];
  int const thread = static_cast<int>(threadIdx.x), tile = static_cast<int>(blockIdx.x);
  count_warp(p, ids, tile * sort_tile + thread / 32 * keys_of_warp, of_warps);
  int sum = 0;
  for (int w = 0; w < sort_warps; ++w) sum += of_warps[w][thread];
  counts[tile * most_digits + thread] = sum;
}

/// Moves ids and rows (null: row i is i) to where their digit puts them.
template <class Id>
static __global__ void __launch_bounds__(sort_threads)
    move_by_digit_kernel(digit_pass p, Id const* ids, int const* rows, int const* counts, Id* to_ids,
                         int* to_rows) {
  __shared__ int of_warps[sort_warps][most_digits];
  __shared__ int totals[most_digits];
  int const thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  int const tile = static_cast<int>(blockIdx.x), tiles = static_cast<int>(gridDim.x);
  int const first = tile * sort_tile + warp * keys_of_warp;

  // Thread d: where the digit d begins, behind all smaller digits and the same digit of the tiles before.
  int all = 0, before = 0;
#pragma unroll 4
  for (int t = 0; t < tiles; ++t) {
    int const n = counts[t * most_digits + thread];
    all += n;
    before += t < tile ? n : 0;
  }
  totals[thread] = all;
  __syncthreads();
  for (int step = 1; step < most_digits; step *= 2) {
    int const lower = thread >= step ? totals[thread - step] : 0;
    __syncthreads();
    totals[thread] += lower;
    __syncthreads();
  }
  count_warp(p, ids, first, of_warps);
  int begin = totals[thread] - all + before;
  for (int w = 0; w < sort_warps; ++w) {
    int const n = of_warps[w][thread];
    of_warps[w][thread] = begin;
    begin += n;
  }
  __syncthreads();

  for (int k = 0; k < keys_of_lane; ++k) {
    int const i = first + k * 32 + lane;
    bool const valid = i < p.rows;
    int const id = valid ? p.id(ids, i) : 0;
    int const digit = p.digit(id);
    int below;
    int const to = count_keys(of_warps[warp], digit, p.like(digit, valid), below) + below;
    if (valid) {
      to_ids[to] = id;
      to_rows[to] = rows == nullptr ? i : rows[i];
    }
  }
}

/// Ids in ascending order and the row of each.
struct sorted_rows {
  std::int32_t const* ids;
  int const* rows;
};

inline int sort_tiles(int rows) {
  return (rows + sort_tile - 1) / sort_tile;
}
/// How many ints sort_ids needs.
inline extent_t sort_space(int rows) {
  return extent_t{4} * rows + extent_t{most_digits} * sort_tiles(rows);
}

/// Sorts rows 0, 1, … by their ids, in and into `space`.
inline sorted_rows sort_ids(device& c, int rows, int vocabulary, std::int32_t const* ids, int* space) {
  int const bits = std::max(1, static_cast<int>(std::bit_width(static_cast<unsigned>(vocabulary - 1))));
  int const passes = (bits + 7) / 8, bits_of_pass = (bits + passes - 1) / passes;
  dim3 const blocks(static_cast<unsigned>(sort_tiles(rows)));
  auto* const counts = space + extent_t{4} * rows;
  sorted_rows from{ids, nullptr};
  for (int pass = 0; pass < passes; ++pass) {
    digit_pass const p{rows, vocabulary, pass * bits_of_pass, bits_of_pass};
    auto* const to = space + extent_t{pass % 2} * 2 * rows;
    launch(c, blocks, sort_threads, 0, count_digits_kernel<std::int32_t>, p, from.ids, counts);
    launch(c, blocks, sort_threads, 0, move_by_digit_kernel<std::int32_t>, p, from.ids, from.rows, counts, to,
           to + rows);
    from = {to, to + rows};
  }
  return from;
}

}  // namespace yoke::cuda::detail
