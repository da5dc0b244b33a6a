// What the emulator's own tests share: streams and arrays without Yoke, launches, and programs that must end badly.
#pragma once
#include <yoke/cuda/hardware.cuh>

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <csignal>
#include <string>
#include <sys/wait.h>
#include <type_traits>
#include <unistd.h>
#include <utility>
#include <vector>

namespace trial {

inline void check(cudaError_t e) {
  INFO(cudaGetErrorString(e));
  REQUIRE(e == cudaSuccess);
}
/// The call is refused so, and the error is remembered once.
inline void refused(cudaError_t got, cudaError_t wanted) {
  INFO(cudaGetErrorString(got));
  CHECK(got == wanted);
  CHECK(cudaPeekAtLastError() == wanted);
  CHECK(cudaGetLastError() == wanted);
  CHECK(cudaGetLastError() == cudaSuccess);
}

/// Settings are as before when it ends.
class changed_settings {
 public:
  changed_settings() : before_{emulator::settings()} {}
  changed_settings(changed_settings const&) = delete;
  changed_settings& operator=(changed_settings const&) = delete;
  ~changed_settings() { emulator::settings() = before_; }
  emulator::machine* operator->() const { return &emulator::settings(); }

 private:
  emulator::machine before_;
};

inline emulator::order some_order() {
  return GENERATE(emulator::order::forward, emulator::order::backward, emulator::order::shuffled);
}

class stream {
 public:
  explicit stream(unsigned flags = cudaStreamNonBlocking) { check(cudaStreamCreateWithFlags(&s_, flags)); }
  stream(stream const&) = delete;
  stream& operator=(stream const&) = delete;
  ~stream() { cudaStreamDestroy(s_); }
  operator cudaStream_t() const { return s_; }
  void wait() const { check(cudaStreamSynchronize(s_)); }

 private:
  cudaStream_t s_ = nullptr;
};

/// Device memory in a stream's order.
template <class V>
class array {
 public:
  array(cudaStream_t s, std::size_t n) : stream_{s}, n_{n} {
    void* p = nullptr;
    check(cudaMallocAsync(&p, n * sizeof(V), s));
    data_ = static_cast<V*>(p);
  }
  array(cudaStream_t s, std::vector<V> const& from) : array{s, from.size()} {
    check(cudaMemcpyAsync(data_, from.data(), n_ * sizeof(V), cudaMemcpyHostToDevice, s));
  }
  array(array const&) = delete;
  array& operator=(array const&) = delete;
  ~array() { cudaFreeAsync(data_, stream_); }
  V* data() const { return data_; }
  std::vector<V> read() const {
    std::vector<V> to(n_);
    check(cudaMemcpyAsync(to.data(), data_, n_ * sizeof(V), cudaMemcpyDeviceToHost, stream_));
    return to;
  }

 private:
  cudaStream_t stream_;
  std::size_t n_;
  V* data_ = nullptr;
};

inline cudaLaunchConfig_t shape(cudaStream_t s, dim3 blocks, dim3 threads, std::size_t shared = 0) {
  return {blocks, threads, shared, s, nullptr, 0};
}
template <class... P>
void launch(cudaStream_t s, dim3 blocks, dim3 threads, std::size_t shared, void (*kernel)(P...),
            std::type_identity_t<P>... args) {
  auto const c = shape(s, blocks, threads, shared);
  check(cudaLaunchKernelEx(&c, kernel, args...));
}

/// x becomes 10 x + n: what it has become tells in which order.
inline __global__ void add_kernel(int* x, int n) {
  if (threadIdx.x == 0)
    *x = *x * 10 + n;
}
inline void add(cudaStream_t s, array<int> const& x, int n) {
  launch(s, 1, 1, 0, add_kernel, x.data(), n);
}

class event {
 public:
  explicit event(unsigned flags = cudaEventDisableTiming) { check(cudaEventCreateWithFlags(&e_, flags)); }
  event(event const&) = delete;
  event& operator=(event const&) = delete;
  ~event() { cudaEventDestroy(e_); }
  operator cudaEvent_t() const { return e_; }

 private:
  cudaEvent_t e_ = nullptr;
};

class pinned {
 public:
  explicit pinned(int value) {
    check(cudaMallocHost(&p_, sizeof(int)));
    *p_ = value;
  }
  pinned(pinned const&) = delete;
  pinned& operator=(pinned const&) = delete;
  ~pinned() { cudaFreeHost(p_); }
  int* data() const { return p_; }

 private:
  int* p_ = nullptr;
};

/// How a program that only runs f ends, and what it says on the error stream.
struct end {
  bool well;
  std::string words;
};
template <class F>
end end_of(F const& f) {
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  auto const child = fork();
  if (child == 0) {
    for (int s : {SIGABRT, SIGSEGV, SIGBUS, SIGILL, SIGFPE}) std::signal(s, SIG_DFL);
    dup2(ends[1], 2);
    f();
    _exit(0);
  }
  close(ends[1]);
  end e{false, {}};
  char part[4096];
  for (ssize_t n; (n = read(ends[0], part, sizeof part)) > 0;)
    e.words.append(part, static_cast<std::size_t>(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  e.well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  return e;
}
/// f ends the program, with these words among its last.
template <class F>
void ends_badly(F const& f, std::vector<std::string> const& words) {
  auto const e = end_of(f);
  CHECK(!e.well);
  for (auto const& w : words) CHECK_THAT(e.words, Catch::Matchers::ContainsSubstring(w));
}

}  // namespace trial
