// The sigmoid loss over the global batch, streamed like the symmetric one: each pair of an image and a text is a question
// of its own, so no rank waits for sums over rows or columns and one pass gives loss and gradients.
#pragma once
#include <yoke/contrastive/logit_tiles.hpp>
#include <yoke/core/backend.hpp>
#include <yoke/parallel/agreement.hpp>
#include <yoke/parallel/communicator.hpp>

#include <array>

namespace yoke::contrastive {

/// How the logits are gone through: no choice changes the loss but for rounding.
struct sigmoid_options {
  extent_t tile_rows = 0;     // images of a tile of logits; 0: what suits the device
  extent_t tile_columns = 0;  // texts of a tile of logits; 0: what suits the device
};

/// Of all ranks together, but for the derivatives.
struct sigmoid_result {
  double loss = 0;     // over the global batch, a mean over its images of sums over its texts
  double d_scale = 0;  // this rank's share, as d_bias: the derivative of `loss` is the sum over the ranks
  double d_bias = 0;
};

/// The kernel of the loss, beside gemm on accumulators.
template <class C>
concept sigmoid_kernels = context<C> && requires(yoke::detail::sample_arguments<C> x, transpose t, store how,
                                                 view<double, 1> totals, view<double const, 1> from) {
  gemm(x.c, t, t, x.a2, x.a2, x.s2, how);
  // scale, bias, diagonal, weight; a tile of products becomes scale * weight * g, g the slope of log(1 + e^-z) by the
  // logit scale * product + bias: z is the logit of a pair (column = row + diagonal, which may lie outside the tile) and
  // the negative of any other. `totals` (3) take the tile's sums of the loss, of g and of g * product.
  sigmoid_logits(x.c, x.real, x.real, x.n, x.real, x.s2, totals, how);
  download(x.c, from, totals);
};

/// The sigmoid loss of pairs of embeddings (SigLIP; Zhai et al., "Sigmoid loss for language image pre-training", arXiv
/// 2303.15343, section 3.2) over the batches of all ranks together, and its gradients, which are overwritten:
///
///     loss = -1/n sum over all i, j of log sigmoid(z_ij (scale <x_i, y_j> + bias)),  z_ij = 1 where i = j, else -1
///
/// image, text: (rows, width), pairs in the same rows, the same number on every rank; any width and any norms. d_image
/// and d_text: the same shapes, or both without rows for the loss alone. The scale is the factor itself. Texts travel
/// from rank to rank with their gradients (section 3.3). Work space comes from the context's stack: a tile, and for N
/// ranks three blocks of texts. Throws parallel::error on every rank when they disagree about rows, width, scale or bias.
template <sigmoid_kernels C, parallel::communicator Ranks>
sigmoid_result sigmoid_loss(C& c, Ranks& ranks, view<typename C::accumulator const, 2> image,
                            view<typename C::accumulator const, 2> text, typename C::accumulator scale,
                            typename C::accumulator bias, view<typename C::accumulator, 2> d_image,
                            view<typename C::accumulator, 2> d_text, sigmoid_options const& options = {}) {
  using A = typename C::accumulator;
  using matrix = view<A const, 2>;
  auto const rows = image.extent(0);
  expects(rows > 0 && image.extent(1) > 0, "sigmoid_loss: at least one row, at least one column");
  expects(text.shape == image.shape, "sigmoid_loss: as many texts as images, of the same width");
  expects((d_image.extent(0) == 0 && d_text.extent(0) == 0) ||
              (d_image.shape == image.shape && d_text.shape == image.shape),
          "sigmoid_loss: gradients have the shape of the embeddings, or no rows");
  expects(options.tile_rows >= 0 && options.tile_columns >= 0, "sigmoid_loss: tiles have a size");
  parallel::expect_agreement("sigmoid_loss",
                             {{"rows", static_cast<double>(rows)},
                              {"width", static_cast<double>(image.extent(1))},
                              {"scale", static_cast<double>(scale)},
                              {"bias", static_cast<double>(bias)}},
                             ranks);

  arena_scope const work{c.memory};
  auto const images = static_cast<double>(rows) * ranks.size();
  auto const weight = static_cast<A>(1 / images);
  auto const totals = make<double>(c, shape{3});
  detail::text_ring<C, Ranks> ring{c, ranks, text};
  detail::logit_tiles<C> tiles{c, image, rows,
                               detail::tile_shape(c, options.tile_rows, options.tile_columns)};
  auto how = store::overwrite;
  auto const add = [&](view<A, 2> tile, extent_t diagonal) {
    sigmoid_logits(c, scale, bias, diagonal, weight, tile, totals, how);
    how = store::accumulate;
  };
  if (d_image.extent(0) == 0)
    ring.for_each([&](matrix block, extent_t diagonal, int) {
      tiles.for_each(block, [&](view<A, 2> tile, extent_t i, extent_t j) { add(tile, diagonal + i - j); });
    });
  else
    ring.for_each_gradient(d_text, [&](matrix block, view<A, 2> d_block, extent_t diagonal, int step) {
      tiles.for_each_gradient(
          block, d_image, d_block, step == 0,
          [&](view<A, 2> tile, extent_t i, extent_t j, store) { add(tile, diagonal + i - j); });
    });

  std::array<double, 3> sums{};
  download(c, view<double const, 1>{totals}, view<double, 1>{sums.data(), {{3}}});
  if (ranks.size() > 1)
    all_reduce(ranks, view<double, 1>{sums.data(), {{1}}});
  return {.loss = sums[0] / images, .d_scale = sums[2] / images, .d_bias = sums[1] / images};
}

}  // namespace yoke::contrastive
