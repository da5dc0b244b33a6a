// Element types: bf16, and the type in which each element type is accumulated.
#pragma once
#include <bit>
#include <cstdint>
#include <type_traits>

namespace yoke {

/// bfloat16: the upper half of a float. Converts from float by rounding to nearest even.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  constexpr explicit bf16(float v) noexcept {
    auto const u = std::bit_cast<std::uint32_t>(v);
    auto const rounded = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
    auto const nan = static_cast<std::uint16_t>((u >> 16) | 0x40u);
    bits = (u & 0x7fffffffu) > 0x7f800000u ? nan : rounded;
  }
  constexpr explicit bf16(double v) noexcept : bf16{static_cast<float>(v)} {}
  constexpr operator float() const noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

/// Statistics, softmax, losses, gradients of parameters: float for float and bf16, double for
/// double.
template <class T>
using accumulator_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// double (gradient checks), float or bf16 (training).
template <class T>
concept element = std::is_same_v<T, double> || std::is_same_v<T, float> || std::is_same_v<T, bf16>;

}  // namespace yoke
