// The vectors' functions against the standard library's, over their whole ranges.
#include <yoke/cpu/vector_math.hpp>

#include "checks.hpp"
#include <limits>

using namespace checks;
using yoke::cpu::detail::lanes_t;

namespace {

/// f of a vector that holds x everywhere, one lane of it.
template <class A, class F>
double one(F const& f, A x) {
  return static_cast<double>(f(lanes_t<A>{} + x)[0]);
}

}  // namespace

TEMPLATE_TEST_CASE("square_root", "", double, float) {
  auto const root = [](auto v) { return yoke::cpu::detail::square_root(v); };
  double worst = 0;
  for (double x = 1e-36; x < 1e37; x *= 1.0137) {
    auto const v = static_cast<TestType>(x);
    worst = std::max(worst, std::abs(one(root, v) / std::sqrt(static_cast<double>(v)) - 1));
  }
  CHECK(worst <= rounding<TestType>());
  CHECK(one(root, TestType{0}) == 0);
  CHECK(one(root, TestType{1}) == 1);
  CHECK(is_infinite(one(root, std::numeric_limits<TestType>::infinity())));
  CHECK(is_nan(one(root, std::numeric_limits<TestType>::quiet_NaN())));
}

TEMPLATE_TEST_CASE("softplus, relative to itself in both tails", "", double, float) {
  auto const value = [](auto y) { return yoke::cpu::detail::softplus(y).value; };
  auto const slope = [](auto y) { return yoke::cpu::detail::softplus(y).slope; };
  for (double x = -80; x < 80; x += 0.0371) {
    auto const v = static_cast<TestType>(x);
    auto const d = static_cast<double>(v);
    auto const expected = std::max(d, 0.0) + std::log1p(std::exp(-std::abs(d)));
    INFO(d);
    CHECK(std::abs(one(value, v) - expected) <= 10 * rounding<TestType>() * expected);
    auto const logistic = 1 / (1 + std::exp(-d));
    CHECK(std::abs(one(slope, v) - logistic) <= 10 * rounding<TestType>() * logistic);
  }
  auto const infinity = std::numeric_limits<TestType>::infinity();
  CHECK((one(value, -infinity) == 0 && one(slope, -infinity) == 0));
  CHECK((is_infinite(one(value, infinity)) && one(slope, infinity) == 1));
  CHECK(is_nan(one(value, std::numeric_limits<TestType>::quiet_NaN())));
}

TEMPLATE_TEST_CASE("logistic and normal, values and slopes", "", double, float) {
  auto const near_enough = [](double found, double expected) {
    return std::abs(found - expected) <= 100 * rounding<TestType>() * expected + 1e-36;
  };
  for (double x = -12; x < 12; x += 0.0371) {
    auto const v = static_cast<TestType>(x);
    auto const d = static_cast<double>(v);
    INFO(d);
    auto const l = 1 / (1 + std::exp(-d));
    CHECK(near_enough(one([](auto y) { return yoke::cpu::detail::logistic(y).value; }, v), l));
    CHECK(near_enough(one([](auto y) { return yoke::cpu::detail::logistic(y).slope; }, v),
                      l / (1 + std::exp(d))));
    auto const p = 0.5 * std::erfc(-d / std::sqrt(2.0));
    CHECK(near_enough(one([](auto y) { return yoke::cpu::detail::normal(y).value; }, v), p));
    auto const density = std::exp(-d * d / 2) / std::sqrt(2 * 3.14159265358979323846);
    CHECK(near_enough(one([](auto y) { return yoke::cpu::detail::normal(y).slope; }, v), density));
  }
}
