// The activations and their slopes on a card, for the kernels that apply them.
#pragma once
#include <yoke/core/kernels.hpp>
#include <yoke/cuda/numeric.cuh>

namespace yoke::cuda::detail {

/// A function and its derivative.
template <class A>
struct value_and_slope {
  A value, slope;
};

/// 1 / (1 + e^-x), right in both tails.
__device__ inline value_and_slope<float> logistic(float x) {
  auto const e = expf(-fabsf(x));
  auto const upper = __fdividef(1, 1 + e), lower = e * upper;
  return {x < 0 ? lower : upper, lower * upper};
}
__device__ inline value_and_slope<double> logistic(double x) {
  auto const e = exp(-fabs(x));
  auto const upper = 1 / (1 + e), lower = e * upper;
  return {x < 0 ? lower : upper, lower * upper};
}

/// The normal distribution's integral from -infinity, right in the lower tail; its slope is the density. For floats by
/// the CPU's polynomial, good to 1e-7 relatively: half the instructions of erfcf, which would outlast the reads.
__device__ inline value_and_slope<float> normal(float x) {
  auto const bell = expf(x * x * -0.5f);
  auto const t = __fdividef(1, 1 + fabsf(x) * 0.305f);
  auto q = t * 0.0366996384f - 0.152990212f;
  q = q * t + 0.185720226f;
  q = q * t - 0.0379799227f;
  q = q * t + 0.121023324f;
  q = q * t + 0.103420371f;
  q = q * t + 0.122466895f;
  q = q * t + 0.121639728f;
  auto const tail = bell * t * q;
  return {x < 0 ? tail : 1 - tail, bell * 0.398942280f};
}
__device__ inline value_and_slope<double> normal(double x) {
  return {0.5 * erfc(x * -0.70710678118654752440), exp(x * x * -0.5) * 0.39894228040143267794};
}

/// x P(X <= x), X normal
struct gelu_erf {
  template <class A>
  __device__ static A value(A x) {
    return x * normal(x).value;
  }
  template <class A>
  __device__ static A slope(A x) {
    auto const p = normal(x);
    return p.value + x * p.slope;
  }
};

/// x logistic(x (a + b x^2)), a = 2 sqrt(2 / pi), b = 0.044715 a: equal to the form with tanh, and right in the
/// negative tail.
struct gelu_tanh {
  static constexpr double a = 1.5957691216057308, b = 0.044715 * a;

  template <class A>
  __device__ static A value(A x) {
    return x * logistic(x * (A(a) + x * x * A(b))).value;
  }
  template <class A>
  __device__ static A slope(A x) {
    auto const p = logistic(x * (A(a) + x * x * A(b)));
    return p.value + x * p.slope * (A(a) + x * x * A(3 * b));
  }
};

/// x logistic(1.702 x)
struct gelu_quick {
  template <class A>
  __device__ static A value(A x) {
    return x * logistic(x * A(1.702)).value;
  }
  template <class A>
  __device__ static A slope(A x) {
    auto const p = logistic(x * A(1.702));
    return p.value + x * p.slope * A(1.702);
  }
};

/// x logistic(x)
struct silu {
  template <class A>
  __device__ static A value(A x) {
    return x * logistic(x).value;
  }
  template <class A>
  __device__ static A slope(A x) {
    auto const p = logistic(x);
    return p.value + x * p.slope;
  }
};

/// 2 logistic(2 x) - 1
struct hyperbolic_tangent {
  template <class A>
  __device__ static A value(A x) {
    return A(2) * logistic(x * A(2)).value - A(1);
  }
  template <class A>
  __device__ static A slope(A x) {
    return A(4) * logistic(x * A(2)).slope;
  }
};

struct identity {
  template <class A>
  __device__ static A value(A x) {
    return x;
  }
  template <class A>
  __device__ static A slope(A) {
    return A(1);
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

}  // namespace yoke::cuda::detail
