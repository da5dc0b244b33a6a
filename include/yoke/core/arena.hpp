// The memory of a step. Activations are a stack; their gradients are not last-in-first-out and live
// in a pool. Both count offsets only, so that a dry run without memory reports exactly the bytes
// that a real one uses.
#pragma once
#include <yoke/core/expects.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace yoke {

/// A step wanted more than its arena holds. The message gives both figures in bytes.
struct arena_exhausted : std::runtime_error {
  arena_exhausted(char const* arena, std::size_t wanted, std::size_t available)
      : std::runtime_error(std::string("arena '") + arena + "' is exhausted: " + std::to_string(wanted) +
                           " bytes wanted, " + std::to_string(available) +
                           " available; use a smaller micro-batch, rematerialisation, or a larger arena") {}
};

inline constexpr std::size_t arena_alignment = 256;

constexpr std::size_t kibibytes(std::size_t n) {
  return n << 10;
}
constexpr std::size_t mebibytes(std::size_t n) {
  return n << 20;
}
constexpr std::size_t gibibytes(std::size_t n) {
  return n << 30;
}

namespace detail {
constexpr std::size_t align_up(std::size_t bytes) {
  return (bytes + arena_alignment - 1) / arena_alignment * arena_alignment;
}
}  // namespace detail

/// The ends of a stack of bytes: what is allocated at one can outlive what is allocated later at the other.
enum class arena_end { bottom, top };

/// Two stacks of bytes with marks in one run of memory, which grow towards each other. Allocations are at one of the
/// ends, which is the bottom unless it is told otherwise.
class stack_arena {
 public:
  struct marker {
    std::size_t bottom, top;
  };

  stack_arena() = default;
  /// `base` null: counts only, never exhausted.
  stack_arena(char const* name, std::byte* base, std::size_t bytes)
      : name_{name}, base_{base}, bytes_{bytes / arena_alignment * arena_alignment} {}

  std::byte* allocate(std::size_t bytes) {
    auto const wanted = detail::align_up(bytes);
    if (base_ != nullptr && wanted > bytes_ - used())
      throw arena_exhausted(name_, wanted, bytes_ - used());
    auto const at_top = end_ == arena_end::top;
    auto const offset = at_top ? bytes_ - top_ - wanted : bottom_;
    (at_top ? top_ : bottom_) += wanted;
    peak_ = std::max(peak_, used());
    return base_ == nullptr ? nullptr : base_ + offset;
  }
  marker mark() const noexcept { return {bottom_, top_}; }
  void release(marker m) noexcept { bottom_ = m.bottom, top_ = m.top; }

  arena_end end() const noexcept { return end_; }
  void allocate_at(arena_end e) noexcept { end_ = e; }

  std::size_t used() const noexcept { return bottom_ + top_; }
  std::size_t peak() const noexcept { return peak_; }
  std::size_t capacity() const noexcept { return bytes_; }
  void forget_peak() noexcept { peak_ = used(); }

 private:
  char const* name_ = "activations";
  std::byte* base_ = nullptr;
  std::size_t bytes_ = 0, bottom_ = 0, top_ = 0, peak_ = 0;
  arena_end end_ = arena_end::bottom;
};

/// Releases what was allocated after it was made, at either end.
class arena_scope {
 public:
  explicit arena_scope(stack_arena& a) : arena_{&a}, mark_{a.mark()} {}
  arena_scope(arena_scope const&) = delete;
  arena_scope& operator=(arena_scope const&) = delete;
  ~arena_scope() { arena_->release(mark_); }

 private:
  stack_arena* arena_;
  stack_arena::marker mark_;
};

/// Has allocations made at one end while it lives; what was allocated at the bottom stays.
class arena_end_scope {
 public:
  arena_end_scope(stack_arena& a, arena_end e) : arena_{&a}, before_{a.end()} { a.allocate_at(e); }
  arena_end_scope(arena_end_scope const&) = delete;
  arena_end_scope& operator=(arena_end_scope const&) = delete;
  ~arena_end_scope() { arena_->allocate_at(before_); }

 private:
  stack_arena* arena_;
  arena_end before_;
};

/// First fit over a sorted free list: deterministic, so a dry run predicts the peak to the byte.
class pool_arena {
 public:
  pool_arena() { free_.reserve(256), free_.push_back({0, unbounded}); }
  /// `base` null: counts only, never exhausted.
  pool_arena(char const* name, std::byte* base, std::size_t bytes) : name_{name}, base_{base} {
    free_.reserve(256);
    free_.push_back({0, base == nullptr ? unbounded : bytes / arena_alignment * arena_alignment});
  }

  /// An offset into the pool; `at` turns it into an address.
  std::size_t allocate(std::size_t bytes) {
    auto const wanted = std::max(detail::align_up(bytes), arena_alignment);
    auto hole = std::find_if(free_.begin(), free_.end(), [&](block const& b) { return b.bytes >= wanted; });
    if (hole == free_.end())
      throw arena_exhausted(name_, wanted, largest());
    auto const offset = hole->offset;
    hole->offset += wanted;
    hole->bytes -= wanted;
    if (hole->bytes == 0)
      free_.erase(hole);
    peak_ = std::max(peak_, offset + wanted);
    used_ += wanted;
    return offset;
  }
  void release(std::size_t offset, std::size_t bytes) {
    auto const size = std::max(detail::align_up(bytes), arena_alignment);
    used_ -= size;
    auto next = std::find_if(free_.begin(), free_.end(), [&](block const& b) { return b.offset > offset; });
    next = free_.insert(next, {offset, size});
    if (auto after = next + 1; after != free_.end() && next->offset + next->bytes == after->offset) {
      next->bytes += after->bytes;
      free_.erase(after);
    }
    if (next != free_.begin()) {
      if (auto before = next - 1; before->offset + before->bytes == next->offset) {
        before->bytes += next->bytes;
        free_.erase(next);
      }
    }
  }
  std::byte* at(std::size_t offset) const noexcept { return base_ == nullptr ? nullptr : base_ + offset; }
  /// The highest byte ever in use: what the pool must hold, holes included.
  std::size_t peak() const noexcept { return peak_; }
  /// Bytes in use now, without the holes between them.
  std::size_t used() const noexcept { return used_; }

 private:
  struct block {
    std::size_t offset, bytes;
  };
  static constexpr std::size_t unbounded = std::size_t{1} << 62;

  std::size_t largest() const {
    std::size_t most = 0;
    for (auto const& b : free_) most = std::max(most, b.bytes);
    return most;
  }

  char const* name_ = "activation gradients";
  std::byte* base_ = nullptr;
  std::size_t peak_ = 0, used_ = 0;
  std::vector<block> free_;
};

/// A stack of host objects without destructors, grown in chunks that are kept: the tape's own
/// records.
class host_stack {
 public:
  struct marker {
    std::size_t chunk, used;
  };

  template <class T, class... Args>
  T* create(Args&&... args) {
    static_assert(std::is_trivially_destructible_v<T>, "what lives on a tape needs no destructor");
    static_assert(alignof(T) <= alignof(std::max_align_t));
    return ::new (raw(sizeof(T))) T{static_cast<Args&&>(args)...};
  }
  marker mark() const noexcept { return {chunk_, used_}; }
  void release(marker m) noexcept { chunk_ = m.chunk, used_ = m.used; }

 private:
  static constexpr std::size_t chunk_bytes = 64 * 1024;

  void* raw(std::size_t bytes) {
    bytes = (bytes + alignof(std::max_align_t) - 1) / alignof(std::max_align_t) * alignof(std::max_align_t);
    expects(bytes <= chunk_bytes, "a tape record is smaller than 64 KiB");
    if (chunks_.empty() || used_ + bytes > chunk_bytes) {
      if (!chunks_.empty())
        ++chunk_;
      if (chunk_ == chunks_.size())
        chunks_.push_back(std::make_unique<std::byte[]>(chunk_bytes));
      used_ = 0;
    }
    auto* const p = chunks_[chunk_].get() + used_;
    used_ += bytes;
    return p;
  }

  std::vector<std::unique_ptr<std::byte[]>> chunks_;
  std::size_t chunk_ = 0, used_ = 0;
};

}  // namespace yoke
