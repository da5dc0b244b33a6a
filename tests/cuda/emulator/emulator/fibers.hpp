// Stacks that take turns on one thread of the operating system: each thread of a block that waits keeps its own. On
// x86-64 a switch is a dozen instructions; elsewhere it is ucontext's.
#pragma once
#include "sanitizers.hpp"
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <sys/mman.h>

#if defined(__x86_64__)
// void yoke_emulator_switch(void** keep, void* to): pushes what the calling convention says a function preserves,
// leaves the stack pointer in *keep, and goes on where `to` was left.
asm(R"(
.pushsection .text.yoke_emulator_switch,"axG",@progbits,yoke_emulator_switch,comdat
.weak yoke_emulator_switch
.type yoke_emulator_switch,@function
yoke_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size yoke_emulator_switch, .-yoke_emulator_switch
.popsection
)");
extern "C" void yoke_emulator_switch(void** keep, void* to);
#else
#include <ucontext.h>
#endif

namespace emulator {

/// A stack and where it goes on. Made once, used for many threads of many blocks, never given back.
class fiber {
 public:
  /// The stack that the caller runs on.
  fiber() {
    thread_local bounds const here = this_stack();
    stack_ = here;
  }
  /// A stack of its own, the program's `number`th, on which `entry`, which never returns, begins when it is first
  /// switched to.
  fiber(void (*entry)(), [[maybe_unused]] std::size_t number) {
    constexpr std::size_t page = 4096;
    auto* const low = static_cast<std::byte*>(mmap(nullptr, size + page, PROT_READ | PROT_WRITE,
                                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (low == MAP_FAILED || mprotect(low, page, PROT_NONE) != 0) {
      std::perror("emulator: no memory for a thread's stack");
      std::abort();
    }
    stack_ = {low + page, size};
#if defined(__x86_64__)
    // Tops at different places of their pages, lest all stacks compete for a few lines of the cache.
    auto* top = reinterpret_cast<void**>(low + page + size - number * 320 % page);
    *--top = nullptr;  // entry has no caller
    *--top = reinterpret_cast<void*>(entry);
    top -= 6;  // the registers that a switch pops, zero in fresh memory
    at_ = top;
#else
    getcontext(&at_);
    at_.uc_stack.ss_sp = low + page;
    at_.uc_stack.ss_size = size;
    makecontext(&at_, entry, 0);
#endif
  }
  fiber(fiber const&) = delete;
  fiber& operator=(fiber const&) = delete;

  /// Leaves this stack, which runs, for another; returns when something switches back.
  void switch_to(fiber& other, void* racer) {
    switching(&kept_, other.stack_.low, other.stack_.bytes);
#if defined(__x86_64__)
    begin_unseen();
    auto* const there = other.at_;
    end_unseen();
    go_on_as(racer);
    yoke_emulator_switch(&at_, there);
#else
    go_on_as(racer);
    swapcontext(&at_, &other.at_);
#endif
    switched(kept_);
  }
  /// The first thing that `entry` does.
  static void entered() {
    switched(nullptr);
  }

 private:
#ifdef YOKE_EMULATOR_ASAN
  static constexpr std::size_t size = 256 * 1024;
#else
  static constexpr std::size_t size = 128 * 1024;
#endif
  struct bounds {
    void* low = nullptr;
    std::size_t bytes = 0;
  };
  static bounds this_stack() {
    bounds b;
    if constexpr (finds_bad_accesses) {
      pthread_attr_t attributes;
      pthread_getattr_np(pthread_self(), &attributes);
      pthread_attr_getstack(&attributes, &b.low, &b.bytes);
      pthread_attr_destroy(&attributes);
    }
    return b;
  }

#if defined(__x86_64__)
  void* at_ = nullptr;
#else
  ucontext_t at_{};
#endif
  bounds stack_;
  void* kept_ = nullptr;
};

}  // namespace emulator
