// Attention's forward pass on the tensor cores, in the manner of FlashAttention-2 (Dao, arXiv 2307.08691): a block has 64
// queries and goes through their keys 64 at a time, the next tiles of keys and values on their way meanwhile.
#pragma once
#include <yoke/cuda/attention_tiles.cuh>

namespace yoke::cuda::detail {

/// Bytes of shared memory: queries, and keys and values twice.
template <int Width>
inline constexpr int forward_bytes = 5 * tile_elements<tile_rows, Width>* static_cast<int>(sizeof(bf16));

/// The largest, and the sum, over the four lanes that share a row.
__device__ inline float largest_of_row(float v) {
  v = fmaxf(v, __shfl_xor_sync(whole_warp, v, 1));
  return fmaxf(v, __shfl_xor_sync(whole_warp, v, 2));
}
__device__ inline float sum_of_row(float v) {
  v += __shfl_xor_sync(whole_warp, v, 1);
  return v + __shfl_xor_sync(whole_warp, v, 2);
}

template <int Width>
static __global__ void __launch_bounds__(tile_threads)
    tiled_attention_forward_kernel(attention_inputs<bf16> x, bf16* out) {
  constexpr int tile = tile_elements<tile_rows, Width>, blocks = tile_rows / 8;
  head_tile const at(x);
  if (at.first >= at.length)
    return;
  auto* const queries = reinterpret_cast<bf16*>(dynamic_shared());  // (64, Width)
  auto* const keys = queries + tile;                                // two of (64, Width)
  auto* const values = keys + 2 * tile;                             // two of (64, Width)
  auto const step = 3 * x.width;
  auto const* const head = x.qkv + at.begin * step + at.head * x.head_width;
  int const last = x.causal && at.first + tile_rows < at.length ? at.first + tile_rows : at.length;
  auto const copy_keys = [&](int j) {
    int const place = j / tile_rows % 2 * tile;
    auto const* const from = head + j * step + x.width;
    copy_tile<tile_rows, Width>(keys + place, from, step, last - j, x.head_width);
    copy_tile<tile_rows, Width>(values + place, from + x.width, step, last - j, x.head_width);
    commit_copies();
  };
  copy_tile<tile_rows, Width>(queries, head + at.first * step, step, at.length - at.first, x.head_width);
  copy_keys(0);

  int const warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  left_fragment q[Width / 16];   // (16 queries, Width)
  sum_fragment sums[Width / 8];  // (16 queries, Width)
  clear(sums);
  // Of the lane's rows g and g + 8: the largest logit so far, and the lane's share of the sum of exponentials.
  float most[2] = {masked_logit, masked_logit}, total[2] = {0, 0};
  for (int j = 0; j < last; j += tile_rows) {
    if (j + tile_rows < last) {
      copy_keys(j + tile_rows);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    if (j == 0)
      load_left<Width>(q, queries + warp_row * tile_step<Width>);
    int const place = j / tile_rows % 2 * tile;
    sum_fragment logits[blocks];  // (16 queries, 64 keys)
    clear(logits);
    multiply_by_rows<Width>(
        logits,
        [&](left_fragment& to, int k) {
#pragma unroll
          for (int e = 0; e < 4; ++e) to[e] = q[k][e];
        },
        keys + place);
    to_logits<false>(x, at.head, at.length, at.first + warp_row, j, logits);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      auto larger_logit = most[half];
#pragma unroll
      for (int n = 0; n < blocks; ++n)
        larger_logit = fmaxf(larger_logit, fmaxf(logits[n][2 * half], logits[n][2 * half + 1]));
      larger_logit = largest_of_row(larger_logit);
      auto const shrink = exp2f(most[half] - larger_logit);
      most[half] = larger_logit;
      total[half] *= shrink;
#pragma unroll
      for (int n = 0; n < Width / 8; ++n) {
        sums[n][2 * half] *= shrink;
        sums[n][2 * half + 1] *= shrink;
      }
#pragma unroll
      for (int n = 0; n < blocks; ++n)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          logits[n][e] = exp2f(logits[n][e] - larger_logit);
          total[half] += logits[n][e];
        }
    }
    left_fragment p[blocks / 2];  // (16 queries, 64 keys)
    as_left(p, logits);
    multiply_by_tile<Width>(sums, p, values + place);
    __syncthreads();  // the tiles may be written again
  }
  total[0] = sum_of_row(total[0]);
  total[1] = sum_of_row(total[1]);
  int const row = at.first + warp_row;
  save_rows<Width>(sums, 1 / total[0], 1 / total[1],
                   out + (at.begin + row) * x.width + at.head * x.head_width, x.width, at.length - row,
                   x.head_width, store::overwrite);
  if (lane_pair() == 0)
    for (int half = 0; half < 2; ++half)
      if (int const i = row + lane_group() + 8 * half; i < at.length)
        x.lse[at.head * x.segments.rows + at.begin + i] =
            log_2 * (half == 0 ? most[0] + log2f(total[0]) : most[1] + log2f(total[1]));
}

inline void tiled_attention_forward(device& c, attention_inputs<bf16> const& x, bf16* out) {
  with_tile_width(x.head_width, [&](auto width) {
    constexpr int w = width();
    launch(c, tile_blocks(x), tile_threads, forward_bytes<w>, tiled_attention_forward_kernel<w>, x, out);
  });
}

}  // namespace yoke::cuda::detail
