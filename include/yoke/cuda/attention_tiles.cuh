// What attention on the tensor cores is made of: tiles of bf16 rows in shared memory, and the products between them.
// Four warps share a block; each has 16 rows of a product. Fragments are those of PTX's mma.m16n8k16: with g = lane / 4
// and t = lane % 4 a lane holds, of a 16 x 8 block of sums, columns 2t and 2t + 1 of rows g (at 0, 1) and g + 8 (at 2, 3).
#pragma once
#include <yoke/cuda/attention_plain.cuh>
#include <yoke/cuda/hardware.cuh>

namespace yoke::cuda::detail {

inline constexpr int tile_threads = 128;
inline constexpr int tile_rows = 64;           // 16 for each warp
inline constexpr float masked_logit = -1e30f;  // of a key that a query does not see: its exponential is 0
inline constexpr float log2_e = 1.44269504f, log_2 = 0.693147181f;

/// A tile in shared memory: rows of `Width` elements, a step of 16 bytes more apart, so that eight rows of a matrix lie
/// in different banks.
template <int Width>
inline constexpr int tile_step = Width + 8;
template <int Rows, int Width>
inline constexpr int tile_elements = Rows* tile_step<Width>;

/// 16 x 16 elements of bf16 as the left operand of a product.
using left_fragment = std::uint32_t[4];
/// 16 x 8 sums.
using sum_fragment = float[4];

__device__ inline int lane_group() {
  return static_cast<int>(threadIdx.x) % 32 / 4;
}
__device__ inline int lane_pair() {
  return static_cast<int>(threadIdx.x) % 4 * 2;
}

/// Begins the copy of `rows` rows (the rest of `Rows` become zeros) of `head_width` elements (the rest of `Width` too);
/// rows are `step` elements apart in global memory.
template <int Rows, int Width>
__device__ inline void copy_tile(bf16* tile, bf16 const* from, extent_t step, int rows, int head_width) {
  constexpr int pieces = Width / 8;  // of 16 bytes, in a row
  for (int i = static_cast<int>(threadIdx.x); i < Rows * pieces; i += tile_threads) {
    int const row = i / pieces, column = i % pieces * 8;
    bool const inside = row < rows && column < head_width;
    copy_16_async(tile + row * tile_step<Width> + column, inside ? from + row * step + column : from, inside);
  }
}

/// Rows [0, 16), columns [k, k + 16) of a tile as a left operand.
template <int Width>
__device__ inline void load_left(left_fragment& to, bf16 const* tile, int k) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  load_matrices(to, tile + lane % 16 * tile_step<Width> + k + lane / 16 * 8);
}
template <int Width>
__device__ inline void load_left(left_fragment (&to)[Width / 16], bf16 const* tile) {
#pragma unroll
  for (int k = 0; k < Width / 16; ++k) load_left<Width>(to[k], tile, 16 * k);
}

/// sums (16, 8 Blocks) += left (16, Width) * the transpose of a tile's rows (8 Blocks, Width); left(k) gives the left
/// operand of columns [16 k, 16 k + 16).
template <int Width, int Blocks, class Left>
__device__ inline void multiply_by_rows(sum_fragment (&sums)[Blocks], Left const& left, bf16 const* tile) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  auto const* const from = tile + (lane / 16 * 8 + lane % 8) * tile_step<Width> + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < Width / 16; ++k) {
    left_fragment a;
    left(a, k);
#pragma unroll
    for (int n = 0; n < Blocks; n += 2) {
      std::uint32_t b[4];  // (8 rows, 8 columns) of rows 8n: columns 0, 8; of rows 8n + 8: the same
      load_matrices(b, from + 8 * n * tile_step<Width> + 16 * k);
      multiply_add(sums[n], a, b[0], b[1]);
      multiply_add(sums[n + 1], a, b[2], b[3]);
    }
  }
}

/// sums (16, Width) += left (16, 16 Depth) * a tile (16 Depth, Width).
template <int Width, int Depth>
__device__ inline void multiply_by_tile(sum_fragment (&sums)[Width / 8], left_fragment const (&left)[Depth],
                                        bf16 const* tile) {
  int const lane = static_cast<int>(threadIdx.x) % 32;
  auto const* const from = tile + lane % 16 * tile_step<Width> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < Depth; ++k) {
#pragma unroll
    for (int n = 0; n < Width / 8; n += 2) {
      std::uint32_t b[4];  // transposed: rows 0, 8 of columns 8n; the same of columns 8n + 8
      load_matrices_transposed(b, from + 16 * k * tile_step<Width> + 8 * n);
      multiply_add(sums[n], left[k], b[0], b[1]);
      multiply_add(sums[n + 1], left[k], b[2], b[3]);
    }
  }
}

__device__ inline std::uint32_t pack_pair(float low, float high) {
  return static_cast<std::uint32_t>(narrow<bf16>(low).bits) |
         static_cast<std::uint32_t>(narrow<bf16>(high).bits) << 16;
}
/// Sums (16, 8 Blocks), rounded to bf16, as the left operand of the next product.
template <int Blocks>
__device__ inline void as_left(left_fragment (&to)[Blocks / 2], sum_fragment const (&sums)[Blocks]) {
#pragma unroll
  for (int k = 0; k < Blocks / 2; ++k) {
    to[k][0] = pack_pair(sums[2 * k][0], sums[2 * k][1]);
    to[k][1] = pack_pair(sums[2 * k][2], sums[2 * k][3]);
    to[k][2] = pack_pair(sums[2 * k + 1][0], sums[2 * k + 1][1]);
    to[k][3] = pack_pair(sums[2 * k + 1][2], sums[2 * k + 1][3]);
  }
}

template <int Blocks>
__device__ inline void clear(sum_fragment (&sums)[Blocks]) {
#pragma unroll
  for (int n = 0; n < Blocks; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n][e] = 0;
}

/// Rows [0, 16) of a head in global memory, `step` elements apart, = or += sums * by; of `rows` rows.
template <int Width>
__device__ inline void save_rows(sum_fragment const (&sums)[Width / 8], float by_upper, float by_lower,
                                 bf16* to, extent_t step, int rows, int head_width, store how) {
  for (int half = 0; half < 2; ++half) {
    int const row = lane_group() + 8 * half;
    if (row >= rows)
      continue;
    auto const by = half == 0 ? by_upper : by_lower;
#pragma unroll
    for (int n = 0; n < Width / 8; ++n) {
      if (8 * n >= head_width)
        break;
      auto* const pair = reinterpret_cast<std::uint32_t*>(to + row * step + 8 * n + lane_pair());
      auto low = (half == 0 ? sums[n][0] : sums[n][2]) * by,
           high = (half == 0 ? sums[n][1] : sums[n][3]) * by;
      if (how == store::accumulate) {
        auto const before = *pair;
        low += __uint_as_float(before << 16);
        high += __uint_as_float(before & 0xffff0000u);
      }
      *pair = pack_pair(low, high);
    }
  }
}

/// A head of a segment, and the tile of it that a block works on. Blocks are (segments * tiles of the longest, heads).
struct head_tile {
  int head, length;
  int first;       // row of the tile within the segment; not before `length`: there is nothing to do
  extent_t begin;  // row of the segment

  __device__ head_tile(int h, int rows, int row, extent_t segment_begin)
      : head{h}, length{rows}, first{row}, begin{segment_begin} {}
  __device__ head_tile(attention_inputs<bf16> const& x) {
    int const tiles = (x.segments.longest + tile_rows - 1) / tile_rows;
    int const segment = static_cast<int>(blockIdx.x) / tiles;
    head = static_cast<int>(blockIdx.y);
    first = static_cast<int>(blockIdx.x) % tiles * tile_rows;
    length = x.segments.length(segment);
    begin = x.segments.begin(segment);
  }
};
inline dim3 tile_blocks(attention_inputs<bf16> const& x) {
  auto const tiles = (x.segments.longest + tile_rows - 1) / tile_rows;
  return dim3(static_cast<unsigned>(x.segments.count * tiles), static_cast<unsigned>(x.heads));
}

/// The logit of query i and key j to base 2, from their product; or masked_logit.
__device__ inline float logit_base_2(attention_inputs<bf16> const& x, int head, int length, int i, int j,
                                     float product) {
  if (i >= length || j >= length || (x.causal && j > i))
    return masked_logit;
  auto logit = x.scale * product;
  if (x.bias != nullptr)
    logit += widen(x.bias[(static_cast<extent_t>(head) * x.side + i) * x.side + j]);
  return log2_e * logit;
}

/// Products of 16 rows from `row` on and 8 Blocks columns from `column` on become logits to base 2. Rows are queries and
/// columns keys, or the other way round.
template <bool RowsAreKeys, int Blocks>
__device__ inline void to_logits(attention_inputs<bf16> const& x, int head, int length, int row, int column,
                                 sum_fragment (&products)[Blocks]) {
  int const last_row = row + 15, last_column = column + 8 * Blocks - 1;
  bool const inside = last_row < length && last_column < length;
  bool const seen = !x.causal || (RowsAreKeys ? last_row <= column : last_column <= row);
  if (inside && seen && x.bias == nullptr) {
    auto const by = log2_e * x.scale;
#pragma unroll
    for (int n = 0; n < Blocks; ++n)
#pragma unroll
      for (int e = 0; e < 4; ++e) products[n][e] *= by;
    return;
  }
#pragma unroll
  for (int n = 0; n < Blocks; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int const r = row + lane_group() + e / 2 * 8, c = column + 8 * n + lane_pair() + e % 2;
      products[n][e] = RowsAreKeys ? logit_base_2(x, head, length, c, r, products[n][e])
                                   : logit_base_2(x, head, length, r, c, products[n][e]);
    }
}

/// True when the tiles can hold a head and rows begin at multiples of 16 bytes.
template <class... Rows>
bool fits_tiles(attention_inputs<bf16> const& x, Rows const*... rows) {
  return x.head_width <= 128 && x.head_width % 8 == 0 &&
         ((reinterpret_cast<std::uintptr_t>(rows) % 16 == 0) && ...);
}

/// Calls f with the width of the tiles, a constant that is at least the head's.
template <class F>
void with_tile_width(int head_width, F const& f) {
  if (head_width <= 32)
    f(std::integral_constant<int, 32>{});
  else if (head_width <= 64)
    f(std::integral_constant<int, 64>{});
  else if (head_width <= 80)
    f(std::integral_constant<int, 80>{});
  else
    f(std::integral_constant<int, 128>{});
}

}  // namespace yoke::cuda::detail
