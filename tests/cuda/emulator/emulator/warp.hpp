// What threads of a warp or a block do together: barriers, shuffles, votes.
#pragma once
#include "block.hpp"

namespace emulator {

/// What the 32 lanes have brought to a collective, by lane.
template <class In>
class brought {
 public:
  explicit brought(std::array<void const*, 32> const& at) : at_{at} {}
  In const& operator[](int lane) const {
    return *static_cast<In const*>(at_[static_cast<std::size_t>(lane)]);
  }

 private:
  std::array<void const*, 32> const& at_;
};
/// What they get, by lane.
template <class Out>
class results {
 public:
  explicit results(std::array<void*, 32> const& at) : at_{at} {}
  Out& operator[](int lane) const { return *static_cast<Out*>(at_[static_cast<std::size_t>(lane)]); }

 private:
  std::array<void*, 32> const& at_;
};

/// Its address tells collectives with different operands apart.
template <class In, class Out>
inline char collective_kind = 0;

/// Every lane of the warp brings `in` and gets `out`: when the last has come, form(brought<In>, results<Out>) fills all
/// results, then all go on. Lanes that are elsewhere meanwhile, or in another collective, end the program.
template <class In, class Out, class Form>
void warp_collective(char const* name, In const& in, Out& out, Form const& form) {
  auto& r = blocks();
  r.demand(name);
  auto& w = r.current_warp();
  auto const lane = static_cast<std::size_t>(r.lane());
  w.given[lane] = &in;
  w.wanted[lane] = &out;
  if (!r.arrive(&collective_kind<In, Out>, name)) {
    r.wait();
    return;
  }
  form(brought<In>{w.given}, results<Out>{w.wanted});
  r.release();
}

inline void expect_whole_warp(unsigned mask, char const* name) {
  if (mask != whole_warp)
    blocks().wrong(std::string(name) + " with a mask that leaves lanes out; here it wants all of them");
}

template <class T>
struct sent {
  T value;
  int from;  // the lane whose value is wanted
};
template <class T>
T shuffle(char const* name, unsigned mask, T value, int from) {
  expect_whole_warp(mask, name);
  sent<T> const mine{value, from};
  T got;
  warp_collective(name, mine, got, [](brought<sent<T>> in, results<T> out) {
    for (int l = 0; l < 32; ++l) out[l] = in[in[l].from].value;
  });
  return got;
}
/// The lane at `to` when the warp is cut into pieces of `width`; itself when that is in another piece.
inline int within(int lane, int to, int width) {
  auto const first = lane - lane % width;
  return to >= first && to < first + width ? to : lane;
}

inline unsigned vote(char const* name, unsigned mask, bool mine) {
  expect_whole_warp(mask, name);
  unsigned got = 0;
  warp_collective(name, mine, got, [](brought<bool> in, results<unsigned> out) {
    unsigned bits = 0;
    for (int l = 0; l < 32; ++l) bits |= unsigned{in[l]} << l;
    for (int l = 0; l < 32; ++l) out[l] = bits;
  });
  return got;
}

}  // namespace emulator

inline void __syncthreads(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::blocks().barrier(file, line);
}
inline void __syncwarp(unsigned mask = emulator::whole_warp) {
  emulator::vote("__syncwarp", mask, true);
}

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
  auto const mine = emulator::blocks().lane();
  return emulator::shuffle("__shfl_sync", mask, value, mine - mine % width + (lane & (width - 1)));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  // As the instruction has it, a lane may read from an earlier piece but not from a later one.
  auto const mine = emulator::blocks().lane();
  auto const to = mine ^ bits;
  return emulator::shuffle("__shfl_xor_sync", mask, value, to < mine - mine % width + width ? to & 31 : mine);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  auto const mine = emulator::blocks().lane();
  return emulator::shuffle("__shfl_down_sync", mask, value,
                           emulator::within(mine, mine + static_cast<int>(delta), width));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  auto const mine = emulator::blocks().lane();
  return emulator::shuffle("__shfl_up_sync", mask, value,
                           emulator::within(mine, mine - static_cast<int>(delta), width));
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulator::vote("__ballot_sync", mask, predicate != 0);
}
inline int __any_sync(unsigned mask, int predicate) {
  return emulator::vote("__any_sync", mask, predicate != 0) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return emulator::vote("__all_sync", mask, predicate != 0) == emulator::whole_warp;
}
inline unsigned __activemask() {
  return emulator::whole_warp;
}

inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
