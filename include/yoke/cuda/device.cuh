// One GPU: its stream, arenas, library handle and scratch memory. Kernels are overloads on cuda::context.
#pragma once
#include <yoke/core/backend.hpp>
#include <yoke/cuda/graph_cache.cuh>
#include <yoke/cuda/matmul_cache.cuh>
#include <yoke/cuda/memory.cuh>

#include <algorithm>
#include <thread>
#include <vector>

namespace yoke::cuda {

/// Something that must be looked after while the host waits for the device, such as a communicator with peers that may
/// die. poll() throws to end the wait.
struct watcher {
  virtual void poll() = 0;

 protected:
  ~watcher() = default;
};

/// Which card a context is on, and how it computes there.
struct context_options {
  int device = 0;                              // number of the card
  bool tf32 = false;                           // f32 products on the tensor cores, with 10 bits of mantissa
  std::size_t library_memory = mebibytes(32);  // work space of cublasLt
  bool graphs = false;                         // pieces of a step are given to the card as graphs (graph.cuh)
};

namespace detail {

/// What kernels find wrong with their inputs; the host learns of it when it next reads a result.
enum class fault : int { none, token_id, label };

/// What a context of any element type has.
class device {
 public:
  matmul_cache products;

  explicit device(context_options const& options)
      : options_{options},
        number_{select(options.device)},
        library_memory_{stream_, options.library_memory, "cublasLt's work space"} {
    check(cublasLtCreate(&library_), "cublasLtCreate");
  }
  device(device const&) = delete;
  device& operator=(device const&) = delete;
  ~device() { cublasLtDestroy(library_); }

  context_options const& options() const { return options_; }
  cudaStream_t stream() const { return stream_; }
  cublasLtHandle_t library() const { return library_; }
  block const& library_memory() const { return library_memory_; }
  int processors() const { return processors_; }

  /// For a thread that did not make the context and wants to use it.
  void make_current() const { check(cudaSetDevice(number_), "cudaSetDevice"); }

  /// A kernel's own memory until the next kernel asks: kept, and grown when it is too small.
  template <class V>
  V* scratch(extent_t elements) {
    auto const bytes = static_cast<std::size_t>(elements) * sizeof(V);
    if (scratch_.size() < bytes)
      grow_scratch(bytes);
    return reinterpret_cast<V*>(scratch_.data());
  }

  void watch(watcher& w) { watchers_.push_back(&w); }
  void forget(watcher& w) { std::erase(watchers_, &w); }

  /// Returns when the stream has done all that it was given. Throws what a watcher throws.
  void wait() {
    if (!watchers_.empty()) {
      cudaError_t status;
      while ((status = cudaStreamQuery(stream_)) == cudaErrorNotReady) {
        for (auto* w : watchers_) w->poll();
        std::this_thread::yield();
      }
      check(status, "the device's work");
    } else {
      check(cudaStreamSynchronize(stream_), "the device's work");
    }
  }

  /// Before a copy of memory that is not pinned: it waits by itself, and nobody would watch.
  void wait_watched() {
    if (!watchers_.empty())
      wait();
  }

  /// Copies results to the host, waits for them, and throws precondition_error when a kernel has found a fault.
  template <class V>
  void read(V const* from, extent_t count, V* to) {
    auto const bytes = static_cast<std::size_t>(count) * sizeof(V);
    wait_watched();
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), "copy to the host");
    check(cudaMemcpyAsync(fault_.host(), fault_.data(), sizeof(int), cudaMemcpyDeviceToHost, stream_),
          "copy to the host");
    wait();
    expect_no_fault();
  }
  /// Where kernels put a fault.
  int* fault_flag() const { return fault_.data(); }

  graphs recorded;
  /// Between a capture's begin and end the stream records what it is given and does nothing.
  void capturing(bool now) { capturing_ = now; }

 private:
  void expect_no_fault() {
    auto const found = static_cast<fault>(std::exchange(*fault_.host(), 0));
    if (found == fault::none)
      return;
    check(cudaMemsetAsync(fault_.data(), 0, sizeof(int), stream_), "cudaMemsetAsync");
    expects(found != fault::token_id, "token_embedding: ids are within the vocabulary");
    expects(found != fault::label, "softmax_cross_entropy: labels are within the classes");
  }

  /// What a capture has recorded refers to the old memory, which is therefore kept; and what it would allocate itself
  /// would be part of the graph, so another stream allocates.
  void grow_scratch(std::size_t bytes) {
    if (!capturing_) {
      scratch_ = block{stream_, bytes, "a kernel's scratch memory"};
      return;
    }
    replaced_.push_back(std::move(scratch_));
    scratch_ = block{side_stream_, bytes, "a kernel's scratch memory"};
    scratch_.free_on(stream_);
    check(cudaStreamSynchronize(side_stream_), "cudaStreamSynchronize");
  }

  context_options options_;
  int number_;
  int processors_ = processor_count(number_);
  own_stream stream_, side_stream_;
  block library_memory_;
  block scratch_;
  std::vector<block> replaced_;
  bool capturing_ = false;
  mirrored<int> fault_{stream_};
  cublasLtHandle_t library_ = nullptr;
  std::vector<watcher*> watchers_;
};

}  // namespace detail

/// T is float or bf16 (double too, slowly, for gradient checks). Used by one thread at a time.
template <yoke::element T>
class context : public detail::device {
  detail::block activations_, gradients_;

 public:
  using element = T;
  using accumulator = accumulator_t<T>;
  template <class V>
  using buffer = cuda::buffer<V>;
  static constexpr device_traits traits{.separate_memory = true, .logit_rows = 4096, .logit_columns = 16384};

  stack_arena memory;
  pool_arena gradient_memory;
  host_stack host;

  /// Takes the bytes of both arenas from the card at once; a dry run of the same step says how many it takes. Throws
  /// error when the card is not there or has not so much memory.
  explicit context(std::size_t activations, std::size_t gradients, context_options const& options = {})
      : device{options},
        activations_{stream(), activations, "the activations"},
        gradients_{stream(), gradients, "the activations' gradients"},
        memory{"activations", activations_.data(), activations},
        gradient_memory{"activation gradients", gradients_.data(), gradients} {}
};

namespace detail {

/// Runs kernel(args…) on the context's stream: `blocks` blocks of `threads` threads with `shared` bytes of dynamic
/// shared memory. Nothing happens when there are no blocks.
template <class... P>
void launch(device& d, dim3 blocks, int threads, std::size_t shared, void (*kernel)(P...),
            std::type_identity_t<P>... args) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0)
    return;
  if (shared > kibibytes(48))
    check(cudaFuncSetAttribute(reinterpret_cast<void const*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "a kernel's shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = d.stream();
  check(cudaLaunchKernelEx(&config, kernel, args...), "launch of a kernel");
}

/// As many blocks as n items need at `each` a block, at most what fills the card several times: for loops that go
/// through their items in strides of the grid.
inline dim3 blocks_for(device const& d, extent_t n, extent_t each) {
  return dim3(static_cast<unsigned>(std::min((n + each - 1) / each, extent_t{d.processors()} * 16)));
}

}  // namespace detail

/// A parameter or a result of one element, as the host reads and changes it.
template <yoke::element T>
double scalar(context<T>& c, view<accumulator_t<T> const, 1> v) {
  accumulator_t<T> value;
  c.read(v.data, 1, &value);
  return static_cast<double>(value);
}

/// Copies from the host to the device; `from` may be changed when the call returns.
template <yoke::element T, class V, int R>
void upload(context<T>& c, view<V const, R> from, view<V, R> to) {
  expects(from.shape == to.shape, "upload: both sides have one shape");
  auto const bytes = static_cast<std::size_t>(from.size()) * sizeof(V);
  if (bytes == 0)
    return;
  c.wait_watched();
  check(cudaMemcpyAsync(to.data, from.data, bytes, cudaMemcpyHostToDevice, c.stream()), "copy to the device");
  c.wait();  // memory that is pinned is read later, that which is not, is not
}

/// Copies from the device to the host and waits for it.
template <yoke::element T, class V, int R>
void download(context<T>& c, view<V const, R> from, view<V, R> to) {
  expects(from.shape == to.shape, "download: both sides have one shape");
  if (from.size() > 0)
    c.read(from.data, from.size(), to.data);
}

}  // namespace yoke::cuda
