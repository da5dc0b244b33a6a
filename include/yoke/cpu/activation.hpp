// The activations and their slopes on vectors, for the kernels that apply them.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cpu/vector_math.hpp>

namespace yoke::cpu::detail {

/// x P(X <= x), X normal
struct gelu_erf {
  template <class V>
  static V value(V x) {
    return x * normal(x).value;
  }
  template <class V>
  static V slope(V x) {
    auto const p = normal(x);
    return p.value + x * p.slope;
  }
};

/// x logistic(x (a + b x^2)), a = 2 sqrt(2 / pi), b = 0.044715 a: equal to the form with tanh, and right
/// in the negative tail.
struct gelu_tanh {
  static constexpr double a = 1.5957691216057308, b = 0.044715 * a;

  template <class V>
  static V value(V x) {
    using A = lane_t<V>;
    return x * logistic(x * (A(a) + x * x * A(b))).value;
  }
  template <class V>
  static V slope(V x) {
    using A = lane_t<V>;
    auto const p = logistic(x * (A(a) + x * x * A(b)));
    return p.value + x * p.slope * (A(a) + x * x * A(3 * b));
  }
};

/// x logistic(1.702 x)
struct gelu_quick {
  template <class V>
  static V value(V x) {
    return x * logistic(x * lane_t<V>(1.702)).value;
  }
  template <class V>
  static V slope(V x) {
    auto const p = logistic(x * lane_t<V>(1.702));
    return p.value + x * p.slope * lane_t<V>(1.702);
  }
};

/// x logistic(x)
struct silu {
  template <class V>
  static V value(V x) {
    return x * logistic(x).value;
  }
  template <class V>
  static V slope(V x) {
    auto const p = logistic(x);
    return p.value + x * p.slope;
  }
};

/// 2 logistic(2 x) - 1
struct hyperbolic_tangent {
  template <class V>
  static V value(V x) {
    using A = lane_t<V>;
    return A(2) * logistic(x * A(2)).value - A(1);
  }
  template <class V>
  static V slope(V x) {
    using A = lane_t<V>;
    return A(4) * logistic(x * A(2)).slope;
  }
};

struct identity {
  template <class V>
  static V value(V x) {
    return x;
  }
  template <class V>
  static V slope(V) {
    return V{} + lane_t<V>(1);
  }
};

/// Calls f with the functions of a kind: value(x), slope(x).
template <class F>
void with_activation(activation kind, F const& f) {
  switch (kind) {
    case activation::identity:
      return f(identity{});
    case activation::silu:
      return f(silu{});
    case activation::tanh:
      return f(hyperbolic_tangent{});
    case activation::gelu:
      return f(gelu_erf{});
    case activation::gelu_tanh:
      return f(gelu_tanh{});
    case activation::gelu_quick:
      return f(gelu_quick{});
  }
}

}  // namespace yoke::cpu::detail
