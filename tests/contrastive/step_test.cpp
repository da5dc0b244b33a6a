// The step's contracts: k micro-batches equal one batch, N ranks equal one, for every parameter.
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/plan.hpp>

#include "contrastive/small_step.hpp"

using namespace yoke;
using namespace made_up;

namespace {

template <class Ranks, class Model>
outcome run(Ranks& ranks, Model const& model, parameter_list const& list, data const& d, extent_t micro,
            contrastive::text_exchange how = contrastive::text_exchange::gather) {
  cpu::context<double> c{mebibytes(32), mebibytes(8)};
  return run_step(c, ranks, model, list, d, micro, how);
}

}  // namespace

TEST_CASE("k micro-batches equal one batch for every parameter") {
  parameter_list list;
  auto const model = small_model(scope{list});
  made_up::data const d;
  parallel::solo alone;
  auto const whole = run(alone, model, list, d, batch);
  for (extent_t micro : {1, 2, 3, 4, 6}) check_same(run(alone, model, list, d, micro), whole, list);
}

TEST_CASE("rematerialised towers give the same bits in the step") {
  parameter_list list;
  auto const model = small_model(scope{list});
  made_up::data const d;
  parallel::solo alone;
  for (extent_t micro : {extent_t{4}, batch}) {
    auto const a = run(alone, model, list, d, micro);
    auto const same = [&](auto const& frugal, parameter_list const& again) {
      auto const b = run(alone, frugal, again, d, micro);
      CHECK(a.loss == b.loss);
      CHECK(a.gradients == b.gradients);
    };
    parameter_list lists[3];
    same(small_model<rematerialize::cheap>(scope{lists[0]}), lists[0]);
    same(small_model<rematerialize::blocks>(scope{lists[1]}), lists[1]);
    same(small_model<rematerialize::everything>(scope{lists[2]}), lists[2]);
  }
}

TEST_CASE("N ranks equal one rank, by gather and by ring") {
  parameter_list list;
  auto const model = small_model(scope{list});
  made_up::data const d;
  parallel::solo alone;
  auto const whole = run(alone, model, list, d, batch);
  for (auto how : {contrastive::text_exchange::gather, contrastive::text_exchange::ring})
    for (int n : {2, 3, 4}) {
      std::vector<outcome> results(static_cast<std::size_t>(n));
      parallel::threads_group group{n};
      group.run([&](parallel::threads& ranks) {
        results[static_cast<std::size_t>(ranks.rank())] = run(ranks, model, list, d, n == 4 ? 1 : 2, how);
      });
      for (auto const& r : results) {
        check_same(r, whole, list);
        CHECK(r.gradients == results[0].gradients);
      }
    }
}

TEST_CASE("the plan of a step is its real use to the byte") {
  parameter_list list;
  auto const model = small_model(scope{list});
  std::vector<std::uint8_t> const pixels(batch * 8 * 8 * 3, 100);
  std::vector<std::int32_t> const ids(batch * 7, 1);
  contrastive::pixel_batch const images{.pixels = {pixels.data(), {{batch, 8, 8, 3}}}};
  contrastive::caption_batch const texts{{segments::uniform(batch, 7), {ids.data(), {{batch * 7}}}}};
  parallel::solo alone;
  for (extent_t micro : {batch, extent_t{4}}) {
    auto const plan = train::plan_step<bf16>(model, list, batch, shape{8, 8, 3}, 7, {.micro_batch = micro});
    using context_type = cpu::context<bf16>;
    context_type c{plan.activations, plan.gradients};  // exactly enough
    parameter_store<context_type> store{c, list};
    initialize(c, list, 1, store.master());
    store.refresh(c);
    contrastive::contrastive_step(c, alone, model, store, images, texts, {.micro_batch = micro});
    CHECK(c.memory.peak() == plan.activations);
    CHECK(c.gradient_memory.peak() == plan.gradients);
  }
}

TEST_CASE("misuse of the step is refused") {
  parameter_list list;
  auto const model = small_model(scope{list});
  made_up::data const d;
  parallel::solo alone;
  CHECK_THROWS_AS(run(alone, model, list, d, 5), precondition_error);  // 12 is no multiple of 5
}
