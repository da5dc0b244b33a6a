// Counts allocations: it replaces operator new, so one file of a program includes it.
#pragma once
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <new>

namespace {

std::atomic<long> allocations{0};

/// Counts what anybody takes from the heap but oneDNN itself, which puts the arguments of a running primitive into maps
/// of its own.
void count(void const* asker) {
  Dl_info caller{};
  bool const known = dladdr(asker, &caller) != 0 && caller.dli_fname != nullptr;
  if (!known || std::strstr(caller.dli_fname, "libdnnl") == nullptr)
    ++allocations;
}

}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes, std::nothrow_t const&) noexcept {
  count(__builtin_return_address(0));
  return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  count(__builtin_return_address(0));
  if (auto* const p = std::malloc(bytes == 0 ? 1 : bytes))
    return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, std::align_val_t alignment) {
  count(__builtin_return_address(0));
  auto const a = static_cast<std::size_t>(alignment);
  if (auto* const p = std::aligned_alloc(a, (bytes + a - 1) / a * a))
    return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::nothrow_t const&) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::align_val_t) noexcept {
  std::free(p);
}
[[gnu::noinline]] void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace {

/// Allocations of the second of two calls.
template <class F>
long allocations_of(F const& f) {
  f();
  auto const before = allocations.load();
  f();
  return allocations.load() - before;
}

}  // namespace
