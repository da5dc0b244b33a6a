// What the CPU's benchmarks share: best of several runs, the GEMM peak of this moment, the memory in use.
#pragma once
#include <yoke/cpu/context.hpp>

#include "report.hpp"
#include <chrono>
#include <sys/resource.h>

namespace bench {

/// Seconds of the fastest of `runs` calls, after `warm` that do not count.
template <class F>
double best_of(int runs, F const& f, int warm = 1) {
  double best = 1e300;
  for (int i = -warm; i < runs; ++i) {
    auto const start = std::chrono::steady_clock::now();
    f();
    std::chrono::duration<double> const seconds = std::chrono::steady_clock::now() - start;
    if (i >= 0)
      best = std::min(best, seconds.count());
  }
  return best;
}

/// GFLOP/s of a product of 2048 x 2048 matrices of T: what the machine gives at this moment.
template <class T>
double gemm_peak() {
  using namespace yoke;
  cpu::context<T> c{mebibytes(64), mebibytes(1)};
  extent_t const n = 2048;
  auto const a = make<T>(c, shape{n, n}), b = make<T>(c, shape{n, n}), d = make<T>(c, shape{n, n});
  for (extent_t i = 0; i < n * n; ++i)
    a.data[i] = b.data[i] = static_cast<T>(static_cast<float>(i % 7) * 0.25f - 0.75f);
  auto const seconds = best_of(
      8,
      [&] {
        gemm(c, transpose::no, transpose::no, view<T const, 2>{a}, view<T const, 2>{b}, d, store::overwrite);
      },
      2);
  return 2.0 * static_cast<double>(n * n * n) / seconds / 1e9;
}

/// The most memory that the process has held, in GB.
inline double most_memory() {
  rusage use{};
  getrusage(RUSAGE_SELF, &use);
  return static_cast<double>(use.ru_maxrss) / 1e6;
}

}  // namespace bench
