// Pieces of a step as CUDA graphs: the card takes hundreds of kernels as one command and leaves no gaps between them.
#pragma once
#include <yoke/cuda/device.cuh>

namespace yoke::cuda {

namespace detail {

/// Records what a stream is given, from its making to end(); given up when an exception comes between.
class capture {
 public:
  explicit capture(device& d) : device_{d} {
    check(cudaStreamBeginCapture(d.stream(), cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
    d.capturing(true);
  }
  capture(capture const&) = delete;
  capture& operator=(capture const&) = delete;
  ~capture() {
    if (!ended_)
      stop();
    if (recorded_ != nullptr)
      cudaGraphDestroy(recorded_);
  }
  cudaGraph_t end() {
    check(stop(), "cudaStreamEndCapture");
    return recorded_;
  }

 private:
  cudaError_t stop() {
    ended_ = true;
    device_.capturing(false);
    return cudaStreamEndCapture(device_.stream(), &recorded_);
  }

  device& device_;
  cudaGraph_t recorded_ = nullptr;
  bool ended_ = false;
};

}  // namespace detail

/// Gives f's kernels to the card as one graph when the context was made with `.graphs = true`; f neither waits nor reads
/// results. `name` is a string literal.
template <yoke::element T, class F>
void submit_piece(context<T>& c, char const* name, F const& f) {
  if (!c.options().graphs || !c.recorded.warm(name)) {
    f();
    return;
  }
  detail::capture now{c};
  f();
  c.recorded.launch(name, now.end(), c.stream());
}

}  // namespace yoke::cuda
