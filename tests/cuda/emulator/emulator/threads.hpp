// What a block is made of: threads, warps, and the shape of
// the launch that they belong to.
#pragma once
#include "fibers.hpp"
#include "settings.hpp"
#include "types.hpp"
#include <cstddef>
#include <cstdint>
#include <vector>

namespace emulator {

inline constexpr std::uint32_t whole_warp = 0xffffffffu;
inline constexpr std::size_t largest_shared = 227 * 1024;
inline constexpr std::size_t largest_operand = 64;  // of a collective, a lane

#ifdef YOKE_EMULATOR_SHARED_SECTION
extern "C" __attribute__((weak)) std::byte __start_yoke_shared[];
extern "C" __attribute__((weak)) std::byte __stop_yoke_shared[];
#endif
/// Fills the kernels' `__shared__` variables with garbage, where the compiler keeps them together.
inline void garble_static_shared() {
#ifdef YOKE_EMULATOR_SHARED_SECTION
  if (__start_yoke_shared != nullptr)
    std::memset(__start_yoke_shared, garbage,
                static_cast<std::size_t>(__stop_yoke_shared - __start_yoke_shared));
#endif
}

/// A copy into shared memory that has begun and has not been waited for.
struct begun_copy {
  void* to;
  void const* from;  // null: zeros
};

struct thread {
  fiber* stack = nullptr;  // null: has not begun
  void* racer = nullptr;
  uint3 at{};
  std::vector<begun_copy> copies;   // oldest first
  std::vector<std::size_t> groups;  // how many copies each closed group has, oldest first
};

/// Lanes are known by their place in the order in which the warp's lanes run.
struct warp {
  std::uint32_t ready = 0, arrived = 0, at_barrier = 0;  // a bit for each place
  int lanes = 0;
  char turns[2] = {};  // of its __syncwarp, for finding races
  unsigned turn = 0;
  void const* kind = nullptr;  // of the collective at which lanes have arrived
  char const* name = nullptr;
  alignas(16) std::byte given[32 * largest_operand];  // by lane
  alignas(16) std::byte wanted[32 * largest_operand];
};

/// What a kernel sees as threadIdx, blockIdx, blockDim and gridDim.
inline uint3 thread_index{}, block_index{};
inline dim3 block_extent, grid_extent;

/// Kernel, grid and block as they were launched.
struct shape_of_launch {
  void const* kernel = nullptr;
  dim3 grid, block;
  std::size_t shared = 0;
};

}  // namespace emulator

inline uint3 const& threadIdx = emulator::thread_index;
inline uint3 const& blockIdx = emulator::block_index;
inline dim3 const& blockDim = emulator::block_extent;
inline dim3 const& gridDim = emulator::grid_extent;
inline constexpr int warpSize = 32;
