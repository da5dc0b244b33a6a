// The step's contracts: k micro-batches equal one batch, N ranks equal one, for every parameter.
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/plan.hpp>

#include "contrastive/small_step.hpp"
#include <catch2/matchers/catch_matchers_string.hpp>
#include <string>

using namespace yoke;
using namespace made_up;

namespace {

contrastive::sigmoid_options const small_sigmoid_tiles{.tile_rows = 5, .tile_columns = 4};

template <class Ranks, class Model>
outcome run(Ranks& ranks, Model const& model, parameter_list const& list, data const& d, extent_t micro,
            contrastive::loss_options const& how = small_tiles()) {
  cpu::context<double> c{mebibytes(32), mebibytes(8)};
  return run_step(c, ranks, model, list, d, micro, how);
}

}  // namespace

TEST_CASE("k micro-batches equal one batch for every parameter") {
  parameter_list list;
  auto const model = small_model(scope{list}, contrastive::logit_config{.bias = -1.0f});
  made_up::data const d;
  parallel::solo alone;
  auto const whole = run(alone, model, list, d, batch, small_sigmoid_tiles);
  for (extent_t micro : {1, 2, 3, 4, 6})
    check_same(run(alone, model, list, d, micro, small_sigmoid_tiles), whole, list);

  parameter_list without_bias;
  auto const usual = small_model(scope{without_bias});
  auto const contrasted = run(alone, usual, without_bias, d, batch);
  for (extent_t micro : {1, 2, 3, 4, 6})
    check_same(run(alone, usual, without_bias, d, micro), contrasted, without_bias);
  CHECK_THROWS_AS(run(alone, usual, without_bias, d, batch, small_sigmoid_tiles), precondition_error);
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

TEST_CASE("N ranks equal one rank, by gather and by ring", "[ranks]") {
  using contrastive::text_exchange;
  made_up::data const d;
  for (contrastive::loss_options const& how : {contrastive::loss_options{small_tiles()},
                                               {small_tiles(text_exchange::ring)},
                                               {small_sigmoid_tiles}}) {
    parameter_list list;
    auto const sigmoid = how.index() == 1;
    auto const model =
        small_model(scope{list}, sigmoid ? contrastive::siglip_logits : contrastive::logit_config{});
    parallel::solo alone;
    auto const whole = run(alone, model, list, d, batch, how);
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
}

TEST_CASE("a rank with another batch ends the step on every rank, before a tower runs", "[ranks]") {
  parameter_list list;
  auto const model = small_model(scope{list});
  made_up::data const d;
  // A rank whose neighbours found it out and left first says what they said.
  auto const all_say = [&](int columns, extent_t odd_batch, contrastive::loss_options const& odd_loss,
                           std::string const& sentence, extent_t odd_micro = 2) {
    std::vector<std::string> what(4);
    CHECK_THROWS_AS(parallel::threads_group{4}.run([&](parallel::threads& all) {
      auto const me = static_cast<std::size_t>(all.rank());
      auto ranks = split(all, all.rank() % columns), peers = split(all, all.rank() / columns);
      parallel::any axis{peers};
      auto const odd = all.rank() == 1;
      cpu::context<double> c{mebibytes(8), mebibytes(1)};
      parameter_store<cpu::context<double>> store{c, list};
      try {
        contrastive::contrastive_step(c, ranks, model, store, d.images(0, odd ? odd_batch : 4),
                                      d.captions(0, odd ? odd_batch : 4),
                                      {.micro_batch = odd ? odd_micro : 2,
                                       .loss = odd ? odd_loss : small_tiles(),
                                       .model_axis = columns > 1 ? &axis : nullptr});
      } catch (parallel::error const& e) {
        what[me] = e.what();
        expects(c.memory.peak() == 0, "nothing was computed");
        throw;
      }
    }),
                    parallel::error);
    for (auto const& w : what) CHECK_THAT(w, Catch::Matchers::EndsWith(sentence));
  };
  all_say(1, 3, small_tiles(), "contrastive_step: the ranks disagree about the batch: 3 to 4");
  all_say(2, 0, small_tiles(), "contrastive_step: the ranks disagree about the batch: 0 to 4");
  all_say(2, 4, small_tiles(), "contrastive_step: the ranks disagree about the micro-batch: 2 to 4", 4);
  all_say(1, 4, small_sigmoid_tiles, "contrastive_step: the ranks disagree about the loss: 0 to 1");
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
