// The contracts of a step on a card: rematerialised equals not, k micro-batches equal one, N ranks equal one, planned
// equals used; and the card's step is the CPU's.
#include <yoke/cpu/context.hpp>
#include <yoke/cuda/context.cuh>
#include <yoke/cuda/through_host.cuh>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/plan.hpp>

#include "contrastive/small_step.hpp"

using namespace yoke;
using made_up::check_same;
using made_up::outcome;
using made_up::small_model;

namespace {

template <class T, class Model>
outcome on_card(Model const& model, parameter_list const& list, extent_t micro,
                cuda::context_options options = {}) {
  cuda::context<T> c{mebibytes(32), mebibytes(8), options};
  parallel::solo alone;
  return made_up::run_step(c, alone, model, list, made_up::data{}, micro);
}

/// The outcome of one rank of several that share a card.
template <class T, class Model>
outcome on_shared_card(parallel::threads& ranks, Model const& model, parameter_list const& list,
                       contrastive::text_exchange how) {
  cuda::context<T> c{mebibytes(32), mebibytes(8)};
  cuda::through_host<parallel::threads> there{c, ranks};
  return made_up::run_step(c, there, model, list, made_up::data{}, ranks.size() == 4 ? 1 : 2, made_up::small_tiles(how));
}

}  // namespace

TEST_CASE("a step on the card is the CPU's") {
  parameter_list list;
  auto const model = small_model(scope{list});
  parallel::solo alone;
  cpu::context<double> host{mebibytes(32), mebibytes(8)};
  auto const expected = made_up::run_step(host, alone, model, list, made_up::data{}, made_up::batch);
  check_same(on_card<double>(model, list, made_up::batch), expected, list, 1e-11);
  check_same(on_card<float>(model, list, made_up::batch), expected, list, 2e-5);

  // In bf16 both are off by its roundings, and the card by no more than the CPU, but for chance.
  cpu::context<bf16> rough{mebibytes(32), mebibytes(8)};
  auto const off = [&](outcome const& o) {
    double squares = 0, all = 0;
    for (std::size_t i = 0; i < o.gradients.size(); ++i) {
      squares += std::pow(o.gradients[i] - expected.gradients[i], 2);
      all += std::pow(expected.gradients[i], 2);
    }
    return std::sqrt(squares / all);
  };
  auto const found = off(on_card<bf16>(model, list, made_up::batch));
  CHECK(found > 0);
  CHECK(found < 0.1);
  CHECK(found < 1.5 * off(made_up::run_step(rough, alone, model, list, made_up::data{}, made_up::batch)));
}

TEST_CASE("k micro-batches equal one batch on the card") {
  parameter_list list;
  auto const model = small_model(scope{list});
  auto const whole = on_card<double>(model, list, made_up::batch);
  for (extent_t micro : {1, 3, 4}) check_same(on_card<double>(model, list, micro), whole, list);
}

TEST_CASE("rematerialised towers give the same bits on the card") {
  parameter_list list, again;
  auto const model = small_model(scope{list});
  auto const frugal = small_model<rematerialize::blocks>(scope{again});
  auto const check = [&](auto element) {
    using T = decltype(element);
    for (extent_t micro : {extent_t{4}, made_up::batch}) {
      auto const a = on_card<T>(model, list, micro), b = on_card<T>(frugal, again, micro);
      CHECK(a.loss == b.loss);
      CHECK(a.gradients == b.gradients);
    }
  };
  check(float{});
  check(bf16{});
}

TEST_CASE("pieces given to the card as graphs give the same bits") {
  parameter_list list;
  auto const model = small_model(scope{list});
  auto const plain = on_card<bf16>(model, list, 3);
  CHECK(on_card<bf16>(model, list, 3, {.graphs = true}).gradients == plain.gradients);
}

TEST_CASE("N ranks that share a card equal one rank, by gather and by ring") {
  parameter_list list;
  auto const model = small_model(scope{list});
  auto const whole = on_card<double>(model, list, made_up::batch);
  for (auto how : {contrastive::text_exchange::gather, contrastive::text_exchange::ring})
    for (int n : {2, 4}) {
      std::vector<outcome> results(static_cast<std::size_t>(n));
      parallel::threads_group group{n};
      group.run([&](parallel::threads& ranks) {
        results[static_cast<std::size_t>(ranks.rank())] = on_shared_card<double>(ranks, model, list, how);
      });
      for (auto const& r : results) check_same(r, whole, list);
    }
}

TEST_CASE("the plan of a step on a card is its real use to the byte") {
  parameter_list list;
  auto const model = small_model(scope{list});
  using context_type = cuda::context<bf16>;
  constexpr extent_t batch = made_up::batch;
  std::vector<std::uint8_t> const pixels(batch * 8 * 8 * 3, 100);
  std::vector<std::int32_t> const ids(batch * 7, 1);
  std::vector<std::int32_t> offsets{0};
  for (extent_t i = 0; i < batch; ++i) offsets.push_back(offsets.back() + 7);
  contrastive::pixel_batch const images{.pixels = {pixels.data(), {{batch, 8, 8, 3}}}};
  contrastive::caption_batch const texts{
      {segments::packed({offsets.data(), {{batch + 1}}}, 7), {ids.data(), {{batch * 7}}}}};
  parallel::solo alone;
  for (extent_t micro : {batch, extent_t{4}}) {
    auto const plan = train::plan_step<bf16>(model, list, batch, shape{8, 8, 3}, 7, {.micro_batch = micro},
                                             context_type::traits);
    context_type c{plan.activations, plan.gradients};  // exactly enough
    parameter_store<context_type> store{c, list};
    initialize(c, list, 1, store.master());
    store.refresh(c);
    contrastive::contrastive_step(c, alone, model, store, images, texts, {.micro_batch = micro});
    CHECK(c.memory.peak() == plan.activations);
    CHECK(c.gradient_memory.peak() == plan.gradients);
  }
}

TEST_CASE("an id outside the vocabulary is found on the card") {
  parameter_list list;
  auto const model = small_model(scope{list});
  cuda::context<float> c{mebibytes(32), mebibytes(8)};
  parameter_store<cuda::context<float>> store{c, list};
  std::vector<std::uint8_t> const pixels(2 * 8 * 8 * 3);
  std::vector<std::int32_t> const ids{1, 11}, offsets{0, 1, 2};  // the vocabulary has 11 words
  parallel::solo alone;
  CHECK_THROWS_AS(
      contrastive::contrastive_step(
          c, alone, model, store, contrastive::pixel_batch{.pixels = {pixels.data(), {{2, 8, 8, 3}}}},
          contrastive::caption_batch{{segments::packed({offsets.data(), {{3}}}, 1), {ids.data(), {{2}}}}},
          {}),
      precondition_error);
}
