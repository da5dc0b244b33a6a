// Vectors of the processor's width, by the compilers' vector types: the same source for SSE, AVX and
// AVX-512, and plain code at -O0.
#pragma once
#include <yoke/core/numeric.hpp>
#include <yoke/core/tensor.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
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
  using half = std::uint16_t __attribute__((vector_size(vector_bytes / 2)));
  using whole = std::uint32_t __attribute__((vector_size(vector_bytes)));
  half h;
  std::memcpy(&h, p, sizeof h);
  return std::bit_cast<lanes_t<float>>(__builtin_convertvector(h, whole) << 16);
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

/// e^x to 2 units in the last place; exactly 0 where x < -87.3, so that what is masked by a large
/// negative number vanishes. NaN stays NaN.
inline lanes_t<float> exponential(lanes_t<float> x) {
  auto const lowest = broadcast(-87.3f), highest = broadcast(88.3f);
  auto const inside = x < lowest ? lowest : x > highest ? highest : x;
  auto const scaled = inside * 1.44269504f;  // rounded by conversion: -ffast-math may not undo it
  auto const n =
      __builtin_convertvector(scaled + (scaled < 0 ? broadcast(-0.5f) : broadcast(0.5f)), lanes<float>::bits);
  auto const whole = __builtin_convertvector(n, lanes_t<float>);
  auto const r = (inside - whole * 0.693359375f) + whole * 2.12194440e-4f;  // |r| <= ln 2 / 2
  auto p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = (p * r + 1.0f) * r + 1.0f;
  auto const power = std::bit_cast<lanes_t<float>>((n + 127) << 23);
  return x < lowest ? lanes_t<float>{} : p * power;
}
inline lanes_t<double> exponential(lanes_t<double> x) {
  for (int i = 0; i < lanes<double>::count; ++i) x[i] = x[i] < -708 ? 0.0 : std::exp(x[i]);
  return x;
}

/// Row r of the square becomes its column r: log2(count) rounds of a perfect shuffle.
template <class A>
void transpose_square(lanes_t<A>* rows) {
  constexpr int n = lanes<A>::count;
  for (int round = 1; round < n; round *= 2) {
    lanes_t<A> next[n];
    for (int i = 0; i < n / 2; ++i) {
      [&]<int... I>(std::integer_sequence<int, I...>) {
        next[2 * i] = __builtin_shufflevector(rows[i], rows[i + n / 2], (I / 2 + (I % 2) * n)...);
        next[2 * i + 1] = __builtin_shufflevector(rows[i], rows[i + n / 2], (n / 2 + I / 2 + (I % 2) * n)...);
      }
      (std::make_integer_sequence<int, n>{});
    }
    for (int i = 0; i < n; ++i) rows[i] = next[i];
  }
}

}  // namespace yoke::cpu::detail
