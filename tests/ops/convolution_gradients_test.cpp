// Convolutions and changes of shape against central differences; and what they refuse.
#include <yoke/autograd/gradient_check.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/cpu/convolution.hpp>
#include <yoke/cpu/depthwise.hpp>
#include <yoke/ops/convolution.hpp>
#include <yoke/ops/linear.hpp>
#include <yoke/ops/pointwise.hpp>
#include <yoke/ops/reshape.hpp>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;

namespace {

using device = cpu::context<double>;

template <class F, int... R>
void check(parameter_list const& list, F const& f, shape<R>... shapes) {
  device c{mebibytes(8), mebibytes(8)};
  auto const result = gradient_check(c, list, f, {}, shapes...);
  INFO(result.where);
  CHECK(result.worst < 1e-7);
}

/// The sentence with which f, given a tape and images (2, 4, 6, 3), refuses its arguments.
template <class F>
std::string refusal(parameter_list const& list, F const& f) {
  device c{mebibytes(1), mebibytes(1)};
  parameter_store<device> store{c, list};
  tape<device> t{c, store.views()};
  try {
    f(t, t.constant(make<double>(c, shape{2, 4, 6, 3})));
  } catch (precondition_error const& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("convolution, with and without bias", "[gradient]") {
  for (window w : {window{3, 1, 1}, {3, 2, 1}, {2, 2, 0}, {1, 2, 0}}) {
    parameter_list list;
    scope const s{list};
    auto const weight = s.weight("weight", shape{5, w.size * w.size * 3}, 1.f);
    auto const bias = s.weight("bias", shape{5}, 1.f);
    check(
        list, [&](auto& t, value<4> x) { return ops::convolution(t, x, weight, bias, w); },
        shape{2, 4, 5, 3});
    check(
        list, [&](auto& t, value<4> x) { return ops::convolution(t, x, weight, {}, w); }, shape{1, 5, 4, 3});
  }
}

TEST_CASE("depthwise convolution", "[gradient]") {
  for (window w : {window{3, 1, 1}, {3, 2, 1}, {5, 1, 2}}) {
    parameter_list list;
    auto const weight = scope{list}.weight("weight", shape{w.size * w.size, 18}, 1.f);
    check(
        list, [&](auto& t, value<4> x) { return ops::depthwise(t, x, weight, w); }, shape{2, 4, 5, 18});
  }
}

TEST_CASE("a value and its rows gather one gradient", "[gradient]") {
  parameter_list list;
  auto const weight = scope{list}.weight("weight", shape{3, 3}, 1.f);
  check(
      list,
      [&](auto& t, value<4> x) {
        auto const rows = ops::linear(t, ops::activate(t, ops::as_rows(x)), weight);
        return ops::sum(t, ops::activate(t, x), ops::as_images(rows, x.shape));
      },
      shape{2, 4, 3, 3});
}

TEST_CASE("convolutions refuse what does not fit, in a sentence") {
  using Catch::Matchers::ContainsSubstring;
  parameter_list list;
  scope const s{list};
  auto const weight = s.weight("weight", shape{5, 27}, 1.f), narrow = s.weight("narrow", shape{5, 26}, 1.f);
  auto const bias = s.weight("bias", shape{4}, 1.f);
  auto const taps = s.weight("taps", shape{9, 3}, 1.f), fewer = s.weight("fewer", shape{9, 2}, 1.f);
  auto const refused = [&](auto const& f) { return refusal(list, f); };
  CHECK(refused([&](auto& t, value<4> x) { ops::convolution(t, x, weight, {}, {}); }).empty());
  CHECK_THAT(refused([&](auto& t, value<4> x) { ops::convolution(t, x, narrow, {}, {}); }),
             ContainsSubstring("the weight's width 26 is that of a window of 3 x 3 pixels of 3 channels"));
  CHECK_THAT(refused([&](auto& t, value<4> x) { ops::convolution(t, x, weight, bias, {}); }),
             ContainsSubstring("the bias has the weight's rows"));
  CHECK_THAT(
      refused([&](auto& t, value<4> x) { ops::convolution(t, x, weight, {}, {.size = 7, .padding = 1}); }),
      ContainsSubstring("images of 4 x 6 with their padding hold a window of 7"));
  CHECK_THAT(refused([&](auto& t, value<4> x) { ops::depthwise(t, x, taps, {.stride = 0}); }),
             ContainsSubstring("depthwise: a window has a size and a stride"));
  CHECK(refused([&](auto& t, value<4> x) { ops::depthwise(t, x, taps, {}); }).empty());
  CHECK_THAT(refused([&](auto& t, value<4> x) { ops::depthwise(t, x, fewer, {}); }),
             ContainsSubstring("the weight is (size size, channels)"));
  CHECK_THAT(refused([&](auto&, value<4> x) {
               ops::as_images(ops::as_rows(x), {{2, 4, 6, 4}});
             }),
             ContainsSubstring("one row for each pixel"));
}
