// The symmetric contrastive loss over the global batch, streamed: logits exist a tile at a time and
// the backward pass computes them again, so memory grows with the batch and never with its square.
#pragma once
#include <yoke/contrastive/logit_tiles.hpp>
#include <yoke/core/backend.hpp>
#include <yoke/parallel/agreement.hpp>
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <limits>
#include <utility>

namespace yoke::contrastive {

/// How ranks see each other's texts: `gather` holds all of them at once, `ring` one block that
/// travels, so that a rank's memory is its share of the batch.
enum class text_exchange { gather, ring };

/// How the logits are gone through: no choice changes the loss but for rounding.
struct info_nce_options {
  text_exchange exchange = text_exchange::gather;
  extent_t tile_rows = 0;     // images of a tile of logits; 0: what suits the device
  extent_t tile_columns = 0;  // texts of a tile of logits; 0: what suits the device
};

/// Of all ranks together, but for d_scale.
struct info_nce_result {
  double loss = 0;      // mean over the global batch and both directions
  double accuracy = 0;  // share of the images whose own text has the largest logit; ties count
  double d_scale = 0;   // this rank's share: the derivative of `loss` is the sum over the ranks
};

/// The kernels of the loss, beside gemm on accumulators. Logits are scale * tile, and element (i, j)
/// is a pair when j = i + diagonal, which may lie outside the tile. A sum is one of exponentials
/// relative to the maximum beside it; that of nothing is (lowest, 0).
template <class C>
concept info_nce_kernels = context<C> && requires(yoke::detail::sample_arguments<C> x, transpose t, store how,
                                                  view<double, 1> total, view<double const, 1> totals) {
  gemm(x.c, t, t, x.a2, x.a2, x.s2, how);
  fill(x.c, x.s1, 0.0);
  convert(x.c, x.a1, x.s1, how);
  // scale, diagonal, tile; maximum (exact) and sum of rows, then of columns, merged with
  // what they hold; the pairs' logits, of those in the tile
  logit_statistics(x.c, x.real, x.n, x.a2, x.s1, x.s1, x.s1, x.s1, x.s1);
  rescale_sums(x.c, x.a1, x.a1, x.s1);  // old maximum, new maximum, sum
  log_sum_exp(x.c, x.a1, x.s1);         // maximum, sum -> logarithm of the whole sum, in place
  // scale, diagonal, weight, log-sum-exp of rows and of columns; the tile becomes the gradient of
  // its products, scale * weight * g with g = softmax of row + softmax of column - 2 [pair];
  // `total`, a number a row, takes weight * sum of g * product
  logit_gradient(x.c, x.real, x.n, x.real, x.a1, x.a1, x.s2, total, how);
  // maximum and log-sum-exp of rows, log-sum-exp of their own columns, pairs, totals -> sum of
  // row + column - 2 pair, number of pairs not below their row's maximum, sum of totals
  { logit_totals(x.c, x.a1, x.a1, x.a1, x.a1, totals) } -> std::same_as<std::array<double, 3>>;
};

namespace detail {

template <class A>
struct softmax_statistics {
  view<A, 1> maximum, sum;
};

template <class C>
auto make_statistics(C& c, extent_t n) {
  using A = typename C::accumulator;
  softmax_statistics<A> s{make<A>(c, shape{n}), make<A>(c, shape{n})};
  fill(c, s.maximum, static_cast<double>(std::numeric_limits<A>::lowest()));
  fill(c, s.sum, 0.0);
  return s;
}

/// What tiles of products say of the logits, and the derivatives that take their place.
template <class C>
class streamed_logits {
  using A = typename C::accumulator;
  using matrix = view<A const, 2>;
  using vector = view<A const, 1>;

 public:
  streamed_logits(C& c, matrix image, extent_t texts, A scale, info_nce_options const& options)
      : c_{c},
        scale_{scale},
        tiles_{c, image, texts, tile_shape(c, options.tile_rows, options.tile_columns)} {}

  /// Row i of the images and row i + diagonal of the texts are a pair.
  void statistics(matrix text, extent_t diagonal, softmax_statistics<A> row, softmax_statistics<A> column,
                  view<A, 1> pair) {
    tiles_.for_each(text, [&](view<A, 2> tile, extent_t i, extent_t j) {
      auto const m = tile.extent(0), n = tile.extent(1);
      logit_statistics(c_, scale_, diagonal + i - j, matrix{tile}, slice(row.maximum, i, m),
                       slice(row.sum, i, m), slice(column.maximum, j, n), slice(column.sum, j, n),
                       slice(pair, i, m));
    });
  }

  /// d_image is overwritten by the first block of texts, d_text if `fresh`.
  void gradient(matrix text, extent_t diagonal, A weight, vector row, vector column, view<A, 2> d_image,
                view<A, 2> d_text, bool fresh, view<double, 1> d_scale) {
    tiles_.for_each_gradient(text, d_image, d_text, fresh,
                             [&](view<A, 2> tile, extent_t i, extent_t j, store how) {
                               auto const m = tile.extent(0), n = tile.extent(1);
                               logit_gradient(c_, scale_, diagonal + i - j, weight, slice(row, i, m),
                                              slice(column, j, n), tile, slice(d_scale, i, m), how);
                             });
  }

 private:
  C& c_;
  A scale_;
  logit_tiles<C> tiles_;
};

/// One rank's part in the loss: its images against the texts of all ranks.
template <class C, class Ranks>
struct info_nce_problem {
  using A = typename C::accumulator;

  C& c;
  Ranks& ranks;
  view<A const, 2> image, text;  // (rows, width)
  view<A, 2> d_image, d_text;    // the same, or without rows
  A scale;
  info_nce_options options;
  softmax_statistics<A> row;  // of the rank's images
  view<A, 1> pair;            // their logits with their own texts
  view<double, 1> d_scale;    // a share for each image

  bool differentiate() const { return d_image.extent(0) > 0; }
  A weight() const { return static_cast<A>(0.5 / static_cast<double>(ranks.size() * image.extent(0))); }
  std::array<double, 3> totals(view<A const, 1> column) const {
    return logit_totals(c, view<A const, 1>{row.maximum}, view<A const, 1>{row.sum}, column,
                        view<A const, 1>{pair}, view<double const, 1>{d_scale});
  }
};

/// All texts in one piece.
template <class C, class Ranks>
std::array<double, 3> with_all_texts(info_nce_problem<C, Ranks> const& p) {
  using A = typename C::accumulator;
  using vector = view<A const, 1>;
  auto& c = p.c;
  auto const rows = p.text.extent(0), all = rows * p.ranks.size(), first = rows * p.ranks.rank();
  auto const alone = p.ranks.size() == 1;

  auto text = p.text;
  auto d_text = p.d_text;
  if (!alone) {
    auto const gathered = make<A>(c, shape{all, text.extent(1)});
    all_gather(p.ranks, p.text, gathered);
    text = gathered;
    if (p.differentiate())
      d_text = make<A>(c, text.shape);
  }
  auto column = make_statistics(c, all);
  streamed_logits<C> logits{c, p.image, all, p.scale, p.options};
  logits.statistics(text, first, p.row, column, p.pair);
  log_sum_exp(c, vector{p.row.maximum}, p.row.sum);
  if (!alone) {  // the other ranks' rows
    auto const maximum = make<A>(c, shape{all});
    convert(c, vector{column.maximum}, maximum, store::overwrite);
    all_reduce(p.ranks, maximum, parallel::reduction::maximum);
    rescale_sums(c, vector{column.maximum}, vector{maximum}, column.sum);
    all_reduce(p.ranks, column.sum);
    column.maximum = maximum;
  }
  log_sum_exp(c, vector{column.maximum}, column.sum);

  if (p.differentiate()) {
    logits.gradient(text, first, p.weight(), p.row.sum, column.sum, p.d_image, d_text, true, p.d_scale);
    if (!alone)
      reduce_scatter(p.ranks, view<A const, 2>{d_text}, p.d_text);
  }
  return p.totals(slice(column.sum, first, rows));
}

/// Blocks of texts travel, first with the statistics of their columns, then with those finished and with their
/// gradients.
template <class C, class Ranks>
std::array<double, 3> with_travelling_texts(info_nce_problem<C, Ranks> const& p) {
  using A = typename C::accumulator;
  using vector = view<A const, 1>;
  using matrix = view<A const, 2>;
  auto& c = p.c;
  auto const rows = p.text.extent(0);
  text_ring<C, Ranks> ring{c, p.ranks, p.text};
  std::array<softmax_statistics<A>, 2> column{make_statistics(c, rows), make_statistics(c, rows)};
  streamed_logits<C> logits{c, p.image, rows, p.scale, p.options};

  ring.for_each([&](matrix text, extent_t diagonal, int) {
    logits.statistics(text, diagonal, p.row, column[0], p.pair);
    ring.send(vector{column[0].maximum}, column[1].maximum);
    ring.send(vector{column[0].sum}, column[1].sum);
    std::swap(column[0], column[1]);
  });
  log_sum_exp(c, vector{p.row.maximum}, p.row.sum);
  log_sum_exp(c, vector{column[0].maximum}, column[0].sum);
  auto const own_column = make<A>(c, shape{rows});
  convert(c, vector{column[0].sum}, own_column, store::overwrite);

  if (p.differentiate()) {
    auto lse = column[0].sum, next_lse = column[1].sum;
    ring.for_each_gradient(p.d_text, [&](matrix text, view<A, 2> d_text, extent_t diagonal, int step) {
      logits.gradient(text, diagonal, p.weight(), p.row.sum, lse, p.d_image, d_text, step == 0, p.d_scale);
      if (step + 1 < p.ranks.size()) {
        ring.send(vector{lse}, next_lse);
        std::swap(lse, next_lse);
      }
    });
  }
  return p.totals(own_column);
}

}  // namespace detail

/// The symmetric softmax cross-entropy of pairs of embeddings (CLIP, arXiv 2103.00020; InfoNCE,
/// arXiv 1807.03748) over the batches of all ranks together, and its gradients, which are
/// overwritten:
///
///     loss = mean over pairs i of (lse_j(s_ij) + lse_j(s_ji) - 2 s_ii) / 2,  s_ij = scale <x_i, y_j>
///
/// image, text: (rows, width), pairs in the same rows, the same number on every rank; any width and
/// any norms. d_image and d_text: the same shapes, or both without rows for the loss alone. The
/// scale is the factor itself. Work space comes from the context's stack: a tile, some numbers a
/// row, and for N ranks the gathered texts with their gradients, or three blocks of a ring.
/// Throws parallel::error on every rank when they disagree about rows, width, scale or exchange.
template <info_nce_kernels C, parallel::communicator Ranks>
info_nce_result info_nce(C& c, Ranks& ranks, view<typename C::accumulator const, 2> image,
                         view<typename C::accumulator const, 2> text, typename C::accumulator scale,
                         view<typename C::accumulator, 2> d_image, view<typename C::accumulator, 2> d_text,
                         info_nce_options const& options = {}) {
  using A = typename C::accumulator;
  auto const rows = image.extent(0);
  expects(rows > 0 && image.extent(1) > 0, "info_nce: at least one row, at least one column");
  expects(text.shape == image.shape, "info_nce: as many texts as images, of the same width");
  expects((d_image.extent(0) == 0 && d_text.extent(0) == 0) ||
              (d_image.shape == image.shape && d_text.shape == image.shape),
          "info_nce: gradients have the shape of the embeddings, or no rows");
  expects(options.tile_rows >= 0 && options.tile_columns >= 0, "info_nce: tiles have a size");
  parallel::expect_agreement("info_nce",
                             {{"rows", static_cast<double>(rows)},
                              {"width", static_cast<double>(image.extent(1))},
                              {"scale", static_cast<double>(scale)},
                              {"exchange", static_cast<double>(options.exchange)}},
                             ranks);

  arena_scope const work{c.memory};
  detail::info_nce_problem<C, Ranks> const problem{c,
                                                   ranks,
                                                   image,
                                                   text,
                                                   d_image,
                                                   d_text,
                                                   scale,
                                                   options,
                                                   detail::make_statistics(c, rows),
                                                   make<A>(c, shape{rows}),
                                                   make<double>(c, shape{rows})};
  auto totals = options.exchange == text_exchange::gather || ranks.size() == 1
                    ? detail::with_all_texts(problem)
                    : detail::with_travelling_texts(problem);
  if (ranks.size() > 1)
    all_reduce(ranks, view<double, 1>{totals.data(), {{2}}});
  auto const pairs = static_cast<double>(rows) * ranks.size();
  return {.loss = totals[0] / (2 * pairs),
          .accuracy = totals[1] / pairs,
          .d_scale = problem.differentiate() ? totals[2] : 0};
}

}  // namespace yoke::contrastive
