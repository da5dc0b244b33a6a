// The trainer's contracts: stop and resume equals never stopped, N ranks equal one, a bad step is skipped, a steady
// state allocates nothing.
#include <yoke/contrastive/frozen.hpp>
#include <yoke/contrastive/presets.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/data/loader.hpp>
#include <yoke/data/scenes.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/checkpoint.hpp>
#include <yoke/train/classification_trainer.hpp>
#include <yoke/train/plan.hpp>
#include <yoke/train/trainer.hpp>

#include "allocations.hpp"
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <filesystem>
#include <fstream>
#include <limits>
#include <stdlib.h>
#include <string>
#include <vector>

using namespace yoke;

namespace {

struct temporary_folder {
  std::string path;
  temporary_folder() {
    auto name = (std::filesystem::temp_directory_path() / "yoke-test-XXXXXX").string();
    path = ::mkdtemp(name.data());
  }
  ~temporary_folder() { std::filesystem::remove_all(path); }
};

contrastive::clip_config small(float dropout) {
  return {.image = {.image_size = 16,
                    .patch_size = 4,
                    .width = 16,
                    .layers = 2,
                    .heads = 2,
                    .embedding = 12,
                    .dropout = dropout,
                    .stochastic_depth = dropout},
          .text = {.vocabulary = 128,
                   .context_length = 24,
                   .width = 16,
                   .layers = 1,
                   .heads = 2,
                   .embedding = 12,
                   .dropout = dropout}};
}

/// One token a letter is enough of a tokenizer.
void letters(std::string_view caption, std::vector<std::int32_t>& ids) {
  for (auto c : caption.substr(0, 23)) ids.push_back(c & 127);
  ids.push_back(0);
}

template <class T, class Ranks = parallel::solo>
struct run {
  using context_type = cpu::context<T>;
  using A = accumulator_t<T>;

  parameter_list list;
  contrastive::clip_model model;
  context_type device{mebibytes(64), mebibytes(16)};
  Ranks& ranks;
  train::trainer<context_type, Ranks, contrastive::clip_model> trainer;

  run(Ranks& r, train::trainer_options options, contrastive::clip_config const& config = small(0.1f))
      : model{contrastive::clip(scope{list}, config)}, ranks{r}, trainer{device, r, model, list, options} {}

  train::step_report step(data::batch const& b, extent_t first, extent_t n) {
    tokens const all{b.token_segments(), b.token_ids()};
    return trainer.step(contrastive::pixel_batch{.pixels = slice(b.images(), first, n)},
                        contrastive::caption_batch{all.slice(first, n)});
  }
  train::step_report step(data::batch const& b) { return step(b, 0, b.size()); }
  std::vector<A> weights() {
    auto const m = trainer.store().master();
    return {m.data, m.data + m.size()};
  }
};

train::trainer_options options(extent_t micro = 0) {
  return {
      .micro_batch = micro, .schedule = {.peak = 2e-3, .warmup = 2, .steps = 20}, .clip_norm = 1, .seed = 11};
}

data::loader_options loading(data::position start = {}) {
  return {.batch = 8,
          .image_size = 16,
          .seed = 3,
          .epochs = 3,
          .start = start,
          .augment = {.flip = 0.5},
          .workers = 2};
}
data::scenes scenes() {
  return data::scenes{{.samples = 40, .size = 16}};
}

/// The first batch; no thread is left behind.
data::batch one_batch() {
  data::batch b;
  data::loader loader{scenes(), letters, loading()};
  REQUIRE(loader.next(b));
  return b;
}

}  // namespace

TEST_CASE("stopped in mid-epoch and resumed is bitwise never stopped") {
  auto const check = [](auto element, extent_t micro) {
    using T = decltype(element);
    parallel::solo alone;
    temporary_folder folder;
    auto const path = folder.path + "/checkpoint";

    run<T> whole{alone, options(micro)};
    data::loader all{scenes(), letters, loading()};
    data::batch b;
    std::vector<double> losses;
    while (all.next(b)) losses.push_back(whole.step(b).loss);
    REQUIRE(losses.size() == 15);

    run<T> first{alone, options(micro)};
    {
      data::loader some{scenes(), letters, loading()};
      for (int i = 0; i < 7; ++i) {  // epochs have five steps
        REQUIRE(some.next(b));
        CHECK(first.step(b).loss == losses[static_cast<std::size_t>(i)]);
      }
      io::json at;
      at["epoch"] = b.after.epoch;
      at["sample"] = b.after.sample;
      train::save_checkpoint(path, first.trainer, at);
    }
    run<T> second{alone, options(micro)};
    train::load_checkpoint(path, second.trainer);
    auto const saved = train::read_run(path);
    io::json_fields at{saved, path};
    data::loader rest{scenes(), letters,
                      loading({at.required<std::uint64_t>("epoch"), at.required<std::uint64_t>("sample")})};
    for (std::size_t i = 7; rest.next(b); ++i) {
      REQUIRE(i < losses.size());
      CHECK(second.step(b).loss == losses[i]);
    }
    CHECK(second.trainer.state().step == 15);
    CHECK(second.weights() == whole.weights());
  };
  check(float{}, 0);
  check(bf16{}, 4);
  check(double{}, 2);
}

TEST_CASE("N thread ranks train as one, dropout and clipping included", "[ranks]") {
  auto const b = one_batch();
  parallel::solo alone;
  run<double> one{alone, options()};
  for (int i = 0; i < 5; ++i) one.step(b);
  auto const wanted = one.weights();

  for (int n : {2, 4}) {
    std::vector<std::vector<double>> got(static_cast<std::size_t>(n));
    parallel::threads_group group{n};
    group.run([&](parallel::threads& ranks) {
      run<double, parallel::threads> mine{ranks, options(1)};
      auto const local = b.size() / n;
      for (int i = 0; i < 5; ++i) mine.step(b, local * ranks.rank(), local);
      got[static_cast<std::size_t>(ranks.rank())] = mine.weights();
    });
    for (auto const& weights : got) {
      CHECK(weights == got[0]);
      double worst = 0;
      for (std::size_t i = 0; i < wanted.size(); ++i)
        worst = std::max(worst, std::abs(weights[i] - wanted[i]));
      CHECK(worst < 1e-12);
    }
  }
}

TEST_CASE("a step that is not finite is skipped, and too many end the run") {
  parallel::solo alone;
  auto o = options();
  o.consecutive_skips = 2;
  run<float> r{alone, o};
  auto const b = one_batch();
  CHECK(!r.step(b).skipped);
  auto const before = r.weights();
  auto const scale = r.trainer.store().master().data + r.model.logit_scale.offset;
  auto const good = *scale;
  *scale = std::numeric_limits<float>::quiet_NaN();
  CHECK(r.step(b).skipped);
  CHECK(r.trainer.state().updates == 1);
  CHECK(r.trainer.state().skipped == 1);
  *scale = good;
  CHECK(r.weights() == before);
  CHECK(!r.step(b).skipped);
  *scale = std::numeric_limits<float>::quiet_NaN();
  CHECK(r.step(b).skipped);
  CHECK(r.step(b).skipped);
  CHECK_THROWS_AS(r.step(b), train::diverged);
}

TEST_CASE("the logit scale stays within its clamp") {
  parallel::solo alone;
  run<float> r{alone, options()};
  auto const b = one_batch();
  auto const scale = r.trainer.store().master().data + r.model.logit_scale.offset;
  *scale = 7;
  r.step(b);
  CHECK(*scale <= std::log(100.0f));
  *scale = -3;
  r.step(b);
  CHECK(*scale == 0);
}

TEST_CASE("a steady-state step allocates nothing") {
  auto const check = [](auto element, extent_t micro, rematerialize policy) {
    using T = decltype(element);
    parallel::solo alone;
    auto config = small(0.1f);
    run<T> r{alone, options(micro), config.rematerialized(policy)};
    auto const b = one_batch();
    for (int i = 0; i < 3; ++i) r.step(b);
    auto const before = allocations.load();
    for (int i = 0; i < 3; ++i) r.step(b);
    CHECK(allocations.load() == before);
  };
  for (auto policy : {rematerialize::nothing, rematerialize::blocks}) {
    check(float{}, 0, policy);
    check(bf16{}, 4, policy);
  }
}

TEST_CASE("steady-state steps of phases image and text allocate nothing, with either optimiser") {
  for (train::optimizer_options const optimizer : {train::optimizer_options{optim::adam_w_options{}},
                                                   train::optimizer_options{optim::adafactor_w_options{}}}) {
    parallel::solo alone;
    cpu::context<float> device{mebibytes(64), mebibytes(16)};
    auto const config = small(0.1f);
    auto const b = one_batch();
    std::vector<std::int32_t> const labels{0, 1, 2, 0, 1, 2, 0, 1};
    parameter_list classes_list, texts_list;
    scope const classes{classes_list}, texts{texts_list};
    contrastive::image_classifier const classifier{
        classes, towers::vit{classes / "image", config.image}, {.width = 12, .classes = 3}};
    contrastive::dual_encoder const model{texts, contrastive::ready_embeddings{},
                                          towers::text_transformer{texts / "text", config.text}, 12};
    train::classification_trainer first{
        device, alone, classifier, classes_list, {.micro_batch = 4, .optimizer = optimizer}};
    train::trainer second{device, alone, model, texts_list, {.micro_batch = 4, .optimizer = optimizer}};
    std::vector<float> const rows(8 * 12, 0.5f);
    auto const steps = [&] {
      for (int i = 0; i < 3; ++i) {
        first.step(contrastive::pixel_batch{.pixels = b.images()}, {labels.data(), {{8}}});
        second.step(contrastive::value_batch<float, 2>{{rows.data(), {{8, 12}}}},
                    contrastive::caption_batch{{b.token_segments(), b.token_ids()}});
      }
    };
    steps();
    auto const before = allocations.load();
    steps();
    CHECK(allocations.load() == before);
  }
}

TEST_CASE("a checkpoint of another model or cut short is refused and changes no counter") {
  parallel::solo alone;
  temporary_folder folder;
  auto const path = folder.path + "/checkpoint";
  run<float> r{alone, options()};
  train::save_checkpoint(path, r.trainer, io::json::object());

  auto other = small(0);
  other.image.width = 24;
  run<float> wider{alone, options(), other};
  CHECK_THROWS_WITH(train::load_checkpoint(path, wider.trainer),
                    Catch::Matchers::ContainsSubstring("model.safetensors") &&
                        Catch::Matchers::ContainsSubstring("image.patch.weight") &&
                        Catch::Matchers::ContainsSubstring("[24, 48]"));
  other = small(0);
  other.image.layers = 1;
  run<float> shallower{alone, options(), other};
  CHECK_THROWS_AS(train::load_checkpoint(path, shallower.trainer), io::error);

  std::filesystem::resize_file(path + "/optimizer.safetensors", 5000);
  CHECK_THROWS_WITH(train::load_checkpoint(path, r.trainer),
                    Catch::Matchers::ContainsSubstring("optimizer.safetensors"));
  CHECK(r.trainer.state().step == 0);
  std::ofstream(path + "/state.json") << "{\"format\": 3}";
  CHECK_THROWS_WITH(train::load_checkpoint(path, r.trainer), Catch::Matchers::ContainsSubstring("format"));
  CHECK_THROWS_AS(train::load_checkpoint(folder.path + "/nothing", r.trainer), io::error);
}
