// The block that runs: its threads take turns on stacks of their own and change over only where they wait for each
// other. A thread that never waits runs to its end, and the next one on the same stack.
#pragma once
#include "report.hpp"
#include "sanitizers.hpp"
#include "settings.hpp"
#include "threads.hpp"
#include <algorithm>
#include <array>
#include <bit>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

namespace emulator {

/// Runs blocks, one at a time. There is one in the process, used under the emulator's lock.
class runner {
 public:
  bool running() const { return running_; }
  shape_of_launch const& launch() const { return launch_; }

  /// Calls body(argument) in every thread of every block.
  void run(shape_of_launch const& launch, void (*body)(void*), void* argument) {
    unseen const ours;
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
    unseen const mine;
    if (waiting_ == 0) {
      barrier_file_ = file;
      barrier_line_ = line;
    } else if (line != barrier_line_ || (file != barrier_file_ && std::strcmp(file, barrier_file_) != 0)) {
      wrong("waits at the barrier of " + place(file, line) + " while others wait at that of " +
            place(barrier_file_, barrier_line_));
    }
    ++waiting_;
    current_warp().at_barrier |= std::uint32_t{1} << position_;
    auto& turn = turns_[turn_ % 2];
    publish(&turn);
    wait();
    observe(&turn);
  }

  /// The current lane has come to a collective; true when it is the last of its warp. The others then run again,
  /// and it goes on without waiting.
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
    ++w.turn;
  }

  /// Other threads run until this one may go on.
  void wait() {
    auto& mine = *current().stack;
    auto const before = current_;
    if (!choose() || current_ == before)
      return;
    auto& next = current();
    if (next.stack == nullptr)
      next.stack = idle_stack();
    auto& other = *next.stack;
    mine.switch_to(other, next.racer);
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
    host_racer_ = this_racer();
    grid_extent = launch.grid;
    block_extent = launch.block;
    order_ = settings().threads;
    chance_ = numbers{settings().seed};
    auto const& b = launch.block;
    auto const count = std::size_t{b.x} * b.y * b.z;
    if (threads_.size() < count)
      threads_.resize(count);
    for (auto& t : threads_)
      if (finds_races && t.racer == nullptr)
        t.racer = new_racer();
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
    garble_shared();
    for (auto& w : warps_) w.ready = 0;
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
    auto& first = *current().stack;
    publish(boundary(0));
    here.switch_to(first, current().racer);
    observe(boundary(1));
    ++number_;
    if (launch_.shared > 0)
      expect_untouched();
  }

  void garble_shared() {
    if (launch_.shared != open_) {
      unpoison(shared_, launch_.shared);
      poison(shared_ + launch_.shared, sizeof shared_ - launch_.shared);
      open_ = launch_.shared;
    }
    if (launch_.shared > 0) {
      std::memset(shared_, garbage, launch_.shared);
      if constexpr (!finds_bad_accesses)
        std::memset(shared_ + launch_.shared, 0xfd, 64);
    }
    garble_static_shared();
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
    ++turn_;
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
      observe(boundary(0));
      body_(argument_);
      publish(boundary(1));
      auto* const other = next_stack(mine);
      auto* const racer = other == host_ ? host_racer_ : current().racer;
      if (other != &mine)
        mine.switch_to(*other, racer);
      else
        go_on_as(racer);
    }
  }
  /// What lies before this block, or behind it.
  void* boundary(std::size_t behind) {
    unseen const ours;
    return &boundaries_[(number_ + behind) % 2];
  }
  /// A thread has ended on `mine`: where to go on.
  fiber* next_stack(fiber& mine) {
    unseen const ours;
    ++ended_;
    bool const more = choose();
    if (more && current().stack == nullptr)
      return current().stack = &mine;
    idle_.push_back(&mine);
    return more ? current().stack : host_;
  }

  /// Dynamic shared memory ends where the launch said.
  void expect_untouched() const {
    if constexpr (!finds_bad_accesses)
      for (std::size_t i = 0; i < 64; ++i)
        if (shared_[launch_.shared + i] != std::byte{0xfd})
          wrong("something has written " + std::to_string(i) + " bytes behind the " +
                std::to_string(launch_.shared) + " bytes of dynamic shared memory");
  }

  bool running_ = false;
  shape_of_launch launch_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  fiber* host_ = nullptr;
  void* host_racer_ = nullptr;
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
  std::size_t number_ = 0, turn_ = 0;        // of blocks and of barriers so far
  char boundaries_[2] = {}, turns_[2] = {};  // between blocks and at barriers, for finding races
  std::size_t open_ = sizeof shared_;        // bytes of it that may be touched
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
