// Plans are what steps take: for each way of rematerialising, in bf16 kept compactly too, and what ranks send; and the
// way that is chosen for a budget.
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/phase_plan.hpp>
#include <yoke/train/plan_report.hpp>
#include <yoke/train/trainer.hpp>

#include "contrastive/phase_models.hpp"
#include "contrastive/small_step.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;
using Catch::Matchers::ContainsSubstring;

namespace {

constexpr extent_t rows = made_up::batch;
using compact_plan = compact<dry::context<bf16>>;

struct planned_model {
  parameter_list list;
  decltype(made_up::small_model(scope{list})) model = made_up::small_model(scope{list});

  train::planned_step step(extent_t micro = rows, rematerialize remat = rematerialize::nothing) const {
    return {.batch = rows,
            .image = {{8, 8, 3}},
            .caption_length = 7,
            .step = {.micro_batch = micro, .remat = remat}};
  }
};

/// A real step of full-length captions on a context that holds exactly the plan.
template <class C>
void take(planned_model const& m, train::planned_step const& s, train::step_plan const& plan) {
  C c{plan.activations, plan.gradients};
  parameter_store<C> store{c, m.list};
  initialize(c, m.list, 1, store);
  std::vector<std::uint8_t> const pixels(static_cast<std::size_t>(rows * 8 * 8 * 3), 100);
  std::vector<std::int32_t> const ids(static_cast<std::size_t>(rows * 7), 1);
  std::vector<std::int32_t> offsets;
  for (std::int32_t i = 0; i <= rows; ++i) offsets.push_back(7 * i);
  contrastive::pixel_batch const images{.pixels = {pixels.data(), {{rows, 8, 8, 3}}}};
  contrastive::caption_batch const texts{
      {segments::packed({offsets.data(), {{rows + 1}}}, 7), {ids.data(), {{rows * 7}}}}};
  parallel::solo alone;
  contrastive::contrastive_step(c, alone, m.model, store, images, texts, s.step);
  CHECK(c.memory.peak() == plan.activations);
  CHECK(c.gradient_memory.peak() == plan.gradients);
}

}  // namespace

TEST_CASE("the plan of each way of rematerialising is the real step's use, to the byte") {
  planned_model const m;
  auto const remat = GENERATE(Catch::Generators::from_range(train::every_policy));
  auto const micro = GENERATE(as<extent_t>{}, rows, 4, 1);
  auto s = m.step(micro, remat);
  take<cpu::context<bf16>>(m, s, train::plan_step<bf16>(m.model, m.list, s));
  take<cpu::context<float>>(m, s, train::plan_step<float>(m.model, m.list, s));
  s.optimizer = optim::adafactor_w_options{};
  take<compact<cpu::context<bf16>>>(m, s, train::plan_step<compact_plan>(m.model, m.list, s));
}

TEST_CASE("the plan of a classification step is the real step's use, to the byte, and names its parts") {
  parameter_list list;
  auto const model = made_up::small_classifier(scope{list});
  made_up::data const d;
  made_up::labels const labels;
  train::planned_step s{.batch = rows, .image = {{8, 8, 3}}, .step = {.micro_batch = 4}};
  auto const check = [&]<class C, class T>(std::type_identity<C>, std::type_identity<T>) {
    auto const plan = train::plan_classification<T>(model, list, s);
    C c{plan.activations, plan.gradients};
    parameter_store<C> store{c, list};
    initialize(c, list, 1, store);
    parallel::solo alone;
    contrastive::classification_step(c, alone, model, store, d.images(0, rows), labels.slice(0, rows),
                                     {.micro_batch = 4});
    CHECK(c.memory.peak() == plan.activations);
    CHECK(c.gradient_memory.peak() == plan.gradients);
    CHECK(plan.persistent ==
          plan.master + plan.compute_copy + plan.parameter_gradients + plan.optimizer_state);
    return plan;
  };
  auto const full = check(std::type_identity<cpu::context<bf16>>{}, std::type_identity<bf16>{});
  s.optimizer = optim::adafactor_w_options{};
  auto const lean =
      check(std::type_identity<compact<cpu::context<bf16>>>{}, std::type_identity<compact_plan>{});
  CHECK(lean.persistent < full.persistent);
}

TEST_CASE(
    "the plan of phase text has the frozen tower in it, and where it embeds in each step, its activations") {
  parameter_list list, frozen_list;
  auto const model = made_up::small_text_phase(scope{list});
  auto const tower = made_up::small_classifier(scope{frozen_list}).image;
  train::planned_step const s{.batch = rows, .image = {{8, 8, 3}}, .caption_length = 7};
  auto const plan = [&](bool kept) {
    return train::plan_text_phase<bf16>(model, list, tower, frozen_list, s, kept);
  };
  auto const beside = plan(true), embedding = plan(false);
  auto const frozen = static_cast<std::size_t>(frozen_list.elements()) * (4 + 2);  // master and compute copy
  CHECK(beside.persistent ==
        beside.master + beside.compute_copy + beside.parameter_gradients + beside.optimizer_state + frozen);
  CHECK(embedding.persistent == beside.persistent);
  CHECK(embedding.activations > beside.activations);
}

TEST_CASE("a plan's parts are its parameters' bytes") {
  planned_model const m;
  auto s = m.step();
  auto const n = static_cast<std::size_t>(m.list.elements());
  auto const full = train::plan_step<bf16>(m.model, m.list, s);
  CHECK(full.parameters == m.list.count());
  CHECK(full.master == 4 * n);
  CHECK(full.compute_copy == 2 * n);
  CHECK(full.parameter_gradients == 4 * n);
  CHECK(full.optimizer_state == 8 * n);  // two moments of AdamW
  CHECK(full.persistent == 18 * n);
  CHECK(full.total() == full.persistent + full.activations + full.gradients);

  s.optimizer = optim::adafactor_w_options{};
  auto const vectors = static_cast<std::size_t>(m.list.vector_elements());
  auto const lean = train::plan_step<compact_plan>(m.model, m.list, s);
  CHECK(lean.master == 2 * n + 4 * vectors);
  CHECK(lean.parameter_gradients == 2 * n + 4 * vectors);
  CHECK(lean.compute_copy == 0);
  CHECK(lean.optimizer_state < full.optimizer_state);
}

TEST_CASE("ranks send their gradients, what they updated, and the loss its embeddings") {
  planned_model const m;
  auto s = m.step();
  CHECK(train::plan_step<float>(m.model, m.list, s).sent() == 0);
  for (int ranks : {2, 4}) {
    s.mesh.data = ranks;
    auto const gradients = 2.0 * 4 * static_cast<double>(m.list.elements()) * (ranks - 1) / ranks;
    auto const texts = 4.0 * static_cast<double>(rows * m.model.embedding) * (ranks - 1);
    auto const own = ownership{m.list, 0, ranks}.owned(false);
    auto const updated = 4.0 * static_cast<double>(own.end - own.begin) * (ranks - 1);
    auto const sent = train::plan_step<float>(m.model, m.list, s).sent();
    CHECK(sent >= gradients + updated + 2 * texts);         // gathered, and their gradients' sums scattered
    CHECK(sent <= gradients + updated + 2 * texts + 2000);  // some numbers a row, and the ranks' agreement
  }
}

TEST_CASE("a step is fitted to its budget by the cheapest way") {
  planned_model const m;
  auto const all = train::plan_step<float>(m.model, m.list, m.step());
  auto const fit = [&](std::size_t budget, std::optional<rematerialize> policy = {}, extent_t micro = 0) {
    return train::fit_step<float>(m.model, m.list, m.step(micro), budget, policy);
  };
  auto const roomy = fit(all.total());
  CHECK(roomy.remat == rematerialize::nothing);
  CHECK(roomy.micro_batch == rows);
  CHECK(roomy.plan.total() == all.total());

  auto const tight = fit(all.total() - 1);
  CHECK(tight.remat == rematerialize::cheap);  // as few products, and all at once
  CHECK(tight.micro_batch == rows);
  CHECK(tight.plan.multiply_adds == all.multiply_adds);

  auto const forced = fit(all.total() - 1, rematerialize::nothing);
  CHECK(forced.remat == rematerialize::nothing);
  CHECK(forced.micro_batch < rows);
  CHECK(forced.plan.multiply_adds > all.multiply_adds);
  CHECK(forced.plan.total() < all.total());
  CHECK(fit(all.total(), {}, 2).micro_batch == 2);

  CHECK_THROWS_WITH(fit(all.persistent),
                    ContainsSubstring("holds no step of batch " + std::to_string(rows)) &&
                        ContainsSubstring("the least is") && ContainsSubstring("alone take"));
  CHECK_THROWS_AS(fit(1), train::budget_too_small);
}

TEST_CASE("possible micro-batches are the divisors, large ones first") {
  CHECK(train::possible_micro_batches(12) == std::vector<extent_t>{12, 6, 4, 3, 2, 1});
  CHECK(train::possible_micro_batches(9) == std::vector<extent_t>{9, 3, 1});
  CHECK(train::possible_micro_batches(1) == std::vector<extent_t>{1});
}

TEST_CASE("plans can be read by people and by programs, and looked at") {
  planned_model const m;
  std::vector<dry::memory_sample> timeline;
  auto const plan = train::plan_step<float>(m.model, m.list, m.step(), &timeline);
  std::size_t most = 0;
  for (auto const& sample : timeline) most = std::max(most, sample.activations);
  CHECK(timeline.size() > 20);
  CHECK(most <= plan.activations);
  CHECK(most * 10 > plan.activations * 9);
  CHECK_THAT(train::plan_table(plan), ContainsSubstring("optimiser state") && ContainsSubstring("together"));
  auto const j = train::plan_json(plan);
  CHECK(j.find("bytes")->find("total")->as<std::size_t>() == plan.total());
  CHECK_THAT(
      train::plan_picture(plan, timeline, plan.total()),
      ContainsSubstring("xmlns") && ContainsSubstring("activation gradients") && ContainsSubstring("budget"));
  CHECK(train::readable_bytes(1023) == "1023 bytes");
  CHECK(train::readable_bytes(0x1p30 * 1.5) == "1.50 GiB");
}
