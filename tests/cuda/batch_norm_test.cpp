// Batch normalisation on the card against the CPU's: rows of all widths, columns far from 0, own statistics and
// constant ones, each gradient wanted or not.
#include <yoke/cpu/batch_norm.hpp>
#include <yoke/cuda/batch_norm.cuh>

#include "cpu/activations.hpp"
#include "cuda/twins.hpp"

using namespace twins;

namespace {

struct extents {
  extent_t rows, width;
};

template <class T>
struct batch_norm_case {
  using A = accumulator_t<T>;
  activation kind;
  tensor<T, 2> x, dy;
  tensor<A, 1> mean, variance, gain, bias;

  batch_norm_case(activation f, extents e)
      : kind{f},
        x{{{e.rows, e.width}}, 1, 3},
        dy{{{e.rows, e.width}}, 2},
        mean{{{e.width}}},
        variance{{{e.width}}},
        gain{{{e.width}}, 3},
        bias{{{e.width}}, 4} {
    for (auto& v : x.data) v = static_cast<T>(static_cast<A>(v) + 7);  // a mean that is not 0
    batch_statistics(device<T>(), x.read(), mean.view(), variance.view());
    for (auto& v : variance.data) v += A(0.1);  // of few rows it may be 0, and its root rounding alone
  }
};

/// The gradients that are wanted (1: dx, 2: dgain, 4: dbias) with what the card and the CPU make of them.
template <class T>
void check_backward(batch_norm_case<T> const& p, bool own, extent_t offset, int wanted, store how) {
  using A = accumulator_t<T>;
  auto& c = card<T>();
  auto const width = p.x.shape[1];
  INFO(p.x.shape[0] << " x " << width << ", wanted " << wanted << ", own " << own << ", activation "
                    << static_cast<int>(p.kind));
  on const x{c, p.x, offset}, dy{c, p.dy};
  on const mean{c, p.mean}, variance{c, p.variance}, gain{c, p.gain}, bias{c, p.bias};
  tensor<T, 2> dx{p.x.shape, 5};
  tensor<A, 1> dgain{{{width}}, 6}, dbias{{{width}}, 7};
  on const d_dx{c, dx};
  on const d_dgain{c, dgain}, d_dbias{c, dbias};
  auto const run = [&](auto& device, auto const& v, auto const& m, auto const& q, auto const& g,
                       auto const& b, auto const& u, auto&& to, auto&& to_gain, auto&& to_bias) {
    batch_norm_backward(device, p.kind, own, v.read(), m.read(), q.read(), g.read(), b.read(), A(1e-3),
                        u.read(), wanted & 1 ? to.view() : view<T, 2>{}, how,
                        wanted & 2 ? to_gain.view() : view<A, 1>{},
                        wanted & 4 ? to_bias.view() : view<A, 1>{});
  };
  run(c, x, mean, variance, gain, bias, dy, d_dx, d_dgain, d_dbias);
  run(device<T>(), p.x, p.mean, p.variance, p.gain, p.bias, p.dy, dx, dgain, dbias);
  auto const size = 50 + static_cast<double>(p.x.shape[0]) / 10;
  same(d_dx.back(c), dx, 50);
  same(d_dgain.back(c), dgain, size);
  same(d_dbias.back(c), dbias, size);
}

}  // namespace

TEMPLATE_TEST_CASE("batch_statistics on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const e =
      GENERATE(extents{0, 16}, extents{1, 8}, extents{2, 3}, extents{70, 1}, extents{333, 24},
               extents{40, 264}, extents{1000, 77}, extents{9001, 16}, extents{7, 5000}, extents{300, 2056});
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  for (double away : {0.0, 100.0}) {
    tensor<TestType, 2> x{{{e.rows, e.width}}, 1};
    for (auto& v : x.data) v = static_cast<TestType>(static_cast<A>(v) + static_cast<A>(away));
    tensor<A, 1> mean{{{e.width}}, 2}, variance{{{e.width}}, 3};
    on const d_mean{c, mean}, d_variance{c, variance};
    batch_statistics(device<TestType>(), x.read(), mean.view(), variance.view());
    batch_statistics(c, on{c, x, offset}.read(), d_mean.view(), d_variance.view());
    INFO(e.rows << " x " << e.width << ", " << away << " away");
    same(d_mean.back(c), mean, 5 + away / 10);
    same(d_variance.back(c), variance, 20 + away / 10);
  }
}

TEST_CASE("batch_statistics on the card of columns whose first rows lie apart") {
  auto& c = card<float>();
  tensor<float, 2> x{{{5000, 8}}, 1, 1e-3};
  for (extent_t j = 0; j < 8; ++j) x.data[at(j)] = 1000;
  tensor<float, 1> mean{{{8}}}, variance{{{8}}};
  on const d_mean{c, mean}, d_variance{c, variance};
  batch_statistics(c, on{c, x}.read(), d_mean.view(), d_variance.view());
  auto const found = d_variance.back(c);
  for (extent_t j = 0; j < 8; ++j) CHECK(std::abs(found[j] / (1000.0 * 1000.0 / 5000) - 1) < 1e-3);
}

TEMPLATE_TEST_CASE("batch_norm_forward on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const e = GENERATE(extents{0, 16}, extents{1, 8}, extents{70, 1}, extents{333, 24}, extents{40, 264},
                          extents{7, 5001});
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  for (auto kind : every_activation) {
    batch_norm_case<TestType> const p{kind, e};
    tensor<TestType, 2> y{p.x.shape};
    on const d_y{c, y};
    batch_norm_forward(device<TestType>(), kind, p.x.read(), p.mean.read(), p.variance.read(), p.gain.read(),
                       p.bias.read(), A(1e-3), y.view());
    on const mean{c, p.mean, offset}, variance{c, p.variance}, gain{c, p.gain}, bias{c, p.bias};
    batch_norm_forward(c, kind, on{c, p.x}.read(), mean.read(), variance.read(), gain.read(), bias.read(),
                       A(1e-3), d_y.view());
    INFO(e.rows << " x " << e.width << ", activation " << static_cast<int>(kind));
    same(d_y.back(c), y, 30);
  }
}

TEMPLATE_TEST_CASE("batch_norm_backward on the card", "", double, float, bf16) {
  auto const e = GENERATE(extents{0, 16}, extents{1, 8}, extents{70, 1}, extents{333, 24}, extents{40, 264},
                          extents{7, 5001});
  auto const kind = GENERATE(from_range(every_activation));
  batch_norm_case<TestType> const p{kind, e};
  for (bool own : {true, false})
    for (auto how : {store::overwrite, store::accumulate}) check_backward(p, own, own, 7, how);
}

TEMPLATE_TEST_CASE("batch_norm_backward on the card, each gradient wanted or not", "", double, float, bf16) {
  batch_norm_case<TestType> const p{activation::gelu, GENERATE(extents{23, 45}, extents{700, 32})};
  for (int wanted = 0; wanted < 8; ++wanted)
    for (bool own : {true, false}) check_backward(p, own, 0, wanted, store::accumulate);
}

TEST_CASE("batch normalisation on the card gives the same bits each time") {
  auto& c = card<bf16>();
  batch_norm_case<bf16> const p{activation::silu, {3000, 40}};
  on const x{c, p.x}, dy{c, p.dy}, dx{c, p.x};
  on const mean{c, p.mean}, variance{c, p.variance}, gain{c, p.gain}, bias{c, p.bias};
  same_each_time([&] {
    tensor<float, 1> const none{{{40}}};
    on const m{c, none}, q{c, none}, dgain{c, none}, dbias{c, none};
    batch_statistics(c, x.read(), m.view(), q.view());
    batch_norm_backward(c, p.kind, true, x.read(), mean.read(), variance.read(), gain.read(), bias.read(),
                        1e-3f, dy.read(), dx.view(), store::overwrite, dgain.view(), dbias.view());
    auto all = dx.back(c).doubles();
    for (auto const* g : {&m, &q, &dgain, &dbias}) {
      auto const part = g->back(c);
      all.insert(all.end(), part.data.begin(), part.data.end());
    }
    return all;
  });
}
