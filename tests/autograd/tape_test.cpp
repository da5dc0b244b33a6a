// The tape's contracts: rematerialised equals not, the plan equals the use, a steady state
// allocates nothing.
#include <yoke/autograd/remat.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/nn/transformer.hpp>

#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <vector>

using namespace yoke;

namespace {

nn::transformer_config small(rematerialize policy) {
  return {.width = 24,
          .layers = 5,
          .heads = 2,
          .causal = true,
          .dropout = 0.1f,
          .stochastic_depth = 0.2f,
          .remat = policy};
}

/// Output, input gradient and parameter gradients of one pass, as bytes.
template <class T>
std::vector<std::byte> run(rematerialize policy, std::size_t* peak = nullptr) {
  using A = accumulator_t<T>;
  parameter_list list;
  nn::transformer const model{scope{list}, small(policy)};
  cpu::context<T> c{mebibytes(8), mebibytes(8)};
  parameter_store<cpu::context<T>> store{c, list};
  initialize(c, list, 3, store.master());
  store.refresh(c);
  std::vector<std::int32_t> const offsets{0, 5, 6, 13};
  auto const runs = segments::packed({offsets.data(), {{4}}}, 7);
  auto x = make<T>(c, shape{13, 24}), seed = make<T>(c, shape{13, 24});
  random_sequence random{9};
  for (auto v : {x, seed})
    for (extent_t i = 0; i < v.size(); ++i) v.data[i] = static_cast<T>(random.normal());
  tape<cpu::context<T>> t{c, store.views(), {.random = {.seed = 1, .step = 2}}};
  auto const in = t.variable(x);
  auto const y = model(t, in, runs);
  if (peak != nullptr)
    *peak = c.memory.peak();
  t.backward(y, view<T const, 2>{seed});
  std::vector<std::byte> bytes;
  auto const keep = [&](auto const* data, extent_t n) {
    auto const old = bytes.size();
    bytes.resize(old + static_cast<std::size_t>(n) * sizeof(*data));
    std::memcpy(bytes.data() + old, data, static_cast<std::size_t>(n) * sizeof(*data));
  };
  keep(t(y).data, y.shape.size());
  keep(t.gradient_of(in).data.data, in.shape.size());
  view<A, 1> const g = store.gradients();
  keep(g.data, g.size());
  return bytes;
}

}  // namespace

TEST_CASE("rematerialised is bitwise the same, in less memory") {
  std::size_t all = 0, results = 0, inputs = 0, groups = 0;
  auto const whole = run<float>(rematerialize::nothing, &all);
  CHECK(run<float>(rematerialize::cheap, &results) == whole);
  CHECK(run<float>(rematerialize::blocks, &inputs) == whole);
  CHECK(run<float>(rematerialize::everything, &groups) == whole);
  INFO("bytes: " << all << " " << results << " " << inputs << " " << groups);
  CHECK(results < all * 3 / 4);
  CHECK(inputs < results / 2);
  CHECK(groups < inputs);
  for (auto policy : {rematerialize::cheap, rematerialize::blocks, rematerialize::everything}) {
    CHECK(run<double>(rematerialize::nothing) == run<double>(policy));
    CHECK(run<bf16>(rematerialize::nothing) == run<bf16>(policy));
  }
}

TEST_CASE("the dry plan is the real use to the byte") {
  for (auto policy :
       {rematerialize::nothing, rematerialize::cheap, rematerialize::blocks, rematerialize::everything}) {
    parameter_list list;
    nn::transformer const model{scope{list}, small(policy)};
    auto const pass = [&](auto& c, auto parameters) {
      using C = std::remove_reference_t<decltype(c)>;
      using E = typename C::element;
      auto const x = make<E>(c, shape{21, 24}), seed = make<E>(c, shape{21, 24});
      tape<C> t{c, parameters};
      t.backward(model(t, t.variable(x), segments::uniform(3, 7)), view<E const, 2>{seed});
      return std::pair{c.memory.peak(), c.gradient_memory.peak()};
    };
    dry::context<float> plan;
    auto const planned = pass(plan, parameter_views<float, float>{});
    cpu::context<float> c{planned.first, planned.second};  // exactly enough
    parameter_store<cpu::context<float>> store{c, list};
    CHECK(pass(c, store.views()) == planned);
    CHECK(plan.multiply_adds > 0);

    cpu::context<float> little{planned.first - arena_alignment, planned.second};
    CHECK_THROWS_AS(pass(little, store.views()), arena_exhausted);
  }
}

TEST_CASE("gradients are released when a tape ends early") {
  cpu::context<float> c{mebibytes(1), kibibytes(4)};
  parameter_list list;
  for (int i = 0; i < 20; ++i) {
    arena_scope const scratch{c.memory};
    tape<cpu::context<float>> t{c, {}};
    auto const x = t.variable(make<float>(c, shape{16, 16}));
    CHECK(t.gradient_of(x).data.data != nullptr);
  }
}

TEST_CASE("misuse is told apart") {
  cpu::context<float> c{mebibytes(1), mebibytes(1)};
  parameter_list list;
  nn::linear const layer{scope{list} / "layer", {.in = 4, .out = 4}};
  CHECK_THROWS_AS((nn::linear{scope{list} / "layer", {.in = 4, .out = 4}}),
                  precondition_error);  // a name twice
  parameter_store<cpu::context<float>> store{c, list};
  tape<cpu::context<float>> t{c, store.views()};
  CHECK_THROWS_AS(layer(t, t.constant(make<float>(c, shape{2, 5}))), precondition_error);
  tape<cpu::context<float>> off{c, store.views(), {.record = false}};
  auto const x = make<float>(c, shape{2, 4});
  CHECK_THROWS_AS(off.backward(layer(off, off.constant(x)), view<float const, 2>{x}), precondition_error);
}
