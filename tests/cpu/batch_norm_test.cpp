// Batch normalisation against the formulas in double precision; the same bits for any number of threads.
#include <yoke/cpu/batch_norm.hpp>

#include "activations.hpp"
#include "checks.hpp"

using namespace checks;

namespace {

struct column_statistics {
  std::vector<double> mean, variance;
};
template <class T>
column_statistics statistics_of(tensor<T, 2> const& x) {
  auto const rows = static_cast<long double>(x.shape[0]);
  column_statistics s;
  for (extent_t j = 0; j < x.shape[1]; ++j) {
    long double mean = 0, variance = 0;
    for (extent_t r = 0; r < x.shape[0]; ++r) mean += x(r, j) / rows;
    for (extent_t r = 0; r < x.shape[0]; ++r) variance += (x(r, j) - mean) * (x(r, j) - mean) / rows;
    s.mean.push_back(static_cast<double>(mean));
    s.variance.push_back(static_cast<double>(variance));
  }
  return s;
}

template <class T>
struct batch_norm_case {
  using A = accumulator_t<T>;
  tensor<T, 2> x, dy;
  tensor<A, 1> gain, bias, mean, variance;

  batch_norm_case(extent_t rows, extent_t width, double away = 5)
      : x{{{rows, width}}, 1, 2},
        dy{x.shape, 2},
        gain{{{width}}, 3},
        bias{{{width}}, 4},
        mean{{{width}}},
        variance{{{width}}} {
    for (extent_t i = 0; i < x.shape.size(); ++i)
      x.data[at(i)] = static_cast<T>(x[i] + away * static_cast<double>(i % width % 3));
  }
  void observe() { batch_statistics(device<T>(), x.read(), mean.view(), variance.view()); }
};

}  // namespace

TEMPLATE_TEST_CASE("batch_statistics", "", double, float, bf16) {
  auto const rows = GENERATE(as<extent_t>{}, 1, 2, 15, 17, 600, 5003),
             width = GENERATE(as<extent_t>{}, 1, 16, 77);
  batch_norm_case<TestType> p{rows, width};
  p.observe();
  auto const e = statistics_of(p.x);
  near(p.mean, e.mean, 10);
  near(p.variance, e.variance, 20);
}

TEST_CASE("batch_statistics of columns far from 0 keep their variance, wherever they begin") {
  extent_t const rows = 20000;
  tensor<float, 2> x{{{rows, 3}}, 1};
  for (extent_t r = 0; r < rows; ++r) {
    x.data[at(3 * r)] += 1000;                      // mean squared / variance: a million
    x.data[at(3 * r + 1)] *= r == 0 ? 0.0f : 1.0f;  // the first number says little of the others
    x.data[at(3 * r + 1)] += r == 0 ? 1e4f : 0.0f;
    x.data[at(3 * r + 2)] += r < rows / 2 ? -300.0f : 300.0f;
  }
  tensor<float, 1> mean{{{3}}}, variance{{{3}}};
  batch_statistics(device<float>(), x.read(), mean.view(), variance.view());
  auto const e = statistics_of(x);
  for (extent_t j = 0; j < 3; ++j) {
    INFO("column " << j << ": " << variance[j] << ", expected " << e.variance[at(j)]);
    CHECK(std::abs(mean[j] - e.mean[at(j)]) < 1e-6 * std::max(300.0, std::abs(e.mean[at(j)])));
    CHECK(std::abs(variance[j] / e.variance[at(j)] - 1) < 1e-5);
  }
}

TEMPLATE_TEST_CASE("batch_norm_forward", "", double, float, bf16) {
  auto const rows = GENERATE(as<extent_t>{}, 0, 1, 40), width = GENERATE(as<extent_t>{}, 1, 16, 77);
  batch_norm_case<TestType> p{rows, width};
  for (extent_t j = 0; j < width; ++j)
    p.mean.data[at(j)] = 1,
    p.variance.data[at(j)] = static_cast<accumulator_t<TestType>>(1 + 0.1 * double(j));
  for (auto kind : every_activation) {
    tensor<TestType, 2> y{p.x.shape};
    batch_norm_forward(device<TestType>(), kind, p.x.read(), p.mean.read(), p.variance.read(), p.gain.read(),
                       p.bias.read(), 1e-3f, y.view());
    std::vector<double> e;
    for (extent_t r = 0; r < rows; ++r)
      for (extent_t j = 0; j < width; ++j)
        e.push_back(active(
            kind,
            (p.x(r, j) - p.mean[j]) / std::sqrt(p.variance[j] + double(1e-3f)) * p.gain[j] + p.bias[j]));
    INFO("kind " << int(kind));
    near(y, e, 20);
  }
}

TEMPLATE_TEST_CASE("batch_norm_backward, each gradient wanted or not", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 0, 9, 70), width = GENERATE(as<extent_t>{}, 1, 16, 45);
  auto const kind = GENERATE(from_range(every_activation));
  bool const own = GENERATE(true, false);
  batch_norm_case<TestType> p{rows, width};
  p.observe();
  if (!own)
    for (auto& v : p.variance.data) v += A{1};
  auto const e = statistics_of(p.x);
  tensor<TestType, 2> const dx_before{p.x.shape, 5};
  tensor<A, 1> const dgain_before{{{width}}, 6}, dbias_before{{{width}}, 7};

  std::vector<double> edx(at(rows * width)), edgain = dgain_before.doubles(), edbias = dbias_before.doubles();
  for (extent_t j = 0; j < width; ++j) {
    auto const s = 1 / std::sqrt(e.variance[at(j)] + (own ? 0 : 1) + 1e-5);
    auto const normal = [&](extent_t r) { return (p.x(r, j) - e.mean[at(j)]) * s; };
    auto const behind = [&](extent_t r) {
      return active_slope(kind, normal(r) * p.gain[j] + p.bias[j]) * p.dy(r, j);
    };
    double sum = 0, along = 0;
    for (extent_t r = 0; r < rows; ++r) sum += behind(r), along += behind(r) * normal(r);
    edgain[at(j)] += along;
    edbias[at(j)] += sum;
    auto const share = own ? 1 / static_cast<double>(rows) : 0;
    for (extent_t r = 0; r < rows; ++r)
      edx[at(r * width + j)] = s * p.gain[j] * (behind(r) - sum * share - normal(r) * along * share);
  }
  auto const size =
      std::is_same_v<TestType, double> ? 1000 : 100;  // the reference's slopes are good to 1e-11
  for (int wanted = 0; wanted < 8; ++wanted)
    for (auto how : {store::overwrite, store::accumulate}) {
      INFO("kind " << int(kind) << " wanted " << wanted << " own " << own);
      auto dx = dx_before;
      auto dgain = dgain_before, dbias = dbias_before;
      batch_norm_backward(device<TestType>(), kind, own, p.x.read(), p.mean.read(), p.variance.read(),
                          p.gain.read(), p.bias.read(), A(1e-5), p.dy.read(),
                          wanted & 1 ? dx.view() : view<TestType, 2>{}, how,
                          wanted & 2 ? dgain.view() : view<A, 1>{}, wanted & 4 ? dbias.view() : view<A, 1>{});
      std::vector<double> edx_stored;
      for (extent_t i = 0; i < rows * width; ++i)
        edx_stored.push_back(wanted & 1 ? stored(how, dx_before[i], edx[at(i)]) : dx_before[i]);
      near(dx, edx_stored, size);
      near(dgain, wanted & 2 ? edgain : dgain_before.doubles(), size);
      near(dbias, wanted & 4 ? edbias : dbias_before.doubles(), size);
    }
}

TEMPLATE_TEST_CASE("batch normalisation gives the same bits for any number of threads", "", double, float,
                   bf16) {
  using A = accumulator_t<TestType>;
  auto const rows = GENERATE(as<extent_t>{}, 50, 3000), width = GENERATE(as<extent_t>{}, 130, 701);
  batch_norm_case<TestType> p{rows, width};
  same_with_any_threads([&] { return p.observe(), p.mean.data; });
  same_with_any_threads([&] { return p.observe(), p.variance.data; });
  tensor<TestType, 2> y{p.x.shape}, dx{p.x.shape};
  same_with_any_threads([&] {
    batch_norm_forward(device<TestType>(), activation::gelu, p.x.read(), p.mean.read(), p.variance.read(),
                       p.gain.read(), p.bias.read(), A(1e-5), y.view());
    return y.data;
  });
  tensor<A, 1> dgain{{{width}}}, dbias{{{width}}};
  auto const backward = [&] {
    std::fill(dgain.data.begin(), dgain.data.end(), A{0});
    batch_norm_backward(device<TestType>(), activation::gelu, true, p.x.read(), p.mean.read(),
                        p.variance.read(), p.gain.read(), p.bias.read(), A(1e-5), p.dy.read(), dx.view(),
                        store::overwrite, dgain.view(), dbias.view());
  };
  same_with_any_threads([&] { return backward(), dx.data; });
  same_with_any_threads([&] { return backward(), dgain.data; });
}
