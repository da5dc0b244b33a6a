// The functions of the activations, a vector at a time: right without and with -ffast-math.
#pragma once
#include <yoke/cpu/lanes.hpp>

#include <bit>
#include <cmath>
#include <type_traits>
#include <utility>

namespace yoke::cpu::detail {

/// The type of one lane.
template <class V>
using lane_t = std::remove_cvref_t<decltype(std::declval<V>()[0])>;

/// A function and its derivative.
template <class V>
struct value_and_slope {
  V value, slope;
};

/// 1 / (1 + e^-x), to a few units in the last place in both tails.
template <class V>
value_and_slope<V> logistic(V x) {
  auto const e = exponential(x < 0 ? x : -x);
  auto const upper = 1 / (1 + e);
  auto const lower = e * upper;
  return {x < 0 ? lower : upper, lower * upper};
}

/// log(1 + x) for x from 0 to 1, relative to itself to 2 units in the last place.
inline lanes_t<float> log_of_one_and(lanes_t<float> x) {
  auto const s = x / (x + 2), t = s * s;  // 2 artanh(s), by its series: t is at most 1/9
  auto rest = t * (1.0f / 13) + 1.0f / 11;
  rest = rest * t + 1.0f / 9;
  rest = rest * t + 1.0f / 7;
  rest = rest * t + 1.0f / 5;
  rest = rest * t + 1.0f / 3;
  return 2 * s + 2 * s * t * rest;
}
inline lanes_t<double> log_of_one_and(lanes_t<double> x) {
  for (int i = 0; i < lanes<double>::count; ++i) x[i] = std::log1p(x[i]);
  return x;
}

/// log(1 + e^x) and its slope 1 / (1 + e^-x), to a few units in the last place in both tails.
template <class V>
value_and_slope<V> softplus(V x) {
  auto const e = exponential(x < 0 ? x : -x);
  auto const upper = 1 / (1 + e);
  return {(x < 0 ? V{} : x) + log_of_one_and(e), x < 0 ? e * upper : upper};
}

/// The square root of what is not negative, to 1 unit in the last place (outside [1e-36, 1e37]
/// -ffast-math may halve it). In plain arithmetic: the library's function may set errno, and is not
/// vectorised for that.
inline lanes_t<float> square_root(lanes_t<float> x) {
  // From the bits, 1 / sqrt(x) to 7e-4 (constants by Jan Kadlec, "Improving the fast inverse square
  // root", 2010), one of Newton's steps, and one for the root itself.
  auto y = std::bit_cast<lanes_t<float>>(0x5f1ffff9 - (std::bit_cast<lanes<float>::bits>(x) >> 1));
  y = y * 0.703952253f * (2.38924456f - x * y * y);
  y = y * (1.5f - 0.5f * x * y * y);
  auto const root = x * y;
  auto const better = root + root * (0.5f - 0.5f * root * y);
  return x > 3.4e38f ? x : better;
}
inline lanes_t<double> square_root(lanes_t<double> x) {
  for (int i = 0; i < lanes<double>::count; ++i) x[i] = std::sqrt(x[i]);
  return x;
}

/// The normal distribution's integral from -infinity; its slope is the density.
/// The lower tail is e^(-x^2/2) t Q(t), t = 1 / (1 + 0.305 |x|), Q of degree 7 with a relative error
/// of at most 1e-7 (least maximum, found by iterated weights).
inline value_and_slope<lanes_t<float>> normal(lanes_t<float> x) {
  auto const size = x < 0 ? -x : x;
  auto const bell = exponential(x * x * -0.5f);
  auto const t = 1 / (1 + size * 0.305f);
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
inline value_and_slope<lanes_t<double>> normal(lanes_t<double> x) {
  auto integral = x;
  for (int i = 0; i < lanes<double>::count; ++i)
    integral[i] = 0.5 * std::erfc(x[i] * -0.70710678118654752440);
  return {integral, exponential(x * x * -0.5) * 0.39894228040143267794};
}

}  // namespace yoke::cpu::detail
