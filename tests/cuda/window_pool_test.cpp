// Pooling under a moving window on the card against the CPU's.
#include <yoke/cpu/window_pool.hpp>
#include <yoke/cuda/window_pool.cuh>

#include "cpu/images.hpp"
#include "cuda/twins.hpp"

using namespace twins;
using yoke::window_pool_kind;

namespace {

template <class T>
void check(images const& s, window_pool_kind kind, tensor<T, 4> const& x, extent_t offset) {
  auto& c = card<T>();
  auto const channels = x.shape[3];
  INFO(name(s) << ", " << channels << " channels, kind " << static_cast<int>(kind));
  on const d_x{c, x, offset};
  tensor<T, 4> y{s.output(channels)};
  on const d_y{c, y};
  window_pool_forward(device<T>(), kind, s.w, x.read(), y.view());
  window_pool_forward(c, kind, s.w, d_x.read(), d_y.view());
  same(d_y.back(c), y, kind == window_pool_kind::max ? 0 : 4);
  tensor<T, 4> const dy{y.shape, 2};
  on const d_dy{c, dy};
  for (auto how : {store::overwrite, store::accumulate}) {
    tensor<T, 4> dx{x.shape, 3};
    on const d_dx{c, dx};
    window_pool_backward(device<T>(), kind, s.w, x.read(), dy.read(), dx.view(), how);
    window_pool_backward(c, kind, s.w, d_x.read(), d_dy.read(), d_dx.view(), how);
    same(d_dx.back(c), dx, 4);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("window_pool and its gradient on the card", "", double, float, bf16) {
  auto const kind = GENERATE(window_pool_kind::max, window_pool_kind::mean);
  for (window w :
       {window{1, 1, 0}, {1, 2, 0}, {2, 2, 0}, {3, 1, 1}, {3, 2, 1}, {3, 3, 0}, {2, 3, 1}, {5, 2, 4}})
    for (extent_t height : {1, 4, 7})
      for (extent_t width : {2, 5, 8}) {
        images const s{2, height, width, w};
        if (!s.possible())
          continue;
        for (extent_t channels : {1, 16, 21})
          check(s, kind, tensor<TestType, 4>{s.input(channels), 1}, channels == 16 && width == 5);
      }
  images const none{0, 4, 4, {2, 2, 0}};
  check(none, kind, tensor<TestType, 4>{none.input(8)}, 0);
}

TEMPLATE_TEST_CASE("of pixels that are alike the first is the largest on the card, and a NaN is larger", "",
                   double, float, bf16) {
  images const s{1, 6, 6, {3, 2, 1}};
  tensor<TestType, 4> x{s.input(16)};
  yoke::random_sequence draw{4};
  for (auto& v : x.data) v = static_cast<TestType>(static_cast<float>(draw.below(3)));
  check(s, window_pool_kind::max, x, 0);
  for (auto i : {0u, 7u, 200u, 201u, 333u}) x.data[i] = static_cast<TestType>(std::nanf(""));
  auto& c = card<TestType>();
  tensor<TestType, 4> y{s.output(16)};
  on const d_y{c, y};
  window_pool_forward(device<TestType>(), window_pool_kind::max, s.w, x.read(), y.view());
  window_pool_forward(c, window_pool_kind::max, s.w, on{c, x}.read(), d_y.view());
  auto const found = d_y.back(c);
  for (extent_t i = 0; i < y.shape.size(); ++i) {
    CHECK(is_nan(found[i]) == is_nan(y[i]));
    if (!is_nan(y[i]))
      CHECK(found[i] == y[i]);
  }
}
