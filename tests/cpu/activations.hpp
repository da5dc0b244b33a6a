// The activations and their slopes in double precision, for tests of kernels that apply them.
#pragma once
#include <yoke/core/kernels.hpp>

#include <cmath>

namespace checks {

using yoke::activation;

inline double active(activation kind, double x) {
  auto const logistic = [](double v) { return 1 / (1 + std::exp(-v)); };
  switch (kind) {
    case activation::identity:
      break;
    case activation::silu:
      return x * logistic(x);
    case activation::tanh:
      return std::tanh(x);
    case activation::gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case activation::gelu_tanh:
      return x * logistic(2 * std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x));
    case activation::gelu_quick:
      return x * logistic(1.702 * x);
  }
  return x;
}

/// By Richardson's central differences, to about 1e-11.
inline double active_slope(activation kind, double x) {
  auto const difference = [&](double h) { return (active(kind, x + h) - active(kind, x - h)) / (2 * h); };
  double const h = 4e-3;
  auto const a = difference(h), b = difference(h / 2), c = difference(h / 4);
  auto const ab = (4 * b - a) / 3, bc = (4 * c - b) / 3;
  return (16 * bc - ab) / 15;
}

inline constexpr activation every_activation[] = {activation::identity,  activation::gelu,
                                                  activation::gelu_tanh, activation::gelu_quick,
                                                  activation::silu,      activation::tanh};

}  // namespace checks
