// Element by element: GELU, the residual sum, dropout and stochastic depth.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

/// An activation, element by element; keeps its input.
struct activation_op {
  activation kind;

  template <class C, int R>
  auto forward(tape<C>& t, value<R> const& x) const {
    auto y = make<typename C::element>(t.context(), x.shape);
    activation_forward(t.context(), kind, as_flat(t(x)), as_flat(y));
    return std::pair{y, nothing_saved{}};
  }
  template <class C, int R>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, R> dy, value<R> const& x) const {
    if (auto dx = t.gradient_of(x))
      activation_backward(t.context(), kind, as_flat(t(x)), as_flat(dy), as_flat(dx.data), dx.how);
  }
};

/// y = a + b.
struct add_op {
  template <class C, int R>
  auto forward(tape<C>& t, value<R> const& a, value<R> const& b) const {
    auto y = make<typename C::element>(t.context(), a.shape);
    add(t.context(), as_flat(t(a)), as_flat(t(b)), as_flat(y));
    return std::pair{y, nothing_saved{}};
  }
  template <class C, int R>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, R> dy, value<R> const& a,
                value<R> const& b) const {
    for (auto const* v : {&a, &b})
      if (auto dv = t.gradient_of(*v))
        convert(t.context(), as_flat(dy), as_flat(dv.data), dv.how);
  }
};

/// Dropout of elements or of whole segments; the mask is a function of (seed, step, stream, sample,
/// element), so backward draws it again and nothing is saved.
struct dropout_op {
  float rate;
  std::uint64_t stream;
  bool whole_segments;

  template <class C>
  auto forward(tape<C>& t, value<2> const& x, segments const& s) const {
    auto y = make<typename C::element>(t.context(), x.shape);
    mask(t, s, t(x), y, store::overwrite);
    return std::pair{y, nothing_saved{}};
  }
  template <class C>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, 2> dy, value<2> const& x,
                segments const& s) const {
    if (auto dx = t.gradient_of(x))
      mask(t, s, dy, dx.data, dx.how);
  }

 private:
  template <class C, class E>
  void mask(tape<C>& t, segments const& s, view<E const, 2> from, view<E, 2> to, store how) const {
    auto const key = t.options().random;
    if (whole_segments)
      drop_path(t.context(), key, stream, rate, s, from, to, how);
    else
      dropout(t.context(), key, stream, rate, s, from, to, how);
  }
};

/// Any shape.
template <class C, int R>
value<R> activate(tape<C>& t, value<R> x, activation kind = activation::gelu) {
  return t.apply(activation_op{kind}, x);
}

/// a + b, of equal shapes.
template <class C, int R>
value<R> sum(tape<C>& t, value<R> a, value<R> b) {
  expects(a.shape == b.shape, "sum: both terms have one shape");
  return t.apply(add_op{}, a, b);
}

/// Each element is zero with probability `rate`, else divided by 1 - rate. `stream` tells layers
/// apart.
template <class C>
value<2> element_dropout(tape<C>& t, value<2> x, segments const& s, float rate, std::uint64_t stream) {
  expects(rate >= 0 && rate < 1, "dropout: 0 <= rate < 1");
  expects(x.shape[0] == s.rows, "dropout: the segments cover the rows");
  return t.apply(dropout_op{rate, stream, false}, x, s);
}

/// Stochastic depth: each segment is zero with probability `rate`, else divided by 1 - rate
/// (Huang et al., arXiv 1603.09382).
template <class C>
value<2> stochastic_depth(tape<C>& t, value<2> x, segments const& s, float rate, std::uint64_t stream) {
  expects(rate >= 0 && rate < 1, "stochastic depth: 0 <= rate < 1");
  expects(x.shape[0] == s.rows, "stochastic depth: the segments cover the rows");
  return t.apply(dropout_op{rate, stream, true}, x, s);
}

}  // namespace yoke::ops
