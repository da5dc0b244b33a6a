// What the emulated machine is like and how it runs threads; a test changes it, the environment sets it for a whole
// program: YOKE_EMULATOR_ORDER = forward | backward | shuffled, YOKE_EMULATOR_SEED = a number.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

namespace emulator {

/// In which order blocks, warps, lanes and streams run where the order is not theirs to rely on. Results must not
/// depend on it.
enum class order { forward, backward, shuffled };

struct machine {
  int devices = 1;
  int processors = 4;                          // of each device
  std::size_t memory = std::size_t{8} << 30;   // of each device, in bytes
  std::size_t filled = std::size_t{64} << 20;  // allocations up to so many bytes hold garbage, others zeros
  order threads = order::forward;
  std::uint64_t seed = 1;
};

/// Of the process. To be changed while no work is under way.
inline machine& settings() {
  static machine* const m = [] {
    auto* const made = new machine;  // outlives static objects that use devices
    if (char const* const text = std::getenv("YOKE_EMULATOR_ORDER")) {
      std::string_view const name{text};
      made->threads = name == "backward"   ? order::backward
                      : name == "shuffled" ? order::shuffled
                                           : order::forward;
    }
    if (char const* const text = std::getenv("YOKE_EMULATOR_SEED"))
      made->seed = std::strtoull(text, nullptr, 10);
    return made;
  }();
  return *m;
}

/// A sequence of numbers for the shuffled order: a function of the seed alone.
class numbers {
 public:
  explicit numbers(std::uint64_t seed) : state_{seed} {}
  std::uint64_t next() {  // splitmix64
    auto z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::uint64_t below(std::uint64_t n) { return next() % n; }

 private:
  std::uint64_t state_;
};

inline constexpr unsigned char garbage = 0xcb;  // what uninitialised memory is full of

}  // namespace emulator
