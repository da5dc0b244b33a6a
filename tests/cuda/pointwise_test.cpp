// Pointwise kernels of the card against the CPU's, at every length of the last pack and at unaligned addresses.
#include <yoke/cpu/pointwise.hpp>
#include <yoke/cuda/pointwise.cuh>

#include "cuda/twins.hpp"
#include <limits>

using namespace twins;
using yoke::activation;

namespace {

auto const every_gelu = {activation::gelu, activation::gelu_tanh, activation::gelu_quick, activation::silu};
auto const every_kind = {activation::identity,   activation::gelu, activation::gelu_tanh,
                         activation::gelu_quick, activation::silu, activation::tanh};

/// `count` numbers from `first` on, `step` apart.
template <class T>
tensor<T, 1> spaced(double first, double step, extent_t count) {
  tensor<T, 1> x{{{count}}};
  for (extent_t i = 0; i < count; ++i) x.data[at(i)] = static_cast<T>(first + step * static_cast<double>(i));
  return x;
}

}  // namespace

TEMPLATE_TEST_CASE("activations and their gradients on the card", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 7, 8, 9, 2047, 20011),
             offset = GENERATE(as<extent_t>{}, 0, 1);
  tensor<TestType, 1> const x{{{n}}, 1, 2}, dy{{{n}}, 2}, before{{{n}}, 3};
  on const dx_in{c, x, offset}, d_dy{c, dy};
  for (auto kind : every_kind) {
    INFO("kind " << int(kind));
    tensor<TestType, 1> y{{{n}}};
    on const d_y{c, y, offset};
    activation_forward(c, kind, dx_in.read(), d_y.view());
    activation_forward(device<TestType>(), kind, x.read(), y.view());
    same(d_y.back(c), y);
    for (auto how : {store::overwrite, store::accumulate}) {
      auto dx = before;
      on const d_dx{c, dx};
      activation_backward(c, kind, dx_in.read(), d_dy.read(), d_dx.view(), how);
      activation_backward(device<TestType>(), kind, x.read(), dy.read(), dx.view(), how);
      same(d_dx.back(c), dx, 4);
    }
  }
}

TEST_CASE("gelu of floats on the card is right far into the negative tail") {
  auto& c = card<float>();
  auto const x = spaced<float>(-20, 1e-3, 40001);
  auto const exact = spaced<double>(0, 0, 40001).shape;
  tensor<double, 1> wide{exact}, e{exact};
  for (std::size_t i = 0; i < wide.data.size(); ++i) wide.data[i] = static_cast<double>(x.data[i]);
  on const d_x{c, x}, d_y{c, x};
  for (auto kind : every_gelu) {
    activation_forward(c, kind, d_x.read(), d_y.view());
    activation_forward(device<double>(), kind, wide.read(), e.view());
    auto const y = d_y.back(c);
    double worst = 0, worst_relative = 0;
    for (extent_t i = 0; i < 40001; ++i) {
      worst = std::max(worst, std::abs(y[i] - e[i]) / std::max(1.0, std::abs(e[i])));
      if (x[i] > -8 && x[i] < -0.1)
        worst_relative = std::max(worst_relative, std::abs(y[i] / e[i] - 1));
    }
    CHECK(worst < 5e-7);
    CHECK(worst_relative < 2e-5);
  }
}

TEMPLATE_TEST_CASE("gelu far out, and of what is not a number, on the card", "", double, float, bf16) {
  auto& c = card<TestType>();
  float const far[] = {1e4f, -1e4f, 3e37f, -3e37f, 0.0f, std::numeric_limits<float>::quiet_NaN()};
  tensor<TestType, 1> x{{{6}}}, dy{{{6}}};
  for (std::size_t i = 0; i < 6; ++i) {
    x.data[i] = static_cast<TestType>(far[i]);
    dy.data[i] = static_cast<TestType>(1.0f);
  }
  on const d_x{c, x}, d_dy{c, dy}, d_y{c, x}, d_dx{c, x};
  for (auto kind : every_gelu) {
    activation_forward(c, kind, d_x.read(), d_y.view());
    activation_backward(c, kind, d_x.read(), d_dy.read(), d_dx.view(), store::overwrite);
    auto const y = d_y.back(c), dx = d_dx.back(c);
    for (extent_t i = 0; i < 5; ++i) {
      INFO("kind " << int(kind) << " at " << x[i]);
      CHECK(y[i] == (x[i] > 0 ? x[i] : 0.0));
      if (x[i] == 0)
        CHECK(std::abs(dx[i] - 0.5) < 1e-6);
      else if (kind != activation::gelu_tanh || std::abs(x[i]) < 1e10)  // beyond, x^3 overflows
        CHECK(dx[i] == (x[i] > 0 ? 1 : 0));
    }
    CHECK(is_nan(y[5]));
    CHECK(is_nan(dx[5]));
  }
}

TEMPLATE_TEST_CASE("add on the card", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 31, 33, 10007), offset = GENERATE(as<extent_t>{}, 0, 3);
  tensor<TestType, 1> const a{{{n}}, 1}, b{{{n}}, 2};
  tensor<TestType, 1> y{{{n}}};
  on const d_a{c, a}, d_b{c, b, offset}, d_y{c, y};
  add(c, d_a.read(), d_b.read(), d_y.view());
  add(device<TestType>(), a.read(), b.read(), y.view());
  CHECK(same_bits(d_y.back(c).data, y.data));
}

namespace {

template <class T, class X, class Y>
void check_convert(extent_t n, extent_t offset) {
  auto& c = card<T>();
  tensor<X, 1> const x{{{n}}, 1};
  tensor<Y, 1> const before{{{n}}, 2};
  on const d_x{c, x};
  for (auto how : {store::overwrite, store::accumulate}) {
    auto y = before;
    on const d_y{c, y, offset};
    convert(c, d_x.read(), d_y.view(), how);
    convert(device<T>(), x.read(), y.view(), how);
    CHECK(same_bits(d_y.back(c).data, y.data));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("convert on the card copies, rounds and accumulates exactly", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 17, 64, 9999), offset = GENERATE(as<extent_t>{}, 0, 1);
  check_convert<TestType, TestType, TestType>(n, offset);
  check_convert<TestType, TestType, A>(n, offset);
  check_convert<TestType, A, TestType>(n, offset);
  check_convert<TestType, A, A>(n, offset);
}

TEST_CASE("floats become bf16 on the card by rounding to nearest even, NaN and infinity stay") {
  auto& c = card<bf16>();
  auto const infinity = std::numeric_limits<float>::infinity();
  std::vector<float> const from{1.0f,   1.00390625f, 1.01171875f, -1.00390625f, 3.3895314e38f, 3.4028235e38f,
                                1e-40f, -0.0f,       infinity,    -infinity,    std::nanf("")};
  tensor<float, 1> x{{{22}}};
  for (std::size_t i = 0; i < 22; ++i) x.data[i] = from[i % from.size()];
  tensor<bf16, 1> y{x.shape};
  on const d_x{c, x};
  on const d_y{c, y};
  convert(c, d_x.read(), d_y.view(), store::overwrite);
  convert(device<bf16>(), x.read(), y.view(), store::overwrite);
  auto const found = d_y.back(c);
  for (std::size_t i = 0; i < 22; ++i) {
    INFO(from[i % from.size()]);
    if (i % from.size() < 10)
      CHECK(found.data[i].bits == y.data[i].bits);
    else
      CHECK(is_nan(found[static_cast<extent_t>(i)]));
  }
}

TEMPLATE_TEST_CASE("fill on the card", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 100, 30001), offset = GENERATE(as<extent_t>{}, 0, 1);
  on const y{c, tensor<TestType, 1>{{{n}}, 1}, offset};
  on const z{c, tensor<accumulator_t<TestType>, 1>{{{n}}, 1}, offset};
  fill(c, y.view(), 1.5);
  fill(c, z.view(), static_cast<double>(std::numeric_limits<float>::lowest()));
  near(y.back(c), std::vector<double>(at(n), 1.5), 0);
  near(z.back(c), std::vector<double>(at(n), static_cast<double>(std::numeric_limits<float>::lowest())), 0);
}

TEMPLATE_TEST_CASE("pixels are normalised by channel on the card", "", double, float, bf16) {
  auto& c = card<TestType>();
  auto const pixels = GENERATE(as<extent_t>{}, 0, 1, 2, 3, 5, 15, 16, 17, 35001),
             offset = GENERATE(as<extent_t>{}, 0, 1);
  std::array<float, 3> const mean{0.48f, 0.45f, 0.40f}, deviation{0.26f, 0.5f, 0.27f};
  tensor<std::uint8_t, 2> bytes{{{pixels, 3}}};
  for (std::size_t i = 0; i < bytes.data.size(); ++i)
    bytes.data[i] = static_cast<std::uint8_t>(i * 37 + i / 256);
  tensor<TestType, 2> rows{{{pixels, 3}}};
  on const d_bytes{c, bytes, offset};
  on const d_rows{c, rows};
  normalize_pixels(c, mean, deviation, d_bytes.read(), d_rows.view());
  normalize_pixels(device<TestType>(), mean, deviation, bytes.read(), rows.view());
  same(d_rows.back(c), rows, 2);
}
