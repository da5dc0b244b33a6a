// Pointwise kernels against the formulas in double precision, at every length of the last vector.
#include <yoke/cpu/pointwise.hpp>

#include "checks.hpp"
#include <limits>

using namespace checks;
using yoke::activation;

namespace {

double function(activation kind, double x) {
  switch (kind) {
    case activation::identity:
      return x;
    case activation::silu:
      return x / (1 + std::exp(-x));
    case activation::tanh:
      return std::tanh(x);
    case activation::gelu:
      return x * 0.5 * std::erfc(-x / std::sqrt(2.0));
    case activation::gelu_tanh: {
      auto const u = std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x);
      return x / (1 + std::exp(-2 * u));
    }
    case activation::gelu_quick:
      return x / (1 + std::exp(-1.702 * x));
  }
  return 0;
}

double slope(activation kind, double x) {
  auto const pi = 3.14159265358979323846;
  switch (kind) {
    case activation::identity:
      return 1;
    case activation::silu: {
      auto const s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    }
    case activation::tanh:
      return 1 - std::tanh(x) * std::tanh(x);
    case activation::gelu:
      return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-x * x / 2) / std::sqrt(2 * pi);
    case activation::gelu_tanh: {
      auto const t = std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / pi) * (1 + 3 * 0.044715 * x * x);
    }
    case activation::gelu_quick: {
      auto const s = 1 / (1 + std::exp(-1.702 * x));
      return s * (1 + 1.702 * x * (1 - s));
    }
  }
  return 0;
}

auto const every_gelu = {activation::gelu, activation::gelu_tanh, activation::gelu_quick, activation::silu};
auto const every_kind = {activation::identity,   activation::gelu, activation::gelu_tanh,
                         activation::gelu_quick, activation::silu, activation::tanh};

}  // namespace

TEMPLATE_TEST_CASE("activations and their gradients", "", double, float, bf16) {
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 15, 16, 17, 100, 20011);
  tensor<TestType, 1> const x{{{n}}, 1, 2}, dy{{{n}}, 2};
  for (auto kind : every_kind) {
    tensor<TestType, 1> y{{{n}}};
    activation_forward(device<TestType>(), kind, x.read(), y.view());
    std::vector<double> e;
    for (extent_t i = 0; i < n; ++i) e.push_back(function(kind, x[i]));
    near(y, e);
    for (auto how : {store::overwrite, store::accumulate}) {
      tensor<TestType, 1> const before{{{n}}, 3};
      auto dx = before;
      activation_backward(device<TestType>(), kind, x.read(), dy.read(), dx.view(), how);
      for (extent_t i = 0; i < n; ++i) e[at(i)] = stored(how, before[i], slope(kind, x[i]) * dy[i]);
      near(dx, e, 3);
    }
  }
}

TEST_CASE("gelu of floats is within 1e-6 everywhere, its tail relatively, its gradient bounded") {
  auto& c = device<float>();
  tensor<float, 1> x{{{400001}}};
  for (std::size_t i = 0; i < x.data.size(); ++i) x.data[i] = -20 + static_cast<float>(i) * 1e-4f;
  tensor<float, 1> y{x.shape}, dx{x.shape}, one{x.shape};
  std::fill(one.data.begin(), one.data.end(), 1.0f);
  for (auto kind : every_gelu) {
    activation_forward(c, kind, x.read(), y.view());
    activation_backward(c, kind, x.read(), one.read(), dx.view(), store::overwrite);
    double worst = 0, worst_relative = 0, worst_slope = 0;
    for (extent_t i = 0; i < x.shape[0]; ++i) {
      auto const e = function(kind, x[i]);
      worst = std::max(worst, std::abs(y[i] - e) / std::max(1.0, std::abs(e)));
      if (x[i] > -8 && x[i] < -0.1)
        worst_relative = std::max(worst_relative, std::abs(y[i] / e - 1));
      worst_slope = std::max(worst_slope, std::abs(dx[i] - slope(kind, x[i])));
    }
    CHECK(worst < 5e-7);
    CHECK(worst_relative < 2e-5);
    CHECK(worst_slope < 2e-6);
  }
}

TEMPLATE_TEST_CASE("gelu far out, and of what is not a number", "", double, float, bf16) {
  for (auto kind : every_gelu) {
    tensor<TestType, 1> x{{{6}}}, y{{{6}}}, dx{{{6}}}, dy{{{6}}};
    float const far[] = {1e4f, -1e4f, 3e37f, -3e37f, 0.0f, std::numeric_limits<float>::quiet_NaN()};
    for (std::size_t i = 0; i < 6; ++i)
      x.data[i] = static_cast<TestType>(far[i]), dy.data[i] = static_cast<TestType>(1.0f);
    activation_forward(device<TestType>(), kind, x.read(), y.view());
    activation_backward(device<TestType>(), kind, x.read(), dy.read(), dx.view(), store::overwrite);
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

TEMPLATE_TEST_CASE("add", "", double, float, bf16) {
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 31, 33, 10007);
  tensor<TestType, 1> const a{{{n}}, 1}, b{{{n}}, 2};
  tensor<TestType, 1> y{{{n}}};
  add(device<TestType>(), a.read(), b.read(), y.view());
  std::vector<double> e;
  for (extent_t i = 0; i < n; ++i) e.push_back(a[i] + b[i]);
  near(y, e);
}

namespace {

template <class T, class X, class Y>
void check_convert(extent_t n) {
  tensor<X, 1> const x{{{n}}, 1};
  tensor<Y, 1> const before{{{n}}, 2};
  for (auto how : {store::overwrite, store::accumulate}) {
    auto y = before;
    convert(device<T>(), x.read(), y.view(), how);
    std::vector<Y> e;
    for (extent_t i = 0; i < n; ++i) {
      auto const v = static_cast<accumulator_t<T>>(x.data[at(i)]);
      e.push_back(static_cast<Y>(
          how == store::overwrite ? v : static_cast<accumulator_t<T>>(before.data[at(i)]) + v));
    }
    CHECK(same_bits(y.data, e));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("convert copies, rounds and accumulates exactly", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 17, 64, 9999);
  check_convert<TestType, TestType, TestType>(n);
  check_convert<TestType, TestType, A>(n);
  check_convert<TestType, A, TestType>(n);
  check_convert<TestType, A, A>(n);
}

TEST_CASE("floats become bf16 by rounding to nearest even, NaN and infinity stay") {
  std::vector<float> const from{1.0f,
                                1.00390625f,
                                1.01171875f,
                                -1.00390625f,
                                3.3895314e38f,
                                3.4028235e38f,
                                1e-40f,
                                -0.0f,
                                std::numeric_limits<float>::infinity(),
                                -std::numeric_limits<float>::infinity(),
                                std::numeric_limits<float>::quiet_NaN()};
  tensor<float, 1> x{{{22}}};
  for (std::size_t i = 0; i < 22; ++i) x.data[i] = from[i % from.size()];
  tensor<bf16, 1> y{x.shape};
  convert(device<bf16>(), x.read(), y.view(), store::overwrite);
  std::vector<std::uint16_t> const bits{0x3f80, 0x3f80, 0x3f82, 0xbf80, 0x7f7f,
                                        0x7f80, 0x0001, 0x8000, 0x7f80, 0xff80};
  for (std::size_t i = 0; i < 22; ++i) {
    INFO(from[i % from.size()]);
    if (i % from.size() < bits.size())
      CHECK(y.data[i].bits == bits[i % from.size()]);
    else
      CHECK(is_nan(y[static_cast<extent_t>(i)]));
  }
}

TEMPLATE_TEST_CASE("fill", "", double, float, bf16) {
  auto const n = GENERATE(as<extent_t>{}, 0, 1, 100, 30000);
  tensor<TestType, 1> y{{{n}}, 1};
  tensor<accumulator_t<TestType>, 1> z{{{n}}, 1};
  fill(device<TestType>(), y.view(), 1.5);
  fill(device<TestType>(), z.view(), -0.25);
  near(y, std::vector<double>(at(n), 1.5), 0);
  near(z, std::vector<double>(at(n), -0.25), 0);
}

TEMPLATE_TEST_CASE("pixels are normalised by channel", "", double, float, bf16) {
  auto const pixels = GENERATE(as<extent_t>{}, 0, 1, 15, 16, 17, 5000);
  std::array<float, 3> const mean{0.48f, 0.45f, 0.40f}, deviation{0.26f, 0.5f, 0.27f};
  tensor<std::uint8_t, 2> bytes{{{pixels, 3}}};
  for (std::size_t i = 0; i < bytes.data.size(); ++i)
    bytes.data[i] = static_cast<std::uint8_t>(i * 37 + i / 256);
  tensor<TestType, 2> rows{{{pixels, 3}}};
  normalize_pixels(device<TestType>(), mean, deviation, bytes.read(), rows.view());
  std::vector<double> e;
  for (extent_t i = 0; i < 3 * pixels; ++i)
    e.push_back((bytes[i] / 255 - static_cast<double>(mean[at(i % 3)])) /
                static_cast<double>(deviation[at(i % 3)]));
  near(rows, e, 2);
}
