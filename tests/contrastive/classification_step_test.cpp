// Phase 1's contracts: gradients are the loss's slope, k micro-batches equal one batch, N ranks equal one, what is
// rematerialised gives the same bits, and the plan is the real use.
#include <yoke/cpu/classification.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/dry/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>

#include "contrastive/phase_models.hpp"
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;
using namespace made_up;

namespace {

template <class Ranks>
outcome run(Ranks& ranks, auto const& model, parameter_list const& list, made_up::data const& d,
            extent_t micro, rematerialize policy = rematerialize::nothing) {
  cpu::context<double> c{mebibytes(32), mebibytes(8)};
  return run_classification(c, ranks, model, list, d, micro, policy);
}

}  // namespace

TEST_CASE("the classification step's gradients are the slopes of its loss") {
  parameter_list list;
  auto const model = small_classifier(scope{list});
  made_up::data const d;
  labels const l;
  parallel::solo alone;
  cpu::context<double> c{mebibytes(32), mebibytes(8)};
  parameter_store<cpu::context<double>> store{c, list};
  initialize(c, list, 1, store);
  contrastive::classification_options const options{
      .micro_batch = 4, .random = {.seed = 3, .step = 5}, .label_smoothing = 0.1};
  auto const loss = [&] {
    return contrastive::classification_step(c, alone, model, store, d.images(0, batch), l.slice(0, batch),
                                            options)
        .loss;
  };
  CHECK(std::abs(loss() - std::log(classes)) < 0.5);
  auto const slopes = numbers(store.gradients());
  for (auto const& p : list.infos()) {
    INFO(p.name);
    auto& x = store.master().data[p.offset + p.size() / 2];
    auto const saved = x, step = 1e-5;
    x = saved + step;
    auto const above = loss();
    x = saved - step;
    auto const below = loss();
    x = saved;
    CHECK(std::abs(slopes[static_cast<std::size_t>(p.offset + p.size() / 2)] - (above - below) / (2 * step)) <
          1e-8);
  }
}

TEST_CASE("k micro-batches of labelled images equal one batch") {
  parameter_list list;
  auto const model = small_classifier(scope{list});
  made_up::data const d;
  parallel::solo alone;
  auto const whole = run(alone, model, list, d, batch);
  for (extent_t micro : {1, 2, 3, 4, 6}) check_same(run(alone, model, list, d, micro), whole, list);
}

TEST_CASE("N ranks classify as one", "[ranks]") {
  parameter_list list;
  auto const model = small_classifier(scope{list});
  made_up::data const d;
  parallel::solo alone;
  auto const whole = run(alone, model, list, d, batch);
  for (int n : {2, 3, 4}) {
    std::vector<outcome> results(static_cast<std::size_t>(n));
    parallel::threads_group group{n};
    group.run([&](parallel::threads& ranks) {
      results[static_cast<std::size_t>(ranks.rank())] = run(ranks, model, list, d, n == 4 ? 1 : 2);
    });
    for (auto const& r : results) {
      check_same(r, whole, list);
      CHECK(r.gradients == results[0].gradients);
    }
  }
}

TEST_CASE("a rematerialised classifier gives the same bits") {
  parameter_list list;
  auto const model = small_classifier(scope{list});
  made_up::data const d;
  parallel::solo alone;
  auto const kept = run(alone, model, list, d, 4);
  for (auto policy : {rematerialize::cheap, rematerialize::blocks, rematerialize::everything}) {
    auto const again = run(alone, model, list, d, 4, policy);
    CHECK(again.loss == kept.loss);
    CHECK(again.gradients == kept.gradients);
  }
}

TEST_CASE("the plan of a classification step is its real use to the byte") {
  parameter_list list;
  auto const model = small_classifier(scope{list});
  made_up::data const d;
  labels const l;
  parallel::solo alone;
  for (extent_t micro : {batch, extent_t{4}}) {
    contrastive::classification_options const options{.micro_batch = micro};
    dry::context<bf16> plan{};
    parameter_store<dry::context<bf16>> nothing{plan, list};
    contrastive::classification_step(plan, alone, model, nothing, d.images(0, batch), l.slice(0, batch),
                                     options);
    using context_type = cpu::context<bf16>;
    context_type c{plan.memory.peak(), plan.gradient_memory.peak()};  // exactly enough
    parameter_store<context_type> store{c, list};
    initialize(c, list, 1, store);
    contrastive::classification_step(c, alone, model, store, d.images(0, batch), l.slice(0, batch), options);
    CHECK(c.memory.peak() == plan.memory.peak());
    CHECK(c.gradient_memory.peak() == plan.gradient_memory.peak());
  }
}

TEST_CASE("misuse of the classification step is refused before any work") {
  parameter_list list;
  auto const model = small_classifier(scope{list});
  made_up::data const d;
  labels l;
  parallel::solo alone;
  CHECK_THROWS_WITH(run(alone, model, list, d, 5),
                    Catch::Matchers::ContainsSubstring("12 is a multiple of the micro-batch 5"));
  cpu::context<float> c{mebibytes(8), mebibytes(2)};
  parameter_store<cpu::context<float>> store{c, list};
  l.of[3] = classes;
  CHECK_THROWS_WITH(
      contrastive::classification_step(c, alone, model, store, d.images(0, batch), l.slice(0, batch), {}),
      Catch::Matchers::ContainsSubstring("label 5 is one of 5 classes"));
  CHECK_THROWS_WITH(
      contrastive::classification_step(c, alone, model, store, d.images(0, batch), l.slice(0, 4), {}),
      Catch::Matchers::ContainsSubstring("as many labels as images"));
}
