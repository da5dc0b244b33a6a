// The block that runs: its threads take turns on stacks of their own and change over only where they wait for each
// other. A thread that never waits runs to its end, and the next one on the same stack.
#pragma once
#include "fibers.hpp"
#include "report.hpp"
#include "settings.hpp"
#include "types.hpp"
#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

inline constexpr std::uint32_t whole_warp = 0xffffffffu;
inline constexpr std::size_t largest_shared = 227 * 1024;
inline constexpr std::size_t largest_operand = 64;  // of a collective, a lane

/// A copy into shared memory that has begun and has not been waited for.
struct begun_copy {
  void* to;
  void const* from;  // null: zeros
};

struct thread {
  fiber* stack = nullptr;  // null: has not begun
  uint3 at{};
  std::vector<begun_copy> copies;   // oldest first
  std::vector<std::size_t> groups;  // how many copies each closed group has, oldest first
};

/// Lanes are known by their place in the order in which the warp's lanes run.
struct warp {
  std::uint32_t ready = 0, arrived = 0, at_barrier = 0;  // a bit for each place
  int lanes = 0, ended = 0;
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

/// Runs blocks, one at a time. There is one in the process, used under the emulator's lock.
class runner {
 public:
  bool running() const { return running_; }
  shape_of_launch const& launch() const { return launch_; }

  /// Calls body(argument) in every thread of every block.
  void run(shape_of_launch const& launch, void (*body)(void*), void* argument) {
    fiber here;
    begin(launch, body, argument, here);
    auto const blocks = std::uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    // Shuffled: multiples of a stride that has no factor in common with the number of blocks.
    std::uint64_t stride = 1, first = 0;
    if (order_ == order::shuffled) {
      first = chance_.below(blocks);
      do stride = 1 + chance_.below(blocks);
      while (std::gcd(stride, blocks) != 1);
    }
    auto at = first;
    for (std::uint64_t i = 0; i < blocks; ++i, at = (at + stride) % blocks) {
      auto const b = order_ == order::backward ? blocks - 1 - i : at;
      auto const plane = std::uint64_t{launch.grid.x} * launch.grid.y;
      block_index = {static_cast<unsigned>(b % launch.grid.x),
                     static_cast<unsigned>(b % plane / launch.grid.x), static_cast<unsigned>(b / plane)};
      run_block(here);
    }
    running_ = false;
  }

  thread& current() { return threads_[current_]; }
  int lane() const { return static_cast<int>(current_ % 32); }
  warp& current_warp() { return warps_[current_ / 32]; }

  /// The current thread's place in the block's barrier; `line` of the caller's file, for those who wait elsewhere.
  void barrier(char const* file, int line) {
    demand("__syncthreads");
    if (waiting_ == 0) {
      barrier_file_ = file;
      barrier_line_ = line;
    } else if (line != barrier_line_ || (file != barrier_file_ && std::strcmp(file, barrier_file_) != 0)) {
      wrong("waits at the barrier of " + place(file, line) + " while others wait at that of " +
            place(barrier_file_, barrier_line_));
    }
    ++waiting_;
    current_warp().at_barrier |= std::uint32_t{1} << position_;
    wait();
  }

  /// The current lane has come to a collective; true when it is the last of its warp. The others then run again, and it
  /// goes on without waiting.
  bool arrive(void const* kind, char const* name) {
    auto& w = current_warp();
    if (w.lanes != 32)
      wrong(std::string(name) + " in a warp of " + std::to_string(w.lanes) + " lanes; it wants all 32");
    if (w.arrived == 0) {
      w.kind = kind;
      w.name = name;
    } else if (w.kind != kind || (w.name != name && std::strcmp(w.name, name) != 0)) {
      wrong("is at " + std::string(name) + " while other lanes of its warp are at " + w.name);
    }
    w.arrived |= std::uint32_t{1} << position_;
    return w.arrived == whole_warp;
  }
  void release() {
    auto& w = current_warp();
    w.ready |= w.arrived & ~(std::uint32_t{1} << position_);
    w.arrived = 0;
  }

  /// Other threads run until this one may go on.
  void wait() {
    auto& me = current();
    auto const before = current_;
    if (!choose() || current_ == before)
      return;
    auto& next = current();
    if (next.stack == nullptr)
      next.stack = idle_stack();
    me.stack->switch_to(*next.stack);
  }

  /// Fails when no kernel runs.
  void demand(char const* what) const {
    if (!running_)
      fail(std::string(what) + " outside of a kernel");
  }
  /// What a kernel did wrong, with its name and the thread that did it.
  [[noreturn]] void wrong(std::string const& what) const {
    fail("kernel " + kernel_name(launch_.kernel) + ", block " + text(block_index) + ", thread " +
         text(thread_index) + ": " + what);
  }

  std::byte* dynamic_shared() {
    demand("dynamic_shared");
    return shared_;
  }

 private:
  static std::string text(uint3 v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) + ")";
  }
  static std::string place(char const* file, int line) {
    return std::string(file) + ":" + std::to_string(line);
  }

  void begin(shape_of_launch const& launch, void (*body)(void*), void* argument, fiber& here) {
    running_ = true;
    launch_ = launch;
    body_ = body;
    argument_ = argument;
    host_ = &here;
    grid_extent = launch.grid;
    block_extent = launch.block;
    order_ = settings().threads;
    chance_ = numbers{settings().seed};
    auto const& b = launch.block;
    auto const count = std::size_t{b.x} * b.y * b.z;
    if (threads_.size() < count)
      threads_.resize(count);
    count_ = count;
    for (std::size_t i = 0; i < count; ++i)
      threads_[i].at = {static_cast<unsigned>(i % b.x), static_cast<unsigned>(i / b.x % b.y),
                        static_cast<unsigned>(i / b.x / b.y)};
    warps_.assign((count + 31) / 32, {});
    for (std::size_t w = 0; w < warps_.size(); ++w)
      warps_[w].lanes = static_cast<int>(std::min<std::size_t>(32, count - 32 * w));
    sequence_.resize(warps_.size());
    std::iota(sequence_.begin(), sequence_.end(), 0u);
    std::iota(lanes_.begin(), lanes_.end(), 0u);
    if (order_ == order::backward) {
      std::reverse(sequence_.begin(), sequence_.end());
      std::reverse(lanes_.begin(), lanes_.end());
    }
  }

  void run_block(fiber& here) {
    if (launch_.shared > 0) {
      unpoison(shared_, largest_shared);
      std::memset(shared_, garbage, launch_.shared);
    }
    poison(shared_ + launch_.shared, sizeof shared_ - launch_.shared);
    for (auto& w : warps_) {
      w.ended = 0;
      w.ready = 0;
    }
    for (std::size_t i = 0; i < count_; ++i) {
      threads_[i].stack = nullptr;
      threads_[i].copies.clear();
      threads_[i].groups.clear();
    }
    shuffle();
    shuffle_lanes();
    for (auto& w : warps_)
      for (unsigned p = 0; p < 32; ++p)
        if (static_cast<int>(lanes_[p]) < w.lanes)
          w.ready |= 1u << p;
    next_warp_ = 0;
    position_ = 31;
    ended_ = waiting_ = 0;
    choose();
    current().stack = idle_stack();
    here.switch_to(*current().stack);
  }

  void shuffle() {
    if (order_ != order::shuffled)
      return;
    for (std::size_t i = sequence_.size(); i > 1; --i)
      std::swap(sequence_[i - 1], sequence_[chance_.below(i)]);
  }
  void shuffle_lanes() {
    if (order_ != order::shuffled)
      return;
    for (std::size_t i = lanes_.size(); i > 1; --i) std::swap(lanes_[i - 1], lanes_[chance_.below(i)]);
  }

  /// Makes the next thread that may run the current one; false when all have ended.
  bool choose() {
    for (;;) {
      auto& w = warps_[sequence_[next_warp_]];
      if (w.ready != 0) {
        auto const later = w.ready & ~((2u << position_) - 1);
        position_ = static_cast<unsigned>(std::countr_zero(later != 0 ? later : w.ready));
        w.ready &= ~(1u << position_);
        current_ = sequence_[next_warp_] * std::size_t{32} + lanes_[position_];
        thread_index = current().at;
        return true;
      }
      if (w.arrived != 0)
        stuck(w);
      position_ = 31;
      if (++next_warp_ == warps_.size()) {
        if (waiting_ == 0)
          return false;
        open_barrier();
      }
    }
  }
  void open_barrier() {
    if (waiting_ != count_)
      wrong("the barrier of " + place(barrier_file_, barrier_line_) + " waits for " + std::to_string(ended_) +
            " of " + std::to_string(count_) + " threads, which have ended");
    waiting_ = 0;
    for (auto& w : warps_) w.ready = std::exchange(w.at_barrier, 0);
    next_warp_ = 0;
    shuffle();
  }
  [[noreturn]] void stuck(warp const& w) const {
    auto const others = w.at_barrier != 0
                            ? "others wait at the barrier of " + place(barrier_file_, barrier_line_)
                            : std::string("others have ended");
    wrong(std::to_string(std::popcount(w.arrived)) + " of " + std::to_string(w.lanes) +
          " lanes of its warp wait at " + w.name + "; " + others);
  }

  fiber* idle_stack() {
    if (idle_.empty())
      idle_.push_back(new fiber{&runner::stack_entry, stacks_++});
    auto* const f = idle_.back();
    idle_.pop_back();
    return f;
  }
  static void stack_entry();
  [[noreturn]] void run_threads() {
    fiber& mine = *current().stack;
    for (;;) {
      body_(argument_);
      ++ended_;
      ++current_warp().ended;
      if (!choose()) {
        idle_.push_back(&mine);
        mine.switch_to(*host_);
      } else if (current().stack == nullptr) {
        current().stack = &mine;
      } else {
        idle_.push_back(&mine);
        mine.switch_to(*current().stack);
      }
    }
  }

  bool running_ = false;
  shape_of_launch launch_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  fiber* host_ = nullptr;
  order order_ = order::forward;
  numbers chance_{1};

  std::vector<thread> threads_;
  std::vector<warp> warps_;
  std::vector<fiber*> idle_;
  std::vector<unsigned> sequence_;    // warps in the order in which they run
  std::array<unsigned, 32> lanes_{};  // lanes in the order in which they run
  std::size_t stacks_ = 0, count_ = 0, ended_ = 0, waiting_ = 0, next_warp_ = 0, current_ = 0;
  unsigned position_ = 0;
  char const* barrier_file_ = nullptr;
  int barrier_line_ = 0;
  alignas(128) std::byte shared_[largest_shared + 256];
};

/// The runner, which outlives static objects that use devices.
inline runner& blocks() {
  static runner* const r = new runner;
  return *r;
}

inline void runner::stack_entry() {
  fiber::entered();
  blocks().run_threads();
}

}  // namespace emulator

inline uint3 const& threadIdx = emulator::thread_index;
inline uint3 const& blockIdx = emulator::block_index;
inline dim3 const& blockDim = emulator::block_extent;
inline dim3 const& gridDim = emulator::grid_extent;
inline constexpr int warpSize = 32;
