// The symmetric contrastive loss over the global batch, streamed: logits exist a tile at a time and
// the backward pass computes them again, so memory grows with the batch and never with its square.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/core/errors.hpp>
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <array>
#include <limits>
#include <string>
#include <type_traits>

namespace yoke::contrastive {

/// How ranks see each other's texts: `gather` holds all of them at once, `ring` one block that
/// travels, so that a rank's memory is its share of the batch.
enum class text_exchange { gather, ring };

struct info_nce_options {
  text_exchange exchange = text_exchange::gather;
  extent_t tile_rows = 512;      // images of a tile of logits
  extent_t tile_columns = 2048;  // texts of a tile of logits
};

struct info_nce_result {
  double loss = 0;      // mean over the global batch and both directions
  double accuracy = 0;  // share of the images whose own text has the largest logit; ties count
  double d_scale = 0;   // this rank's share: the derivative of `loss` is the sum over ranks
};

/// Every `logit_scratch_columns` columns of a tile, one partial result for each row.
inline constexpr extent_t logit_scratch_columns = 256;

/// The kernels of the loss, beside gemm on accumulators and fill. Logits are scale * tile; row i of
/// a tile belongs to column i + diagonal, which may lie outside. A sum is one of exponentials,
/// relative to the maximum beside it; (lowest, 0) is that of nothing.
template <class C>
concept info_nce_kernels = context<C> &&
    requires(yoke::detail::sample_arguments<C> x, transpose t, store how, view<double, 1> total) {
  gemm(x.c, t, t, x.a2, x.a2, x.s2, how);
  fill(x.c, x.s1, 0.0);
  fill(x.c, total, 0.0);
  convert(x.c, x.a1, x.s1, how);
  // scale, diagonal, tile, scratch (2, rows, columns / logit_scratch_columns rounded up) -> row
  // maximum (exact) and sum, column maximum (or a bound of it) and sum: merged with what they hold;
  // the logits on the diagonal
  logit_statistics(x.c, x.real, x.n, x.a2, x.m3_scratch(), x.s1, x.s1, x.s1, x.s1, x.s1);
};

}  // namespace yoke::contrastive
