// What losses over all pairs of a global batch have in common: products of images and texts that exist a tile at a time,
// and texts that travel from rank to rank.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/parallel/communicator.hpp>

#include <algorithm>
#include <array>

namespace yoke::contrastive::detail {

/// The tile that was asked for; 0: what suits the device.
template <class C>
shape<2> tile_shape(C& c, extent_t rows, extent_t columns) {
  device_traits const traits = c.traits;
  return {{rows > 0 ? rows : traits.logit_rows, columns > 0 ? columns : traits.logit_columns}};
}

/// Products of this rank's images with a block of texts, a tile at a time.
template <class C>
class logit_tiles {
  using A = typename C::accumulator;
  using matrix = view<A const, 2>;

 public:
  /// Blocks have at most so many texts.
  logit_tiles(C& c, matrix image, extent_t texts, shape<2> tile)
      : c_{c},
        image_{image},
        rows_{std::min(tile[0], image.extent(0))},
        columns_{std::min(tile[1], texts)},
        tile_{make<A>(c, shape{rows_ * columns_})} {}

  /// f(tile, i, j) for all images against one stripe of texts after the other, so that a stripe and its gradient stay in
  /// the caches. A tile holds the products of images from i and texts from j on.
  template <class F>
  void for_each(matrix text, F const& f) {
    for (extent_t j = 0; j < text.extent(0); j += columns_)
      for (extent_t i = 0; i < image_.extent(0); i += rows_) {
        auto const m = std::min(rows_, image_.extent(0) - i), n = std::min(columns_, text.extent(0) - j);
        view<A, 2> const tile{tile_.data, {{m, n}}};
        gemm(c_, transpose::no, transpose::yes, slice(image_, i, m), slice(text, j, n), tile,
             store::overwrite);
        f(tile, i, j);
      }
  }

  /// f(tile, i, j, how) makes a tile the loss's derivatives by its products, from which those by the embeddings follow.
  /// d_image, and what f keeps for each image, are overwritten by the first block of texts; d_text, by the first tile of
  /// images if `fresh`.
  template <class F>
  void for_each_gradient(matrix text, view<A, 2> d_image, view<A, 2> d_text, bool fresh, F const& f) {
    auto const first = [](bool yes) { return yes ? store::overwrite : store::accumulate; };
    for_each(text, [&](view<A, 2> tile, extent_t i, extent_t j) {
      auto const m = tile.extent(0), n = tile.extent(1);
      auto const how = first(first_block_ && j == 0);
      f(tile, i, j, how);
      gemm(c_, transpose::no, transpose::no, matrix{tile}, slice(text, j, n), slice(d_image, i, m), how);
      gemm(c_, transpose::yes, transpose::no, matrix{tile}, slice(image_, i, m), slice(d_text, j, n),
           first(fresh && i == 0));
    });
    first_block_ = false;
  }

 private:
  C& c_;
  matrix image_;
  extent_t rows_, columns_;
  view<A, 1> tile_;
  bool first_block_ = true;
};

/// The texts of all ranks, a block at a time: blocks travel to the previous rank, and what belongs to a block travels
/// with it and is home after as many steps as there are ranks.
template <class C, class Ranks>
class text_ring {
  using A = typename C::accumulator;
  using matrix = view<A const, 2>;

 public:
  text_ring(C& c, Ranks& ranks, matrix own) : c_{c}, ranks_{ranks}, own_{own} {
    for (int i = 0; i < std::min(2, ranks.size() - 1); ++i)
      blocks_[static_cast<std::size_t>(i)] = make<A>(c, own.shape);
  }

  /// f(text, diagonal, step), where row i of the images and row i + diagonal of the texts are a pair.
  template <class F>
  void for_each(F const& f) {
    auto const n = ranks_.size(), me = ranks_.rank();
    auto text = own_;
    for (int step = 0; step < n; ++step) {
      f(text, (me - (me + step) % n) * own_.extent(0), step);
      if (step + 1 == n)
        return;
      auto const arriving = blocks_[static_cast<std::size_t>(step % 2)];
      send(text, arriving);
      text = arriving;
    }
  }

  /// f(text, d_text, diagonal, step): the gradient of each block gathers what every rank adds to it, and the last to
  /// arrive is `d_own`, of this rank's.
  template <class F>
  void for_each_gradient(view<A, 2> d_own, F const& f) {
    auto const n = ranks_.size();
    auto const spare = n > 1 ? make<A>(c_, own_.shape) : d_own;
    for_each([&](matrix text, extent_t diagonal, int step) {
      auto const even = (n - step) % 2 == 0;
      auto const here = n == 1 || even ? d_own : spare;
      f(text, here, diagonal, step);
      if (n > 1)
        send(matrix{here}, even ? spare : d_own);
    });
  }

  void send(auto const& outgoing, auto const& incoming) {
    auto const n = ranks_.size(), me = ranks_.rank();
    exchange(ranks_, (me + n - 1) % n, outgoing, (me + 1) % n, incoming);
  }

 private:
  C& c_;
  Ranks& ranks_;
  matrix own_;
  std::array<view<A, 2>, 2> blocks_{};  // what is here and what comes
};

}  // namespace yoke::contrastive::detail
