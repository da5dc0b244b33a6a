// AdafactorW's kernels step by step against the formulas in double precision, and rounding at random: to a neighbour,
// without bias, the same for any number of threads.
#include <yoke/cpu/adafactor.hpp>
#include <yoke/cpu/optimizer.hpp>

#include "checks.hpp"
#include <limits>

using namespace checks;
using yoke::adafactor_coefficients;
using yoke::first_moment_t;
using yoke::rounded_at_random;
using yoke::rounding_bits;
using yoke::rounding_key;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
float const nan_value = std::bit_cast<float>(0x7fffffffu);

adafactor_coefficients step_number(int t) {
  return {.rate = 0.01 * t,
          .beta1 = 0.9,
          .beta2 = 1 - std::pow(t, -0.8),
          .decay = 0.2,
          .gradient_scale = 0.5,
          .rounding = rounding_key::of(1, static_cast<std::uint64_t>(t), 0)};
}

/// A parameter of one step: V is the type of gradients and master values.
template <class T, class V>
struct state {
  using A = accumulator_t<T>;
  shape<2> size;
  tensor<V, 2> g, p;
  tensor<first_moment_t<A>, 2> m;
  tensor<T, 2> copy;
  tensor<A, 1> rows, columns, whole;

  state(shape<2> s, std::uint64_t seed)
      : size{s},
        g{s, seed},
        p{s, seed + 1},
        m{s},
        copy{s, 9},
        rows{{{s[0]}}},
        columns{{{s[1]}}},
        whole{{{s.size()}}} {
    for (extent_t i = 0; i < s.size(); ++i)  // rows and columns of different size, one of them zero
      g.data[at(i)] = static_cast<V>(static_cast<A>(g[i]) * static_cast<A>(i / s[1] % 5) *
                                     static_cast<A>(std::pow(2.0, -static_cast<double>(i % s[1] % 7))));
  }

  void factored(adafactor_coefficients const& w, bool has_copy = true) {
    adafactor_update(device<T>(), w, g.view(), rows.view(), columns.view(), m.view(), p.view(),
                     has_copy ? copy.view() : view<T, 2>{});
  }
  void unfactored(adafactor_coefficients const& w, bool has_copy = true) {
    adafactor_update(device<T>(), w, yoke::as_flat(g.view()), whole.view(), yoke::as_flat(m.view()),
                     yoke::as_flat(p.view()), has_copy ? yoke::as_flat(copy.view()) : view<T, 1>{});
  }
  void new_gradient(std::uint64_t seed) { g.data = state{size, seed}.g.data; }
};

/// What a step makes of `before`, whose second moments, in double precision, become those after it.
template <class T, class V>
struct expected_step {
  std::vector<double> p, m, rows, columns, whole;

  expected_step(state<T, V> const& before, adafactor_coefficients const& w, bool factored)
      : p{before.p.doubles()},
        m{before.m.doubles()},
        rows{before.rows.doubles()},
        columns{before.columns.doubles()},
        whole{before.whole.doubles()} {
    auto const height = before.size[0], width = before.size[1];
    auto const gradient = [&](extent_t i) { return before.g[i] * w.gradient_scale; };
    auto const square = [&](extent_t i) { return gradient(i) * gradient(i) + w.epsilon; };
    for (auto* v : {&rows, &columns, &whole})
      for (auto& x : *v) x *= w.beta2;
    for (extent_t i = 0; i < before.size.size(); ++i) {
      rows[at(i / width)] += (1 - w.beta2) * square(i) / static_cast<double>(width);
      columns[at(i % width)] += (1 - w.beta2) * square(i) / static_cast<double>(height);
      whole[at(i)] += (1 - w.beta2) * square(i);
    }
    double mean = 0;
    for (auto r : rows) mean += r / static_cast<double>(height);
    for (extent_t i = 0; i < before.size.size(); ++i) {
      auto const k = at(i);
      auto const v = factored ? rows[at(i / width)] * (columns[at(i % width)] / mean) : whole[k];
      m[k] = w.beta1 * m[k] + (1 - w.beta1) * gradient(i) / std::sqrt(v);
      p[k] -= w.rate * (m[k] + w.decay * p[k]);
    }
  }
};

/// The distance between the two bf16 next to v.
double step_of_bf16(double v) {
  return std::ldexp(1.0, std::ilogb(std::max(std::abs(v), 0x1p-126)) - 7);
}

template <class T, class V>
void check_steps(shape<2> s, bool factored, bool has_copy) {
  state<T, V> x{s, 3};
  auto const copy_before = x.copy.data;
  for (int t = 1; t <= 4; ++t) {
    auto const w = step_number(t);
    x.new_gradient(static_cast<std::uint64_t>(20 + t));
    expected_step<T, V> const e{x, w, factored};
    factored ? x.factored(w, has_copy) : x.unfactored(w, has_copy);
    near(x.m, e.m, 4);
    if (factored) {
      near(x.rows, e.rows);
      near(x.columns, e.columns);
    } else {
      near(x.whole, e.whole);
    }
    if constexpr (std::is_same_v<V, bf16>)
      for (extent_t i = 0; i < s.size(); ++i)
        REQUIRE(std::abs(x.p[i] - e.p[at(i)]) < step_of_bf16(e.p[at(i)]) + 1e-6);
    else
      near(x.p, e.p);
    near(x.g, std::vector<double>(at(s.size()), 0.0), 0);
    for (extent_t i = 0; i < s.size() && has_copy; ++i)
      REQUIRE(x.copy[i] == static_cast<double>(static_cast<T>(x.p.data[at(i)])));
    if (!has_copy)
      REQUIRE(same_bits(x.copy.data, copy_before));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("adafactor_update takes steps", "", double, float, bf16) {
  auto const s = GENERATE(as<shape<2>>{}, shape<2>{{0, 5}}, shape<2>{{1, 1}}, shape<2>{{7, 3}},
                          shape<2>{{33, 40}}, shape<2>{{5, 1000}}, shape<2>{{300, 35}});
  bool const factored = GENERATE(true, false), has_copy = GENERATE(true, false);
  check_steps<TestType, accumulator_t<TestType>>(s, factored, has_copy);
  if constexpr (std::is_same_v<TestType, bf16>)
    check_steps<bf16, bf16>(s, factored, false);
}

TEMPLATE_TEST_CASE("adafactor_update is the same for any number of threads", "", double, float, bf16) {
  bool const factored = GENERATE(true, false);
  auto const after = [&]<class V>(V) {
    state<TestType, V> x{shape<2>{{300, 203}}, 3};
    for (int t = 1; t <= 3; ++t) {
      x.new_gradient(static_cast<std::uint64_t>(20 + t));
      factored ? x.factored(step_number(t)) : x.unfactored(step_number(t));
    }
    auto all = x.p.doubles();
    for (auto const& more :
         {x.m.doubles(), x.rows.doubles(), x.columns.doubles(), x.whole.doubles(), x.copy.doubles()})
      all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  same_with_any_threads([&] { return after(accumulator_t<TestType>{}); });
  if constexpr (std::is_same_v<TestType, bf16>)
    same_with_any_threads([&] { return after(bf16{}); });
}

TEST_CASE("a parameter that never had a gradient only decays") {
  bool const factored = GENERATE(true, false);
  state<float, float> x{shape<2>{{40, 33}}, 1};
  auto const before = x.p.doubles();
  std::fill(x.g.data.begin(), x.g.data.end(), 0.f);
  adafactor_coefficients const w{.rate = 0.1, .decay = 0.5};
  factored ? x.factored(w) : x.unfactored(w);
  for (extent_t i = 0; i < x.size.size(); ++i) REQUIRE(std::abs(x.p[i] - 0.95 * before[at(i)]) < 1e-6);
}

TEST_CASE("rounded_at_random gives the neighbours as often as it should, exactly") {
  for (float v : {1.f, 1.00390625f, 1.001f, -1.001f, 0.3f, -3.14159f, 1e-30f, 1e-40f, 3.38e38f, 0.f, -0.f}) {
    auto const u = std::bit_cast<std::uint32_t>(v);
    auto const low = std::bit_cast<float>(u & 0xffff0000u),
               high = std::bit_cast<float>((u & 0xffff0000u) + 0x10000u);
    std::uint32_t ups = 0;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      auto const r = std::bit_cast<std::uint32_t>(rounded_at_random(v, bits));
      if (r == std::bit_cast<std::uint32_t>(high))
        ++ups;
      else if (r != std::bit_cast<std::uint32_t>(low))
        FAIL(v << " became " << std::bit_cast<float>(r));
    }
    CHECK(ups == (u & 0xffffu));  // of 65536: the share of the way from the lower neighbour to the higher
  }
  for (std::uint32_t bits : {0u, 1u, 65535u}) {
    CHECK(rounded_at_random(infinity, bits) == infinity);
    CHECK(rounded_at_random(-infinity, bits) == -infinity);
    CHECK(is_nan(static_cast<double>(rounded_at_random(nan_value, bits))));
  }
}

TEST_CASE("bf16 master values are rounded by their element's bits") {
  bool const factored = GENERATE(true, false);
  state<bf16, bf16> x{shape<2>{{33, 37}}, 1};
  std::fill(x.g.data.begin(), x.g.data.end(), bf16{});
  x.p.data[5] = bf16{infinity};
  x.p.data[700] = bf16{-infinity};
  x.p.data[36] = bf16{nan_value};
  x.p.data[1220] = std::bit_cast<bf16>(std::uint16_t{0xffff});  // NaN, and the last element
  auto const before = x.p.data;
  adafactor_coefficients const w{.rate = 0.1, .decay = 0.3, .rounding = {0x12345678u, 0x9abcdef0u}};
  auto const shrink = static_cast<float>(1 - w.rate * w.decay);
  factored ? x.factored(w, false) : x.unfactored(w, false);
  int moved = 0;
  for (extent_t i = 0; i < x.size.size(); ++i) {
    auto const v = static_cast<float>(before[at(i)]) * shrink;  // the gradient, and so the moment, is zero
    auto const e = rounded_at_random(v, rounding_bits(w.rounding, 0u, static_cast<std::uint32_t>(i)));
    auto const found = static_cast<float>(x.p.data[at(i)]);
    if (is_nan(static_cast<double>(v)))
      REQUIRE(is_nan(static_cast<double>(found)));
    else
      REQUIRE(std::bit_cast<std::uint32_t>(found) == std::bit_cast<std::uint32_t>(e));
    moved += found != static_cast<float>(bf16{v});
  }
  CHECK(moved > 100);  // to the neighbour that is not the nearest
}

TEST_CASE("rounding_bits are even, and unrelated from element to element and from step to step") {
  constexpr std::size_t n = 1 << 16;
  auto const drawn = [](rounding_key key) {
    std::vector<double> v(n);
    for (std::size_t i = 0; i < n; ++i)
      v[i] =
          (rounding_bits(key, static_cast<std::uint32_t>(i / 16 * 16), static_cast<std::uint32_t>(i % 16)) +
           0.5) /
              65536 -
          0.5;
    return v;
  };
  auto const deviations = [](std::vector<double> const& a, std::vector<double> const& b, std::size_t lag) {
    double sum = 0;
    for (std::size_t i = 0; i + lag < n; ++i) sum += a[i] * b[i + lag];
    return std::abs(sum) * 12 / std::sqrt(static_cast<double>(n));
  };
  std::vector<double> last;
  for (std::uint64_t t = 1; t <= 5; ++t) {
    auto const v = drawn(rounding_key::of(0, t, 64));
    double mean = 0;
    std::array<double, 64> counts{};
    for (auto x : v) {
      mean += x / n;
      counts[static_cast<std::size_t>((x + 0.5) * 64)] += 1;
    }
    CHECK(std::abs(mean) < 5 * std::sqrt(1.0 / 12 / n));
    double chi_squared = 0;
    for (auto x : counts) chi_squared += (x - n / 64.0) * (x - n / 64.0) / (n / 64.0);
    CHECK(chi_squared < 63 + 5 * std::sqrt(2 * 63.0));
    for (std::size_t lag = 1; lag <= 64; ++lag) CHECK(deviations(v, v, lag) < 5);
    if (!last.empty())
      for (std::size_t lag = 0; lag <= 8; ++lag) CHECK(deviations(last, v, lag) < 5);
    last = v;
  }
  auto const one = drawn(rounding_key::of(0, 1, 64));
  CHECK(one != drawn(rounding_key::of(1, 1, 64)));
  CHECK(one != drawn(rounding_key::of(0, 1, 96)));
}

TEST_CASE("squared_norm of gradients in bf16") {
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 15, 16385, 100003);
  tensor<bf16, 1> const x{{{n}}, 1};
  double e = 0;
  for (extent_t i = 0; i < n; ++i) e += x[i] * x[i];
  CHECK(std::abs(squared_norm(device<bf16>(), x.read()) - e) <= 1e-13 * e);
  same_with_any_threads([&] { return std::vector<double>{squared_norm(device<bf16>(), x.read())}; });
}
