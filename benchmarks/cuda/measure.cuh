// What the CUDA benchmarks share: time by the card's own clock, its peaks in the same run, settings, its name in each line.
#pragma once
#include <yoke/core/random.hpp>
#include <yoke/cuda/context.cuh>

#include "../report.hpp"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace bench {

/// The words `name=value` of a command line, in any order; a name that nobody has asked for is an error.
class settings {
 public:
  settings(int count, char** words) {
    for (int i = 1; i < count; ++i) {
      std::string_view const word{words[i]};
      auto const at = word.find('=');
      if (at == std::string_view::npos)
        throw std::invalid_argument(std::string(word) + ": settings are name=value");
      given_.push_back({std::string(word.substr(0, at)), std::string(word.substr(at + 1))});
    }
  }
  std::string text(std::string_view name, std::string otherwise) {
    for (auto& g : given_)
      if (g.name == name) {
        g.known = true;
        return g.value;
      }
    return otherwise;
  }
  yoke::extent_t number(std::string_view name, yoke::extent_t otherwise) {
    return std::stoll(text(name, std::to_string(otherwise)));
  }
  /// To be called when all have been asked for.
  void expect_no_others() const {
    for (auto const& g : given_)
      if (!g.known)
        throw std::invalid_argument(g.name + ": no such setting");
  }

 private:
  struct entry {
    std::string name, value;
    bool known = false;
  };
  std::vector<entry> given_;
};

/// The exit status of a benchmark: its failures are a sentence and 1.
template <class F>
int run(char const* program, int count, char** words, F const& f) {
  try {
    settings s{count, words};
    f(s);
    return 0;
  } catch (std::exception const& e) {
    std::fprintf(stderr, "%s: %s\n", program, e.what());
    return 1;
  }
}

/// What is wrong is not timed.
inline void expect_error(char const* work, double error, double allowed) {
  if (!(error <= allowed))
    throw std::runtime_error(std::string(work) + ": wrong by " + std::to_string(error) + ", allowed are " +
                             std::to_string(allowed) + "; not timed");
}

/// Seconds by the card's clock.
class stopwatch {
 public:
  stopwatch() {
    for (auto* e : {&start_, &stop_}) yoke::cuda::check(cudaEventCreate(e), "cudaEventCreate");
  }
  stopwatch(stopwatch const&) = delete;
  stopwatch& operator=(stopwatch const&) = delete;
  ~stopwatch() {
    for (auto e : {start_, stop_}) cudaEventDestroy(e);
  }

  /// Of one f(), the best of `runs` times `each` calls in a row, after one round that does not count.
  template <class F>
  double best_of(yoke::cuda::detail::device& d, int runs, int each, F const& f) {
    double best = 1e300;
    for (int i = -1; i < runs; ++i) {
      yoke::cuda::check(cudaEventRecord(start_, d.stream()), "cudaEventRecord");
      for (int k = 0; k < each; ++k) f();
      yoke::cuda::check(cudaEventRecord(stop_, d.stream()), "cudaEventRecord");
      yoke::cuda::check(cudaEventSynchronize(stop_), "the work that is timed");
      float milliseconds = 0;
      yoke::cuda::check(cudaEventElapsedTime(&milliseconds, start_, stop_), "cudaEventElapsedTime");
      if (i >= 0)
        best = std::min(best, 1e-3 * static_cast<double>(milliseconds) / each);
    }
    return best;
  }

 private:
  cudaEvent_t start_ = nullptr, stop_ = nullptr;
};

/// Normal numbers, of which 65,521 are drawn.
template <class V>
std::vector<V> noise(yoke::extent_t n, std::uint64_t seed) {
  yoke::random_sequence random{seed};
  std::vector<V> v(static_cast<std::size_t>(n));
  for (std::size_t i = 0; i < v.size(); ++i)
    v[i] = i < 65521 ? static_cast<V>(static_cast<float>(random.normal())) : v[i - 65521];
  return v;
}

/// A copy in the memory of a context, the CPU's or a card's.
template <class V, class C>
typename C::template buffer<V> copy_on(C& c, std::vector<V> const& from) {
  typename C::template buffer<V> to{c, static_cast<yoke::extent_t>(from.size())};
  upload(c, yoke::view<V const, 1>{from.data(), to.view().shape}, to.view());
  return to;
}

/// The first n elements, in the host's memory.
template <class V, class C>
std::vector<V> fetched(C& c, yoke::view<V, 1> from, yoke::extent_t n) {
  std::vector<V> to(static_cast<std::size_t>(n));
  download(c, yoke::view<V const, 1>{slice(from, 0, n)}, yoke::view<V, 1>{to.data(), {{n}}});
  return to;
}

/// GFLOP/s of a product of edge x edge matrices of T, one element of which is checked.
template <class T>
double gemm_peak(yoke::extent_t edge, yoke::cuda::context_options const& options = {}) {
  using namespace yoke;
  cuda::context<T> c{0, 0, options};
  auto const host_a = noise<T>(edge * edge, 1), host_b = noise<T>(edge * edge, 2);
  auto const a = copy_on(c, host_a), b = copy_on(c, host_b);
  cuda::buffer<T> const d{c, edge * edge};
  auto const matrix = [&](auto const& of) { return view<T, 2>{of.view().data, {{edge, edge}}}; };
  auto const product = [&] {
    gemm(c, transpose::no, transpose::no, view<T const, 2>{matrix(a)}, view<T const, 2>{matrix(b)}, matrix(d),
         store::overwrite);
  };
  product();
  double expected = 0;
  for (extent_t k = 0; k < edge; ++k)
    expected += static_cast<double>(host_a[static_cast<std::size_t>(k)]) *
                static_cast<double>(host_b[static_cast<std::size_t>(k * edge + 1)]);
  auto const found = static_cast<double>(fetched(c, d.view(), 2)[1]);
  expect_error("the product that gives the peak", std::abs(found - expected),
               0.01 * std::sqrt(static_cast<double>(edge)) + 0.01 * std::abs(expected));
  stopwatch clock;
  return 2e-9 * static_cast<double>(edge * edge * edge) / clock.best_of(c, 8, 2, product);
}

/// Bytes of the card that nobody has, and all that it has.
struct card_memory {
  std::size_t free = 0, all = 0;
};
inline card_memory memory_now() {
  yoke::cuda::check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // what was freed is given back
  card_memory m;
  yoke::cuda::check(cudaMemGetInfo(&m.free, &m.all), "cudaMemGetInfo");
  return m;
}

inline std::string card_name() {
  yoke::cuda::detail::select(0);
  cudaDeviceProp card{};
  yoke::cuda::check(cudaGetDeviceProperties(&card, 0), "cudaGetDeviceProperties");
  return card.name;
}

/// `"name": 12.3` for the members of a line of JSON.
inline std::string member(char const* name, double value) {
  char text[80];
  std::snprintf(text, sizeof text, R"("%s": %.5g)", name, value);
  return text;
}

inline void report_card(std::string const& work, std::string const& mode, double rate,
                        std::string const& unit, double share, std::string const& more) {
  report(work, mode, rate, unit, share, more + R"(, "card": ")" + card_name() + '"');
}

}  // namespace bench
