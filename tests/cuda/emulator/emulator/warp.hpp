// What threads of a warp or a block do together: barriers,
// shuffles, votes.
#pragma once
#include "block.hpp"
#include <type_traits>

namespace emulator {

/// Its address tells collectives with different operands apart.
template <class In, class Out>
inline char collective_kind = 0;

/// Every lane of the warp brings `in` and gets an Out: when the last has come, form(in, out) sets the 32 results,
/// by lane, from the 32 operands, then all go on. Lanes that are elsewhere meanwhile, or in another collective, end
/// the program. With `orders`, what lanes did to memory before it comes before what they do after it.
template <class Out, class In, class Form>
Out warp_collective(char const* name, In const& in, Form const& form, bool orders = false) {
  static_assert(sizeof(In) <= largest_operand && sizeof(Out) <= largest_operand && alignof(In) <= 16 &&
                alignof(Out) <= 16 && std::is_trivially_copyable_v<In> && std::is_trivially_copyable_v<Out>);
  auto& r = blocks();
  r.demand(name);
  unseen const ours;
  auto& w = r.current_warp();
  auto const lane = static_cast<std::size_t>(r.lane());
  auto* const operands = reinterpret_cast<In*>(w.given);
  auto* const results = reinterpret_cast<Out*>(w.wanted);
  std::memcpy(operands + lane, &in, sizeof in);
  auto& turn = w.turns[w.turn % 2];
  if (orders)
    publish(&turn);
  if (r.arrive(&collective_kind<In, Out>, name)) {
    form(static_cast<In const*>(operands), results);
    r.release();
  } else {
    r.wait();
  }
  if (orders)
    observe(&turn);
  return results[lane];
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
  return warp_collective<T>(name, sent<T>{value, from}, [](sent<T> const* in, T* out) {
    for (int l = 0; l < 32; ++l) out[l] = in[in[l].from].value;
  });
}
/// The lane at `to` when the warp is cut into pieces of `width`; itself when that is in another piece.
inline int within(int lane, int to, int width) {
  auto const first = lane - lane % width;
  return to >= first && to < first + width ? to : lane;
}

inline unsigned vote(char const* name, unsigned mask, bool mine, bool orders = false) {
  expect_whole_warp(mask, name);
  auto const form = [](bool const* in, unsigned* out) {
    unsigned bits = 0;
    for (int l = 0; l < 32; ++l) bits |= unsigned{in[l]} << l;
    for (int l = 0; l < 32; ++l) out[l] = bits;
  };
  return warp_collective<unsigned>(name, mine, form, orders);
}

}  // namespace emulator

inline void __syncthreads(char const* file = __builtin_FILE(), int line = __builtin_LINE()) {
  emulator::blocks().barrier(file, line);
}
inline void __syncwarp(unsigned mask = emulator::whole_warp) {
  emulator::vote("__syncwarp", mask, true, true);
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
