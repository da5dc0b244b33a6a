// Rows of tokens: patches, first tokens and positions, pooling; and the embeddings.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/device.cuh>
#include <yoke/cuda/embedding.cuh>
#include <yoke/cuda/lines.cuh>
#include <yoke/cuda/row_sums.cuh>
#include <yoke/cuda/runs.cuh>

#include <type_traits>

namespace yoke::cuda {

namespace detail {

/// Images (…, height, width, channels) in patches. A strip, the patches of `size` rows of pixels, is a run of
/// `across` * size * line elements of the rows, and one of the image that has them in another order.
struct patch_shape {
  int size, down, across;     // patches from top to bottom, and side by side
  int line;                   // elements of a row of pixels in a patch
  extent_t image_row, image;  // elements
};

/// Copies rows = images, or, with Fold, images = or += rows; in the order of what is written.
template <int N, bool Fold, class T>
static __global__ void __launch_bounds__(256) patches_kernel(patch_shape p, T const* from, T* to, store how) {
  extent_t const strip = blockIdx.x;
  int const packs = p.line / N, elements = p.across * p.size * packs;
  auto const in_images = strip / p.down * p.image + strip % p.down * p.size * p.image_row;
  auto const in_rows = strip * p.across * p.size * p.line;
  for (int i = static_cast<int>(blockIdx.y * 256 + threadIdx.x); i < elements;
       i += static_cast<int>(gridDim.y) * 256) {
    int const rest = i / packs, k = i - rest * packs;
    int const outer = Fold ? rest / p.across : rest / p.size;
    int const inner = rest - outer * (Fold ? p.across : p.size);
    int const x = Fold ? inner : outer, y = Fold ? outer : inner;
    auto const pixel = in_images + y * p.image_row + (extent_t{x} * packs + k) * N;
    auto const element = in_rows + ((extent_t{x} * p.size + y) * packs + k) * N;
    if (Fold)
      save<N>(to + pixel, load<N>(from + element), how);
    else
      save<N>(to + element, load<N>(from + pixel), store::overwrite);
  }
}

template <bool Fold, class T>
void run_patches(device& c, extent_t size, shape<4> images, T const* from, T* to, store how) {
  if (images.size() == 0)
    return;
  patch_shape const p{.size = static_cast<int>(size),
                      .down = static_cast<int>(images[1] / size),
                      .across = static_cast<int>(images[2] / size),
                      .line = static_cast<int>(size * images[3]),
                      .image_row = images[2] * images[3],
                      .image = images[1] * images[2] * images[3]};
  auto const run = [&](int each, auto* kernel) {
    auto const elements = p.size * p.image_row / each;
    launch(c,
           dim3(static_cast<unsigned>(images[0] * p.down), static_cast<unsigned>((elements + 1023) / 1024)),
           256, 0, kernel, p, from, to, how);
  };
  constexpr int N = wide<T>;
  if (p.line % N == 0 && p.image_row % N == 0 && packs_are_aligned<N>(from, to))
    run(N, patches_kernel<N, Fold, T>);
  else
    run(1, patches_kernel<1, Fold, T>);
}

// A warp has a row at a time.
inline constexpr int row_threads = 256;

/// first (null: absent), patch rows and positions (tokens, width) -> y (rows, width)
template <int N, class T>
static __global__ void __launch_bounds__(row_threads)
    assemble_tokens_kernel(int rows, int tokens, T const* patches, accumulator_t<T> const* first,
                           T const* positions, int width, T* y) {
  int const warp = static_cast<int>(blockIdx.x * row_threads + threadIdx.x) / 32;
  int const lane = static_cast<int>(threadIdx.x) % 32, extra = first == nullptr ? 0 : 1;
  for (int r = warp; r < rows; r += static_cast<int>(gridDim.x) * (row_threads / 32)) {
    int const sample = r / tokens, place = r - sample * tokens;
    auto const patch = extent_t{sample} * (tokens - extra) + place - extra;
    for (int j = lane * N; j < width; j += 32 * N) {
      auto v = load<N>(positions + extent_t{place} * width + j);
      if (place < extra)
        add_to(v, load<N>(first + j));
      else
        add_to(v, load<N>(patches + patch * width + j));
      save<N>(y + extent_t{r} * width + j, v, store::overwrite);
    }
  }
}

/// dpatches (…, kept, width) = or += the last `kept` of each sample's rows of dy (…, tokens, width)
template <int N, class T>
static __global__ void __launch_bounds__(row_threads)
    take_patches_kernel(int rows, int kept, int tokens, T const* dy, int width, T* dpatches, store how) {
  int const warp = static_cast<int>(blockIdx.x * row_threads + threadIdx.x) / 32;
  int const lane = static_cast<int>(threadIdx.x) % 32;
  for (int r = warp; r < rows; r += static_cast<int>(gridDim.x) * (row_threads / 32)) {
    int const sample = r / kept;
    auto const from = extent_t{sample} * tokens + tokens - kept + (r - sample * kept);
    for (int j = lane * N; j < width; j += 32 * N)
      save<N>(dpatches + extent_t{r} * width + j, load<N>(dy + from * width + j), how);
  }
}

/// The places of a segment that its embedding is made of.
struct pooled_places {
  int first, last;

  __device__ static pooled_places of(pool_kind kind, int length) {
    switch (kind) {
      case pool_kind::first:
        return {0, min(length, 1)};
      case pool_kind::last:
        return {max(0, length - 1), length};
      case pool_kind::mean_rest:
        return {min(length, 1), length};
      default:
        return {0, length};
    }
  }
  template <class A>
  __device__ A share() const {
    return A(1) / static_cast<A>(max(1, last - first));
  }
};

/// Block (segment, tile of 32 N columns): its warps take the rows in turns, and the first adds what they have.
template <int N, class T>
static __global__ void __launch_bounds__(256)
    pool_kernel(pool_kind kind, runs segments, int tiles, T const* x, int width, T* y) {
  using A = accumulator_t<T>;
  constexpr int warps = 8, columns = 32 * N;
  __shared__ A sums[warps * columns];
  int const s = static_cast<int>(blockIdx.x) / tiles, tile = static_cast<int>(blockIdx.x) - s * tiles;
  int const thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  auto const places = pooled_places::of(kind, segments.length(s));
  auto const begin = segments.begin(s);
  int const column = tile * columns + lane * N;
  pack<A, N> sum = {};
  if (column < width) {
#pragma unroll 4
    for (int place = places.first + warp; place < places.last; place += warps)
      add_to(sum, load<N>(x + (begin + place) * width + column));
  }
#pragma unroll
  for (int k = 0; k < N; ++k) sums[warp * columns + lane * N + k] = sum.at[k];
  __syncthreads();
  int const j = tile * columns + thread;
  if (thread < columns && j < width) {
    A all = 0;
#pragma unroll
    for (int w = 0; w < warps; ++w) all += sums[w * columns + thread];
    y[extent_t{s} * width + j] = narrow<T>(all * places.template share<A>());
  }
}

template <int N, class T>
static __global__ void __launch_bounds__(segment_threads)
    pool_backward_kernel(pool_kind kind, runs segments, T const* dy, int width, T* dx, store how) {
  using A = accumulator_t<T>;
  int const s = static_cast<int>(blockIdx.x), lane = static_cast<int>(threadIdx.x) % 32;
  auto const begin = segments.begin(s);
  auto const places = pooled_places::of(kind, segments.length(s));
  auto const share = places.template share<A>();
  for_places_of_warp(segments.length(s), [&](int place) {
    bool const pooled = place >= places.first && place < places.last;
    if (!pooled && how == store::accumulate)
      return;
    for (int j = lane * N; j < width; j += 32 * N) {
      pack<A, N> v = {};
      if (pooled) {
        v = load<N>(dy + extent_t{s} * width + j);
#pragma unroll
        for (int k = 0; k < N; ++k) v.at[k] *= share;
      }
      save<N>(dx + (begin + place) * width + j, v, how);
    }
  });
}

}  // namespace detail

/// images (batch, height, width, channels) -> rows (batch * patches, size * size * channels), patches
/// row by row of the image, each (y, x, channel).
template <class T>
void extract_patches(context<T>& c, extent_t size, view<std::type_identity_t<T> const, 4> images,
                     view<std::type_identity_t<T>, 2> rows) {
  detail::run_patches<false, T>(c, size, images.shape, images.data, rows.data, store::overwrite);
}

/// The adjoint of extract_patches, with `how`.
template <class T>
void fold_patches(context<T>& c, extent_t size, view<std::type_identity_t<T> const, 2> rows,
                  view<std::type_identity_t<T>, 4> images, store how) {
  detail::run_patches<true, T>(c, size, images.shape, rows.data, images.data, how);
}

/// y (batch * tokens, width): for each sample first_token (width; optional) and its patch rows, plus
/// positions (tokens, width).
template <class T>
void assemble_tokens(context<T>& c, extent_t batch, view<std::type_identity_t<T> const, 2> patches,
                     view<accumulator_t<std::type_identity_t<T>> const, 1> first_token,
                     view<std::type_identity_t<T> const, 2> positions, view<std::type_identity_t<T>, 2> y) {
  auto const width = static_cast<int>(y.extent(1)), tokens = static_cast<int>(positions.extent(0));
  if (batch * tokens * width == 0)
    return;
  auto const* const first = first_token.extent(0) == 0 ? nullptr : first_token.data;
  auto const run = [&](auto* kernel) {
    detail::launch(c, detail::blocks_for(c, batch * tokens, detail::row_threads / 32), detail::row_threads, 0,
                   kernel, static_cast<int>(batch * tokens), tokens, patches.data, first, positions.data,
                   width, y.data);
  };
  constexpr int N = detail::wide<T>;
  if (width % N == 0 && detail::packs_are_aligned<N>(patches.data, positions.data, y.data) &&
      detail::packs_are_aligned<N>(first))
    run(detail::assemble_tokens_kernel<N, T>);
  else
    run(detail::assemble_tokens_kernel<1, T>);
}

/// The gradient of assemble_tokens: dpatches (optional) with `how`; dfirst and dpositions (both
/// optional; the latter elements or accumulators) accumulate.
template <class T, class W>
void assemble_tokens_backward(context<T>& c, extent_t batch, view<std::type_identity_t<T> const, 2> dy,
                              view<std::type_identity_t<T>, 2> dpatches, store how,
                              view<accumulator_t<std::type_identity_t<T>>, 1> dfirst, view<W, 2> dpositions) {
  if (batch == 0 || dy.size() == 0)
    return;
  auto const width = static_cast<int>(dy.extent(1)), tokens = static_cast<int>(dy.extent(0) / batch);
  auto const rows = dpatches.extent(0);
  auto const run = [&](auto* kernel) {
    detail::launch(c, detail::blocks_for(c, rows, detail::row_threads / 32), detail::row_threads, 0, kernel,
                   static_cast<int>(rows), static_cast<int>(rows / batch), tokens, dy.data, width,
                   dpatches.data, how);
  };
  constexpr int N = detail::wide<T>;
  if (width % N == 0 && detail::packs_are_aligned<N>(dy.data, dpatches.data))
    run(detail::take_patches_kernel<N, T>);
  else
    run(detail::take_patches_kernel<1, T>);

  auto const samples = detail::on_device(segments::uniform(batch, tokens));
  if (dfirst.extent(0) != 0)
    detail::sum_rows_at_places(c, samples, 1, dy.data, width, dfirst.data);
  if (dpositions.extent(0) != 0)
    detail::sum_rows_at_places(c, samples, tokens, dy.data, width, dpositions.data);
}

/// One row for each segment: (rows, width) -> (segments, width).
template <class T>
void pool_forward(context<T>& c, pool_kind kind, segments const& segments,
                  view<std::type_identity_t<T> const, 2> x, view<std::type_identity_t<T>, 2> y) {
  auto const width = static_cast<int>(x.extent(1));
  auto const runs = detail::on_device(segments);
  auto const run = [&](int each, auto* kernel) {
    int const tiles = (width + 32 * each - 1) / (32 * each);
    detail::launch(c, dim3(static_cast<unsigned>(runs.count) * static_cast<unsigned>(tiles)), 256, 0, kernel,
                   kind, runs, tiles, x.data, width, y.data);
  };
  constexpr int N = detail::wide<T>;
  if (width % N == 0 && detail::packs_are_aligned<N>(x.data))
    run(N, detail::pool_kernel<N, T>);
  else
    run(1, detail::pool_kernel<1, T>);
}

/// The gradient of pool_forward; store::overwrite also zeroes the rows that were not pooled.
template <class T>
void pool_backward(context<T>& c, pool_kind kind, segments const& segments,
                   view<std::type_identity_t<T> const, 2> dy, view<std::type_identity_t<T>, 2> dx,
                   store how) {
  auto const width = static_cast<int>(dy.extent(1));
  auto const runs = detail::on_device(segments);
  auto const run = [&](auto* kernel) {
    detail::launch(c, detail::blocks_of_segments(runs), detail::segment_threads, 0, kernel, kind, runs,
                   dy.data, width, dx.data, how);
  };
  constexpr int N = detail::wide<T>;
  if (width % N == 0 && detail::packs_are_aligned<N>(dy.data, dx.data))
    run(detail::pool_backward_kernel<N, T>);
  else
    run(detail::pool_backward_kernel<1, T>);
}

}  // namespace yoke::cuda
