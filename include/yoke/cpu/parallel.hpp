// Kernels share the threads of the OpenMP runtime that oneDNN uses. Its C entry points are called
// directly, so that no -fopenmp reaches a user's flags and clang brings no second runtime: one
// team, never two that spin against each other.
#pragma once
#include <yoke/core/tensor.hpp>

#include <algorithm>
#include <atomic>
#include <exception>

extern "C" {
void GOMP_parallel(void (*body)(void*), void* data, unsigned threads, unsigned flags);
int omp_get_thread_num() noexcept;
int omp_get_num_threads() noexcept;
int omp_get_max_threads() noexcept;
int omp_in_parallel() noexcept;
void omp_set_num_threads(int) noexcept;
}

namespace yoke::cpu {

/// Threads that a kernel called here and now may use; 1 inside a parallel region.
inline int thread_count() {
  return omp_in_parallel() != 0 ? 1 : omp_get_max_threads();
}

/// Calls f(begin, end) on contiguous parts of [0, n), each at least `grain` long, one for each
/// thread. What f throws in any thread is thrown here, once.
template <class F>
void parallel_for(extent_t n, extent_t grain, F const& f) {
  auto const parts = std::min<extent_t>(thread_count(), n / std::max<extent_t>(grain, 1));
  if (parts <= 1) {
    if (n > 0)
      f(extent_t{0}, n);
    return;
  }
  struct shared {
    F const& f;
    extent_t n;
    std::atomic_flag failed;
    std::exception_ptr error;
  } state{f, n, {}, nullptr};
  auto const body = [](void* p) {
    auto& s = *static_cast<shared*>(p);
    extent_t const me = omp_get_thread_num(), all = omp_get_num_threads();
    auto const first = s.n * me / all, last = s.n * (me + 1) / all;
    try {
      if (first < last)
        s.f(first, last);
    } catch (...) {
      if (!s.failed.test_and_set())
        s.error = std::current_exception();
    }
  };
  GOMP_parallel(body, &state, static_cast<unsigned>(parts), 0);
  if (state.error)
    std::rethrow_exception(state.error);
}

}  // namespace yoke::cpu
