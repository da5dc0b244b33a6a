// Depthwise convolutions on the card against the CPU's: windows that slide and any other, images smaller than the
// window, unaligned addresses; gradients of weights have the same bits each time.
#include <yoke/cpu/depthwise.hpp>
#include <yoke/cuda/depthwise_weights.cuh>

#include "cpu/images.hpp"
#include "cuda/twins.hpp"

using namespace twins;

namespace {

template <class T>
void check(images const& s, extent_t channels, extent_t offset = 0) {
  using A = accumulator_t<T>;
  auto& c = card<T>();
  INFO(name(s) << ", " << channels << " channels, offset " << offset);
  tensor<T, 4> const x{s.input(channels), 1}, dy{s.output(channels), 2};
  tensor<T, 2> const weights{{{s.w.size * s.w.size, channels}}, 3};
  on const d_x{c, x, offset}, d_dy{c, dy};
  on const d_weights{c, weights};
  tensor<T, 4> y{dy.shape};
  on const d_y{c, y};
  depthwise_forward(device<T>(), s.w, x.read(), weights.read(), y.view());
  depthwise_forward(c, s.w, d_x.read(), d_weights.read(), d_y.view());
  same(d_y.back(c), y, 20);
  auto const pixels = static_cast<double>(s.batch * s.height * s.width);
  auto const sums = [&](auto const& before, store how) {
    auto dweights = before;
    on const d_dweights{c, before};
    depthwise_backward_weights(device<T>(), s.w, x.read(), dy.read(), dweights.view(), how);
    depthwise_backward_weights(c, s.w, d_x.read(), d_dy.read(), d_dweights.view(), how);
    same(d_dweights.back(c), dweights, 20 + pixels);
  };
  for (auto how : {store::overwrite, store::accumulate}) {
    tensor<T, 4> dx{x.shape, 4};
    on const d_dx{c, dx, offset};
    depthwise_backward_input(device<T>(), s.w, weights.read(), dy.read(), dx.view(), how);
    depthwise_backward_input(c, s.w, d_weights.read(), d_dy.read(), d_dx.view(), how);
    same(d_dx.back(c), dx, 20);
    sums(tensor<A, 2>{weights.shape, 5}, how);
    sums(tensor<T, 2>{weights.shape, 5}, how);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("depthwise 3 x 3 of stride 1 and 2 on the card", "", double, float, bf16) {
  for (extent_t stride : {1, 2})
    for (extent_t height : {1, 2, 7})
      for (extent_t width : {1, 2, 8, 9, 33})
        for (extent_t channels : {1, 8, 33})
          check<TestType>({2, height, width, {.size = 3, .stride = stride, .padding = 1}}, channels,
                          channels == 8 && width == 9);
}

TEMPLATE_TEST_CASE("depthwise on the card of more channels than are side by side", "", double, float, bf16) {
  for (extent_t stride : {1, 2})
    for (extent_t channels : {132, 260})
      check<TestType>({3, 5, 18, {.size = 3, .stride = stride, .padding = 1}}, channels);
}

TEMPLATE_TEST_CASE("depthwise on the card of many lines", "", float, bf16) {
  check<TestType>({70, 14, 3, {}}, 8);
}

TEMPLATE_TEST_CASE("depthwise with any window on the card", "", double, float, bf16) {
  auto const channels = GENERATE(as<extent_t>{}, 5, 16);
  for (window w : {window{1, 1, 0},
                   {2, 2, 0},
                   {3, 1, 0},
                   {3, 2, 0},
                   {3, 1, 2},
                   {3, 1, 3},
                   {3, 2, 2},
                   {3, 3, 1},
                   {5, 1, 2},
                   {5, 2, 2},
                   {7, 1, 3},
                   {1, 2, 0},
                   {2, 3, 1}})
    for (extent_t height : {1, 4, 7})
      for (extent_t width : {2, 5, 8}) {
        images const s{2, height, width, w};
        if (s.possible())
          check<TestType>(s, channels);
      }
}

TEMPLATE_TEST_CASE("depthwise of no images on the card", "", double, float, bf16) {
  for (extent_t stride : {1, 2, 3}) check<TestType>({0, 4, 4, {.stride = stride}}, 16);
}

TEST_CASE("gradients of depthwise weights on the card have the same bits each time") {
  auto& c = card<bf16>();
  images const s{5, 30, 20, {}};
  tensor<bf16, 4> const x{s.input(24), 1}, dy{s.output(24), 2};
  on const d_x{c, x}, d_dy{c, dy};
  on const sums{c, tensor<float, 2>{{{9, 24}}}};
  same_each_time([&] {
    depthwise_backward_weights(c, s.w, d_x.read(), d_dy.read(), sums.view(), store::overwrite);
    return sums.back(c).data;
  });
}
