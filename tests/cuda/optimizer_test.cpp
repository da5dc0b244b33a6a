// AdamW on the card against the CPU's, and numbers that the host reads.
#include <yoke/cpu/optimizer.hpp>
#include <yoke/cuda/optimizer.cuh>

#include "cuda/twins.hpp"
#include <limits>

using namespace twins;

namespace {

yoke::adam_w_coefficients step_number(int t) {
  return {.rate = 0.01 * t,
          .beta1 = 0.9,
          .beta2 = 0.98,
          .epsilon = 1e-6,
          .decay = 0.2,
          .correction1 = 1 - std::pow(0.9, t),
          .correction2 = 1 - std::pow(0.98, t),
          .gradient_scale = 0.5};
}

}  // namespace

TEMPLATE_TEST_CASE("adam_w_update on the card takes five steps", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 17, 100, 9001), offset = GENERATE(as<extent_t>{}, 0, 1);
  auto const has_copy = GENERATE(true, false);
  tensor<A, 1> p{{{n}}, 1}, m{{{n}}}, v{{{n}}};
  tensor<TestType, 1> const copy{{{n}}, 9};
  on const d_p{c, p, offset}, d_m{c, m}, d_v{c, v};
  on const d_copy{c, copy, offset};
  for (int t = 1; t <= 5; ++t) {
    tensor<A, 1> g{{{n}}, static_cast<std::uint64_t>(10 + t)};
    on const d_g{c, g};
    adam_w_update(c, step_number(t), d_g.view(), d_m.view(), d_v.view(), d_p.view(),
                  has_copy ? d_copy.view() : view<TestType, 1>{});
    adam_w_update(device<TestType>(), step_number(t), g.view(), m.view(), v.view(), p.view(),
                  view<TestType, 1>{});
    auto const found = d_p.back(c);
    same(found, p);
    same(d_m.back(c), m);
    same(d_v.back(c), v);
    near(d_g.back(c), std::vector<double>(at(n), 0.0), 0);
    auto const rounded = d_copy.back(c);
    if (has_copy)
      for (extent_t i = 0; i < n; ++i)
        REQUIRE(rounded[i] == static_cast<double>(static_cast<TestType>(found.data[at(i)])));
    else
      REQUIRE(same_bits(rounded.data, copy.data));
  }
}

TEST_CASE("a parameter without gradients only decays on the card") {
  auto& c = card<float>();
  tensor<float, 1> const p{{{40}}, 1}, none{{{40}}};
  on const d_p{c, p}, g{c, none}, m{c, none}, v{c, none};
  adam_w_update(c, {.rate = 0.1, .decay = 0.5, .correction1 = 0.1, .correction2 = 0.02}, g.view(), m.view(),
                v.view(), d_p.view(), view<float, 1>{});
  auto const found = d_p.back(c);
  for (extent_t i = 0; i < 40; ++i) CHECK(std::abs(found[i] - 0.95 * p[i]) < 1e-6);
}

TEMPLATE_TEST_CASE("squared_norm on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 15, 16, 16384, 100003, 1200001);
  tensor<A, 1> const x{{{n}}, 1};
  double e = 0;
  for (extent_t i = 0; i < n; ++i) e += x[i] * x[i];
  on const d_x{c, x}, unaligned{c, x, 1};
  auto const norm = squared_norm(c, d_x.read());
  CHECK(std::abs(norm - e) <= 1e-12 * e);
  CHECK(norm == squared_norm(c, d_x.read()));
  CHECK(norm == squared_norm(c, unaligned.read()));
}

TEST_CASE("squared_norm of elements on the card") {
  auto& c = card<bf16>();
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 15, 16, 16384, 100003);
  tensor<bf16, 1> const x{{{n}}, 1};
  double e = 0;
  for (extent_t i = 0; i < n; ++i) e += x[i] * x[i];
  on const d_x{c, x}, unaligned{c, x, 1};
  auto const norm = squared_norm(c, d_x.view());
  CHECK(std::abs(norm - e) <= 1e-12 * e);
  CHECK(norm == squared_norm(c, unaligned.read()));
}

TEST_CASE("squared_norm on the card neither overflows in float nor hides what is not finite") {
  auto& c = card<float>();
  tensor<float, 1> x{{{50000}}};
  auto const norm = [&] { return squared_norm(c, on{c, x}.read()); };
  x.data[49999] = 1e30f;
  CHECK(std::abs(norm() / 1e60 - 1) < 1e-6);
  x.data[20001] = std::numeric_limits<float>::infinity();
  CHECK(is_infinite(norm()));
  x.data[3] = std::numeric_limits<float>::quiet_NaN();
  CHECK(is_nan(norm()));
}

TEMPLATE_TEST_CASE("a number on the card is changed and read by the host", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  tensor<A, 1> v{{{3}}};
  v.data = {A(1), A(2), A(3)};
  on const d_v{c, v};
  add_scalar(c, 0.5, yoke::slice(d_v.view(), 1, 1));
  CHECK(scalar(c, yoke::slice(d_v.read(), 1, 1)) == 2.5);
  CHECK(d_v.back(c).data == std::vector<A>{A(1), A(2.5), A(3)});
}
