// Layer normalisation with an activation behind it, against the formulas in double precision; the same bits for any
// number of threads.
#include <yoke/cpu/normalize_activation.hpp>

#include "activations.hpp"
#include "checks.hpp"

using namespace checks;

namespace {

/// x has a mean that is not 0; gains and biases are such that the activation's input is of moderate size.
template <class T>
struct layer_norm_case {
  using A = accumulator_t<T>;
  extent_t rows, width;
  tensor<T, 2> x, dy;
  tensor<A, 1> gain, bias, mean, deviation;

  layer_norm_case(extent_t r, extent_t w)
      : rows{r},
        width{w},
        x{{{r, w}}, 1, 3},
        dy{{{r, w}}, 2},
        gain{{{w}}, 3},
        bias{{{w}}, 4},
        mean{{{r}}},
        deviation{{{r}}} {
    for (auto& v : x.data) v = static_cast<T>(static_cast<A>(v) + 7);
  }
  tensor<T, 2> forward(activation kind) {
    tensor<T, 2> y{x.shape};
    layer_norm_activation_forward(device<T>(), kind, x.read(), gain.read(), bias.read(), A(1e-5), y.view(),
                                  mean.view(), deviation.view());
    return y;
  }
  /// f(normalised value, 1 / deviation, row, column) for each element, in double.
  template <class F>
  void for_normal(F const& f) const {
    for (extent_t r = 0; r < rows; ++r) {
      double m = 0, q = 0;
      for (extent_t j = 0; j < width; ++j) m += x(r, j) / static_cast<double>(width);
      for (extent_t j = 0; j < width; ++j) q += (x(r, j) - m) * (x(r, j) - m) / static_cast<double>(width);
      auto const s = 1 / std::sqrt(q + 1e-5);
      for (extent_t j = 0; j < width; ++j) f((x(r, j) - m) * s, s, r, j);
    }
  }
};

}  // namespace

TEMPLATE_TEST_CASE("layer_norm_activation_forward", "", double, float, bf16) {
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 5, 40), width = GENERATE(as<extent_t>{}, 3, 16, 33, 768);
  for (auto kind : every_activation) {
    INFO("kind " << int(kind));
    layer_norm_case<TestType> p{rows, width};
    auto const y = p.forward(kind);
    std::vector<double> e, deviations;
    p.for_normal([&](double n, double s, extent_t, extent_t j) {
      e.push_back(active(kind, n * p.gain[j] + p.bias[j]));
      if (j == 0)
        deviations.push_back(s);
    });
    near(y, e, 30);
    near(p.deviation, deviations, 30);
  }
}

TEMPLATE_TEST_CASE("layer_norm_activation_backward, each gradient wanted or not", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 7, 70), width = GENERATE(as<extent_t>{}, 5, 16, 45, 768);
  auto const kind = GENERATE(from_range(every_activation));
  layer_norm_case<TestType> p{rows, width};
  p.forward(kind);
  tensor<TestType, 2> const dx_before{p.x.shape, 5};
  tensor<A, 1> const dgain_before{{{width}}, 6}, dbias_before{{{width}}, 7};

  std::vector<double> edx(at(rows * width)), edgain = dgain_before.doubles(), edbias = dbias_before.doubles();
  std::vector<double> sum(at(rows)), along(at(rows));
  auto const behind = [&](double n, extent_t r, extent_t j) {
    return active_slope(kind, n * p.gain[j] + p.bias[j]) * p.dy(r, j);
  };
  p.for_normal([&](double n, double, extent_t r, extent_t j) {
    auto const u = behind(n, r, j);
    edgain[at(j)] += u * n;
    edbias[at(j)] += u;
    sum[at(r)] += u * p.gain[j] / static_cast<double>(width);
    along[at(r)] += u * p.gain[j] * n / static_cast<double>(width);
  });
  p.for_normal([&](double n, double s, extent_t r, extent_t j) {
    edx[at(r * width + j)] = s * (behind(n, r, j) * p.gain[j] - sum[at(r)] - n * along[at(r)]);
  });
  // The reference's slopes are good to 1e-11.
  auto const size = std::is_same_v<TestType, double> ? 1000 : 100;
  for (int wanted = 0; wanted < 8; ++wanted)
    for (auto how : {store::overwrite, store::accumulate}) {
      INFO("kind " << int(kind) << " wanted " << wanted);
      auto dx = dx_before;
      auto dgain = dgain_before, dbias = dbias_before;
      layer_norm_activation_backward(
          device<TestType>(), kind, p.x.read(), p.gain.read(), p.bias.read(), p.mean.read(),
          p.deviation.read(), p.dy.read(), wanted & 1 ? dx.view() : view<TestType, 2>{}, how,
          wanted & 2 ? dgain.view() : view<A, 1>{}, wanted & 4 ? dbias.view() : view<A, 1>{});
      std::vector<double> e;
      for (extent_t i = 0; i < rows * width; ++i)
        e.push_back(wanted & 1 ? stored(how, dx_before[i], edx[at(i)]) : dx_before[i]);
      near(dx, e, size);
      near(dgain, wanted & 2 ? edgain : dgain_before.doubles(), size);
      near(dbias, wanted & 4 ? edbias : dbias_before.doubles(), size);
    }
}

TEMPLATE_TEST_CASE("the identity behind a layer norm is the layer norm, bit by bit", "", double, float,
                   bf16) {
  layer_norm_case<TestType> p{9, 77};
  auto const y = p.forward(activation::identity);
  tensor<TestType, 2> alone{p.x.shape};
  layer_norm_forward(device<TestType>(), p.x.read(), p.gain.read(), p.bias.read(),
                     accumulator_t<TestType>(1e-5), alone.view(), p.mean.view(), p.deviation.view());
  CHECK(same_bits(y.data, alone.data));
}

TEMPLATE_TEST_CASE("a layer norm and its activation give the same bits for any number of threads", "", double,
                   float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 50, 3000);
  auto const kind = GENERATE(activation::gelu, activation::silu);
  layer_norm_case<TestType> p{rows, 130};
  same_with_any_threads([&] { return p.forward(kind).data; });
  tensor<A, 1> dgain{{{130}}}, dbias{{{130}}};
  tensor<TestType, 2> dx{p.x.shape};
  auto const backward = [&] {
    std::fill(dgain.data.begin(), dgain.data.end(), A{0});
    std::fill(dbias.data.begin(), dbias.data.end(), A{0});
    layer_norm_activation_backward(device<TestType>(), kind, p.x.read(), p.gain.read(), p.bias.read(),
                                   p.mean.read(), p.deviation.read(), p.dy.read(), dx.view(),
                                   store::overwrite, dgain.view(), dbias.view());
  };
  same_with_any_threads([&] { return backward(), dx.data; });
  same_with_any_threads([&] { return backward(), dgain.data; });
  same_with_any_threads([&] { return backward(), dbias.data; });
}
