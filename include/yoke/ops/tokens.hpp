// From inputs to rows of tokens, and from rows to one embedding a sample: embeddings, patches,
// pooling.
#pragma once
#include <yoke/autograd/tape.hpp>
#include <yoke/ops/linear.hpp>

namespace yoke::ops {

/// `gathered`: each rank of the model axis has some rows of the table, which it gathers just before use. Every rank looks
/// up all rows and adds all of their gradients to its own part: there is little to share out.
struct embed_tokens_op {
  bool gathered = false;

  template <class C>
  auto forward(tape<C>& t, segments const& s, view<std::int32_t const, 1> const& ids,
               parameter<2> const& table, parameter<2> const& positions) const {
    auto& c = t.context();
    auto y = make<typename C::element>(c, shape{s.rows, table.shape[1]});
    arena_scope const scratch{c.memory};
    auto* const ranks = gathered ? detail::model_axis(t) : nullptr;
    auto const whole = ranks != nullptr ? detail::gather_rows(c, *ranks, t(table)) : t(table);
    embed_tokens(c, s, ids, whole, t(positions), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 2> dy, segments const& s,
                view<std::int32_t const, 1> const& ids, parameter<2> const& table,
                parameter<2> const& positions) const {
    using P = typename tape<C>::P;
    auto& c = t.context();
    auto dtable = t.gradient_of(table), dpositions = t.gradient_of(positions);
    if (!dtable)
      return;
    auto* const ranks = gathered ? detail::model_axis(t) : nullptr;
    if (ranks == nullptr) {
      embed_tokens_backward(c, s, ids, dy, dtable.data, dpositions.or_absent());
      return;
    }
    arena_scope const scratch{c.memory};
    auto const n = table.shape[0];
    auto const whole = make<P>(c, shape{n * ranks->size(), table.shape[1]});
    fill(c, as_flat(whole), 0.0);
    embed_tokens_backward(c, s, ids, dy, whole, dpositions.or_absent());
    convert(c, view<P const, 1>{as_flat(slice(whole, n * ranks->rank(), n))}, as_flat(dtable.data),
            store::accumulate);
  }
};

/// Images as rows of patches.
struct patches_op {
  extent_t size;

  template <class C>
  auto forward(tape<C>& t, value<4> const& x) const {
    auto const [n, h, w, channels] = static_cast<std::array<extent_t, 4> const&>(x.shape);
    auto y =
        make<typename C::element>(t.context(), shape{n * (h / size) * (w / size), size * size * channels});
    extract_patches(t.context(), size, t(x), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 2> dy, value<4> const& x) const {
    if (auto dx = t.gradient_of(x))
      fold_patches(t.context(), size, dy, dx.data, dx.how);
  }
};

/// Rows of patches behind a class token, with positions added.
struct assemble_tokens_op {
  extent_t count;

  template <class C>
  auto forward(tape<C>& t, value<2> const& x, parameter<1> const& first,
               parameter<2> const& positions) const {
    auto y = make<typename C::element>(t.context(), shape{count * positions.shape[0], positions.shape[1]});
    assemble_tokens(t.context(), count, t(x), t(first), t(positions), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 2> dy, value<2> const& x,
                parameter<1> const& first, parameter<2> const& positions) const {
    auto dx = t.gradient_of(x);
    assemble_tokens_backward(t.context(), count, dy, dx.or_absent(), dx.how, t.gradient_of(first).or_absent(),
                             t.gradient_of(positions).or_absent());
  }
};

/// One row for each segment.
struct pool_op {
  pool_kind kind;

  template <class C>
  auto forward(tape<C>& t, value<2> const& x, segments const& s) const {
    auto y = make<typename C::element>(t.context(), shape{s.count, x.shape[1]});
    pool_forward(t.context(), kind, s, t(x), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 2> dy, value<2> const& x,
                segments const& s) const {
    if (auto dx = t.gradient_of(x))
      pool_backward(t.context(), kind, s, dy, dx.data, dx.how);
  }
};

/// Rows of `table` (vocabulary, width) for the ids of all segments, plus a row of `positions`
/// (context, width), by place within the segment; without positions when it is absent. -> (rows,
/// width). Ids are within the vocabulary, which the kernel checks; a device's finding is thrown when
/// the host next reads a result. Of a table that is gathered, `table` is this rank's rows (vocabulary / ranks, width).
template <class C>
value<2> token_embedding(tape<C>& t, segments const& s, view<std::int32_t const, 1> ids, parameter<2> table,
                         parameter<2> positions = {}, bool gathered = false) {
  expects(ids.extent(0) == s.rows, "token_embedding: one id for each row of the segments");
  expects(positions.shape[0] == 0 || positions.shape[0] >= s.longest, [&] {
    return "token_embedding: a caption of " + std::to_string(s.longest) + " tokens fits the context of " +
           std::to_string(positions.shape[0]);
  });
  return t.apply(embed_tokens_op{gathered}, s, ids, table, positions);
}

/// Square patches of images (batch, height, width, channels) as rows (batch * patches, size * size
/// * channels), row by row of the image, each (y, x, channel).
template <class C>
value<2> patches(tape<C>& t, value<4> images, extent_t size) {
  expects(size > 0 && images.shape[1] % size == 0 && images.shape[2] % size == 0,
          "patches: height and width are multiples of the patch size");
  return t.apply(patches_op{size}, images);
}

/// Patch rows of `count` images, a learned first token (absent: extent 0), and learned positions
/// (tokens, width).
template <class C>
value<2> with_positions(tape<C>& t, value<2> x, extent_t count, parameter<1> first_token,
                        parameter<2> positions) {
  expects(x.shape[0] + (first_token.shape[0] > 0 ? count : 0) == count * positions.shape[0],
          "with_positions: one position for each token");
  expects(x.shape[1] == positions.shape[1], "with_positions: the positions have the tokens' width");
  return t.apply(assemble_tokens_op{count}, x, first_token, positions);
}

/// One row a segment: (rows, width) -> (segments, width). Segments are not empty.
template <class C>
value<2> pool(tape<C>& t, value<2> x, segments const& s, pool_kind kind) {
  expects(x.shape[0] == s.rows, "pool: the segments cover the rows");
  return t.apply(pool_op{kind}, x, s);
}

}  // namespace yoke::ops
