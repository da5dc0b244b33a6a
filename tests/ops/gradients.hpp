// Every op against central differences, in double, on the device that the including file calls `device_context`.
#pragma once
#include <yoke/autograd/gradient_check.hpp>
#include <yoke/autograd/remat.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/nn/transformer.hpp>
#include <yoke/ops/tokens.hpp>

#include <catch2/catch_test_macros.hpp>
#include <vector>

using namespace yoke;

namespace {

constexpr double tolerance = 1e-7;
std::vector<std::int32_t> const offsets{0, 3, 4, 9}, ids{1, 2, 2, 0, 3, 1, 2, 3, 3};

/// Three captions where the tape's device reads them.
template <class C>
tokens captions(tape<C>& t) {
  auto const runs = segments::packed({offsets.data(), {{4}}}, 5);
  return contrastive::caption_batch{{runs, {ids.data(), {{9}}}}}.resident(t.context()).tokens;
}
template <class C>
segments runs(tape<C>& t) {
  return captions(t).captions;
}

template <class F, int... R>
void check(parameter_list const& list, F const& f, shape<R>... shapes) {
  device_context c{mebibytes(8), mebibytes(8)};
  auto const result =
      gradient_check(c, list, f, {.random = {.seed = 5, .step = 3, .first_sample = 7}}, shapes...);
  INFO(result.where);
  CHECK(result.worst < tolerance);
}

}  // namespace

TEST_CASE("linear, with and without bias", "[gradient]") {
  parameter_list list;
  nn::linear const with{scope{list} / "with", {.in = 5, .out = 3}};
  nn::linear const without{scope{list} / "without", {.in = 3, .out = 4, .bias = false}};
  check(
      list, [&](auto& t, value<3> x) { return without(t, with(t, x)); }, shape{2, 3, 5});
}

TEST_CASE("each activation", "[gradient]") {
  for (auto kind : {activation::identity, activation::gelu, activation::gelu_tanh, activation::gelu_quick,
                    activation::silu, activation::tanh})
    check(
        {}, [&](auto& t, value<2> x) { return ops::activate(t, x, kind); }, shape{4, 7});
}

TEST_CASE("a value used twice gathers both gradients", "[gradient]") {
  check(
      {}, [](auto& t, value<2> x) { return ops::sum(t, ops::activate(t, x), ops::sum(t, x, x)); },
      shape{3, 5});
}

TEST_CASE("layer norm", "[gradient]") {
  parameter_list list;
  nn::layer_norm const norm{scope{list} / "norm", 6};
  check(
      list, [&](auto& t, value<2> x) { return norm(t, x); }, shape{5, 6});
}

TEST_CASE("L2 normalisation", "[gradient]") {
  check(
      {}, [](auto& t, value<2> x) { return ops::l2_normalize(t, x); }, shape{4, 6});
}

TEST_CASE("dropout and stochastic depth", "[gradient]") {
  check(
      {}, [](auto& t, value<2> x) { return ops::element_dropout(t, x, runs(t), 0.4f, 11); }, shape{9, 6});
  check(
      {}, [](auto& t, value<2> x) { return ops::stochastic_depth(t, x, runs(t), 0.5f, 11); }, shape{9, 6});
}

TEST_CASE("attention over packed segments", "[gradient]") {
  for (bool causal : {false, true}) {
    attention_shape const settings{.heads = 2, .causal = causal};
    check(
        {}, [&](auto& t, value<2> x) { return ops::attention(t, x, runs(t), settings); }, shape{9, 24});
    check(
        {}, [&](auto& t, value<2> x, value<3> bias) { return ops::attention(t, x, runs(t), settings, bias); },
        shape{9, 24}, shape{2, 5, 5});
  }
}

TEST_CASE("attention over images", "[gradient]") {
  check(
      {},
      [&](auto& t, value<2> x, value<3> bias) {
        return ops::attention(t, x, segments::uniform(3, 4), {.heads = 3, .causal = false}, bias);
      },
      shape{12, 27}, shape{3, 4, 4});
}

TEST_CASE("token embedding", "[gradient]") {
  parameter_list list;
  scope const s{list};
  auto const table = s.weight("table", shape{4, 5}, 1.f), positions = s.weight("positions", shape{6, 5}, 1.f);
  check(list, [&](auto& t) {
    auto const words = captions(t);
    return ops::token_embedding(t, words.captions, words.ids, table, positions);
  });
  check(list, [&](auto& t) {
    auto const words = captions(t);
    return ops::token_embedding(t, words.captions, words.ids, table);
  });
}

TEST_CASE("patches, class token and positions", "[gradient]") {
  parameter_list list;
  scope const s{list};
  nn::linear const embed{s / "embed", {.in = 12, .out = 5, .bias = false}};
  auto const first = s.weight("class", shape{5}, 1.f);
  auto const positions = s.weight("positions", shape{7, 5}, 1.f), fewer = s.weight("fewer", shape{6, 5}, 1.f);
  check(
      list,
      [&](auto& t, value<4> x) {
        return ops::with_positions(t, embed(t, ops::patches(t, x, 2)), 2, first, positions);
      },
      shape{2, 4, 6, 3});
  check(
      list,
      [&](auto& t, value<4> x) {
        return ops::with_positions(t, embed(t, ops::patches(t, x, 2)), 2, {}, fewer);
      },
      shape{2, 4, 6, 3});
}

TEST_CASE("pooling of each kind", "[gradient]") {
  for (auto kind : {pool_kind::mean, pool_kind::first, pool_kind::last})
    check(
        {},
        [&](auto& t, value<2> x) {
          return ops::sum(t, ops::pool(t, x, runs(t), kind), ops::pool(t, x, runs(t), kind));
        },
        shape{9, 5});
}

TEST_CASE("a rematerialised transformer with dropout", "[gradient]") {
  for (auto policy :
       {rematerialize::nothing, rematerialize::cheap, rematerialize::blocks, rematerialize::everything}) {
    parameter_list list;
    nn::transformer const model{scope{list},
                                {.width = 6,
                                 .layers = 2,
                                 .heads = 2,
                                 .mlp_width = 7,
                                 .causal = true,
                                 .dropout = 0.2f,
                                 .stochastic_depth = 0.3f,
                                 .remat = policy}};
    check(
        list, [&](auto& t, value<2> x) { return model(t, x, runs(t)); }, shape{9, 6});
  }
}
