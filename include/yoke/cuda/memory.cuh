// Memory of a card, taken from its stream-ordered pool; memory of the host that the card copies to and from; streams.
#pragma once
#include <yoke/core/tensor.hpp>
#include <yoke/cuda/error.cuh>

#include <cstddef>
#include <cstdio>
#include <string>
#include <utility>

namespace yoke::cuda {

namespace detail {

/// "12.34 GB"
inline std::string gigabytes(std::size_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f GB", static_cast<double>(bytes) / 1e9);
  return text;
}

/// Makes card `number` the calling thread's and returns the number; error names what there is instead.
inline int select(int number) {
  int count = 0;
  auto const status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    throw no_device(std::string("no CUDA device on this machine: ") +
                    (status == cudaSuccess ? "the driver knows none"
                     : status == cudaErrorInsufficientDriver
                         ? "there is no driver, or one older than this program's CUDA"
                         : cudaGetErrorString(status)));
  }
  if (number < 0 || number >= count)
    throw error("there is no CUDA device " + std::to_string(number) + ": this machine has " +
                std::to_string(count) +
                (count == 1 ? ", number 0" : ", numbers 0 to " + std::to_string(count - 1)));
  check(cudaSetDevice(number), "cudaSetDevice");
  return number;
}

inline int processor_count(int device) {
  int n = 0;
  check(cudaDeviceGetAttribute(&n, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
  return n;
}

/// A stream of its own, not ordered with the default stream.
class own_stream {
 public:
  own_stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate"); }
  own_stream(own_stream const&) = delete;
  own_stream& operator=(own_stream const&) = delete;
  ~own_stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Device memory in a stream's order; 256-byte aligned, not initialised.
class block {
 public:
  block() = default;
  /// Throws error with what was wanted, `purpose`, and what the card has left.
  block(cudaStream_t s, std::size_t bytes, char const* purpose) : stream_{s}, bytes_{bytes} {
    if (bytes == 0)
      return;
    void* p = nullptr;
    auto const status = cudaMallocAsync(&p, bytes, s);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      std::size_t left = 0, all = 0;
      cudaMemGetInfo(&left, &all);
      throw error(gigabytes(bytes) + " of device memory are wanted for " + purpose + ", and of the card's " +
                  gigabytes(all) + " only " + gigabytes(left) +
                  " are free; use a smaller micro-batch or rematerialisation");
    }
    check(status, "cudaMallocAsync");
    data_ = static_cast<std::byte*>(p);
  }
  block(block&& other) noexcept
      : stream_{other.stream_},
        data_{std::exchange(other.data_, nullptr)},
        bytes_{std::exchange(other.bytes_, 0)} {}
  block& operator=(block other) noexcept {
    std::swap(stream_, other.stream_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~block() {
    if (data_ != nullptr)
      cudaFreeAsync(data_, stream_);
  }
  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }
  /// It is given back in the order of another stream than the one that it was taken on.
  void free_on(cudaStream_t s) noexcept { stream_ = s; }

 private:
  cudaStream_t stream_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// Host memory that copies to and from the card need not go around.
class pinned_block {
 public:
  pinned_block() = default;
  explicit pinned_block(std::size_t bytes) : bytes_{bytes} {
    void* p = nullptr;
    if (bytes > 0)
      check(cudaMallocHost(&p, bytes), "cudaMallocHost");
    data_ = static_cast<std::byte*>(p);
  }
  pinned_block(pinned_block&& other) noexcept
      : data_{std::exchange(other.data_, nullptr)}, bytes_{std::exchange(other.bytes_, 0)} {}
  pinned_block& operator=(pinned_block other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~pinned_block() {
    if (data_ != nullptr)
      cudaFreeHost(data_);
  }
  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

/// One V in device memory, zero at first, and one in pinned memory to read it into.
template <class V>
class mirrored {
 public:
  explicit mirrored(cudaStream_t s) : device_{s, sizeof(V), "a flag"}, host_{sizeof(V)} {
    check(cudaMemsetAsync(device_.data(), 0, sizeof(V), s), "cudaMemsetAsync");
    *host() = V{};
  }
  V* data() const { return reinterpret_cast<V*>(device_.data()); }
  V* host() const { return reinterpret_cast<V*>(host_.data()); }

 private:
  block device_;
  pinned_block host_;
};

}  // namespace detail

/// An owned array of V in device memory, zero at first.
template <class V>
class buffer {
 public:
  buffer() = default;
  template <class Context>
  buffer(Context& c, extent_t elements)
      : block_{c.stream(), static_cast<std::size_t>(elements) * sizeof(V), "parameters and their state"},
        elements_{elements} {
    if (block_.size() > 0)
      check(cudaMemsetAsync(block_.data(), 0, block_.size(), c.stream()), "cudaMemsetAsync");
  }

  yoke::view<V, 1> view() const { return {reinterpret_cast<V*>(block_.data()), {{elements_}}}; }

 private:
  detail::block block_;
  extent_t elements_ = 0;
};

}  // namespace yoke::cuda
