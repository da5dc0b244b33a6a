// Phase 1's trainer and the optimisers that a run chooses from: stopped and resumed as never stopped, N ranks as one.
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/nn/batch_norm.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/checkpoint.hpp>
#include <yoke/train/classification_trainer.hpp>

#include "contrastive/phase_models.hpp"
#include "data/data_files.hpp"
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

using namespace yoke;
using namespace made_up;

namespace {

train::classification_trainer_options options(extent_t micro, train::optimizer_options optimizer = {}) {
  return {.micro_batch = micro,
          .optimizer = optimizer,
          .schedule = {.peak = 5e-3, .warmup = 2, .steps = 30},
          .clip_norm = 1,
          .label_smoothing = 0.1,
          .seed = 11};
}

template <class C, class Ranks = parallel::solo>
struct run {
  using model_type = decltype(small_classifier(std::declval<scope>()));

  parameter_list list;
  model_type model{small_classifier(scope{list})};
  C device{mebibytes(32), mebibytes(8)};
  Ranks& ranks;
  train::classification_trainer<C, Ranks, model_type> trainer;
  made_up::data d;
  labels l;

  run(Ranks& r, train::classification_trainer_options const& o)
      : ranks{r}, trainer{device, r, model, list, o} {}

  train::step_report step() {
    auto const local = batch / ranks.size(), first = local * ranks.rank();
    return trainer.step(d.images(first, local), l.slice(first, local));
  }
  std::vector<double> weights() { return numbers(trainer.store().master()); }
};

}  // namespace

TEST_CASE("a classifier learns its images, and stopped and resumed is bitwise never stopped") {
  auto const check = [](auto element, extent_t micro, train::optimizer_options optimizer) {
    using context_type = cpu::context<decltype(element)>;
    parallel::solo alone;
    data_files::temporary_folder const folder;
    auto const path = folder / "checkpoint";
    run<context_type> whole{alone, options(micro, optimizer)}, first{alone, options(micro, optimizer)};
    auto const before = whole.step().loss;
    first.step();
    for (int i = 1; i < 12; ++i) CHECK(first.step().loss == whole.step().loss);
    train::save_checkpoint(path, first.trainer, io::json::object());
    run<context_type> second{alone, options(micro, optimizer)};
    train::load_checkpoint(path, second.trainer);
    train::step_report last;
    for (int i = 12; i < 30; ++i) {
      last = whole.step();
      CHECK(second.step().loss == last.loss);
    }
    CHECK(second.weights() == whole.weights());
    CHECK(last.loss < 0.8 * before);
    CHECK(last.accuracy > 0.5);
  };
  check(float{}, 0, optim::adam_w_options{.weight_decay = 0.05});
  check(bf16{}, 4, optim::adam_w_options{});
  check(float{}, 4, optim::adafactor_w_options{});
  check(bf16{}, 0, optim::adafactor_w_options{});
}

TEST_CASE("N ranks train a classifier as one, with either optimiser", "[ranks]") {
  for (train::optimizer_options const optimizer : {train::optimizer_options{optim::adam_w_options{}},
                                                   train::optimizer_options{optim::adafactor_w_options{
                                                       .epsilon = 1e-12}}}) {  // else noise is a direction
    parallel::solo alone;
    run<cpu::context<double>> one{alone, options(0, optimizer)};
    for (int i = 0; i < 5; ++i) one.step();
    auto const wanted = one.weights();
    parallel::threads_group group{3};
    std::vector<std::vector<double>> got(3);
    group.run([&](parallel::threads& ranks) {
      run<cpu::context<double>, parallel::threads> mine{ranks, options(2, optimizer)};
      for (int i = 0; i < 5; ++i) mine.step();
      got[static_cast<std::size_t>(ranks.rank())] = mine.weights();
    });
    for (auto const& weights : got) {
      CHECK(weights == got[0]);
      double worst = 0;
      for (std::size_t i = 0; i < wanted.size(); ++i)
        worst = std::max(worst, std::abs(weights[i] - wanted[i]));
      CHECK(worst < 1e-11);
    }
  }
}

TEST_CASE(
    "a compact context trains with AdafactorW, on several ranks too, and refuses AdamW before any work") {
  using context_type = compact<cpu::context<bf16>>;
  parallel::solo alone;
  CHECK_THROWS_WITH((run<context_type>{alone, options(0, optim::adam_w_options{})}),
                    Catch::Matchers::ContainsSubstring("a compact context takes AdafactorW"));
  run<context_type> one{alone, options(0, optim::adafactor_w_options{})};
  auto const before = one.step().loss;
  double last = before;
  for (int i = 0; i < 25; ++i) last = one.step().loss;
  CHECK(last < 0.9 * before);

  parallel::threads_group group{2};
  std::vector<std::vector<double>> got(2);
  std::vector<double> losses(2);
  group.run([&](parallel::threads& ranks) {
    run<context_type, parallel::threads> mine{ranks, options(0, optim::adafactor_w_options{})};
    auto const me = static_cast<std::size_t>(ranks.rank());
    for (int i = 0; i < 26; ++i) losses[me] = mine.step().loss;
    got[me] = mine.weights();
  });
  CHECK(got[0] == got[1]);
  CHECK(losses[0] < 0.9 * before);
}

TEST_CASE("a run does not go on with another optimiser") {
  parallel::solo alone;
  data_files::temporary_folder const folder;
  auto const path = folder / "checkpoint";
  run<cpu::context<float>> r{alone, options(0, optim::adafactor_w_options{})};
  train::save_checkpoint(path, r.trainer, io::json::object());
  run<cpu::context<float>> other{alone, options(0, optim::adam_w_options{})};
  CHECK_THROWS_WITH(train::load_checkpoint(path, other.trainer),
                    Catch::Matchers::ContainsSubstring("is adafactorw; the run that would go on has adamw"));
}

TEST_CASE("a phase takes from a checkpoint what its model has, in f32 or bf16") {
  parallel::solo alone;
  data_files::temporary_folder const folder;
  auto const path = folder / "checkpoint";
  run<compact<cpu::context<bf16>>> r{alone, options(0, optim::adafactor_w_options{})};
  r.step();
  train::save_checkpoint(path, r.trainer, io::json::object());

  parameter_list list;
  auto const model = small_model(scope{list});
  cpu::context<float> device{mebibytes(8), mebibytes(2)};
  parameter_store<cpu::context<float>> store{device, list};
  initialize(device, list, 2, store);
  auto const text = numbers(slice(store.master(), list.find("text.tokens")->offset, 88));
  train::load_parameters(path, device, list, store, "image.");
  for (auto const& p : r.list.infos())
    if (auto const* const here = list.find(p.name); here != nullptr)
      r.trainer.store().master_block().visit(p, [&](auto values) {
        INFO(p.name);
        CHECK(numbers(slice(store.master(), here->offset, here->size())) == numbers(values));
      });
  CHECK(numbers(slice(store.master(), list.find("text.tokens")->offset, 88)) == text);
  CHECK_THROWS_WITH(train::load_parameters(path, device, list, store, "text."),
                    Catch::Matchers::ContainsSubstring("no such tensor"));
  CHECK_THROWS_AS(train::load_parameters(path, device, list, store), io::error);
  CHECK_THROWS_AS(train::load_parameters(path, device, list, store, "nothing."), io::error);
}
