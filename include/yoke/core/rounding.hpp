// Rounding to bf16 at random, up as often as what is cut off says, so that many small steps add up to what they should.
// The bits are a function of coordinates: replay, resume and any number of threads and ranks round alike.
#pragma once
#include <yoke/core/random.hpp>

#include <bit>
#include <cstdint>

namespace yoke {

/// Which bits the elements of one tensor draw in one step.
struct rounding_key {
  std::uint32_t first = 0, second = 0;

  static constexpr rounding_key of(std::uint64_t seed, std::uint64_t step, std::uint64_t tensor) {
    auto const key = mix(mix(seed, step), tensor);
    return {static_cast<std::uint32_t>(key), static_cast<std::uint32_t>(key >> 32)};
  }
};

/// 16 random bits for element number first + rest, modulo 2^32, of a tensor. U: std::uint32_t, or a vector of them,
/// where a constant `rest` costs nothing. A Weyl sequence, two rounds of multiply and shift (constants by C. Wellons,
/// "Prospecting for hash functions", 2018): a tenth of Philox's work. One round would do for the mean, but leaves
/// elements that are far apart up to 10 % correlated.
template <class U>
constexpr U rounding_bits(rounding_key key, std::uint32_t first, U rest) {
  constexpr std::uint32_t stride = 0x9E3779B9u;
  auto x = rest * stride + (first * stride + key.first);
  x = ((x ^ (x >> 15)) * 0x7feb352du) ^ key.second;
  return ((x ^ (x >> 12)) * 0x846ca68bu) >> 16;
}

/// One of the two bf16 next to v, as a float: that away from zero where the lower half of v and 16 random bits sum to
/// 2^16 or more. What bf16 holds, infinities among it, stays, and so does NaN.
constexpr float rounded_at_random(float v, std::uint32_t bits) {
  auto const u = std::bit_cast<std::uint32_t>(v);
  return (u & 0x7fffffffu) > 0x7f800000u ? v : std::bit_cast<float>((u + bits) & 0xffff0000u);
}

}  // namespace yoke
