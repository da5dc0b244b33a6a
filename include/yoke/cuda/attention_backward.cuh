// Attention's gradient on the tensor cores. Probabilities are computed again from the log-sum-exp. Blocks share no sums:
// one kernel has a tile of keys and goes through the queries (dK, dV), one a tile of queries and goes through the keys
// (dQ), one a tile of the bias and goes through the segments, each in order. That is two products more than with atomic
// additions, and the same bits every time.
#pragma once
#include <yoke/cuda/attention_tiles.cuh>

namespace yoke::cuda::detail {

inline constexpr int delta_lanes = 8;  // of a row of a head

/// delta = the sum of dout * out along each row of each head. Blocks are (rows / 16, heads).
static __global__ void __launch_bounds__(tile_threads)
    tiled_delta_kernel(attention_inputs<bf16> x, bf16 const* out) {
  int const lane = static_cast<int>(threadIdx.x) % delta_lanes;
  auto const row =
      static_cast<extent_t>(blockIdx.x) * (tile_threads / delta_lanes) + threadIdx.x / delta_lanes;
  auto const head = static_cast<extent_t>(blockIdx.y);
  auto const first = row * x.width + head * x.head_width;
  float sum = 0;
  if (row < x.segments.rows)
    for (int column = 8 * lane; column < x.head_width; column += 8 * delta_lanes) {
      auto const a = *reinterpret_cast<pack<bf16, 8> const*>(x.dout + first + column);
      auto const b = *reinterpret_cast<pack<bf16, 8> const*>(out + first + column);
#pragma unroll
      for (int e = 0; e < 8; ++e) sum += widen(a.at[e]) * widen(b.at[e]);
    }
  for (int distance = delta_lanes / 2; distance > 0; distance /= 2)
    sum += __shfl_xor_sync(whole_warp, sum, distance);
  if (lane == 0 && row < x.segments.rows)
    x.delta[head * x.segments.rows + row] = sum;
}

/// Blocks of keys that a multiprocessor's registers are shared out to.
template <int Width>
inline constexpr int key_blocks = Width <= 32   ? 4
                                  : Width <= 64 ? 3
                                                : 2;

/// dK and dV of a tile of keys.
template <int Width>
static __global__ void __launch_bounds__(tile_threads, key_blocks<Width>)
    tiled_key_gradient_kernel(attention_inputs<bf16> x, bf16* dqkv, store how) {
  // Of each stage's 64 queries: the log-sum-exp to base 2, and behind them delta.
  __shared__ float statistics[2 * 2 * tile_rows];
  static_assert(2 * tile_rows == tile_threads, "a thread brings one of a stage's statistics");
  head_tile const at(x);
  if (at.first >= at.length)
    return;
  int const width = static_cast<int>(x.width), step = 3 * width, thread = static_cast<int>(threadIdx.x);
  auto const copy_queries = [&](int stage, int i) {
    copy_tile<Width>(tile_of<Width>(stage, 0), x.qkv + at.place(x, i, 3), step, at.length - i, x.head_width);
    copy_tile<Width>(tile_of<Width>(stage, 1), x.dout + at.place(x, i, 1), width, at.length - i,
                     x.head_width);
    commit_copies();
  };
  auto const statistic = [&](int i) {
    bool const is_lse = thread < tile_rows;
    int const query = i + thread % tile_rows;
    if (query >= at.length)
      return is_lse ? -masked_logit : 0.0f;  // a probability of 0
    auto const place = at.head * x.segments.rows + at.begin + query;
    return is_lse ? log2_e * x.lse[place] : x.delta[place];
  };
  auto const* const own = x.qkv + at.place(x, at.first, 3) + width;
  auto *const keys = tile_of<Width>(1, 0), *const values = tile_of<Width>(1, 1);  // until more queries come
  copy_tile<Width>(keys, own, step, at.length - at.first, x.head_width);
  copy_tile<Width>(values, own + width, step, at.length - at.first, x.head_width);
  commit_copies();
  int const begin = x.causal ? at.first : 0;  // the first queries that see these keys
  copy_queries(0, begin);
  statistics[thread] = statistic(begin);
  wait_for_copies<1>();
  __syncthreads();

  int const warp = warp_of_block(), row = at.first + warp * strip_rows;  // the warp's keys
  bool const idle = row >= at.length;
  left_fragment k[Width / 16], v[Width / 16];  // (16 keys, Width)
  if (!idle) {
    load_left<Width>(k, strip_of<Width>(keys, warp));
    load_left<Width>(v, strip_of<Width>(values, warp));
  }
  sum_fragment dk[Width / 8], dv[Width / 8];  // (16 keys, Width)
  clear(dk);
  clear(dv);
  auto const by = log2_e * x.scale;
  for (int i = begin, stage = 0; i < at.length; i += tile_rows, stage = 1 - stage) {
    wait_for_copies<0>();
    __syncthreads();  // these tiles are there, and nobody works on the other stage any more
    float next = 0;
    if (i + tile_rows < at.length) {
      copy_queries(1 - stage, i + tile_rows);
      next = statistic(i + tile_rows);
    }
    int const strips = idle ? 0 : strips_before(at.length, i);
#pragma unroll 1
    for (int s = x.causal && i == begin ? warp : 0; s < strips; ++s) {
      auto* const queries = strip_of<Width>(tile_of<Width>(stage, 0), s);
      auto* const douts = strip_of<Width>(tile_of<Width>(stage, 1), s);
      int const column = i + s * strip_rows;
      sum_fragment p[2], dp[2];  // (16 keys, 16 queries)
      start_logits<true>(x, at, row, column, p);
      clear(dp);
      multiply_both_by_rows<Width>(p, k, queries, dp, v, douts);
      mask_logits<true>(x, at.length, row, column, p);
      auto const* const lse = statistics + stage * tile_threads + s * strip_rows;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          int const c = sum_column(n, e);
          p[n][e] = exp2f(fmaf(by, p[n][e], -lse[c]));
          dp[n][e] = p[n][e] * (dp[n][e] - lse[tile_rows + c]);
        }
      left_fragment left;  // (16 keys, 16 queries)
      as_left(left, p);
      multiply_by_strip<Width>(dv, left, douts);
      as_left(left, dp);
      multiply_by_strip<Width>(dk, left, queries);
    }
    if (i + tile_rows < at.length)
      statistics[(1 - stage) * tile_threads + thread] = next;
  }
  __syncthreads();  // nobody works on tiles any more
  if (idle)
    return;
  auto* const to = dqkv + at.place(x, row, 3) + width;
  save_strip<Width>(dk, x.scale, x.scale, to, step, at.length - row, x.head_width, how);
  save_strip<Width>(dv, 1, 1, to + width, step, at.length - row, x.head_width, how);
}

/// A warp's queries [row, row + 16), and what their logits' gradients are made of.
template <int Width>
struct query_gradients {
  int row;
  left_fragment q[Width / 16], dout[Width / 16];  // (16 queries, Width)
  float lse[2], delta[2];                         // of the lane's rows g and g + 8; lse is to base 2

  __device__ explicit query_gradients(int first) : row{first} {}
  __device__ void load(attention_inputs<bf16> const& x, head_tile const& at, bf16 const* queries,
                       bf16 const* douts) {
    load_left<Width>(q, queries);
    load_left<Width>(dout, douts);
    auto const first = at.head * x.segments.rows + at.begin;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      int const i = row + sum_row(2 * half);
      lse[half] = i < at.length ? log2_e * x.lse[first + i] : -masked_logit;  // a probability of 0
      delta[half] = i < at.length ? x.delta[first + i] : 0.0f;
    }
  }
  /// Gradients (16 queries, 16 keys from `key` on) of the logits of a strip of keys.
  __device__ void of_logits(sum_fragment (&to)[2], attention_inputs<bf16> const& x, head_tile const& at,
                            int key, bf16 const* keys, bf16 const* values) const {
    sum_fragment p[2];
    start_logits<false>(x, at, row, key, p);
    clear(to);
    multiply_both_by_rows<Width>(p, q, keys, to, dout, values);
    mask_logits<false>(x, at.length, row, key, p);
    auto const by = log2_e * x.scale;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        p[n][e] = exp2f(fmaf(by, p[n][e], -lse[e / 2]));
        to[n][e] = p[n][e] * (to[n][e] - delta[e / 2]);
      }
  }
};

/// dQ of a tile of queries.
template <int Width>
static __global__ void __launch_bounds__(tile_threads, query_blocks<Width>)
    tiled_query_gradient_kernel(attention_inputs<bf16> x, bf16* dqkv, store how) {
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
  auto *const queries = tile_of<Width>(1, 0), *const douts = tile_of<Width>(1, 1);  // until more keys come
  copy_tile<Width>(queries, x.qkv + at.place(x, at.first, 3), step, at.length - at.first, x.head_width);
  copy_tile<Width>(douts, x.dout + at.place(x, at.first, 1), width, at.length - at.first, x.head_width);
  commit_copies();
  copy_keys(0, 0);
  wait_for_copies<1>();
  __syncthreads();

  int const warp = warp_of_block();
  query_gradients<Width> mine(at.first + warp * strip_rows);
  bool const idle = mine.row >= at.length;
  if (!idle)
    mine.load(x, at, strip_of<Width>(queries, warp), strip_of<Width>(douts, warp));
  sum_fragment dq[Width / 8];  // (16 queries, Width)
  clear(dq);
  for (int j = 0, stage = 0; j < last; j += tile_rows, stage = 1 - stage) {
    wait_for_copies<0>();
    __syncthreads();  // these tiles are there, and nobody works on the other stage any more
    if (j + tile_rows < last)
      copy_keys(1 - stage, j + tile_rows);
    int const strips = idle ? 0 : strips_before(keys_seen(x, mine.row + strip_rows - 1, at.length), j);
#pragma unroll 1
    for (int s = 0; s < strips; ++s) {
      auto* const keys = strip_of<Width>(tile_of<Width>(stage, 0), s);
      sum_fragment dlogits[2];  // (16 queries, 16 keys)
      mine.of_logits(dlogits, x, at, j + s * strip_rows, keys, strip_of<Width>(tile_of<Width>(stage, 1), s));
      left_fragment left;
      as_left(left, dlogits);
      multiply_by_strip<Width>(dq, left, keys);
    }
  }
  __syncthreads();  // nobody works on tiles any more
  if (!idle)
    save_strip<Width>(dq, x.scale, x.scale, dqkv + at.place(x, mine.row, 3), step, at.length - mine.row,
                      x.head_width, how);
}

/// The bias's gradient: a block has 64 x 64 elements of a head and one of `groups` parts of the segments; sums go to
/// parts (groups, heads, side, side). Blocks are (tiles * tiles, heads, groups).
template <int Width>
static __global__ void __launch_bounds__(tile_threads)
    tiled_bias_gradient_kernel(attention_inputs<bf16> x, float* parts) {
  int const tiles = (x.side + tile_rows - 1) / tile_rows;
  int const i = static_cast<int>(blockIdx.x) / tiles * tile_rows,
            j = static_cast<int>(blockIdx.x) % tiles * tile_rows;
  int const head = static_cast<int>(blockIdx.y);
  int const width = static_cast<int>(x.width), step = 3 * width, warp = warp_of_block();
  auto *const queries = tile_of<Width>(0, 0), *const douts = tile_of<Width>(0, 1);
  auto *const keys = tile_of<Width>(1, 0), *const values = tile_of<Width>(1, 1);
  query_gradients<Width> mine(i + warp * strip_rows);
  sum_fragment sums[tile_strips][2];  // (16 queries, 64 keys)
#pragma unroll
  for (int s = 0; s < tile_strips; ++s) clear(sums[s]);
  auto const group = static_cast<extent_t>(blockIdx.z), groups = static_cast<extent_t>(gridDim.z);
  int const last = static_cast<int>(x.segments.count * (group + 1) / groups);
  for (int n = static_cast<int>(x.segments.count * group / groups); n < last; ++n) {
    int const length = x.segments.length(n);
    if (i >= length || j >= length || (x.causal && j > i))  // the same for all threads; tiles are square
      continue;
    head_tile const at(head, length, i, x.segments.begin(n));
    auto const* const from = x.qkv + at.place(x, j, 3) + width;
    copy_tile<Width>(queries, x.qkv + at.place(x, i, 3), step, length - i, x.head_width);
    copy_tile<Width>(douts, x.dout + at.place(x, i, 1), width, length - i, x.head_width);
    copy_tile<Width>(keys, from, step, length - j, x.head_width);
    copy_tile<Width>(values, from + width, step, length - j, x.head_width);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    if (mine.row < length) {
      mine.load(x, at, strip_of<Width>(queries, warp), strip_of<Width>(douts, warp));
      int const strips = strips_before(keys_seen(x, mine.row + strip_rows - 1, length), j);
#pragma unroll
      for (int s = 0; s < tile_strips; ++s)
        if (s < strips) {
          sum_fragment dlogits[2];  // (16 queries, 16 keys)
          mine.of_logits(dlogits, x, at, j + s * strip_rows, strip_of<Width>(keys, s),
                         strip_of<Width>(values, s));
#pragma unroll
          for (int b = 0; b < 2; ++b)
#pragma unroll
            for (int e = 0; e < 4; ++e) sums[s][b][e] += dlogits[b][e];
        }
    }
    __syncthreads();  // the tiles may be written again
  }
  auto* const to = parts + (group * x.heads + head) * x.side * x.side;
#pragma unroll
  for (int s = 0; s < tile_strips; ++s)
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        int const r = mine.row + sum_row(e), c = j + s * strip_rows + sum_column(n, e);
        if (r < x.side && c < x.side)
          to[static_cast<extent_t>(r) * x.side + c] = sums[s][n][e];
      }
}

/// dbias = or += the parts, in order.
static __global__ void add_bias_parts_kernel(float const* parts, int groups, extent_t elements, bf16* dbias,
                                             store how) {
  auto const stride = static_cast<extent_t>(gridDim.x) * blockDim.x;
  for (auto i = static_cast<extent_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < elements; i += stride) {
    float sum = 0;
    for (int g = 0; g < groups; ++g) sum += parts[g * elements + i];
    put(dbias + i, sum, how);
  }
}

/// Parts of the segments whose shares of the bias's gradient are summed apart: as many as give the card some hundred
/// blocks, by the shapes alone.
inline extent_t bias_groups(attention_inputs<bf16> const& x) {
  auto const tiles = (x.side + tile_rows - 1) / tile_rows;
  return std::clamp<extent_t>(512 / (static_cast<extent_t>(tiles) * tiles * x.heads), 1,
                              std::max(x.segments.count, 1));
}

inline void tiled_attention_backward(device& c, attention_inputs<bf16> x, bf16 const* out, bf16* dqkv,
                                     store how, bf16* dbias, store bias_how) {
  auto const groups = dbias == nullptr ? 0 : bias_groups(x);
  auto const deltas = x.heads * x.segments.rows, elements = extent_t{x.heads} * x.side * x.side;
  x.delta = c.scratch<float>(deltas + groups * elements);
  auto* const parts = x.delta + deltas;  // (groups, heads, side, side)
  constexpr int rows = tile_threads / delta_lanes;
  auto const heads = static_cast<unsigned>(x.heads);
  launch(c, dim3(static_cast<unsigned>((x.segments.rows + rows - 1) / rows), heads), tile_threads, 0,
         tiled_delta_kernel, x, out);
  with_tile_width(x.head_width, [&](auto width) {
    constexpr int w = width();
    launch(c, tile_blocks(x), tile_threads, stages_bytes<w>, tiled_key_gradient_kernel<w>, x, dqkv, how);
    launch(c, tile_blocks(x), tile_threads, stages_bytes<w>, tiled_query_gradient_kernel<w>, x, dqkv, how);
    if (dbias == nullptr)
      return;
    auto const tiles = static_cast<unsigned>((x.side + tile_rows - 1) / tile_rows);
    launch(c, dim3(tiles * tiles, heads, static_cast<unsigned>(groups)), tile_threads, stages_bytes<w>,
           tiled_bias_gradient_kernel<w>, x, parts);
    launch(c, blocks_for(c, elements, 256), 256, 0, add_bias_parts_kernel, parts, static_cast<int>(groups),
           elements, dbias, bias_how);
  });
}

}  // namespace yoke::cuda::detail
