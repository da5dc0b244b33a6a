// Vectors of the processor's width, by the compilers' vector types: the same source for SSE, AVX and
// AVX-512, and plain code at -O0.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/tensor.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace yoke::cpu::detail {

#if defined(__AVX512F__)
inline constexpr int vector_bytes = 64, vector_registers = 32;
#elif defined(__AVX__)
inline constexpr int vector_bytes = 32, vector_registers = 16;
#else
inline constexpr int vector_bytes = 16, vector_registers = 16;
#endif

/// The vector of `count` elements of type A and the integers of the same size.
template <class A>
struct lanes;
template <>
struct lanes<float> {
  static constexpr int count = vector_bytes / 4;
  using type = float __attribute__((vector_size(vector_bytes)));
  using bits = std::int32_t __attribute__((vector_size(vector_bytes)));
};
template <>
struct lanes<double> {
  static constexpr int count = vector_bytes / 8;
  using type = double __attribute__((vector_size(vector_bytes)));
  using bits = std::int64_t __attribute__((vector_size(vector_bytes)));
};
template <class A>
using lanes_t = typename lanes<A>::type;

/// Elements rounded up to whole vectors.
template <class A>
constexpr extent_t whole_vectors(extent_t n) {
  return (n + lanes<A>::count - 1) / lanes<A>::count * lanes<A>::count;
}

template <class A>
lanes_t<A> load(A const* p) {
  lanes_t<A> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline lanes_t<float> load(bf16 const* p) {
  using whole = std::uint32_t __attribute__((vector_size(vector_bytes)));
  return [&]<int... I>(std::integer_sequence<int, I...>) {
    return std::bit_cast<lanes_t<float>>(whole{p[I].bits...} << 16);  // one widening load
  }
  (std::make_integer_sequence<int, lanes<float>::count>{});
}

template <class A>
void save(A* p, lanes_t<A> v) {
  std::memcpy(p, &v, sizeof v);
}
inline void save(bf16* p, lanes_t<float> v) {  // as bf16{float}
  using half = std::uint16_t __attribute__((vector_size(vector_bytes / 2)));
  using whole = std::uint32_t __attribute__((vector_size(vector_bytes)));
  auto const u = std::bit_cast<whole>(v);
  auto const rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  auto const nan = (u >> 16) | 0x40u;
  auto const h = __builtin_convertvector((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded, half);
  std::memcpy(static_cast<void*>(p), &h, sizeof h);
}

template <class A>
lanes_t<A> broadcast(A x) {
  return lanes_t<A>{} + x;
}

/// b when either is NaN.
template <class A>
lanes_t<A> larger(lanes_t<A> a, lanes_t<A> b) {
  return a > b ? a : b;
}

/// 0, 1, 2, … as A.
template <class A>
lanes_t<A> numbered() {
  return []<int... I>(std::integer_sequence<int, I...>) {
    return lanes_t<A>{static_cast<A>(I)...};
  }
  (std::make_integer_sequence<int, lanes<A>::count>{});
}

/// e^x for x < 88 to 2 units in the last place (to 5e-6 where -ffast-math regroups it); exactly 0
/// where x < -87.7, so that what is masked by a large negative number vanishes. NaN stays NaN.
inline lanes_t<float> exponential(lanes_t<float> x) {
  auto const inside = larger<float>(broadcast(-88.0f), x);
  // 127 + x / ln 2 to the nearest integer, by conversion because -ffast-math would undo a sum: the
  // biased exponent of the power of two, 0 below the smallest normal number
  auto const exponent = __builtin_convertvector(inside * 1.44269504f + 127.5f, lanes<float>::bits);
  auto const power = std::bit_cast<lanes_t<float>>(exponent << 23);
  auto const n = __builtin_convertvector(exponent, lanes_t<float>) - 127.0f;
  auto const r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;  // |r| <= ln 2 / 2
  auto p = r * 1.38145405e-3f + 8.36874545e-3f;                     // minimax to 3e-9
  p = p * r + 4.16683890e-2f;
  p = p * r + 1.66665211e-1f;
  p = p * r + 4.99999940e-1f;
  return ((p * r + 1.0f) * r + 1.0f) * power;
}
inline lanes_t<double> exponential(lanes_t<double> x) {
  for (int i = 0; i < lanes<double>::count; ++i) x[i] = x[i] < -708 ? 0.0 : std::exp(x[i]);
  return x;
}

/// The natural logarithm of positive normal numbers to 2 units in the last place.
inline lanes_t<float> logarithm(lanes_t<float> x) {
  auto const bits = std::bit_cast<lanes<float>::bits>(x);
  auto const exponent = (bits - std::bit_cast<std::int32_t>(0.70710678f)) >> 23;
  auto const mantissa = std::bit_cast<lanes_t<float>>(bits - (exponent << 23));  // [0.71, 1.41]
  auto const s = (mantissa - 1.0f) / (mantissa + 1.0f), t = s * s;               // log = 2 artanh(s)
  auto const rest = ((t * (2.0f / 9) + (2.0f / 7)) * t + (2.0f / 5)) * t + (2.0f / 3);
  auto const n = __builtin_convertvector(exponent, lanes_t<float>);
  return n * 0.693359375f + (2 * s + (s * t * rest - n * 2.12194440e-4f));
}
inline lanes_t<double> logarithm(lanes_t<double> x) {
  for (int i = 0; i < lanes<double>::count; ++i) x[i] = std::log(x[i]);
  return x;
}

/// f(row, column) for all of a small matrix with constants, without a loop at any level of
/// optimisation: what f indexes stays in registers.
template <int Rows, int Columns, class F>
[[gnu::always_inline]] inline void for_each_of(F const& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I / Columns>{}, std::integral_constant<int, I % Columns>{}), ...);
  }
  (std::make_integer_sequence<int, Rows * Columns>{});
}

/// Lanes I of a and b one after the other.
template <class A, int... I>
lanes_t<A> shuffle(lanes_t<A> a, lanes_t<A> b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, I...);
#else  // gcc knows the other as well, but nvcc before gcc does not
  return __builtin_shuffle(a, b, typename lanes<A>::bits{I...});
#endif
}

/// Row r of the square becomes its column r: the off-diagonal quarters change places, then those
/// of each quarter, and so on. By recursion, so that the rows stay in registers.
template <class A, int Half = lanes<A>::count / 2>
[[gnu::always_inline]] inline void transpose_square(lanes_t<A> (&rows)[lanes<A>::count]) {
  if constexpr (Half > 0) {
    constexpr int n = lanes<A>::count;
    [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
      for_each_of<1, n>([&](auto, auto i) {
        if constexpr ((i & Half) == 0) {
          auto const a = rows[i], b = rows[i + Half];
          rows[i] = shuffle<A, ((I & Half) == 0 ? I : n + I - Half)...>(a, b);
          rows[i + Half] = shuffle<A, ((I & Half) == 0 ? I + Half : n + I)...>(a, b);
        }
      });
    }
    (std::make_integer_sequence<int, n>{});
    transpose_square<A, Half / 2>(rows);
  }
}

}  // namespace yoke::cpu::detail
