// Layer normalisation, alone or with an activation behind it, and L2 normalisation of rows.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

/// LayerNorm over the last axis (arXiv 1607.06450); keeps two numbers a row.
struct layer_norm_op {
  double epsilon;

  template <class A>
  struct saved {
    view<A, 1> mean, reciprocal_deviation;  // (rows)
  };

  template <class C, int R>
  auto forward(tape<C>& t, value<R> const& x, parameter<1> const& gain, parameter<1> const& bias) const {
    using A = typename C::accumulator;
    auto& c = t.context();
    auto y = make<typename C::element>(c, x.shape);
    auto const rows = as_rows(t(x));
    saved<A> s{make<A>(c, shape{rows.extent(0)}), make<A>(c, shape{rows.extent(0)})};
    layer_norm_forward(c, rows, t(gain), t(bias), static_cast<A>(epsilon), as_rows(y), s.mean,
                       s.reciprocal_deviation);
    return std::pair{y, s};
  }

  template <class C, int R>
  void backward(tape<C>& t, saved<typename C::accumulator> const& s, view<typename C::element const, R> dy,
                value<R> const& x, parameter<1> const& gain, parameter<1> const& bias) const {
    using A = typename C::accumulator;
    auto dx = t.gradient_of(x);
    auto dgain = t.gradient_of(gain), dbias = t.gradient_of(bias);
    auto const to = dx ? as_rows(dx.data) : view<typename C::element, 2>{};
    layer_norm_backward(t.context(), as_rows(t(x)), t(gain), view<A const, 1>{s.mean},
                        view<A const, 1>{s.reciprocal_deviation}, as_rows(dy), to, dx.how,
                        dgain ? dgain.data : view<A, 1>{}, dbias ? dbias.data : view<A, 1>{});
  }
};

/// LayerNorm and an activation in one, without keeping what is between them.
struct layer_norm_activation_op {
  activation kind;
  double epsilon;

  template <class A>
  using saved = layer_norm_op::saved<A>;

  template <class C, int R>
  auto forward(tape<C>& t, value<R> const& x, parameter<1> const& gain, parameter<1> const& bias) const {
    using A = typename C::accumulator;
    auto& c = t.context();
    auto y = make<typename C::element>(c, x.shape);
    auto const rows = as_rows(t(x));
    saved<A> s{make<A>(c, shape{rows.extent(0)}), make<A>(c, shape{rows.extent(0)})};
    layer_norm_activation_forward(c, kind, rows, t(gain), t(bias), static_cast<A>(epsilon), as_rows(y),
                                  s.mean, s.reciprocal_deviation);
    return std::pair{y, s};
  }

  template <class C, int R>
  void backward(tape<C>& t, saved<typename C::accumulator> const& s, view<typename C::element const, R> dy,
                value<R> const& x, parameter<1> const& gain, parameter<1> const& bias) const {
    using A = typename C::accumulator;
    auto const dx = t.gradient_of(x);
    layer_norm_activation_backward(t.context(), kind, as_rows(t(x)), t(gain), t(bias),
                                   view<A const, 1>{s.mean}, view<A const, 1>{s.reciprocal_deviation},
                                   as_rows(dy), as_rows(dx.or_absent()), dx.how,
                                   t.gradient_of(gain).or_absent(), t.gradient_of(bias).or_absent());
  }
};

/// y = x / |x|, row by row.
struct l2_normalize_op {
  template <class A, class E>
  struct saved {
    view<E, 2> y;
    view<A, 1> inverse_norm;
  };

  template <class C>
  auto forward(tape<C>& t, value<2> const& x) const {
    using A = typename C::accumulator;
    auto& c = t.context();
    auto y = make<typename C::element>(c, x.shape);
    saved<A, typename C::element> s{y, make<A>(c, shape{x.shape[0]})};
    l2_normalize_forward(c, t(x), y, s.inverse_norm);
    return std::pair{y, s};
  }

  template <class C>
  void backward(tape<C>& t, saved<typename C::accumulator, typename C::element> const& s,
                view<typename C::element const, 2> dy, value<2> const& x) const {
    using A = typename C::accumulator;
    using E = typename C::element;
    if (auto dx = t.gradient_of(x))
      l2_normalize_backward(t.context(), view<E const, 2>{s.y}, view<A const, 1>{s.inverse_norm}, dy, dx.data,
                            dx.how);
  }
};

/// (x - mean) / sqrt(variance + epsilon) * gain + bias over the last axis (Ba et al., arXiv
/// 1607.06450).
template <class C, int R>
value<R> layer_norm(tape<C>& t, value<R> x, parameter<1> gain, parameter<1> bias, double epsilon = 1e-5) {
  expects(x.shape[R - 1] == gain.shape[0] && gain.shape == bias.shape,
          "layer_norm: gain and bias have the input's width");
  return t.apply(layer_norm_op{epsilon}, x, gain, bias);
}

/// f(layer_norm(x)), of which neither the normalised values nor the activation's input are kept: two passes of memory
/// less in each direction than the two ops one after the other.
template <class C, int R>
value<R> layer_norm_activation(tape<C>& t, value<R> x, parameter<1> gain, parameter<1> bias,
                               activation f = activation::gelu, double epsilon = 1e-5) {
  expects(x.shape[R - 1] == gain.shape[0] && gain.shape == bias.shape,
          "layer_norm_activation: gain and bias have the input's width");
  return t.apply(layer_norm_activation_op{f, epsilon}, x, gain, bias);
}

/// Each row divided by its Euclidean norm, which is taken as at least 1e-12.
template <class C>
value<2> l2_normalize(tape<C>& t, value<2> x) {
  return t.apply(l2_normalize_op{}, x);
}

}  // namespace yoke::ops
