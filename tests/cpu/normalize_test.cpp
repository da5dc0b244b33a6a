// Layer normalisation, division by the norm and sums over rows, against the formulas in double
// precision; the same bits for any number of threads.
#include <yoke/cpu/normalize.hpp>

#include "checks.hpp"

using namespace checks;

namespace {

struct norms {
  std::vector<double> mean, reciprocal_deviation;
};

template <class T>
norms norms_of(tensor<T, 2> const& x, double epsilon) {
  norms n;
  for (extent_t r = 0; r < x.shape[0]; ++r) {
    double mean = 0, variance = 0;
    for (extent_t j = 0; j < x.shape[1]; ++j) mean += x(r, j) / static_cast<double>(x.shape[1]);
    for (extent_t j = 0; j < x.shape[1]; ++j)
      variance += (x(r, j) - mean) * (x(r, j) - mean) / static_cast<double>(x.shape[1]);
    n.mean.push_back(mean);
    n.reciprocal_deviation.push_back(1 / std::sqrt(variance + epsilon));
  }
  return n;
}

template <class T>
struct layer_norm_case {
  using A = accumulator_t<T>;
  tensor<T, 2> x, dy;
  tensor<A, 1> gain, bias, mean, deviation;

  layer_norm_case(extent_t rows, extent_t width)
      : x{{{rows, width}}, 1, 3},
        dy{{{rows, width}}, 2},
        gain{{{width}}, 3},
        bias{{{width}}, 4},
        mean{{{rows}}},
        deviation{{{rows}}} {
    for (auto& v : x.data) v = static_cast<T>(static_cast<A>(v) + 7);  // a mean that is not 0
  }
  tensor<T, 2> forward() {
    tensor<T, 2> y{x.shape};
    layer_norm_forward(device<T>(), x.read(), gain.read(), bias.read(), A(1e-5), y.view(), mean.view(),
                       deviation.view());
    return y;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("layer_norm_forward", "", double, float, bf16) {
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 5, 100),
             width = GENERATE(as<extent_t>{}, 1, 3, 16, 33, 768);
  layer_norm_case<TestType> p{rows, width};
  auto const y = p.forward();
  auto const n = norms_of(p.x, 1e-5);
  std::vector<double> e;
  for (extent_t r = 0; r < rows; ++r)
    for (extent_t j = 0; j < width; ++j)
      e.push_back((p.x(r, j) - n.mean[at(r)]) * n.reciprocal_deviation[at(r)] * p.gain[j] + p.bias[j]);
  near(y, e, width == 1 ? 300 : 20);  // a width of 1: nothing is left but rounding over sqrt(1e-5)
  near(p.mean, n.mean, 5);
  if (width > 1)
    for (extent_t r = 0; r < rows; ++r)
      CHECK(std::abs(p.deviation[r] / n.reciprocal_deviation[at(r)] - 1) < 50 * slack<TestType>());
}

TEST_CASE("layer_norm of a row far from 0 keeps its deviation") {
  tensor<float, 2> x{{{1, 512}}, 1};
  for (auto& v : x.data) v += 4096;
  tensor<float, 2> y{x.shape};
  tensor<float, 1> mean{{{1}}}, deviation{{{1}}}, gain{{{512}}}, bias{{{512}}};
  std::fill(gain.data.begin(), gain.data.end(), 1.0f);
  layer_norm_forward(device<float>(), x.read(), gain.read(), bias.read(), 1e-5f, y.view(), mean.view(),
                     deviation.view());
  CHECK(std::abs(deviation[0] / norms_of(x, 1e-5).reciprocal_deviation[0] - 1) < 1e-4);
}

TEMPLATE_TEST_CASE("layer_norm_backward, each gradient wanted or not", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 7, 200), width = GENERATE(as<extent_t>{}, 2, 16, 45, 768);
  layer_norm_case<TestType> p{rows, width};
  p.forward();
  auto const n = norms_of(p.x, 1e-5);
  tensor<TestType, 2> const dx_before{p.x.shape, 5};
  tensor<A, 1> const dgain_before{{{width}}, 6}, dbias_before{{{width}}, 7};

  std::vector<double> edx, edgain = dgain_before.doubles(), edbias = dbias_before.doubles();
  for (extent_t r = 0; r < rows; ++r) {
    auto const s = n.reciprocal_deviation[at(r)];
    auto const normal = [&](extent_t j) { return (p.x(r, j) - n.mean[at(r)]) * s; };
    double sum = 0, along = 0;
    for (extent_t j = 0; j < width; ++j) {
      auto const g = p.dy(r, j) * p.gain[j];
      sum += g, along += g * normal(j);
      edgain[at(j)] += p.dy(r, j) * normal(j);
      edbias[at(j)] += p.dy(r, j);
    }
    auto const w = static_cast<double>(width);
    for (extent_t j = 0; j < width; ++j)
      edx.push_back(s * (p.dy(r, j) * p.gain[j] - sum / w - normal(j) * along / w));
  }
  for (int wanted = 0; wanted < 8; ++wanted)
    for (auto how : {store::overwrite, store::accumulate}) {
      INFO("wanted " << wanted);
      auto dx = dx_before;
      auto dgain = dgain_before, dbias = dbias_before;
      layer_norm_backward(device<TestType>(), p.x.read(), p.gain.read(), p.mean.read(), p.deviation.read(),
                          p.dy.read(), wanted & 1 ? dx.view() : view<TestType, 2>{}, how,
                          wanted & 2 ? dgain.view() : view<A, 1>{}, wanted & 4 ? dbias.view() : view<A, 1>{});
      std::vector<double> e;
      for (extent_t i = 0; i < rows * width; ++i)
        e.push_back(wanted & 1 ? stored(how, dx_before[i], edx[at(i)]) : dx_before[i]);
      near(dx, e, width == 2 ? 1e4 : 50);  // two numbers: 1 / deviation is large and cancels
      near(dgain, wanted & 2 ? edgain : dgain_before.doubles(), 200);
      near(dbias, wanted & 4 ? edbias : dbias_before.doubles(), 100);
    }
}

TEMPLATE_TEST_CASE("sum_rows", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 15, 16, 17, 1000, 5003),
             width = GENERATE(as<extent_t>{}, 1, 16, 77, 300);
  tensor<TestType, 2> const x{{{rows, width}}, 1};
  tensor<A, 1> const before{{{width}}, 2};
  for (auto how : {store::overwrite, store::accumulate}) {
    auto to = before;
    sum_rows(device<TestType>(), x.read(), to.view(), how);
    std::vector<double> e;
    for (extent_t j = 0; j < width; ++j) {
      double sum = 0;
      for (extent_t r = 0; r < rows; ++r) sum += x(r, j);
      e.push_back(stored(how, before[j], sum));
    }
    near(to, e, 100);
  }
}

TEMPLATE_TEST_CASE("l2_normalize and its gradient, elements and accumulators", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 40), width = GENERATE(as<extent_t>{}, 1, 16, 50, 512);
  tensor<TestType, 2> const x{{{rows, width}}, 1, 4};
  tensor<TestType, 2> y{x.shape};
  tensor<A, 2> wide{x.shape};
  tensor<A, 1> inverse{{{rows}}}, inverse_too{{{rows}}};
  l2_normalize_forward(device<TestType>(), x.read(), y.view(), inverse.view());
  l2_normalize_forward(device<TestType>(), x.read(), wide.view(), inverse_too.view());
  CHECK(same_bits(inverse.data, inverse_too.data));
  std::vector<double> e, norm;
  for (extent_t r = 0; r < rows; ++r) {
    double squares = 0;
    for (extent_t j = 0; j < width; ++j) squares += x(r, j) * x(r, j);
    norm.push_back(std::sqrt(squares));
    for (extent_t j = 0; j < width; ++j) e.push_back(x(r, j) / norm.back());
  }
  near(y, e);
  near(wide, e);
  // Gradients: of elements, of accumulators, of accumulators into elements.
  auto const backward = [&](auto const& unit, auto const& dy, auto const& before) {
    for (auto how : {store::overwrite, store::accumulate}) {
      auto dx = before;
      l2_normalize_backward(device<TestType>(), unit.read(), inverse.read(), dy.read(), dx.view(), how);
      std::vector<double> g;
      for (extent_t r = 0; r < rows; ++r) {
        double along = 0;
        for (extent_t j = 0; j < width; ++j) along += unit(r, j) * dy(r, j);
        for (extent_t j = 0; j < width; ++j)
          g.push_back(stored(how, before(r, j), (dy(r, j) - unit(r, j) * along) / norm[at(r)]));
      }
      near(dx, g, 200);
    }
  };
  backward(y, tensor<TestType, 2>{x.shape, 2}, tensor<TestType, 2>{x.shape, 3});
  backward(wide, tensor<A, 2>{x.shape, 2}, tensor<A, 2>{x.shape, 3});
  backward(wide, tensor<A, 2>{x.shape, 2}, tensor<TestType, 2>{x.shape, 3});
}

TEMPLATE_TEST_CASE("a row of zeros has no direction: it stays 0, and its gradient is only scaled", "", double,
                   float, bf16) {
  using A = accumulator_t<TestType>;
  tensor<TestType, 2> const x{{{1, 20}}};
  tensor<TestType, 2> y{x.shape}, dy{x.shape, 1, 1e-10}, dx{x.shape};
  tensor<A, 1> inverse{{{1}}};
  l2_normalize_forward(device<TestType>(), x.read(), y.view(), inverse.view());
  near(y, std::vector<double>(20, 0.0), 0);
  l2_normalize_backward(device<TestType>(), tensor<TestType, 2>{x.shape, 2}.read(), inverse.read(), dy.read(),
                        dx.view(), store::overwrite);
  std::vector<double> e;
  for (extent_t j = 0; j < 20; ++j) e.push_back(dy[j] * 1e12);
  near(dx, e, 100);
}

TEMPLATE_TEST_CASE("normalisation gives the same bits for any number of threads", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 50, 3000);
  layer_norm_case<TestType> p{rows, 130};
  same_with_any_threads([&] { return p.forward().data; });
  same_with_any_threads([&] {
    tensor<TestType, 2> dx{p.x.shape};
    tensor<A, 1> dgain{{{130}}}, dbias{{{130}}};
    layer_norm_backward(device<TestType>(), p.x.read(), p.gain.read(), p.mean.read(), p.deviation.read(),
                        p.dy.read(), dx.view(), store::overwrite, dgain.view(), dbias.view());
    auto all = dx.doubles();
    for (auto const* g : {&dgain, &dbias}) all.insert(all.end(), g->data.begin(), g->data.end());
    return all;
  });
  same_with_any_threads([&] {
    tensor<A, 1> sums{{{130}}};
    sum_rows(device<TestType>(), p.x.read(), sums.view(), store::overwrite);
    return sums.data;
  });
}
