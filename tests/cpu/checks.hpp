// What the kernels' tests share: made-up tensors, comparison with references in double precision,
// and runs with several numbers of threads.
#pragma once
#include <yoke/core/random.hpp>
#include <yoke/core/segments.hpp>
#include <yoke/cpu/device.hpp>
#include <yoke/cpu/parallel.hpp>

#include <algorithm>
#include <bit>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

namespace checks {

using yoke::accumulator_t;
using yoke::bf16;
using yoke::extent_t;
using yoke::shape;
using yoke::store;
using yoke::view;

inline std::size_t at(extent_t i) {
  return static_cast<std::size_t>(i);
}

/// A tensor that owns its elements, exactly as many as it has: reading or writing past them is seen
/// by the address sanitizer.
template <class T, int R>
struct tensor {
  yoke::shape<R> shape;
  std::vector<T> data;

  explicit tensor(yoke::shape<R> s) : shape{s}, data(at(s.size())) {}
  /// Normal numbers with the given deviation, rounded to T.
  tensor(yoke::shape<R> s, std::uint64_t seed, double deviation = 1) : tensor{s} {
    yoke::random_sequence numbers{seed};
    for (auto& v : data) v = static_cast<T>(deviation * numbers.normal());
  }

  yoke::view<T, R> view() { return {data.data(), shape}; }
  yoke::view<T const, R> read() const { return {data.data(), shape}; }
  double operator[](extent_t i) const { return static_cast<double>(data[at(i)]); }
  double operator()(extent_t i, extent_t j) const { return (*this)[i * shape[1] + j]; }
  std::vector<double> doubles() const { return {data.begin(), data.end()}; }
};

/// How far a T may be from the number it stands for, relatively: one rounding.
template <class T>
constexpr double rounding() {
  return std::is_same_v<T, bf16> ? 0x1p-8 : std::is_same_v<T, float> ? 0x1p-23 : 0x1p-51;
}
/// What sums in the accumulator of T may be off, relative to the size of their terms.
template <class T>
constexpr double slack() {
  return std::is_same_v<T, double> ? 1e-13 : 2e-6;
}

/// Every element is within one rounding and `size` times the slack of what is expected.
template <class T, int R>
void near(tensor<T, R> const& found, std::vector<double> const& expected, double size = 1) {
  REQUIRE(found.data.size() == expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    auto const v = static_cast<double>(found.data[i]);
    auto const allowed = rounding<T>() * std::abs(expected[i]) + slack<T>() * size;
    if (!(std::abs(v - expected[i]) <= allowed)) {
      INFO("element " << i << ": " << v << ", expected " << expected[i] << " within " << allowed);
      REQUIRE(false);
    }
  }
  SUCCEED();
}

/// By their bits: under -ffast-math std::isnan says that there are none.
inline bool is_nan(double v) {
  return (std::bit_cast<std::uint64_t>(v) & 0x7fffffffffffffffu) > 0x7ff0000000000000u;
}
inline bool is_infinite(double v) {
  return (std::bit_cast<std::uint64_t>(v) & 0x7fffffffffffffffu) == 0x7ff0000000000000u;
}

/// What `how` makes of a value and of what was there.
inline double stored(store how, double before, double value) {
  return how == store::overwrite ? value : before + value;
}

template <class T>
bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(static_cast<void const*>(a.data()), b.data(), a.size() * sizeof(T)) == 0);
}

/// Runs f() with `n` threads for the kernels.
template <class F>
auto with_threads(int n, F const& f) {
  struct guard {
    int before = omp_get_max_threads();
    ~guard() { omp_set_num_threads(before); }
  } const back;
  omp_set_num_threads(n);
  return f();
}

/// f() gives the same vector, bit by bit, with 1, 2, 3 and 7 threads.
template <class F>
void same_with_any_threads(F const& f) {
  auto const one = with_threads(1, f);
  for (int n : {2, 3, 7}) {
    INFO(n << " threads");
    REQUIRE(same_bits(one, with_threads(n, f)));
  }
}

/// Runs of rows of uneven length whose first offset is not 0.
struct packed {
  std::vector<std::int32_t> offsets;
  extent_t longest = 0;

  explicit packed(std::vector<extent_t> const& lengths) : offsets{5} {
    for (auto n : lengths) {
      offsets.push_back(offsets.back() + static_cast<std::int32_t>(n));
      longest = std::max(longest, n);
    }
  }
  yoke::segments segments() const {
    return yoke::segments::packed({offsets.data(), {{static_cast<extent_t>(offsets.size())}}}, longest);
  }
};

inline yoke::cpu::context<double>& device_of(double) {
  static yoke::cpu::context<double> c{yoke::mebibytes(1), yoke::mebibytes(1)};
  return c;
}
inline yoke::cpu::context<float>& device_of(float) {
  static yoke::cpu::context<float> c{yoke::mebibytes(1), yoke::mebibytes(1)};
  return c;
}
inline yoke::cpu::context<bf16>& device_of(bf16) {
  static yoke::cpu::context<bf16> c{yoke::mebibytes(1), yoke::mebibytes(1)};
  return c;
}
/// A context of each type, made when first wanted.
template <class T>
yoke::cpu::context<T>& device() {
  return device_of(T{});
}

}  // namespace checks
