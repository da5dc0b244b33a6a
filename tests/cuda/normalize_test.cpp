// Layer normalisation, division by the norm and sums over rows on the card, against the CPU's: every kind of team, widths
// with and without whole packs, unaligned addresses; the same bits each time.
#include <yoke/cpu/normalize.hpp>
#include <yoke/cuda/normalize.cuh>

#include "cuda/twins.hpp"

using namespace twins;

namespace {

struct extents {
  extent_t rows, width;
};

/// Rows held whole by warps and by blocks, in packs and one by one, and rows that are wider than what is held.
extents shapes_of_rows() {
  return GENERATE(extents{0, 16}, extents{1, 1}, extents{5, 2}, extents{7, 3}, extents{33, 16},
                  extents{5, 45}, extents{9, 255}, extents{9, 256}, extents{6, 264}, extents{5, 768},
                  extents{5, 1000}, extents{3, 1025}, extents{3, 1032}, extents{2, 2048}, extents{2, 2057},
                  extents{2, 4095}, extents{2, 4096}, extents{2, 4400}, extents{2, 4401});
}

template <class T>
struct layer_norm_case {
  using A = accumulator_t<T>;
  tensor<T, 2> x, dy;
  tensor<A, 1> gain, bias, mean, deviation;

  layer_norm_case(extents e)
      : x{{{e.rows, e.width}}, 1, 3},
        dy{{{e.rows, e.width}}, 2},
        gain{{{e.width}}, 3},
        bias{{{e.width}}, 4},
        mean{{{e.rows}}},
        deviation{{{e.rows}}} {
    for (auto& v : x.data) v = static_cast<T>(static_cast<A>(v) + 7);  // a mean that is not 0
  }
  tensor<T, 2> forward() {
    tensor<T, 2> y{x.shape};
    layer_norm_forward(device<T>(), x.read(), gain.read(), bias.read(), A(1e-5), y.view(), mean.view(),
                       deviation.view());
    return y;
  }
};

/// The gradients that are wanted (1: dx, 2: dgain, 4: dbias) with what the card and the CPU make of them.
template <class T>
void check_backward(layer_norm_case<T> const& p, extent_t offset, int wanted, store how) {
  using A = accumulator_t<T>;
  auto& c = card<T>();
  INFO(p.x.shape[0] << " x " << p.x.shape[1] << ", wanted " << wanted << ", offset " << offset);
  auto const width = p.x.shape[1];
  on const x{c, p.x, offset}, dy{c, p.dy};
  on const gain{c, p.gain}, mean{c, p.mean}, deviation{c, p.deviation};
  tensor<T, 2> dx{p.x.shape, 5};
  tensor<A, 1> dgain{{{width}}, 6}, dbias{{{width}}, 7};
  on const d_dx{c, dx};
  on const d_dgain{c, dgain, offset}, d_dbias{c, dbias};
  auto const run = [&](auto& device, auto const& v, auto const& g, auto const& m, auto const& s,
                       auto const& u, auto&& to, auto&& to_gain, auto&& to_bias) {
    layer_norm_backward(
        device, v.read(), g.read(), m.read(), s.read(), u.read(), wanted & 1 ? to.view() : view<T, 2>{}, how,
        wanted & 2 ? to_gain.view() : view<A, 1>{}, wanted & 4 ? to_bias.view() : view<A, 1>{});
  };
  run(c, x, gain, mean, deviation, dy, d_dx, d_dgain, d_dbias);
  run(device<T>(), p.x, p.gain, p.mean, p.deviation, p.dy, dx, dgain, dbias);
  auto const rows = std::max(1.0, static_cast<double>(p.x.shape[0]) / 10);
  same(d_dx.back(c), dx, width <= 2 ? 1e4 : 50);  // two numbers: 1 / deviation is large and cancels
  same(d_dgain.back(c), dgain, (width == 1 ? 300 : 50) * rows);
  same(d_dbias.back(c), dbias, 20 * rows);
}

}  // namespace

TEMPLATE_TEST_CASE("layer_norm_forward on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const e = shapes_of_rows();
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  layer_norm_case<TestType> p{e};
  auto const y = p.forward();
  on const x{c, p.x}, d_y{c, y, offset};
  on const gain{c, p.gain}, bias{c, p.bias}, mean{c, p.mean}, deviation{c, p.deviation};
  layer_norm_forward(c, x.read(), gain.read(), bias.read(), A(1e-5), d_y.view(), mean.view(),
                     deviation.view());
  INFO(e.rows << " x " << e.width);
  same(d_y.back(c), y,
       e.width == 1 ? 300 : 20);  // a width of 1: nothing is left but rounding over sqrt(1e-5)
  same(mean.back(c), p.mean, 5);
  if (e.width > 1) {
    auto const found = deviation.back(c);
    for (extent_t r = 0; r < e.rows; ++r)
      CHECK(std::abs(found[r] / p.deviation[r] - 1) < 50 * slack<TestType>());
  }
}

TEST_CASE("layer_norm on the card of a row far from 0 keeps its deviation") {
  auto& c = card<float>();
  auto const width = GENERATE(as<extent_t>{}, 512, 513, 3000, 5000);
  tensor<float, 2> x{{{1, width}}, 1};
  for (auto& v : x.data) v += 4096;
  double average = 0, variance = 0;
  for (extent_t j = 0; j < width; ++j) average += x[j] / static_cast<double>(width);
  for (extent_t j = 0; j < width; ++j)
    variance += (x[j] - average) * (x[j] - average) / static_cast<double>(width);
  tensor<float, 1> ones{{{width}}};
  std::fill(ones.data.begin(), ones.data.end(), 1.0f);
  on const d_x{c, x}, y{c, x};
  on const gain{c, ones}, bias{c, tensor<float, 1>{{{width}}}};
  on const mean{c, tensor<float, 1>{{{1}}}}, deviation{c, tensor<float, 1>{{{1}}}};
  layer_norm_forward(c, d_x.read(), gain.read(), bias.read(), 1e-5f, y.view(), mean.view(), deviation.view());
  CHECK(std::abs(scalar(c, deviation.read()) * std::sqrt(variance + 1e-5) - 1) < 1e-4);
}

TEMPLATE_TEST_CASE("layer_norm_backward on the card", "", double, float, bf16) {
  auto const e = shapes_of_rows();
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  layer_norm_case<TestType> p{e};
  p.forward();
  for (auto how : {store::overwrite, store::accumulate}) check_backward(p, offset, 7, how);
}

TEMPLATE_TEST_CASE("layer_norm_backward on the card, each gradient wanted or not", "", double, float, bf16) {
  auto const e = GENERATE(extents{0, 40}, extents{23, 45}, extents{23, 320}, extents{5, 4400});
  layer_norm_case<TestType> p{e};
  p.forward();
  for (int wanted = 0; wanted < 8; ++wanted)
    for (auto how : {store::overwrite, store::accumulate}) check_backward(p, 0, wanted, how);
}

TEMPLATE_TEST_CASE("layer_norm_backward on the card of so many rows that teams take more each", "", float,
                   bf16) {
  auto const e = GENERATE(extents{8333, 16}, extents{2100, 257}, extents{2100, 264});
  layer_norm_case<TestType> p{e};
  p.forward();
  check_backward(p, 0, 7, store::overwrite);
}

TEMPLATE_TEST_CASE("sum_rows on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 15, 64, 65, 129, 1000, 5003),
             width = GENERATE(as<extent_t>{}, 1, 16, 77, 300, 768), offset = GENERATE(as<extent_t>{}, 0, 1);
  tensor<TestType, 2> const x{{{rows, width}}, 1};
  on const d_x{c, x, offset};
  for (auto how : {store::overwrite, store::accumulate}) {
    tensor<A, 1> to{{{width}}, 2};
    on const d_to{c, to};
    sum_rows(c, d_x.read(), d_to.view(), how);
    sum_rows(device<TestType>(), x.read(), to.view(), how);
    same(d_to.back(c), to, 100);
  }
}

TEST_CASE("sum_rows on the card of very wide rows") {
  auto& c = card<bf16>();
  tensor<bf16, 2> const x{{{130, 40000}}, 1};
  on const d_x{c, x};
  tensor<float, 1> to{{{40000}}};
  on const d_to{c, to};
  sum_rows(c, d_x.read(), d_to.view(), store::overwrite);
  sum_rows(device<bf16>(), x.read(), to.view(), store::overwrite);
  same(d_to.back(c), to, 100);
}

namespace {

/// Forward from X to Y, and backward from X to Y where that is offered.
template <class T, class X, class Y>
void check_forward(extents e, extent_t offset) {
  using A = accumulator_t<T>;
  auto& c = card<T>();
  tensor<X, 2> const x{{{e.rows, e.width}}, 1, 4};
  tensor<Y, 2> y{x.shape};
  tensor<A, 1> inverse{{{e.rows}}};
  on const d_x{c, x, offset};
  on const d_y{c, y};
  on const d_inverse{c, inverse};
  l2_normalize_forward(c, d_x.read(), d_y.view(), d_inverse.view());
  l2_normalize_forward(device<T>(), x.read(), y.view(), inverse.view());
  same(d_y.back(c), y);
  same(d_inverse.back(c), inverse);
}
template <class T, class X, class Y>
void check_gradient(extents e, extent_t offset) {
  using A = accumulator_t<T>;
  auto& c = card<T>();
  tensor<X, 2> const x{{{e.rows, e.width}}, 1, 4}, dy{x.shape, 2};
  tensor<X, 2> y{x.shape};
  tensor<A, 1> inverse{{{e.rows}}};
  l2_normalize_forward(device<T>(), x.read(), y.view(), inverse.view());
  on const d_y{c, y}, d_dy{c, dy, offset};
  on const d_inverse{c, inverse};
  for (auto how : {store::overwrite, store::accumulate}) {
    tensor<Y, 2> dx{x.shape, 3};
    on const d_dx{c, dx};
    l2_normalize_backward(c, d_y.read(), d_inverse.read(), d_dy.read(), d_dx.view(), how);
    l2_normalize_backward(device<T>(), y.read(), inverse.read(), dy.read(), dx.view(), how);
    same(d_dx.back(c), dx, 200);
  }
}

}  // namespace

TEMPLATE_TEST_CASE("l2_normalize and its gradient on the card, elements and accumulators", "", double, float,
                   bf16) {
  using A = accumulator_t<TestType>;
  auto const e = GENERATE(extents{0, 16}, extents{1, 1}, extents{40, 16}, extents{5, 50}, extents{7, 512},
                          extents{3, 1023}, extents{2, 1024}, extents{2, 2048}, extents{2, 2049});
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  INFO(e.rows << " x " << e.width);
  check_forward<TestType, TestType, TestType>(e, offset);
  check_forward<TestType, TestType, A>(e, offset);
  check_gradient<TestType, TestType, TestType>(e, offset);
  check_gradient<TestType, A, A>(e, offset);
  check_gradient<TestType, A, TestType>(e, offset);
}

TEMPLATE_TEST_CASE("a row of zeros has no direction on the card: it stays 0, and its gradient is only scaled",
                   "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  tensor<TestType, 2> const zeros{{{1, 20}}}, dy{{{1, 20}}, 1, 1e-10};
  on const x{c, zeros}, y{c, zeros}, unit{c, tensor<TestType, 2>{{{1, 20}}, 2}}, d_dy{c, dy}, dx{c, zeros};
  on const inverse{c, tensor<A, 1>{{{1}}}};
  l2_normalize_forward(c, x.read(), y.view(), inverse.view());
  near(y.back(c), std::vector<double>(20, 0.0), 0);
  l2_normalize_backward(c, unit.read(), inverse.read(), d_dy.read(), dx.view(), store::overwrite);
  std::vector<double> e;
  for (extent_t j = 0; j < 20; ++j) e.push_back(dy[j] * 1e12);
  near(dx.back(c), e, 100);
}

TEMPLATE_TEST_CASE("normalisation on the card gives the same bits each time", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  layer_norm_case<TestType> p{{1000, 130}};
  p.forward();
  on const x{c, p.x}, dy{c, p.dy}, dx{c, p.x};
  on const gain{c, p.gain}, bias{c, p.bias}, mean{c, p.mean}, deviation{c, p.deviation};
  same_each_time([&] {
    layer_norm_forward(c, x.read(), gain.read(), bias.read(), A(1e-5), dx.view(), mean.view(),
                       deviation.view());
    return dx.back(c).data;
  });
  same_each_time([&] {
    tensor<A, 1> const none{{{130}}};
    on const dgain{c, none}, dbias{c, none}, sums{c, none};
    layer_norm_backward(c, x.read(), gain.read(), mean.read(), deviation.read(), dy.read(), dx.view(),
                        store::overwrite, dgain.view(), dbias.view());
    sum_rows(c, x.read(), sums.view(), store::overwrite);
    auto all = dx.back(c).doubles();
    for (auto const* g : {&dgain, &dbias, &sums}) {
      auto const part = g->back(c);
      all.insert(all.end(), part.data.begin(), part.data.end());
    }
    return all;
  });
}
