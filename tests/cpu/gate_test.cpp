// Gates against the formula in double precision; the same bits for any number of threads.
#include <yoke/cpu/gate.hpp>

#include "checks.hpp"

using namespace checks;

namespace {

double logistic(double v) {
  return 1 / (1 + std::exp(-v));
}

/// Segments that share blocks of the kernel and segments that fill many; empty ones at both ends and between.
std::vector<std::vector<extent_t>> const lengths_of_runs{
    {0}, {1}, {3, 0, 5}, {0, 1, 40, 2, 0, 0, 33, 0}, {700, 5, 1900}};

}  // namespace

TEMPLATE_TEST_CASE("gate and its gradients, each wanted or not", "", double, float, bf16) {
  auto const lengths = GENERATE(from_range(lengths_of_runs));
  auto const width = GENERATE(as<extent_t>{}, 1, 16, 45);
  packed const runs{lengths};
  auto const s = runs.segments();
  tensor<TestType, 2> const x{{{s.rows, width}}, 1}, z{{{s.count, width}}, 2, 2}, dy{x.shape, 3};
  tensor<TestType, 2> y{x.shape};
  gate_forward(device<TestType>(), s, x.read(), z.read(), y.view());
  std::vector<double> e, open, sum(at(s.count * width));
  for (extent_t k = 0; k < s.count; ++k)
    for (auto r = s.begin(k); r < s.end(k); ++r)
      for (extent_t j = 0; j < width; ++j) {
        open.push_back(logistic(z(k, j)));
        e.push_back(x(r, j) * open.back());
        sum[at(k * width + j)] += x(r, j) * dy(r, j);
      }
  near(y, e);
  tensor<TestType, 2> const dx_before{x.shape, 4}, dz_before{z.shape, 5};
  for (int wanted = 0; wanted < 4; ++wanted)
    for (auto dx_how : {store::overwrite, store::accumulate})
      for (auto dz_how : {store::overwrite, store::accumulate}) {
        auto dx = dx_before, dz = dz_before;
        gate_backward(device<TestType>(), s, x.read(), z.read(), dy.read(),
                      wanted & 1 ? dx.view() : view<TestType, 2>{}, dx_how,
                      wanted & 2 ? dz.view() : view<TestType, 2>{}, dz_how);
        std::vector<double> edx, edz;
        for (extent_t i = 0; i < x.shape.size(); ++i)
          edx.push_back(wanted & 1 ? stored(dx_how, dx_before[i], dy[i] * open[at(i)]) : dx_before[i]);
        for (extent_t i = 0; i < z.shape.size(); ++i)
          edz.push_back(wanted & 2
                            ? stored(dz_how, dz_before[i], logistic(z[i]) * (1 - logistic(z[i])) * sum[at(i)])
                            : dz_before[i]);
        near(dx, edx, 3);
        near(dz, edz, 100);
      }
}

TEMPLATE_TEST_CASE("gates of segments of one length are those of packed ones", "", double, float, bf16) {
  packed const runs{{6, 6, 6}};
  tensor<TestType, 2> const x{{{18, 20}}, 1}, z{{{3, 20}}, 2};
  tensor<TestType, 2> y{x.shape}, uniform{x.shape};
  gate_forward(device<TestType>(), runs.segments(), x.read(), z.read(), y.view());
  gate_forward(device<TestType>(), yoke::segments::uniform(3, 6), x.read(), z.read(), uniform.view());
  CHECK(same_bits(y.data, uniform.data));
}

TEMPLATE_TEST_CASE("gates give the same bits for any number of threads", "", double, float, bf16) {
  packed const runs{{700, 1, 0, 1300, 999}};
  auto const s = runs.segments();
  tensor<TestType, 2> const x{{{s.rows, 75}}, 1}, z{{{s.count, 75}}, 2}, dy{x.shape, 3};
  tensor<TestType, 2> y{x.shape}, dx{x.shape}, dz{z.shape};
  auto& c = device<TestType>();
  same_with_any_threads([&] { return gate_forward(c, s, x.read(), z.read(), y.view()), y.data; });
  auto const backward = [&] {
    gate_backward(c, s, x.read(), z.read(), dy.read(), dx.view(), store::overwrite, dz.view(),
                  store::overwrite);
  };
  same_with_any_threads([&] { return backward(), dx.data; });
  same_with_any_threads([&] { return backward(), dz.data; });
}
