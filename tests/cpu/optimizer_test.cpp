// AdamW step by step against the formulas in double precision, and the norm of a gradient.
#include <yoke/cpu/optimizer.hpp>

#include "checks.hpp"
#include <limits>

using namespace checks;

TEMPLATE_TEST_CASE("adam_w_update takes five steps", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 17, 100, 9001);
  auto const has_copy = GENERATE(true, false);
  tensor<A, 1> p{{{n}}, 1}, m{{{n}}}, v{{{n}}};
  tensor<TestType, 1> copy{{{n}}, 9};
  auto const copy_before = copy.data;
  auto ep = p.doubles(), em = m.doubles(), ev = v.doubles();
  for (int t = 1; t <= 5; ++t) {
    yoke::adam_w_coefficients const w{.rate = 0.01 * t,
                                      .beta1 = 0.9,
                                      .beta2 = 0.98,
                                      .epsilon = 1e-6,
                                      .decay = 0.2,
                                      .correction1 = 1 - std::pow(0.9, t),
                                      .correction2 = 1 - std::pow(0.98, t),
                                      .gradient_scale = 0.5};
    tensor<A, 1> g{{{n}}, static_cast<std::uint64_t>(10 + t)};
    for (extent_t i = 0; i < n; ++i) {
      auto const k = at(i);
      auto const x = g[i] * w.gradient_scale;
      ep[k] *= 1 - w.rate * w.decay;
      em[k] = w.beta1 * em[k] + (1 - w.beta1) * x;
      ev[k] = w.beta2 * ev[k] + (1 - w.beta2) * x * x;
      ep[k] -= w.rate / w.correction1 * em[k] / (std::sqrt(ev[k]) / std::sqrt(w.correction2) + w.epsilon);
    }
    adam_w_update(device<TestType>(), w, g.view(), m.view(), v.view(), p.view(),
                  has_copy ? copy.view() : view<TestType, 1>{});
    near(p, ep);
    near(m, em);
    near(v, ev);
    near(g, std::vector<double>(at(n), 0.0), 0);
    if (has_copy)
      for (extent_t i = 0; i < n; ++i)
        REQUIRE(copy[i] == static_cast<double>(static_cast<TestType>(p.data[at(i)])));
    else
      REQUIRE(same_bits(copy.data, copy_before));
  }
}

TEST_CASE("a parameter without gradients only decays") {
  tensor<float, 1> p{{{40}}, 1}, g{{{40}}}, m{{{40}}}, v{{{40}}};
  auto const before = p.doubles();
  adam_w_update(device<float>(), {.rate = 0.1, .decay = 0.5, .correction1 = 0.1, .correction2 = 0.02},
                g.view(), m.view(), v.view(), p.view(), view<float, 1>{});
  for (extent_t i = 0; i < 40; ++i) CHECK(std::abs(p[i] - 0.95 * before[at(i)]) < 1e-6);
}

TEMPLATE_TEST_CASE("squared_norm", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 15, 16, 16384, 100003);
  tensor<A, 1> const x{{{n}}, 1};
  double e = 0;
  for (extent_t i = 0; i < n; ++i) e += x[i] * x[i];
  CHECK(std::abs(squared_norm(device<TestType>(), x.read()) - e) <= 1e-13 * e);
  same_with_any_threads([&] { return std::vector<double>{squared_norm(device<TestType>(), x.read())}; });
}

TEST_CASE("squared_norm neither overflows in float nor hides what is not finite") {
  tensor<float, 1> x{{{50000}}};
  x.data[49999] = 1e30f;
  CHECK(std::abs(squared_norm(device<float>(), x.read()) / 1e60 - 1) < 1e-6);
  x.data[20001] = std::numeric_limits<float>::infinity();
  CHECK(is_infinite(squared_norm(device<float>(), x.read())));
  x.data[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(is_nan(squared_norm(device<float>(), x.read())));
}
