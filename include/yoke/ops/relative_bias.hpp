// What a learned table adds to attention's logits, by how far the query lies from the key.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

/// A bias for each two tokens of a grid, by their distance along both axes.
struct relative_bias_op {
  yoke::grid grid;

  template <class C>
  auto forward(tape<C>& t, parameter<3> const& table) const {
    auto bias = make<typename C::element>(t.context(), shape{table.shape[0], grid.tokens(), grid.tokens()});
    relative_bias_forward(t.context(), grid, t(table), bias);
    return std::pair{bias, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 3> dbias,
                parameter<3> const& table) const {
    if (auto dtable = t.gradient_of(table))
      relative_bias_backward(t.context(), grid, dbias, dtable.data, dtable.how);
  }
};

/// table (heads, 2 height - 1, 2 width - 1) -> attention's bias (heads, tokens, tokens), tokens row by row of the grid:
/// at [h][q][k] is the entry [h][qy - ky + height - 1][qx - kx + width - 1] (Dai et al., arXiv 2106.04803, A.1).
template <class C>
value<3> relative_bias(tape<C>& t, parameter<3> table, grid g) {
  expects(table.shape[1] == 2 * g.height - 1 && table.shape[2] == 2 * g.width - 1, [&] {
    return "relative_bias: a grid of " + std::to_string(g.height) + " x " + std::to_string(g.width) +
           " tokens has a table of " + std::to_string(2 * g.height - 1) + " x " +
           std::to_string(2 * g.width - 1) + ", not " + std::to_string(table.shape[1]) + " x " +
           std::to_string(table.shape[2]);
  });
  return t.apply(relative_bias_op{g}, table);
}

}  // namespace yoke::ops
