// Sums of chosen rows, columns side by side: over the rows of each token id, and over the segments' rows at each place.
// Rows are summed in pieces that depend on their number alone, so that a sum has the same bits every time. Where sums
// go to elements they are rounded once.
#pragma once
#include <yoke/cuda/columns.cuh>
#include <yoke/cuda/lines.cuh>
#include <yoke/cuda/runs.cuh>
#include <yoke/cuda/sort_ids.cuh>

#include <cstddef>

namespace yoke::cuda::detail {

// Warps work on their own; each has 32 rows at a time, and N columns a lane.
inline constexpr int sum_threads = 128, rows_of_piece = 32;

/// The part of a warp: one of the pieces, and the columns of this lane.
struct warp_part {
  extent_t piece;
  int column;

  template <int N>
  __device__ static warp_part of_lane(int tiles) {
    int const thread = static_cast<int>(threadIdx.x);
    auto const warp = extent_t{blockIdx.x} * (sum_threads / 32) + thread / 32;
    auto const piece = warp / tiles;
    return {piece, (static_cast<int>(warp - piece * tiles) * 32 + thread % 32) * N};
  }
};

/// Calls each(i, columns of lane i's row) in the lanes' order, on all lanes; a row that is negative is none.
template <int N, class T, class F>
__device__ inline void for_rows_of_lanes(T const* from, int width, int column, int row_of_lane,
                                         F const& each) {
  constexpr int rows_in_flight = N > 4 ? 4 : 8;
  from += column < width ? column : 0;
#pragma unroll 1
  for (int i = 0; i < 32; i += rows_in_flight) {
    pack<accumulator_t<T>, N> part[rows_in_flight] = {};
    int rows[rows_in_flight];
#pragma unroll
    for (int u = 0; u < rows_in_flight; ++u) {
      rows[u] = __shfl_sync(whole_warp, row_of_lane, i + u);
      if (rows[u] >= 0)
        part[u] = load<N>(from + extent_t{rows[u]} * width);
    }
#pragma unroll
    for (int u = 0; u < rows_in_flight; ++u)
      if (rows[u] >= 0)
        each(i + u, part[u]);
  }
}

template <int N, class A>
__device__ inline void add_to(pack<A, N>& sum, pack<A, N> const& part) {
#pragma unroll
  for (int k = 0; k < N; ++k) sum.at[k] += part.at[k];
}

/// Adds each id's rows of `from` to its row of `to`, except those of a run of one id that has rows in another piece: a
/// piece has two lines of `parts`, the sum of a run that began in an earlier piece, and of one that goes on in the
/// next.
template <int N, class T, class W>
static __global__ void __launch_bounds__(sum_threads)
    sum_ids_kernel(sorted_rows sorted, int rows, int tiles, T const* from, int width, accumulator_t<T>* parts,
                   W* to) {
  auto const part = warp_part::of_lane<N>(tiles);
  auto const first = part.piece * rows_of_piece;
  if (first >= rows)
    return;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  auto const i = first + lane;
  int const id = i < rows ? sorted.ids[i] : -1, row = i < rows ? sorted.rows[i] : -1;
  bool const last = lane == 31 || i + 1 >= rows || sorted.ids[i + 1] != id;
  auto const ends = __ballot_sync(whole_warp, last);
  bool continues = first > 0 && sorted.ids[first - 1] == sorted.ids[first];
  auto const behind = first + rows_of_piece;
  bool const goes_on = behind < rows && sorted.ids[behind - 1] == sorted.ids[behind];

  pack<accumulator_t<T>, N> sum = {};
  for_rows_of_lanes<N>(from, width, part.column, row, [&](int k, auto const& line) {
    add_to(sum, line);
    if ((ends >> k & 1u) == 0)
      return;
    auto const of_row = extent_t{__shfl_sync(whole_warp, id, k)};
    if (part.column < width) {
      if (continues || (k == 31 && goes_on))
        save<N>(parts + (2 * part.piece + (continues ? 0 : 1)) * width + part.column, sum, store::overwrite);
      else
        save<N>(to + of_row * width + part.column, sum, store::accumulate);
    }
    continues = false;
    sum = {};
  });
}

/// Adds what sum_ids_kernel has left in `parts`, one run by the warps of the first piece that continues it.
template <int N, class A, class W>
static __global__ void __launch_bounds__(sum_threads)
    join_ids_kernel(sorted_rows sorted, int rows, int tiles, A const* parts, int width, W* to) {
  auto const part = warp_part::of_lane<N>(tiles);
  auto const first = part.piece * rows_of_piece;
  if (first == 0 || first >= rows)
    return;
  int const id = sorted.ids[first];
  auto const continues = [&](extent_t i) { return sorted.ids[i] == id && sorted.ids[i - 1] == id; };
  if (!continues(first) || (part.piece > 1 && continues(first - rows_of_piece)))
    return;
  auto end = part.piece + 1;
  for (int more = 32; more == 32; end += more) {
    auto const i = (end + static_cast<int>(threadIdx.x) % 32) * rows_of_piece;
    auto const others = ~__ballot_sync(whole_warp, i < rows && sorted.ids[i < rows ? i : 0] == id);
    more = others == 0 ? 32 : __ffs(static_cast<int>(others)) - 1;
  }
  if (part.column >= width)
    return;
  auto sum = load<N>(parts + (2 * part.piece - 1) * width + part.column);
#pragma unroll 8
  for (auto piece = part.piece; piece < end; ++piece)
    add_to(sum, load<N>(parts + 2 * piece * width + part.column));
  save<N>(to + extent_t{id} * width + part.column, sum, store::accumulate);
}

/// Line (piece, place) of `to` = or += the rows at that place of the piece's segments.
template <int N, class T, class W>
static __global__ void __launch_bounds__(sum_threads)
    sum_places_kernel(runs segments, int places, int pieces, int segments_of_piece, int tiles, T const* from,
                      int width, W* to, store how) {
  auto const part = warp_part::of_lane<N>(tiles);
  auto const piece = static_cast<int>(part.piece / places);
  auto const place = static_cast<int>(part.piece - extent_t{piece} * places);
  if (piece >= pieces)
    return;
  int const first = piece * segments_of_piece, last = min(segments.count, first + segments_of_piece);
  pack<accumulator_t<T>, N> sum = {};
  for (int s = first; s < last; s += 32) {
    int const own = s + static_cast<int>(threadIdx.x) % 32;
    bool const there = own < last && segments.length(own) > place;
    int const row = there ? static_cast<int>(segments.begin(own)) + place : -1;
    if (__ballot_sync(whole_warp, there) != 0)
      for_rows_of_lanes<N>(from, width, part.column, row, [&](int, auto const& line) { add_to(sum, line); });
  }
  if (part.column < width)
    save<N>(to + part.piece * width + part.column, sum, how);
}

/// Calls f(N, tiles): N columns a lane, and so many warps for a line.
template <class T, class W, class F>
void with_tiles(T const* from, int width, W const* to, F const& f) {
  auto const call = [&](auto n) {
    constexpr int columns = 32 * decltype(n)::value;
    f(n, (width + columns - 1) / columns);
  };
  constexpr int N = wide<T>;
  if (width % N == 0 && packs_are_aligned<N>(from) && packs_are_aligned<N>(to))
    call(std::integral_constant<int, N>{});
  else
    call(std::integral_constant<int, 1>{});
}

inline dim3 blocks_of_warps(extent_t warps) {
  return dim3(static_cast<unsigned>((warps + sum_threads / 32 - 1) / (sum_threads / 32)));
}

/// to (vocabulary, width), elements or accumulators, += the rows of `from` at their ids; ids outside the vocabulary
/// count as 0.
template <class T, class W>
void sum_rows_of_ids(device& c, int rows, int vocabulary, std::int32_t const* ids, T const* from, int width,
                     W* to) {
  using A = accumulator_t<T>;
  auto const pieces = (extent_t{rows} + rows_of_piece - 1) / rows_of_piece;
  auto const part_bytes = 2 * pieces * width * static_cast<extent_t>(sizeof(A));
  auto* const space =
      c.scratch<std::byte>(part_bytes + sort_space(rows) * static_cast<extent_t>(sizeof(int)));
  auto* const parts = reinterpret_cast<A*>(space);
  auto const sorted = sort_ids(c, rows, vocabulary, ids, reinterpret_cast<int*>(space + part_bytes));
  with_tiles(from, width, to, [&](auto n, int tiles) {
    constexpr int N = decltype(n)::value;
    auto const blocks = blocks_of_warps(pieces * tiles);
    launch(c, blocks, sum_threads, 0, sum_ids_kernel<N, T, W>, sorted, rows, tiles, from, width, parts, to);
    if (pieces > 1)
      launch(c, blocks, sum_threads, 0, join_ids_kernel<N, A, W>, sorted, rows, tiles, parts, width, to);
  });
}

/// to (places, width), elements or accumulators, += for each place the rows of `from` that are there in their segments.
template <class T, class W>
void sum_rows_at_places(device& c, runs const& segments, int places, T const* from, int width, W* to) {
  using A = accumulator_t<T>;
  if (segments.count == 0)
    return;
  constexpr int most_pieces = 32;
  int const each = 32 * ((segments.count + 32 * most_pieces - 1) / (32 * most_pieces));
  int const pieces = (segments.count + each - 1) / each;
  auto const elements = extent_t{places} * width;
  auto const run = [&]<class V>(V* sums, store how) {
    with_tiles(from, width, sums, [&](auto n, int tiles) {
      launch(c, blocks_of_warps(extent_t{pieces} * places * tiles), sum_threads, 0,
             sum_places_kernel<decltype(n)::value, T, V>, segments, places, pieces, each, tiles, from, width,
             sums, how);
    });
  };
  if (pieces == 1)
    return run(to, store::accumulate);
  auto* const sums = c.scratch<A>(pieces * elements);
  run(sums, store::overwrite);
  add_parts(c, sums, pieces, elements, to, store::accumulate);
}

}  // namespace yoke::cuda::detail
