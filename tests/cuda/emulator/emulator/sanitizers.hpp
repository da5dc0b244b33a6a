// What AddressSanitizer and ThreadSanitizer are told: which memory is nobody's, which stack runs, which thread.
// Without them every function here is empty.
#pragma once
#include <cstddef>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define YOKE_EMULATOR_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define YOKE_EMULATOR_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define YOKE_EMULATOR_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define YOKE_EMULATOR_TSAN 1
#endif

#ifdef YOKE_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef YOKE_EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(char const* file, int line);
void AnnotateIgnoreReadsEnd(char const* file, int line);
void AnnotateIgnoreWritesBegin(char const* file, int line);
void AnnotateIgnoreWritesEnd(char const* file, int line);
}
#endif

namespace emulator {

#ifdef YOKE_EMULATOR_ASAN
inline constexpr bool finds_bad_accesses = true;
inline void poison(void const* p, std::size_t bytes) {
  __asan_poison_memory_region(p, bytes);
}
inline void unpoison(void const* p, std::size_t bytes) {
  __asan_unpoison_memory_region(p, bytes);
}
/// Before a switch: where the other stack lies; `kept` gets what must be given to `switched` when this one goes on.
inline void switching(void** kept, void const* bottom, std::size_t bytes) {
  __sanitizer_start_switch_fiber(kept, bottom, bytes);
}
inline void switched(void* kept) {
  __sanitizer_finish_switch_fiber(kept, nullptr, nullptr);
}
#else
inline constexpr bool finds_bad_accesses = false;
inline void poison(void const*, std::size_t) {}
inline void unpoison(void const*, std::size_t) {}
inline void switching(void**, void const*, std::size_t) {}
inline void switched(void*) {}
#endif

/// What ThreadSanitizer takes for a thread. Kernels' threads are such: it sees accesses between which no barrier
/// lies. Switching from one to another orders nothing; only these functions do.
#ifdef YOKE_EMULATOR_TSAN
inline constexpr bool finds_races = true;
inline void* new_racer() {
  return __tsan_create_fiber(0);
}
inline void* this_racer() {
  return __tsan_get_current_fiber();
}
__attribute__((always_inline)) inline void go_on_as(void* racer) {
  __tsan_switch_to_fiber(racer, __tsan_switch_to_fiber_no_sync);
}
/// All that came before `publish` of an object comes before what follows a later `observe` of it.
inline void publish(void* object) {
  __tsan_release(object);
}
inline void observe(void* object) {
  __tsan_acquire(object);
}
/// Between the two a racer's accesses are the emulator's own, or atomic.
__attribute__((always_inline)) inline void begin_unseen() {
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
inline void end_unseen() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
}
#else
inline constexpr bool finds_races = false;
inline void* new_racer() {
  return nullptr;
}
inline void* this_racer() {
  return nullptr;
}
inline void go_on_as(void*) {}
inline void publish(void*) {}
inline void observe(void*) {}
inline void begin_unseen() {}
inline void end_unseen() {}
#endif

struct unseen {
  unseen() { begin_unseen(); }
  unseen(unseen const&) = delete;
  unseen& operator=(unseen const&) = delete;
  ~unseen() { end_unseen(); }
};

}  // namespace emulator
