// y = x W^T + b over the last axis.
#pragma once
#include <yoke/autograd/tape.hpp>

namespace yoke::ops {

struct linear_op {
  static constexpr bool expensive = true;

  template <class C, int R>
  auto forward(tape<C>& t, value<R> const& x, parameter<2> const& w, parameter<1> const& bias) const {
    auto s = x.shape;
    s[R - 1] = w.shape[0];
    auto y = make<typename C::element>(t.context(), s);
    linear_forward(t.context(), as_rows(t(x)), t(w), t(bias), as_rows(y));
    return std::pair{y, nothing_saved{}};
  }

  template <class C, int R>
  void backward(tape<C>& t, nothing_saved, view<typename C::element const, R> dy, value<R> const& x,
                parameter<2> const& w, parameter<1> const& bias) const {
    auto& c = t.context();
    auto const rows = as_rows(dy);
    if (auto dw = t.gradient_of(w))
      gemm(c, transpose::yes, transpose::no, rows, as_rows(t(x)), dw.data, dw.how);
    if (auto db = t.gradient_of(bias); db && bias.shape[0] > 0)
      sum_rows(c, rows, db.data, db.how);
    if (auto dx = t.gradient_of(x))
      gemm(c, transpose::no, transpose::no, rows, t(w), as_rows(dx.data), dx.how);
  }
};

/// x (…, in), weight (out, in), bias (out) or absent (extent 0) -> (…, out).
template <class C, int R>
value<R> linear(tape<C>& t, value<R> x, parameter<2> weight, parameter<1> bias = {}) {
  expects(x.shape[R - 1] == weight.shape[1], [&] {
    return "linear: the input's width " + std::to_string(x.shape[R - 1]) + " is the weight's " +
           std::to_string(weight.shape[1]);
  });
  expects(bias.shape[0] == 0 || bias.shape[0] == weight.shape[0], "linear: the bias has the weight's rows");
  return t.apply(linear_op{}, x, weight, bias);
}

}  // namespace yoke::ops
