// Points in the work of streams, by which they wait for each other.
#pragma once
#include <yoke/cuda/error.cuh>

#include <utility>

namespace yoke::cuda::detail {

/// A point in a stream's work; none, and passed by all, until it is set.
class mark {
 public:
  mark() { check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate"); }
  mark(mark&& other) noexcept : event_{std::exchange(other.event_, nullptr)} {}
  mark& operator=(mark other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }
  ~mark() {
    if (event_ != nullptr)
      cudaEventDestroy(event_);
  }
  operator cudaEvent_t() const { return event_; }

  void set(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "cudaEventRecord"); }
  /// What is given to the stream from now on waits for it.
  void hold(cudaStream_t stream) const {
    check(cudaStreamWaitEvent(stream, event_, 0), "cudaStreamWaitEvent");
  }
  /// Returns when it is passed.
  void wait() const { check(cudaEventSynchronize(event_), "the device's work"); }
  /// Whether the stream's work has come to it.
  bool passed() const {
    auto const status = cudaEventQuery(event_);
    if (status != cudaErrorNotReady)
      check(status, "the device's work");
    return status == cudaSuccess;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace yoke::cuda::detail
