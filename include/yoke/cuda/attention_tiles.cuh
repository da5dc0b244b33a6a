// What attention on the tensor cores is made of: tiles of bf16 rows in shared memory, and the products between them.
// Four warps share a block; each has a strip of 16 rows, and meets the other operand's rows strip by strip: those that a
// segment has not, or that are masked for all of a warp's rows, cost it nothing. Fragments are those of PTX's
// mma.m16n8k16: with g = lane / 4 and t = lane % 4 a lane holds, of a 16 x 8 block of sums, columns 2t and 2t + 1 of rows
// g (at 0, 1) and g + 8 (at 2, 3).
#pragma once
#include <yoke/cuda/attention_plain.cuh>
#include <yoke/cuda/hardware.cuh>

namespace yoke::cuda::detail {

inline constexpr int strip_rows = 16, tile_strips = 4;
inline constexpr int tile_rows = strip_rows * tile_strips;
inline constexpr int tile_threads = 32 * tile_strips;
inline constexpr float masked_logit = -1e30f;  // of a key that a query does not see: its exponential is 0
inline constexpr float log2_e = 1.44269504f;

/// A tile in shared memory: rows of `Width` elements, a step of 16 bytes more apart, so that eight rows of a matrix lie
/// in different banks.
template <int Width>
inline constexpr int tile_step = Width + 8;
template <int Width>
inline constexpr int tile_elements = tile_rows* tile_step<Width>;

/// What a block has in dynamic shared memory: two stages of two tiles (64, Width). While one stage is worked on, the other
/// is filled; at first it holds the tiles that the block keeps in registers.
template <int Width>
inline constexpr int stages_bytes = 4 * tile_elements<Width>* static_cast<int>(sizeof(bf16));
template <int Width>
__device__ inline bf16* tile_of(int stage, int number) {
  return reinterpret_cast<bf16*>(dynamic_shared()) + (2 * stage + number) * tile_elements<Width>;
}
template <int Width>
__device__ inline bf16* strip_of(bf16* tile, int strip) {
  return tile + strip * strip_rows * tile_step<Width>;
}

/// Blocks of queries that a multiprocessor's registers are shared out to.
template <int Width>
inline constexpr int query_blocks = Width <= 64 ? 4 : 2;

/// 16 x 16 elements of bf16 as the left operand of a product.
using left_fragment = std::uint32_t[4];
/// 16 x 8 sums.
using sum_fragment = float[4];

__device__ inline int lane_of_warp() {
  return static_cast<int>(threadIdx.x) % 32;
}
__device__ inline int warp_of_block() {
  return static_cast<int>(threadIdx.x) / 32;
}
/// Row and column of element e of the lane's sums in block n of a row of blocks.
__device__ inline int sum_row(int e) {
  return lane_of_warp() / 4 + e / 2 * 8;
}
__device__ inline int sum_column(int n, int e) {
  return 8 * n + lane_of_warp() % 4 * 2 + e % 2;
}

/// Begins the copy of `rows` rows of `head_width` elements, `step` elements apart in global memory; the rest of `Width`
/// and the rest of the last strip become zeros, further strips stay as they are.
template <int Width>
__device__ inline void copy_tile(bf16* tile, bf16 const* from, int step, int rows, int head_width) {
  constexpr int pieces = Width / 8;  // of 16 bytes, in a row
  constexpr int at_once = tile_threads / pieces, times = (tile_rows + at_once - 1) / at_once;  // rows
  int const first = static_cast<int>(threadIdx.x) / pieces,
            column = static_cast<int>(threadIdx.x) % pieces * 8;
  int const wanted =
      first < at_once ? min((rows + strip_rows - 1) / strip_rows, tile_strips) * strip_rows : 0;
  bool const inside = column < head_width;
  auto* const to = tile + first * tile_step<Width> + column;
  from += first * step + column;
#pragma unroll 2  // more at a time would take registers from the products
  for (int i = 0; i < times; ++i)
    if (int const row = first + i * at_once; row < wanted)
      copy_16_async(to + i * at_once * tile_step<Width>, from + i * at_once * step, inside && row < rows);
}

/// A strip (16, Width) as left operands of columns [0, 16), [16, 32), …
template <int Width>
__device__ inline void load_left(left_fragment (&to)[Width / 16], bf16 const* strip) {
  auto const* const from = strip + lane_of_warp() % 16 * tile_step<Width> + lane_of_warp() / 16 * 8;
#pragma unroll
  for (int k = 0; k < Width / 16; ++k) load_matrices(to[k], from + 16 * k);
}

/// Where the lane's row of a strip is, for multiply_by_rows.
template <int Width>
__device__ inline bf16 const* lane_of_rows(bf16 const* strip) {
  int const lane = lane_of_warp();
  return strip + (lane / 16 * 8 + lane % 8) * tile_step<Width> + lane / 8 % 2 * 8;
}
/// sums (16, 16) += left (16, 16) * the transpose of columns [k, k + 16) of a strip.
__device__ inline void multiply_step(sum_fragment (&sums)[2], left_fragment const& left,
                                     bf16 const* lane_of_rows, int k) {
  std::uint32_t b[4];  // (8 rows, 8 columns) of rows 0: columns k, k + 8; of rows 8: the same
  load_matrices(b, lane_of_rows + k);
  multiply_add(sums[0], left, b[0], b[1]);
  multiply_add(sums[1], left, b[2], b[3]);
}
/// Of `Strips` strips: sums (16, 16) += left (16, Width) * the strip's transpose (Width, 16). Products of several strips
/// take turns: a sum waits long for the one before.
template <int Width, int Strips>
__device__ inline void multiply_by_rows(sum_fragment (*sums)[2], left_fragment const (&left)[Width / 16],
                                        bf16 const* strips) {
  auto const* const from = lane_of_rows<Width>(strips);
#pragma unroll
  for (int k = 0; k < Width / 16; ++k)
#pragma unroll
    for (int s = 0; s < Strips; ++s)
      multiply_step(sums[s], left[k], from + s * strip_rows * tile_step<Width>, 16 * k);
}
/// The same of one strip and one left operand each.
template <int Width>
__device__ inline void multiply_both_by_rows(sum_fragment (&sums)[2], left_fragment const (&left)[Width / 16],
                                             bf16 const* strip, sum_fragment (&more_sums)[2],
                                             left_fragment const (&more_left)[Width / 16],
                                             bf16 const* more_strip) {
  auto const *const from = lane_of_rows<Width>(strip), *const more_from = lane_of_rows<Width>(more_strip);
#pragma unroll
  for (int k = 0; k < Width / 16; ++k) {
    multiply_step(sums, left[k], from, 16 * k);
    multiply_step(more_sums, more_left[k], more_from, 16 * k);
  }
}

/// sums (16, Width) += left (16, 16) * a strip (16, Width).
template <int Width>
__device__ inline void multiply_by_strip(sum_fragment (&sums)[Width / 8], left_fragment const& left,
                                         bf16 const* strip) {
  auto const* const from = strip + lane_of_warp() % 16 * tile_step<Width> + lane_of_warp() / 16 * 8;
#pragma unroll
  for (int n = 0; n < Width / 8; n += 2) {
    std::uint32_t b[4];  // transposed: rows 0, 8 of columns 8n; the same of columns 8n + 8
    load_matrices_transposed(b, from + 8 * n);
    multiply_add(sums[n], left, b[0], b[1]);
    multiply_add(sums[n + 1], left, b[2], b[3]);
  }
}

__device__ inline std::uint32_t pack_pair(float low, float high) {
  auto const pair = __floats2bfloat162_rn(low, high);
  return static_cast<std::uint32_t>(__bfloat16_as_ushort(__low2bfloat16(pair))) |
         static_cast<std::uint32_t>(__bfloat16_as_ushort(__high2bfloat16(pair))) << 16;
}
/// Sums (16, 16), rounded to bf16, as the left operand of the next product.
__device__ inline void as_left(left_fragment& to, sum_fragment const (&sums)[2]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    to[2 * n] = pack_pair(sums[n][0], sums[n][1]);
    to[2 * n + 1] = pack_pair(sums[n][2], sums[n][3]);
  }
}

template <int Blocks>
__device__ inline void clear(sum_fragment (&sums)[Blocks]) {
#pragma unroll
  for (int n = 0; n < Blocks; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) sums[n][e] = 0;
}

/// A warp's strip of `rows` rows in global memory, `step` elements apart, = or += sums * by (`upper` for rows [0, 8),
/// `lower` for the others). It goes through shared memory, where no tile may be wanted any more, to be written 16 bytes
/// at a time.
template <int Width>
__device__ inline void save_strip(sum_fragment const (&sums)[Width / 8], float upper, float lower, bf16* to,
                                  extent_t step, int rows, int head_width, store how) {
  // (16, Width) floats; rows of eight lanes' pairs lie in different banks
  auto* const strip =
      reinterpret_cast<float*>(dynamic_shared()) + warp_of_block() * strip_rows * tile_step<Width>;
  __syncwarp();  // what was here before has been read
#pragma unroll
  for (int n = 0; n < Width / 8; ++n)
#pragma unroll
    for (int e = 0; e < 4; e += 2) {
      auto const by = e == 0 ? upper : lower;
      *reinterpret_cast<pack<float, 2>*>(strip + sum_row(e) * tile_step<Width> +
                                         sum_column(n, e)) = {{sums[n][e] * by, sums[n][e + 1] * by}};
    }
  __syncwarp();
  constexpr int pieces = Width / 8;
  for (int i = lane_of_warp(); i < strip_rows * pieces; i += 32) {
    int const row = i / pieces, column = i % pieces * 8;
    if (row >= rows || column >= head_width)
      continue;
    auto values = *reinterpret_cast<pack<float, 8> const*>(strip + row * tile_step<Width> + column);
    auto* const place = reinterpret_cast<pack<std::uint32_t, 4>*>(to + row * step + column);
    if (how == store::accumulate) {
      auto const before = *place;
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        values.at[2 * e] += __uint_as_float(before.at[e] << 16);
        values.at[2 * e + 1] += __uint_as_float(before.at[e] & 0xffff0000u);
      }
    }
    pack<std::uint32_t, 4> rounded;
#pragma unroll
    for (int e = 0; e < 4; ++e) rounded.at[e] = pack_pair(values.at[2 * e], values.at[2 * e + 1]);
    *place = rounded;
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
  /// Where a row begins among rows of `times` widths: 3 for qkv, and 1.
  __device__ extent_t place(attention_inputs<bf16> const& x, int row, int times) const {
    return (begin + row) * times * x.width + head * x.head_width;
  }
};
inline dim3 tile_blocks(attention_inputs<bf16> const& x) {
  auto const tiles = (x.segments.longest + tile_rows - 1) / tile_rows;
  return dim3(static_cast<unsigned>(x.segments.count * tiles), static_cast<unsigned>(x.heads));
}

/// The first key that a query, of a segment of `length`, does not see.
__device__ inline int keys_seen(attention_inputs<bf16> const& x, int query, int length) {
  return x.causal ? min(query + 1, length) : length;
}
/// Strips from row `from` on that have rows before `end`.
__device__ inline int strips_before(int end, int from) {
  return min((end - from + strip_rows - 1) / strip_rows, tile_strips);
}

/// What products of queries and keys are added to, to become logits when they are scaled: the bias over the scale, or
/// zeros. Rows are queries and columns keys, or the other way round.
template <bool RowsAreKeys>
__device__ inline void start_logits(attention_inputs<bf16> const& x, head_tile const& at, int row, int column,
                                    sum_fragment (&to)[2]) {
  clear(to);
  if (x.bias == nullptr)
    return;
  int const first_query = RowsAreKeys ? column : row, first_key = RowsAreKeys ? row : column;
  auto const* const bias =
      x.bias + (static_cast<extent_t>(at.head) * x.side + first_query) * x.side + first_key;
  auto const by = x.scale * static_cast<float>(x.head_width);  // 1 / scale
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int const r = sum_row(e), c = sum_column(n, e);
      int const query = RowsAreKeys ? c : r, key = RowsAreKeys ? r : c;
      if (first_query + query < at.length && first_key + key < at.length)
        to[n][e] = by * widen(bias[query * x.side + key]);
    }
}

/// Hides what queries do not see, unless all 16 see all 16 keys.
template <bool RowsAreKeys>
__device__ inline void mask_logits(attention_inputs<bf16> const& x, int length, int row, int column,
                                   sum_fragment (&logits)[2]) {
  if ((RowsAreKeys ? row : column) + strip_rows <= keys_seen(x, RowsAreKeys ? column : row, length))
    return;
#pragma unroll
  for (int n = 0; n < 2; ++n)
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      int const r = row + sum_row(e), c = column + sum_column(n, e);
      if ((RowsAreKeys ? r : c) >= keys_seen(x, RowsAreKeys ? c : r, length))
        logits[n][e] = masked_logit;
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
