// Token embeddings: rows of a table by id, and the sums of their gradients.
#pragma once
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/lines.cuh>
#include <yoke/cuda/row_sums.cuh>
#include <yoke/cuda/runs.cuh>

#include <algorithm>
#include <type_traits>

namespace yoke::cuda {

namespace detail {

// A block has so many rows of one segment, a warp a row at a time.
inline constexpr int segment_threads = 256, rows_of_block = 32;

/// Blocks for the rows of segments: (segment, block of rows).
inline dim3 blocks_of_segments(runs const& segments) {
  return dim3(static_cast<unsigned>(segments.count),
              static_cast<unsigned>((segments.longest + rows_of_block - 1) / rows_of_block));
}

/// Calls f(place) for each row of the block's segment that is this warp's.
template <class F>
__device__ inline void for_places_of_warp(int length, F const& f) {
  constexpr int warps = segment_threads / 32;
  int const first = static_cast<int>(blockIdx.y) * rows_of_block;
  int const last = min(length, first + rows_of_block);
  for (int place = first + static_cast<int>(threadIdx.x) / 32; place < last; place += warps) f(place);
}

/// positions may be null. An id outside the vocabulary reads row 0 and is a fault.
template <int N, class T>
static __global__ void __launch_bounds__(segment_threads)
    embed_tokens_kernel(runs segments, std::int32_t const* ids, T const* table, extent_t vocabulary,
                        T const* positions, int width, T* y, int* fault_flag) {
  int const s = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x) % 32;
  auto const begin = segments.begin(s);
  for_places_of_warp(segments.length(s), [&](int place) {
    extent_t id = ids[begin + place];
    if (id < 0 || id >= vocabulary) {
      if (lane == 0)
        atomicExch(fault_flag, static_cast<int>(fault::token_id));
      id = 0;
    }
    auto const* const word = table + id * width;
    auto* const to = y + (begin + place) * width;
    for (int j = lane * N; j < width; j += 32 * N) {
      auto v = load<N>(word + j);
      if (positions != nullptr)
        add_to(v, load<N>(positions + extent_t{place} * width + j));
      save<N>(to + j, v, store::overwrite);
    }
  });
}

}  // namespace detail

/// y (rows, width) = table (vocabulary, width) at the rows' ids, plus positions (context, width) at
/// their places in their segments; positions are optional. An id outside the vocabulary reads row 0, and the host's
/// next read throws precondition_error.
template <class T>
void embed_tokens(context<T>& c, segments const& segments, view<std::int32_t const, 1> ids,
                  view<std::type_identity_t<T> const, 2> table,
                  view<std::type_identity_t<T> const, 2> positions, view<std::type_identity_t<T>, 2> y) {
  expects(ids.extent(0) == 0 || table.extent(0) > 0, "token_embedding: ids are within the vocabulary");
  auto const width = static_cast<int>(y.extent(1));
  if (y.size() == 0)
    return;
  auto const runs = detail::on_device(segments);
  auto const* const places = positions.extent(0) == 0 ? nullptr : positions.data;
  auto const run = [&](auto* kernel) {
    detail::launch(c, detail::blocks_of_segments(runs), detail::segment_threads, 0, kernel, runs, ids.data,
                   table.data, table.extent(0), places, width, y.data, c.fault_flag());
  };
  constexpr int N = detail::wide<T>;
  if (width % N == 0 && detail::packs_are_aligned<N>(table.data, places, y.data))
    run(detail::embed_tokens_kernel<N, T>);
  else
    run(detail::embed_tokens_kernel<1, T>);
}

/// dtable (vocabulary, width) and dpositions (context, width; optional), elements or accumulators, accumulate dy (rows,
/// width), the same bits every time.
template <class T, class W>
void embed_tokens_backward(context<T>& c, segments const& segments, view<std::int32_t const, 1> ids,
                           view<std::type_identity_t<T> const, 2> dy, view<W, 2> dtable,
                           view<std::type_identity_t<W>, 2> dpositions) {
  if (dy.size() == 0)
    return;
  auto const width = static_cast<int>(dy.extent(1));
  if (dtable.extent(0) != 0)
    detail::sum_rows_of_ids(c, static_cast<int>(dy.extent(0)), static_cast<int>(dtable.extent(0)), ids.data,
                            dy.data, width, dtable.data);
  if (dpositions.extent(0) != 0)
    detail::sum_rows_at_places(c, detail::on_device(segments),
                               static_cast<int>(std::min(segments.longest, dpositions.extent(0))), dy.data,
                               width, dpositions.data);
}

}  // namespace yoke::cuda
