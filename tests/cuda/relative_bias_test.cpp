// Biases of relative positions on the card against the CPU's.
#include <yoke/cpu/relative_bias.hpp>
#include <yoke/cuda/relative_bias.cuh>

#include "cuda/twins.hpp"

using namespace twins;
using yoke::grid;

TEMPLATE_TEST_CASE("relative_bias and its gradient on the card", "", double, float, bf16) {
  using A = accumulator_t<TestType>;
  auto& c = card<TestType>();
  auto const g =
      GENERATE(grid{1, 1}, grid{1, 5}, grid{3, 1}, grid{2, 3}, grid{4, 17}, grid{7, 7}, grid{1, 150});
  auto const offset = GENERATE(as<extent_t>{}, 0, 1);
  extent_t const heads = 3, n = g.tokens();
  tensor<TestType, 3> const table{{{heads, 2 * g.height - 1, 2 * g.width - 1}}, 1}, dbias{{{heads, n, n}}, 2};
  tensor<TestType, 3> bias{dbias.shape};
  on const d_bias{c, bias, offset};
  relative_bias_forward(device<TestType>(), g, table.read(), bias.view());
  relative_bias_forward(c, g, on{c, table}.read(), d_bias.view());
  INFO(g.height << " x " << g.width);
  CHECK(same_bits(d_bias.back(c).data, bias.data));
  on const d_dbias{c, dbias, offset};
  auto const backward = [&](auto const& before) {
    for (auto how : {store::overwrite, store::accumulate}) {
      auto dtable = before;
      on const d_dtable{c, before};
      relative_bias_backward(device<TestType>(), g, dbias.read(), dtable.view(), how);
      relative_bias_backward(c, g, d_dbias.read(), d_dtable.view(), how);
      same(d_dtable.back(c), dtable, 20);
    }
  };
  backward(tensor<TestType, 3>{table.shape, 3});
  backward(tensor<A, 3>{table.shape, 3});
}

TEST_CASE("relative_bias of no heads on the card does nothing") {
  auto& c = card<float>();
  tensor<float, 3> const table{{{0, 3, 3}}}, bias{{{0, 4, 4}}};
  on const d_table{c, table}, d_bias{c, bias};
  relative_bias_forward(c, {2, 2}, d_table.read(), d_bias.view());
  relative_bias_backward(c, {2, 2}, d_bias.read(), d_table.view(), store::overwrite);
  CHECK(d_bias.back(c).data.empty());
}
