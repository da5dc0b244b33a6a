// In a steady state the ops of convolutional towers allocate nothing: the second pass over a tape does not reach
// operator new.
#include <yoke/cpu/context.hpp>
#include <yoke/ops/batch_norm.hpp>
#include <yoke/ops/convolution.hpp>
#include <yoke/ops/gate.hpp>
#include <yoke/ops/normalize.hpp>
#include <yoke/ops/relative_bias.hpp>
#include <yoke/ops/window_pool.hpp>

#include "allocations.hpp"
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <vector>

using namespace yoke;

TEST_CASE("allocations are counted") {
  CHECK(allocations_of([] { ::operator delete(::operator new(100)); }) == 1);
}

TEMPLATE_TEST_CASE("the ops of images allocate nothing the second time", "", double, float, bf16) {
  using T = TestType;
  using A = accumulator_t<T>;
  using C = cpu::context<T>;
  parameter_list list;
  scope const s{list};
  auto const gain = s.constant("gain", shape{40}, 1), bias = s.constant("bias", shape{40}, 0);
  auto const mean = s.statistic("mean", shape{40}, 0), variance = s.statistic("variance", shape{40}, 1);
  auto const table = s.weight("table", shape{3, 7, 9}, 1.f);
  auto const filter = s.weight("filter", shape{9, 40}, 0.3f);
  C c{mebibytes(8), mebibytes(8)};
  parameter_store<C> store{c, list};
  initialize(c, list, 1, store);
  std::vector<std::int32_t> const labels(48, 7);
  auto const images = [&](std::uint64_t seed, shape<4> of) {
    auto const v = make<T>(c, of);
    random_sequence random{seed};
    for (extent_t i = 0; i < v.size(); ++i) v.data[i] = static_cast<T>(static_cast<A>(random.normal()));
    return v;
  };
  auto const x = images(1, {{2, 8, 12, 40}}), z = images(3, {{1, 1, 2, 40}}),
             dbias = images(4, {{1, 3, 20, 20}});
  auto const pass = [&] {
    arena_scope const scratch{c.memory};
    tape<C> t{c, store.views()};
    auto y = ops::layer_norm_activation(t, t.variable(x), gain, bias, activation::gelu);
    y = ops::depthwise(t, y, filter, {});
    y = ops::batch_norm(t, y, gain, bias, mean, variance, activation::silu);
    auto const rows =
        ops::gate(t, value<2>{y.data, {{192, 40}}, y.slot}, t.variable(as_rows(z)), segments::uniform(2, 96));
    y = ops::window_pool(t, value<4>{rows.data, y.shape, rows.slot}, window_pool_kind::max, {2, 2, 0});
    auto const gradient = make<T>(c, shape{48, 40});
    softmax_cross_entropy(c, 0.1, 1.0, as_rows(t(y)), view<std::int32_t const, 1>{labels.data(), {{48}}},
                          gradient, make<A>(c, shape{2}));
    t.backward(y, view<T const, 4>{gradient.data, y.shape});
    tape<C> second{c, store.views()};
    second.backward(ops::relative_bias(second, table, grid{4, 5}),
                    view<T const, 3>{dbias.data, {{3, 20, 20}}});
  };
  CHECK(allocations_of(pass) == 0);
}
