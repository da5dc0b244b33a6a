// Memory of the emulated cards: one region of addresses that only operations of a stream can touch. Pinned memory
// too. All of it is used under the emulator's lock.
#pragma once
#include "report.hpp"
#include "sanitizers.hpp"
#include "settings.hpp"
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <map>
#include <string>
#include <sys/mman.h>

namespace emulator {

/// What a pointer points into.
enum class place {
  pageable,
  pinned,
  device,
  nowhere
};  // nowhere: device memory that is not all of one allocation

/// Allocations of all cards, first fit. Behind each lies a guard that nobody may touch.
class device_memory {
 public:
  static constexpr std::size_t alignment = 256, guard = 256;

  device_memory() {
    auto* const at =
        mmap(nullptr, span + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
      fail("no addresses for device memory");
    auto const first = (reinterpret_cast<std::uintptr_t>(at) + page - 1) / page * page;
    base_ = reinterpret_cast<std::byte*>(first);
    madvise(base_, span, MADV_HUGEPAGE);  // opening and closing change few entries of the page table
  }

  /// Null when the card has not so much left.
  void* allocate(std::size_t bytes, int device) {
    auto& used = used_[device];
    if (bytes > settings().memory || used > settings().memory - bytes)
      return nullptr;
    auto const wanted = (bytes + alignment - 1) / alignment * alignment + guard;
    std::size_t at = alignment;
    for (auto const& [offset, a] : allocations_) {
      if (offset - at >= wanted)
        break;
      at = offset + a.room;
    }
    if (span - at < wanted)
      return nullptr;
    allocations_[at] = {bytes, wanted, device};
    used += bytes;
    grow(at + wanted);
    unpoison(base_ + at, bytes);
    return base_ + at;
  }
  /// Its first contents: what the garbage is that nobody has written.
  void prepare(void* p) {
    auto const& a = allocations_.at(offset_of(p));
    if (a.bytes <= settings().filled)
      std::memset(p, garbage, a.bytes);
    if constexpr (!finds_bad_accesses)
      std::memset(static_cast<std::byte*>(p) + a.bytes, untouched, a.room - a.bytes);
  }
  bool owns(void const* p) const { return inside(p) && allocations_.contains(offset_of(p)); }
  int device_of(void const* p) const { return find(p)->second.device; }
  /// `p` is the beginning of an allocation.
  void free(void* p) {
    auto const found = allocations_.find(offset_of(p));
    if (found == allocations_.end())
      fail("memory of a card is freed twice");
    auto const [bytes, room, device] = found->second;
    auto* const begin = static_cast<std::byte*>(p);
    if constexpr (!finds_bad_accesses)
      for (auto* b = begin + bytes; b < begin + room; ++b)
        if (*b != std::byte{untouched})
          fail("something has written " + std::to_string(b - begin - static_cast<std::ptrdiff_t>(bytes)) +
               " bytes behind an allocation of " + std::to_string(bytes) + " bytes");
    if (bytes <= page)
      std::memset(p, garbage, bytes);
    else if (auto const whole = (offset_of(p) + page - 1) / page * page; whole + page <= offset_of(p) + bytes)
      madvise(base_ + whole, (offset_of(p) + bytes - whole) / page * page, MADV_DONTNEED);
    poison(p, bytes);
    used_[device] -= bytes;
    allocations_.erase(found);
  }
  std::size_t left(int device) { return settings().memory - std::min(used_[device], settings().memory); }

  bool inside(void const* p) const {
    return reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(base_) < span;
  }
  /// Whether `bytes` from p on lie in one allocation.
  bool holds(void const* p, std::size_t bytes) const {
    auto const a = find(p);
    return a != allocations_.end() && offset_of(p) - a->first <= a->second.bytes &&
           bytes <= a->second.bytes - (offset_of(p) - a->first);
  }

  /// While one lives, device memory can be read and written.
  class access {
   public:
    explicit access(device_memory& m) : memory_{m} {
      if (memory_.open_++ == 0)
        memory_.protect(PROT_READ | PROT_WRITE);
    }
    access(access const&) = delete;
    access& operator=(access const&) = delete;
    ~access() {
      if (--memory_.open_ == 0)
        memory_.protect(PROT_NONE);
    }

   private:
    device_memory& memory_;
  };

 private:
  static constexpr std::size_t span = std::size_t{16} << 30, page = std::size_t{2} << 20;
  static constexpr unsigned char untouched = 0xfd;
  struct allocation {
    std::size_t bytes, room;
    int device;
  };
  using table = std::map<std::size_t, allocation>;

  std::size_t offset_of(void const* p) const {
    return reinterpret_cast<std::uintptr_t>(p) - reinterpret_cast<std::uintptr_t>(base_);
  }
  table::const_iterator find(void const* p) const {
    if (!inside(p))
      return allocations_.end();
    auto const after = allocations_.upper_bound(offset_of(p));
    return after == allocations_.begin() ? allocations_.end() : std::prev(after);
  }
  void grow(std::size_t needed) {
    if (needed <= in_use_)
      return;
    auto const end = std::min(span, (needed + page - 1) / page * page);
    poison(base_ + in_use_, end - in_use_);
    if (open_ > 0)
      mprotect(base_ + in_use_, end - in_use_, PROT_READ | PROT_WRITE);
    in_use_ = end;
  }
  void protect(int how) {
    if (in_use_ > 0 && mprotect(base_, in_use_, how) != 0)
      fail("device memory cannot be opened or closed");
  }

  std::byte* base_ = nullptr;
  std::size_t in_use_ = 0;
  int open_ = 0;
  table allocations_;
  std::map<int, std::size_t> used_;
};

/// Host memory that cards copy from and to by themselves.
class pinned_memory {
 public:
  void* allocate(std::size_t bytes) {
    void* p = nullptr;
    if (posix_memalign(&p, 4096, bytes) != 0)
      return nullptr;
    std::memset(p, garbage, bytes);
    blocks_[reinterpret_cast<std::uintptr_t>(p)] = bytes;
    return p;
  }
  bool free(void* p) {
    if (blocks_.erase(reinterpret_cast<std::uintptr_t>(p)) == 0)
      return false;
    std::free(p);
    return true;
  }
  bool inside(void const* p) const {
    auto const at = reinterpret_cast<std::uintptr_t>(p);
    auto const after = blocks_.upper_bound(at);
    return after != blocks_.begin() && at - std::prev(after)->first < std::prev(after)->second;
  }

 private:
  std::map<std::uintptr_t, std::size_t> blocks_;
};

}  // namespace emulator
