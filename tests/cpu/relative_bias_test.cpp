// Biases of relative positions against their definition; the same bits for any number of threads.
#include <yoke/cpu/relative_bias.hpp>

#include "checks.hpp"

using namespace checks;
using yoke::grid;

namespace {

grid const grids[] = {{1, 1}, {1, 5}, {3, 1}, {2, 3}, {4, 17}};

extent_t entry_of(grid g, extent_t head, extent_t query, extent_t key) {
  auto const qy = query / g.width, qx = query % g.width, ky = key / g.width, kx = key % g.width;
  return (head * (2 * g.height - 1) + qy - ky + g.height - 1) * (2 * g.width - 1) + qx - kx + g.width - 1;
}
shape<3> table_shape(grid g, extent_t heads) {
  return {{heads, 2 * g.height - 1, 2 * g.width - 1}};
}

}  // namespace

TEMPLATE_TEST_CASE("relative_bias and its gradient, of elements and accumulators", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto const g = GENERATE(from_range(grids));
  extent_t const heads = 3, n = g.tokens();
  tensor<TestType, 3> const table{table_shape(g, heads), 1}, dbias{{{heads, n, n}}, 2};
  tensor<TestType, 3> bias{dbias.shape};
  relative_bias_forward(device<TestType>(), g, table.read(), bias.view());
  std::vector<double> sums(table.data.size());
  for (extent_t h = 0; h < heads; ++h)
    for (extent_t q = 0; q < n; ++q)
      for (extent_t k = 0; k < n; ++k) {
        auto const from = entry_of(g, h, q, k), i = (h * n + q) * n + k;
        if (bias[i] != table[from])
          FAIL("head " << h << " query " << q << " key " << k);
        sums[at(from)] += dbias[i];
      }
  auto const backward = [&](auto const& before) {
    for (auto how : {store::overwrite, store::accumulate}) {
      auto dtable = before;
      relative_bias_backward(device<TestType>(), g, dbias.read(), dtable.view(), how);
      std::vector<double> e;
      for (extent_t i = 0; i < before.shape.size(); ++i) e.push_back(stored(how, before[i], sums[at(i)]));
      near(dtable, e, 20);
    }
  };
  backward(tensor<TestType, 3>{table.shape, 3});
  backward(tensor<A, 3>{table.shape, 3});
}

TEMPLATE_TEST_CASE("relative_bias gives the same bits for any number of threads", "", double, float, bf16) {
  grid const g{14, 14};
  tensor<TestType, 3> const table{table_shape(g, 4), 1}, dbias{{{4, 196, 196}}, 2};
  tensor<TestType, 3> bias{dbias.shape}, dtable{table.shape};
  auto& c = device<TestType>();
  same_with_any_threads([&] { return relative_bias_forward(c, g, table.read(), bias.view()), bias.data; });
  same_with_any_threads([&] {
    relative_bias_backward(c, g, dbias.read(), dtable.view(), store::overwrite);
    return dtable.data;
  });
}
