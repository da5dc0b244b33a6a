// Attention's forward pass on the tensor cores, in the manner of FlashAttention-2 (Dao, arXiv 2307.08691): a block has 64
// queries and goes through their keys 64 at a time, the next tiles of keys and values on their way meanwhile.
#pragma once
#include <yoke/cuda/attention_tiles.cuh>

namespace yoke::cuda::detail {

/// The largest, and the sum, over the four lanes that share a row.
__device__ inline float largest_of_row(float v) {
  v = fmaxf(v, __shfl_xor_sync(whole_warp, v, 1));
  return fmaxf(v, __shfl_xor_sync(whole_warp, v, 2));
}
__device__ inline float sum_of_row(float v) {
  v += __shfl_xor_sync(whole_warp, v, 1);
  return v + __shfl_xor_sync(whole_warp, v, 2);
}

/// A warp's queries [row, row + 16), and what they have seen so far. Logits are kept before they are scaled.
template <int Width>
struct query_strip {
  int row;
  left_fragment q[Width / 16];   // (16 queries, Width)
  sum_fragment sums[Width / 8];  // (16 queries, Width): values times exponentials
  // Of the lane's rows g and g + 8: the largest logit, and the lane's share of the sum of exponentials.
  float most[2] = {masked_logit, masked_logit}, total[2] = {0, 0};

  __device__ explicit query_strip(int first) : row{first} { clear(sums); }
  /// A tile of keys from `key` on and of values, of which the first `strips` strips are seen.
  __device__ void see(attention_inputs<bf16> const& x, head_tile const& at, int key, int strips, bf16* keys,
                      bf16* values) {
    sum_fragment logits[tile_strips][2];  // (16 queries, 64 keys)
#pragma unroll
    for (int s = 0; s < tile_strips; ++s) start_logits<false>(x, at, row, key + s * strip_rows, logits[s]);
    if (strips == tile_strips)
      multiply_by_rows<Width, tile_strips>(logits, q, keys);
    float larger_logit[2] = {most[0], most[1]};
#pragma unroll
    for (int s = 0; s < tile_strips; ++s)
      if (s < strips) {
        if (strips < tile_strips)
          multiply_by_rows<Width, 1>(&logits[s], q, strip_of<Width>(keys, s));
        mask_logits<false>(x, at.length, row, key + s * strip_rows, logits[s]);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) larger_logit[e / 2] = fmaxf(larger_logit[e / 2], logits[s][n][e]);
      }
    auto const by = log2_e * x.scale;
    float less[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      auto const largest = largest_of_row(larger_logit[half]);
      auto const shrink = exp2f(by * (most[half] - largest));
      most[half] = largest;
      less[half] = by * largest;
      total[half] *= shrink;
#pragma unroll
      for (int n = 0; n < Width / 8; ++n) {
        sums[n][2 * half] *= shrink;
        sums[n][2 * half + 1] *= shrink;
      }
    }
#pragma unroll
    for (int s = 0; s < tile_strips; ++s)
      if (s < strips) {
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            logits[s][n][e] = exp2f(fmaf(by, logits[s][n][e], -less[e / 2]));
            total[e / 2] += logits[s][n][e];
          }
        left_fragment p;  // (16 queries, 16 keys)
        as_left(p, logits[s]);
        multiply_by_strip<Width>(sums, p, strip_of<Width>(values, s));
      }
  }
};

template <int Width>
static __global__ void __launch_bounds__(tile_threads, query_blocks<Width>)
    tiled_attention_forward_kernel(attention_inputs<bf16> x, bf16* out) {
  head_tile const at(x);
  if (at.first >= at.length)
    return;
  int const width = static_cast<int>(x.width), step = 3 * width;
  int const last = keys_seen(x, at.first + tile_rows - 1, at.length);
  auto const copy_keys = [&](int stage, int j) {
    auto const* const from = x.qkv + at.place(x, j, 3) + width;
    copy_tile<Width>(tile_of<Width>(stage, 0), from, step, last - j, x.head_width);
    copy_tile<Width>(tile_of<Width>(stage, 1), from + width, step, last - j, x.head_width);
    commit_copies();
  };
  auto* const queries = tile_of<Width>(1, 0);  // (64, Width), until the second tile of keys is on its way
  copy_tile<Width>(queries, x.qkv + at.place(x, at.first, 3), step, at.length - at.first, x.head_width);
  commit_copies();
  copy_keys(0, 0);
  wait_for_copies<1>();
  __syncthreads();

  query_strip<Width> mine(at.first + warp_of_block() * strip_rows);
  bool const idle = mine.row >= at.length;
  if (!idle)
    load_left<Width>(mine.q, strip_of<Width>(queries, warp_of_block()));
  for (int j = 0, stage = 0; j < last; j += tile_rows, stage = 1 - stage) {
    int const strips = idle ? 0 : strips_before(keys_seen(x, mine.row + strip_rows - 1, at.length), j);
    wait_for_copies<0>();
    __syncthreads();  // these tiles are there, and nobody works on the other stage any more
    if (j + tile_rows < last)
      copy_keys(1 - stage, j + tile_rows);
    if (strips > 0)
      mine.see(x, at, j, strips, tile_of<Width>(stage, 0), tile_of<Width>(stage, 1));
  }
  __syncthreads();  // nobody works on tiles any more
  if (idle)
    return;
  auto const upper = sum_of_row(mine.total[0]), lower = sum_of_row(mine.total[1]);
  save_strip<Width>(mine.sums, 1 / upper, 1 / lower, out + at.place(x, mine.row, 1), width,
                    at.length - mine.row, x.head_width, store::overwrite);
  if (lane_of_warp() % 4 == 0)
    for (int half = 0; half < 2; ++half)
      if (int const i = mine.row + sum_row(2 * half); i < at.length)
        x.lse[at.head * x.segments.rows + at.begin + i] =
            half == 0 ? x.scale * mine.most[0] + logf(upper) : x.scale * mine.most[1] + logf(lower);
}

inline void tiled_attention_forward(device& c, attention_inputs<bf16> const& x, bf16* out) {
  with_tile_width(x.head_width, [&](auto width) {
    constexpr int w = width();
    launch(c, tile_blocks(x), tile_threads, stages_bytes<w>, tiled_attention_forward_kernel<w>, x, out);
  });
}

}  // namespace yoke::cuda::detail
