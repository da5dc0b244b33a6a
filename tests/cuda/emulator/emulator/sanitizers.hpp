// What AddressSanitizer and ThreadSanitizer are told: which memory is nobody's, and which stack runs.
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

#ifdef YOKE_EMULATOR_TSAN
inline void* race_fiber() {
  return __tsan_create_fiber(0);
}
inline void* race_fiber_now() {
  return __tsan_get_current_fiber();
}
inline void race_switch(void* to) {
  __tsan_switch_to_fiber(to, 0);
}
#else
inline void* race_fiber() {
  return nullptr;
}
inline void* race_fiber_now() {
  return nullptr;
}
inline void race_switch(void*) {}
#endif

}  // namespace emulator
