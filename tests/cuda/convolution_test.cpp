// Convolutions on the card against the CPU's: any window, with and without a bias, more lines than scratch memory takes
// at once.
#include <yoke/cpu/convolution.hpp>
#include <yoke/cuda/convolution.cuh>

#include "cpu/images.hpp"
#include "cuda/twins.hpp"

using namespace twins;

namespace {

template <class T>
void check(images const& s, extent_t in, extent_t out, bool with_bias, extent_t offset = 0) {
  using A = accumulator_t<T>;
  auto& c = card<T>();
  INFO(name(s) << ", " << in << " channels to " << out << ", offset " << offset);
  tensor<T, 4> const x{s.input(in), 1}, dy{s.output(out), 2};
  tensor<T, 2> const weights{{{out, s.w.size * s.w.size * in}}, 3};
  tensor<A, 1> bias{{{with_bias ? out : 0}}, 4};
  for (auto& v : bias.data) v = static_cast<A>(static_cast<T>(v));  // as the product takes it
  on const d_x{c, x, offset}, d_dy{c, dy};
  on const d_weights{c, weights};
  on const d_bias{c, bias};
  tensor<T, 4> y{dy.shape};
  on const d_y{c, y};
  convolution_forward(device<T>(), s.w, x.read(), weights.read(), bias.read(), y.view());
  convolution_forward(c, s.w, d_x.read(), d_weights.read(), d_bias.read(), d_y.view());
  auto const terms = static_cast<double>(s.w.size * s.w.size * std::max(in, out));
  same(d_y.back(c), y, 20 + terms);
  auto const pixels = static_cast<double>(s.batch * s.height * s.width);
  auto const sums = [&](auto const& before, store how) {
    auto dweights = before;
    on const d_dweights{c, before};
    convolution_backward_weights(device<T>(), s.w, x.read(), dy.read(), dweights.view(), how);
    convolution_backward_weights(c, s.w, d_x.read(), d_dy.read(), d_dweights.view(), how);
    same(d_dweights.back(c), dweights, 20 + pixels);
  };
  for (auto how : {store::overwrite, store::accumulate}) {
    tensor<T, 4> dx{x.shape, 4};
    on const d_dx{c, dx, offset};
    convolution_backward_input(device<T>(), s.w, weights.read(), dy.read(), dx.view(), how);
    convolution_backward_input(c, s.w, d_weights.read(), d_dy.read(), d_dx.view(), how);
    same(d_dx.back(c), dx, 20 + terms);
    sums(tensor<A, 2>{weights.shape, 5}, how);
    sums(tensor<T, 2>{weights.shape, 5}, how);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("convolution with any window on the card", "", double, float, bf16) {
  auto const with_bias = GENERATE(true, false);
  for (window w : {window{1, 1, 0},
                   {1, 2, 0},
                   {2, 2, 0},
                   {3, 1, 0},
                   {3, 1, 1},
                   {3, 2, 1},
                   {3, 3, 1},
                   {5, 2, 2},
                   {2, 3, 1}})
    for (extent_t height : {1, 6, 7})
      for (extent_t width : {2, 5, 8}) {
        images const s{2, height, width, w};
        if (!s.possible())
          continue;
        check<TestType>(s, 3, 5, with_bias);
        check<TestType>(s, 8, 16, with_bias, width == 5);
      }
}

TEMPLATE_TEST_CASE("convolution of no images on the card", "", double, float, bf16) {
  for (extent_t stride : {1, 2}) check<TestType>({0, 4, 4, {.stride = stride}}, 3, 4, true);
}

TEMPLATE_TEST_CASE("convolution on the card of more lines than scratch memory takes at once", "", double,
                   bf16) {
  extent_t const width = 64, many = 32, few = 2;
  // 1.5 times what it takes: of x's windows, of dy's, and of dy's at one of four phases
  auto const height = [&](extent_t taps, extent_t places) {
    return yoke::cuda::detail::line_chunks::bytes * 3 / 2 /
           (places * taps * many * static_cast<extent_t>(sizeof(TestType)));
  };
  yoke::window const w{.size = 9, .stride = 1, .padding = 4}, skipping{.size = 9, .stride = 2, .padding = 4};
  check<TestType>({1, height(81, width), width, w}, many, few, true);
  check<TestType>({1, height(81, width), width, w}, few, many, true);
  check<TestType>({1, 2 * height(20, width / 2), width, skipping}, few, many, true);
}
