// Host memory for arenas and parameters: pages from the system, zero until written, large where it
// can be.
#pragma once
#include <yoke/core/tensor.hpp>

#include <cstddef>
#include <new>
#include <sys/mman.h>
#include <utility>

namespace yoke::cpu {

/// Anonymous pages: zeroed, 4096-byte aligned, resident only once touched. Throws std::bad_alloc.
class pages {
 public:
  pages() = default;
  explicit pages(std::size_t bytes) : bytes_{bytes} {
    if (bytes == 0)
      return;
    auto* const p =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
      throw std::bad_alloc();
    data_ = static_cast<std::byte*>(p);
    if (bytes >= std::size_t{1} << 22)
      ::madvise(p, bytes, MADV_HUGEPAGE);  // advice: failure costs speed only
  }
  pages(pages&& other) noexcept
      : data_{std::exchange(other.data_, nullptr)}, bytes_{std::exchange(other.bytes_, 0)} {}
  pages& operator=(pages other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~pages() {
    if (data_ != nullptr)
      ::munmap(data_, bytes_);
  }
  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// An owned array of T, zero at first.
template <class T>
class buffer {
 public:
  buffer() = default;
  template <class Context>
  buffer(Context&, extent_t elements)
      : pages_{static_cast<std::size_t>(elements) * sizeof(T)}, elements_{elements} {}

  yoke::view<T, 1> view() const { return {reinterpret_cast<T*>(pages_.data()), {{elements_}}}; }

 private:
  pages pages_;
  extent_t elements_ = 0;
};

}  // namespace yoke::cpu
