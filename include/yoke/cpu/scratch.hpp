// Working memory of a kernel on one thread, kept from call to call so that steps allocate nothing.
#pragma once
#include <yoke/core/tensor.hpp>

#include <cstddef>
#include <vector>

namespace yoke::cpu::detail {

struct alignas(64) cache_line {
  std::byte bytes[64];
};

/// The calling thread's memory number `Slot`, at least `bytes` long, 64-byte aligned, uninitialised.
/// A slot has one user at a time.
template <int Slot>
void* thread_memory(std::size_t bytes) {
  thread_local std::vector<cache_line> kept;
  auto const lines = (bytes + sizeof(cache_line) - 1) / sizeof(cache_line);
  if (kept.size() < lines) {
    kept.clear();  // nothing to copy
    kept.resize(lines);
  }
  return kept.data();
}

/// Hands out parts of the calling thread's memory one after the other, each on a cache line.
template <class A, int Slot = 0>
class scratch {
 public:
  /// Room for `parts` parts with `elements` elements together.
  explicit scratch(extent_t elements, extent_t parts = 16)
      : next_{static_cast<A*>(thread_memory<Slot>(static_cast<std::size_t>(elements) * sizeof(A) +
                                                  static_cast<std::size_t>(parts) * 64))} {}
  A* take(extent_t elements) {
    constexpr extent_t line = 64 / sizeof(A);
    auto* const p = next_;
    next_ += (elements + line - 1) / line * line;
    return p;
  }

 private:
  A* next_;
};

}  // namespace yoke::cpu::detail
