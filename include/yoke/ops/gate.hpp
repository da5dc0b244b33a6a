// The columns of each segment opened or closed by logits of their own.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

/// y = x sigmoid(z); the rows of a segment have one line of z.
struct gate_op {
  template <class C>
  auto forward(tape<C>& t, value<2> const& x, value<2> const& z, segments const& s) const {
    auto y = make<typename C::element>(t.context(), x.shape);
    gate_forward(t.context(), s, t(x), t(z), y);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 2> dy, value<2> const& x,
                value<2> const& z, segments const& s) const {
    auto const dx = t.gradient_of(x), dz = t.gradient_of(z);
    gate_backward(t.context(), s, t(x), t(z), dy, dx.or_absent(), dx.how, dz.or_absent(), dz.how);
  }
};

/// x (rows, width) times the sigmoid of z (segments, width), each segment's line for all of its rows: the second half
/// of squeeze and excitation (Hu et al., arXiv 1709.01507).
template <class C>
value<2> gate(tape<C>& t, value<2> x, value<2> z, segments const& s) {
  expects(x.shape[0] == s.rows, "gate: the segments cover the rows");
  expects(z.shape == shape{s.count, x.shape[1]}, "gate: the logits are (segments, width)");
  return t.apply(gate_op{}, x, z, s);
}

}  // namespace yoke::ops
