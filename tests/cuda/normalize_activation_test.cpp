// Layer normalisation with an activation behind it on the card, against the CPU's: every activation, every kind of
// team, each gradient wanted or not.
#include <yoke/cpu/normalize_activation.hpp>
#include <yoke/cuda/layer_norm.cuh>

#include "cpu/activations.hpp"
#include "cuda/twins.hpp"

using namespace twins;

namespace {

struct extents {
  extent_t rows, width;
};

template <class T>
struct activated_case {
  using A = accumulator_t<T>;
  activation kind;
  tensor<T, 2> x, dy;
  tensor<A, 1> gain, bias, mean, deviation;

  activated_case(activation f, extents e)
      : kind{f},
        x{{{e.rows, e.width}}, 1, 3},
        dy{{{e.rows, e.width}}, 2},
        gain{{{e.width}}, 3},
        bias{{{e.width}}, 4},
        mean{{{e.rows}}},
        deviation{{{e.rows}}} {
    for (auto& v : x.data) v = static_cast<T>(static_cast<A>(v) + 7);  // a mean that is not 0
  }
  tensor<T, 2> forward() {
    tensor<T, 2> y{x.shape};
    layer_norm_activation_forward(device<T>(), kind, x.read(), gain.read(), bias.read(), A(1e-5), y.view(),
                                  mean.view(), deviation.view());
    return y;
  }
};

/// The gradients that are wanted (1: dx, 2: dgain, 4: dbias) with what the card and the CPU make of them.
template <class T>
void check_backward(activated_case<T> const& p, extent_t offset, int wanted, store how) {
  using A = accumulator_t<T>;
  auto& c = card<T>();
  auto const width = p.x.shape[1];
  INFO(p.x.shape[0] << " x " << width << ", wanted " << wanted << ", activation "
                    << static_cast<int>(p.kind));
  on const x{c, p.x, offset}, dy{c, p.dy};
  on const gain{c, p.gain}, bias{c, p.bias}, mean{c, p.mean}, deviation{c, p.deviation};
  tensor<T, 2> dx{p.x.shape, 5};
  tensor<A, 1> dgain{{{width}}, 6}, dbias{{{width}}, 7};
  on const d_dx{c, dx};
  on const d_dgain{c, dgain}, d_dbias{c, dbias};
  auto const run = [&](auto& device, auto const& v, auto const& g, auto const& b, auto const& m,
                       auto const& s, auto const& u, auto&& to, auto&& to_gain, auto&& to_bias) {
    layer_norm_activation_backward(device, p.kind, v.read(), g.read(), b.read(), m.read(), s.read(), u.read(),
                                   wanted & 1 ? to.view() : view<T, 2>{}, how,
                                   wanted & 2 ? to_gain.view() : view<A, 1>{},
                                   wanted & 4 ? to_bias.view() : view<A, 1>{});
  };
  run(c, x, gain, bias, mean, deviation, dy, d_dx, d_dgain, d_dbias);
  run(device<T>(), p.x, p.gain, p.bias, p.mean, p.deviation, p.dy, dx, dgain, dbias);
  same(d_dx.back(c), dx, 50);
  same(d_dgain.back(c), dgain, 100);
  same(d_dbias.back(c), dbias, 50);
}

}  // namespace

TEMPLATE_TEST_CASE("layer_norm_activation_forward on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const e = GENERATE(extents{0, 16}, extents{7, 3}, extents{33, 16}, extents{5, 45}, extents{5, 768},
                          extents{3, 1025}, extents{3, 1032}, extents{2, 4400});
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  for (auto kind : every_activation) {
    activated_case<TestType> p{kind, e};
    auto const y = p.forward();
    on const x{c, p.x}, d_y{c, y, offset};
    on const gain{c, p.gain}, bias{c, p.bias}, mean{c, p.mean}, deviation{c, p.deviation};
    layer_norm_activation_forward(c, kind, x.read(), gain.read(), bias.read(), A(1e-5), d_y.view(),
                                  mean.view(), deviation.view());
    INFO(e.rows << " x " << e.width << ", activation " << static_cast<int>(kind));
    same(d_y.back(c), y, 30);
    same(mean.back(c), p.mean, 5);
  }
}

TEMPLATE_TEST_CASE("layer_norm_activation_backward on the card", "", double, float, bf16) {
  auto const e =
      GENERATE(extents{0, 16}, extents{7, 5}, extents{23, 16}, extents{9, 45}, extents{9, 256},
               extents{6, 264}, extents{5, 768}, extents{5, 1032}, extents{3, 4096}, extents{3, 4401});
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  for (auto kind : every_activation) {
    activated_case<TestType> p{kind, e};
    p.forward();
    for (auto how : {store::overwrite, store::accumulate}) check_backward(p, offset, 7, how);
  }
}

TEMPLATE_TEST_CASE("layer_norm_activation_backward on the card, each gradient wanted or not", "", double,
                   float, bf16) {
  activated_case<TestType> p{activation::gelu, GENERATE(extents{23, 45}, extents{23, 320}, extents{3, 4400})};
  p.forward();
  for (int wanted = 0; wanted < 8; ++wanted)
    for (auto how : {store::overwrite, store::accumulate}) check_backward(p, 0, wanted, how);
}

TEST_CASE("layer_norm_activation_backward on the card gives the same bits each time") {
  auto& c = card<bf16>();
  activated_case<bf16> p{activation::silu, {1000, 130}};
  p.forward();
  on const x{c, p.x}, dy{c, p.dy}, dx{c, p.x};
  on const gain{c, p.gain}, bias{c, p.bias}, mean{c, p.mean}, deviation{c, p.deviation};
  same_each_time([&] {
    tensor<float, 1> const none{{{130}}};
    on const dgain{c, none}, dbias{c, none};
    layer_norm_activation_backward(c, p.kind, x.read(), gain.read(), bias.read(), mean.read(),
                                   deviation.read(), dy.read(), dx.view(), store::overwrite, dgain.view(),
                                   dbias.view());
    auto all = dx.back(c).doubles();
    for (auto const* g : {&dgain, &dbias}) {
      auto const part = g->back(c);
      all.insert(all.end(), part.data.begin(), part.data.end());
    }
    return all;
  });
}
