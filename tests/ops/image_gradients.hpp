// The ops of convolutional towers, but convolutions, against central differences, in double, on the device that the
// including file calls `device_context`.
#pragma once
#include <yoke/autograd/gradient_check.hpp>
#include <yoke/ops/batch_norm.hpp>
#include <yoke/ops/gate.hpp>
#include <yoke/ops/normalize.hpp>
#include <yoke/ops/pointwise.hpp>
#include <yoke/ops/relative_bias.hpp>
#include <yoke/ops/window_pool.hpp>

#include <catch2/catch_test_macros.hpp>

using namespace yoke;

namespace {

template <class F, int... R>
void check_image_op(parameter_list const& list, F const& f, shape<R>... shapes) {
  device_context c{mebibytes(8), mebibytes(8)};
  auto const result = gradient_check(c, list, f, {}, shapes...);
  INFO(result.where);
  CHECK(result.worst < 1e-7);
}

auto const every_kind = {activation::identity,   activation::gelu, activation::gelu_tanh,
                         activation::gelu_quick, activation::silu, activation::tanh};

}  // namespace

TEST_CASE("layer norm with each activation behind it", "[gradient]") {
  parameter_list list;
  scope const s{list};
  auto const gain = s.constant("gain", shape{6}, 1), bias = s.constant("bias", shape{6}, 0);
  for (auto kind : every_kind)
    check_image_op(
        list, [&](auto& t, value<3> x) { return ops::layer_norm_activation(t, x, gain, bias, kind); },
        shape{2, 3, 6});
}

TEST_CASE("batch norm with each activation behind it", "[gradient]") {
  parameter_list list;
  scope const s{list};
  auto const gain = s.constant("gain", shape{5}, 1), bias = s.constant("bias", shape{5}, 0);
  auto const mean = s.statistic("mean", shape{5}, 0), variance = s.statistic("variance", shape{5}, 1);
  for (auto kind : every_kind)
    check_image_op(
        list, [&](auto& t, value<4> x) { return ops::batch_norm(t, x, gain, bias, mean, variance, kind); },
        shape{2, 2, 3, 5});
}

TEST_CASE("gates, of values that have another use as well", "[gradient]") {
  check_image_op(
      {},
      [&](auto& t, value<2> x, value<2> z) {
        auto const y = ops::gate(t, x, z, segments::uniform(4, 2));
        return ops::sum(t, x, ops::gate(t, y, z, segments::uniform(4, 2)));
      },
      shape{8, 5}, shape{4, 5});
}

TEST_CASE("pooling under windows that touch, overlap, and leave gaps", "[gradient]") {
  for (auto kind : {window_pool_kind::max, window_pool_kind::mean})
    for (auto w : {window{2, 2, 0}, window{3, 2, 1}, window{3, 1, 1}, window{1, 2, 0}, window{2, 3, 0}})
      check_image_op(
          {},
          [&](auto& t, value<4> x) {
            return ops::sum(t, ops::window_pool(t, x, kind, w), ops::window_pool(t, x, kind, w));
          },
          shape{2, 5, 6, 3});
}

TEST_CASE("the bias of relative positions", "[gradient]") {
  parameter_list list;
  auto const table = scope{list}.weight("table", shape{2, 3, 7}, 1.f, weight_decay::no);
  check_image_op(list, [&](auto& t) { return ops::relative_bias(t, table, grid{2, 4}); });
}
