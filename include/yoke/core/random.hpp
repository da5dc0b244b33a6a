// Counter-based random numbers: every draw is a function of its coordinates, so replay, resume and
// any number of ranks give the same numbers without a generator's state.
#pragma once
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace yoke {

/// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    auto const a = std::uint64_t{0xD2511F53u} * counter[0], b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ k0, static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ k1, static_cast<std::uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

/// Mixes two words into one (the finaliser of splitmix64).
constexpr std::uint64_t mix(std::uint64_t a, std::uint64_t b = 0) {
  a += 0x9E3779B97F4A7C15u * (b + 1);
  a = (a ^ (a >> 30)) * 0xBF58476D1CE4E5B9u;
  a = (a ^ (a >> 27)) * 0x94D049BB133111EBu;
  return a ^ (a >> 31);
}

/// FNV-1a: a stable number for a name, such as a layer's path.
constexpr std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xcbf29ce484222325u;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

/// A uniform number in [0, 1) from 24 of the 32 bits.
constexpr float uniform(std::uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

/// Where a model's random draws come from; `first_sample` is the number, in the global batch, of
/// the first sample of the rows at hand, so that micro-batches and ranks draw what one big batch
/// would.
struct random_key {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t first_sample = 0;

  /// Four words for the elements 4·quad … 4·quad+3 of a sample in the stream of one layer.
  constexpr std::array<std::uint32_t, 4> draw(std::uint64_t stream, std::uint64_t sample,
                                              std::uint64_t quad) const {
    auto const s = first_sample + sample;
    return philox({static_cast<std::uint32_t>(quad), static_cast<std::uint32_t>(quad >> 32),
                   static_cast<std::uint32_t>(s), static_cast<std::uint32_t>(s >> 32)},
                  mix(mix(seed, stream), step));
  }
};

/// A sequence of draws for code that wants "the next number": shuffles, augmentation, initial
/// weights.
class random_sequence {
 public:
  /// Begins `normals` calls of normal() further on: each takes one block of the generator.
  explicit random_sequence(std::uint64_t key, std::uint64_t stream = 0, std::uint64_t normals = 0)
      : key_{key}, stream_{stream}, block_{normals} {}

  std::uint32_t bits() {
    if (next_ == 4)
      refill();
    return words_[next_++];
  }
  /// In [0, 1), 53 random bits.
  double uniform() {
    auto const high = bits() >> 5, low = bits() >> 6;
    return (high * 67108864.0 + low) * 0x1p-53;
  }
  /// In [0, n), n > 0; the bias of the 64-bit multiply is below n / 2^64.
  std::uint64_t below(std::uint64_t n) {
    return static_cast<std::uint64_t>(static_cast<unsigned __int128>(wide()) * n >> 64);
  }
  /// Normal with mean 0 and deviation 1 (Box-Muller).
  double normal() {
    auto const u = 1 - uniform(), v = uniform();
    return std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v);
  }

 private:
  std::uint64_t wide() {
    auto const high = std::uint64_t{bits()} << 32;
    return high | bits();
  }
  void refill() {
    words_ = philox({static_cast<std::uint32_t>(block_), static_cast<std::uint32_t>(block_ >> 32),
                     static_cast<std::uint32_t>(stream_), static_cast<std::uint32_t>(stream_ >> 32)},
                    key_);
    ++block_;
    next_ = 0;
  }

  std::uint64_t key_, stream_, block_;
  std::array<std::uint32_t, 4> words_{};
  std::size_t next_ = 4;
};

}  // namespace yoke
