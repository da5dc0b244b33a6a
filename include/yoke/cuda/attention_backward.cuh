// Attention's gradient on the tensor cores. Probabilities are computed again from the log-sum-exp. Blocks share no sums:
// one kernel has a tile of keys and goes through the queries (dK, dV), one a tile of queries and goes through the keys
// (dQ), one a tile of the bias and goes through the segments, each in order. That is two products more than with atomic
// additions, and the same bits every time.
#pragma once
#include <yoke/cuda/attention_tiles.cuh>

namespace yoke::cuda::detail {

/// Logits (to base 2) and products dout v^T become probabilities and, in place of the products, the logits' gradients.
/// The row or column that is the query is i.
__device__ inline void to_gradient(attention_inputs<bf16> const& x, extent_t first_row, int length, int i,
                                   float& logit, float& product) {
  auto const inside = i < length;
  auto const lse = inside ? x.lse[first_row + i] : 0.0f, delta = inside ? x.delta[first_row + i] : 0.0f;
  logit = exp2f(logit - log2_e * lse);
  product = logit * (product - delta);
}
template <bool RowsAreKeys, int Blocks>
__device__ inline void to_gradients(attention_inputs<bf16> const& x, head_tile const& at, int row, int column,
                                    sum_fragment (&logits)[Blocks], sum_fragment (&products)[Blocks]) {
  auto const first_row = at.head * x.segments.rows + at.begin;
#pragma unroll
  for (int n = 0; n < Blocks; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int const r = row + lane_group() + e / 2 * 8, c = column + 8 * n + lane_pair() + e % 2;
      to_gradient(x, first_row, at.length, RowsAreKeys ? c : r, logits[n][e], products[n][e]);
    }
}

/// Queries that a block of keys takes at a time: fewer of wide heads, for which registers would not do.
template <int Width>
inline constexpr int query_rows = Width > 80 ? 32 : 64;
/// Bytes of shared memory: keys and values, and queries and douts twice.
template <int Width>
inline constexpr int key_gradient_bytes =
    (2 * tile_elements<tile_rows, Width> +
     4 * tile_elements<query_rows<Width>, Width>)*static_cast<int>(sizeof(bf16));
/// Bytes of shared memory: queries and douts, and keys and values twice.
template <int Width>
inline constexpr int query_gradient_bytes = 6 *
                                            tile_elements<tile_rows, Width>* static_cast<int>(sizeof(bf16));

/// dK and dV of a tile of keys.
template <int Width>
static __global__ void __launch_bounds__(tile_threads)
    tiled_key_gradient_kernel(attention_inputs<bf16> x, bf16* dqkv, store how) {
  constexpr int some = query_rows<Width>, blocks = some / 8;
  constexpr int tile = tile_elements<tile_rows, Width>, part = tile_elements<some, Width>;
  head_tile const at(x);
  if (at.first >= at.length)
    return;
  auto* const keys = reinterpret_cast<bf16*>(dynamic_shared());  // (64, Width)
  auto* const values = keys + tile;                              // (64, Width)
  auto* const queries = values + tile;                           // two of (some, Width)
  auto* const douts = queries + 2 * part;                        // two of (some, Width)
  auto const step = 3 * x.width;
  auto const* const head = x.qkv + at.begin * step + at.head * x.head_width;
  auto const* const dout = x.dout + at.begin * x.width + at.head * x.head_width;
  int const begin = x.causal ? at.first / some * some : 0;  // the first queries that see these keys
  auto const copy_queries = [&](int i) {
    int const place = i / some % 2 * part;
    copy_tile<some, Width>(queries + place, head + i * step, step, at.length - i, x.head_width);
    copy_tile<some, Width>(douts + place, dout + i * x.width, x.width, at.length - i, x.head_width);
    commit_copies();
  };
  auto const* const own = head + at.first * step + x.width;
  copy_tile<tile_rows, Width>(keys, own, step, at.length - at.first, x.head_width);
  copy_tile<tile_rows, Width>(values, own + x.width, step, at.length - at.first, x.head_width);
  copy_queries(begin);

  int const warp_row = static_cast<int>(threadIdx.x) / 32 * 16, row = at.first + warp_row;
  auto const left_of = [&](bf16 const* rows) {
    return
        [=](left_fragment& to, int k) { load_left<Width>(to, rows + warp_row * tile_step<Width>, 16 * k); };
  };
  sum_fragment dk[Width / 8], dv[Width / 8];  // (16 keys, Width)
  clear(dk);
  clear(dv);
  for (int i = begin; i < at.length; i += some) {
    if (i + some < at.length) {
      copy_queries(i + some);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    int const place = i / some % 2 * part;
    sum_fragment p[blocks], dp[blocks];  // (16 keys, some queries)
    clear(p);
    clear(dp);
    multiply_by_rows<Width>(p, left_of(keys), queries + place);
    multiply_by_rows<Width>(dp, left_of(values), douts + place);
    to_logits<true>(x, at.head, at.length, row, i, p);
    to_gradients<true>(x, at, row, i, p, dp);
    left_fragment left[blocks / 2];
    as_left(left, p);
    multiply_by_tile<Width>(dv, left, douts + place);
    as_left(left, dp);
    multiply_by_tile<Width>(dk, left, queries + place);
    __syncthreads();  // the tiles may be written again
  }
  auto* const to = dqkv + (at.begin + row) * step + at.head * x.head_width + x.width;
  save_rows<Width>(dk, x.scale, x.scale, to, step, at.length - row, x.head_width, how);
  save_rows<Width>(dv, 1, 1, to + x.width, step, at.length - row, x.head_width, how);
}

/// dQ of a tile of queries.
template <int Width>
static __global__ void __launch_bounds__(tile_threads)
    tiled_query_gradient_kernel(attention_inputs<bf16> x, bf16* dqkv, store how) {
  constexpr int tile = tile_elements<tile_rows, Width>, blocks = tile_rows / 8;
  head_tile const at(x);
  if (at.first >= at.length)
    return;
  auto* const queries = reinterpret_cast<bf16*>(dynamic_shared());  // (64, Width)
  auto* const douts = queries + tile;                               // (64, Width)
  auto* const keys = douts + tile;                                  // two of (64, Width)
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
  copy_tile<tile_rows, Width>(douts, x.dout + (at.begin + at.first) * x.width + at.head * x.head_width,
                              x.width, at.length - at.first, x.head_width);
  copy_keys(0);

  int const warp_row = static_cast<int>(threadIdx.x) / 32 * 16, row = at.first + warp_row;
  auto const left_of = [&](bf16 const* rows) {
    return
        [=](left_fragment& to, int k) { load_left<Width>(to, rows + warp_row * tile_step<Width>, 16 * k); };
  };
  sum_fragment dq[Width / 8];  // (16 queries, Width)
  clear(dq);
  for (int j = 0; j < last; j += tile_rows) {
    if (j + tile_rows < last) {
      copy_keys(j + tile_rows);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    int const place = j / tile_rows % 2 * tile;
    sum_fragment p[blocks], dp[blocks];  // (16 queries, 64 keys)
    clear(p);
    clear(dp);
    multiply_by_rows<Width>(p, left_of(queries), keys + place);
    multiply_by_rows<Width>(dp, left_of(douts), values + place);
    to_logits<false>(x, at.head, at.length, row, j, p);
    to_gradients<false>(x, at, row, j, p, dp);
    left_fragment left[blocks / 2];
    as_left(left, dp);
    multiply_by_tile<Width>(dq, left, keys + place);
    __syncthreads();  // the tiles may be written again
  }
  save_rows<Width>(dq, x.scale, x.scale, dqkv + (at.begin + row) * step + at.head * x.head_width, step,
                   at.length - row, x.head_width, how);
}

/// The bias's gradient: a block has 64 x 64 elements of a head and one of `groups` parts of the segments; sums go to
/// parts (groups, heads, side, side). Blocks are (tiles down * tiles across, heads, groups).
template <int Width>
static __global__ void __launch_bounds__(tile_threads)
    tiled_bias_gradient_kernel(attention_inputs<bf16> x, float* parts) {
  constexpr int tile = tile_elements<tile_rows, Width>, blocks = tile_rows / 8;
  int const tiles = (x.side + tile_rows - 1) / tile_rows;
  int const i = static_cast<int>(blockIdx.x) / tiles * tile_rows,
            j = static_cast<int>(blockIdx.x) % tiles * tile_rows;
  int const head = static_cast<int>(blockIdx.y);
  auto* const queries = reinterpret_cast<bf16*>(dynamic_shared());  // each (64, Width)
  auto *const douts = queries + tile, *const keys = douts + tile, *const values = keys + tile;
  auto const step = 3 * x.width;
  int const warp_row = static_cast<int>(threadIdx.x) / 32 * 16;
  auto const left_of = [&](bf16 const* rows) {
    return
        [=](left_fragment& to, int k) { load_left<Width>(to, rows + warp_row * tile_step<Width>, 16 * k); };
  };
  sum_fragment sums[blocks];  // (16 queries, 64 keys)
  clear(sums);
  auto const group = static_cast<extent_t>(blockIdx.z), groups = static_cast<extent_t>(gridDim.z);
  int const last = static_cast<int>(x.segments.count * (group + 1) / groups);
  for (int s = static_cast<int>(x.segments.count * group / groups); s < last; ++s) {
    int const length = x.segments.length(s);
    if (i >= length || j >= length || (x.causal && j > i))  // the same for all threads; tiles are square
      continue;
    head_tile const at(head, length, i, x.segments.begin(s));
    auto const* const from = x.qkv + at.begin * step + head * x.head_width;
    copy_tile<tile_rows, Width>(queries, from + i * step, step, length - i, x.head_width);
    copy_tile<tile_rows, Width>(douts, x.dout + (at.begin + i) * x.width + head * x.head_width, x.width,
                                length - i, x.head_width);
    copy_tile<tile_rows, Width>(keys, from + j * step + x.width, step, length - j, x.head_width);
    copy_tile<tile_rows, Width>(values, from + j * step + 2 * x.width, step, length - j, x.head_width);
    commit_copies();
    wait_for_copies<0>();
    __syncthreads();
    sum_fragment p[blocks], dp[blocks];
    clear(p);
    clear(dp);
    multiply_by_rows<Width>(p, left_of(queries), keys);
    multiply_by_rows<Width>(dp, left_of(douts), values);
    to_logits<false>(x, head, length, i + warp_row, j, p);
    to_gradients<false>(x, at, i + warp_row, j, p, dp);
#pragma unroll
    for (int n = 0; n < blocks; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[n][e] += dp[n][e];
    __syncthreads();  // the tiles may be written again
  }
  auto* const to = parts + (group * x.heads + head) * x.side * x.side;
#pragma unroll
  for (int n = 0; n < blocks; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int const r = i + warp_row + lane_group() + e / 2 * 8, c = j + 8 * n + lane_pair() + e % 2;
      if (r < x.side && c < x.side)
        to[static_cast<extent_t>(r) * x.side + c] = sums[n][e];
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

/// The sums of the bias's gradient are made in `parts`: bias_groups(x) times the elements of the bias.
inline void tiled_attention_backward(device& c, attention_inputs<bf16> const& x, bf16* dqkv, store how,
                                     float* parts, bf16* dbias, store bias_how) {
  with_tile_width(x.head_width, [&](auto width) {
    constexpr int w = width();
    launch(c, tile_blocks(x), tile_threads, key_gradient_bytes<w>, tiled_key_gradient_kernel<w>, x, dqkv,
           how);
    launch(c, tile_blocks(x), tile_threads, query_gradient_bytes<w>, tiled_query_gradient_kernel<w>, x, dqkv,
           how);
    if (dbias == nullptr)
      return;
    auto const tiles = static_cast<unsigned>((x.side + tile_rows - 1) / tile_rows);
    auto const groups = bias_groups(x), elements = extent_t{x.heads} * x.side * x.side;
    constexpr int bytes = 4 * tile_elements<tile_rows, w> * static_cast<int>(sizeof(bf16));
    launch(c, dim3(tiles * tiles, static_cast<unsigned>(x.heads), static_cast<unsigned>(groups)),
           tile_threads, bytes, tiled_bias_gradient_kernel<w>, x, parts);
    launch(c, blocks_for(c, elements, 256), 256, 0, add_bias_parts_kernel, parts, static_cast<int>(groups),
           elements, dbias, bias_how);
  });
}

}  // namespace yoke::cuda::detail
