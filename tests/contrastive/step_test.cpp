// The step's contracts: k micro-batches equal one batch, N ranks equal one, for every parameter.
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/dual_encoder.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/towers/text_transformer.hpp>
#include <yoke/towers/vit.hpp>
#include <yoke/train/plan.hpp>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <mutex>
#include <vector>

using namespace yoke;

namespace {

constexpr extent_t batch = 12;

template <rematerialize Remat = rematerialize::nothing>
auto small_model(scope s) {
  towers::vit image{s / "image",
                    {.image_size = 8,
                     .patch_size = 4,
                     .width = 12,
                     .layers = 2,
                     .heads = 2,
                     .embedding = 6,
                     .dropout = 0.1f,
                     .stochastic_depth = 0.2f,
                     .remat = Remat}};
  towers::text_transformer text{s / "text",
                                {.vocabulary = 11,
                                 .context_length = 7,
                                 .width = 8,
                                 .layers = 2,
                                 .heads = 2,
                                 .embedding = 6,
                                 .dropout = 0.1f,
                                 .stochastic_depth = 0.2f,
                                 .remat = Remat}};
  return contrastive::dual_encoder{s, std::move(image), std::move(text), 6};
}

/// Random images and captions of 1 to 7 tokens.
struct data {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int32_t> ids, offsets{0};

  data() {
    random_sequence random{4};
    pixels.resize(batch * 8 * 8 * 3);
    for (auto& p : pixels) p = static_cast<std::uint8_t>(random.below(256));
    for (extent_t i = 0; i < batch; ++i) {
      for (auto n = 1 + random.below(7); n > 0; --n)
        ids.push_back(static_cast<std::int32_t>(random.below(11)));
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
    }
  }
  contrastive::pixel_batch images(extent_t first, extent_t n) const {
    return {.pixels = slice(view<std::uint8_t const, 4>{pixels.data(), {{batch, 8, 8, 3}}}, first, n)};
  }
  contrastive::caption_batch captions(extent_t first, extent_t n) const {
    tokens const all{segments::packed({offsets.data(), {{batch + 1}}}, 7),
                     {ids.data(), {{static_cast<extent_t>(ids.size())}}}};
    return {all.slice(first, n)};
  }
};

struct outcome {
  double loss;
  std::vector<double> gradients;
};

template <class Ranks, class Model>
outcome run(Ranks& ranks, Model const& model, parameter_list const& list, data const& d, extent_t micro,
            contrastive::text_exchange how = contrastive::text_exchange::gather) {
  using context_type = cpu::context<double>;
  context_type c{mebibytes(32), mebibytes(8)};
  parameter_store<context_type> store{c, list};
  initialize(c, list, 1, store.master());
  auto const local = batch / ranks.size(), first = local * ranks.rank();
  contrastive::step_options const options{
      .micro_batch = micro,
      .random = {.seed = 3, .step = 5, .first_sample = static_cast<std::uint64_t>(first)},
      .loss = {.exchange = how, .tile_rows = 5, .tile_columns = 4}};
  auto const r = contrastive::contrastive_step(c, ranks, model, store, d.images(first, local),
                                               d.captions(first, local), options);
  all_reduce(ranks, store.gradients());
  auto const g = store.gradients();
  return {r.loss, {g.data, g.data + g.size()}};
}

void check_same(outcome const& a, outcome const& b, parameter_list const& list) {
  CHECK(std::abs(a.loss - b.loss) < 1e-12 * std::abs(b.loss));
  for (auto const& p : list.infos()) {
    double worst = 0, largest = 0;
    for (auto i = static_cast<std::size_t>(p.offset); i < static_cast<std::size_t>(p.offset + p.size());
         ++i) {
      worst = std::max(worst, std::abs(a.gradients[i] - b.gradients[i]));
      largest = std::max(largest, std::abs(b.gradients[i]));
    }
    INFO(p.name);
    CHECK(worst <= 1e-12 * std::max(1.0, largest));
    CHECK(largest > 0);  // every parameter learns
  }
}

}  // namespace

TEST_CASE("k micro-batches equal one batch for every parameter") {
  parameter_list list;
  auto const model = small_model(scope{list});
  data const d;
  parallel::solo alone;
  auto const whole = run(alone, model, list, d, batch);
  for (extent_t micro : {1, 2, 3, 4, 6}) check_same(run(alone, model, list, d, micro), whole, list);
}

TEST_CASE("rematerialised towers give the same bits in the step") {
  parameter_list list, again;
  auto const model = small_model(scope{list});
  auto const frugal = small_model<rematerialize::blocks>(scope{again});
  data const d;
  parallel::solo alone;
  for (extent_t micro : {extent_t{4}, batch}) {
    auto const a = run(alone, model, list, d, micro), b = run(alone, frugal, again, d, micro);
    CHECK(a.loss == b.loss);
    CHECK(a.gradients == b.gradients);
  }
}

TEST_CASE("N ranks equal one rank, by gather and by ring") {
  parameter_list list;
  auto const model = small_model(scope{list});
  data const d;
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
  data const d;
  parallel::solo alone;
  CHECK_THROWS_AS(run(alone, model, list, d, 5), precondition_error);  // 12 is no multiple of 5
}
