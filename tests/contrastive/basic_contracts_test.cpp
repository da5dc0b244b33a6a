// The rest of the step's contracts for a tiny BASIC: N ranks are one, in phase 1 and in phase 3, and its plan is its use.
#include <yoke/contrastive/basic.hpp>
#include <yoke/contrastive/classification_step.hpp>
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/parallel/threads.hpp>
#include <yoke/train/fit.hpp>

#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <vector>

using namespace yoke;

namespace {

constexpr extent_t batch = 4, side = 32, longest = 16;

contrastive::basic_config tiny() {
  auto config = contrastive::basic_preset("basic_tiny").value();
  config.image.stochastic_depth = config.text.stochastic_depth = 0.2f;
  return config;
}

/// Random images, captions of full length, classes.
struct pairs {
  std::vector<std::uint8_t> pixels;
  std::vector<std::int32_t> ids, offsets{0}, classes{0, 2, 1, 2};

  pairs() : pixels(batch * side * side * 3) {
    random_sequence random{4};
    for (auto& p : pixels) p = static_cast<std::uint8_t>(random.below(256));
    for (extent_t i = 0; i < batch; ++i) {
      for (extent_t n = 0; n < longest; ++n) ids.push_back(static_cast<std::int32_t>(random.below(1024)));
      offsets.push_back(static_cast<std::int32_t>(ids.size()));
    }
  }
  contrastive::pixel_batch images(extent_t first, extent_t n) const {
    return {.pixels = slice(view<std::uint8_t const, 4>{pixels.data(), {{batch, side, side, 3}}}, first, n)};
  }
  contrastive::caption_batch captions(extent_t first, extent_t n) const {
    tokens const all{segments::packed({offsets.data(), {{batch + 1}}}, longest),
                     {ids.data(), {{batch * longest}}}};
    return {all.slice(first, n)};
  }
};

struct outcome {
  double loss = 0;
  std::vector<double> gradients;
};

/// One step, its gradients summed over the ranks: take(context, store, images, ..., key) gives the loss.
template <class Ranks, class Take>
outcome step(Ranks& ranks, parameter_list const& list, Take const& take) {
  cpu::context<double> c{mebibytes(64), mebibytes(16)};
  parameter_store<cpu::context<double>> store{c, list};
  initialize(c, list, 1, store);
  auto const local = batch / ranks.size(), first = local * ranks.rank();
  random_key const key{.seed = 3, .step = 5, .first_sample = static_cast<std::uint64_t>(first)};
  outcome result{take(c, store, first, local, key), {}};
  all_reduce(ranks, store.gradients());
  result.gradients.assign(store.gradients().data, store.gradients().data + list.elements());
  return result;
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
    CHECK(largest > 0);
  }
}

/// The outcome of one rank, and of two and four with micro-batches of one.
template <class Take>
void check_ranks(parameter_list const& list, Take const& take) {
  parallel::solo alone;
  auto const whole = step(alone, list, [&](auto&... a) { return take(alone, batch, a...); });
  for (int n : {2, 4}) {
    std::vector<outcome> results(static_cast<std::size_t>(n));
    parallel::threads_group group{n};
    group.run([&](parallel::threads& ranks) {
      results[static_cast<std::size_t>(ranks.rank())] =
          step(ranks, list, [&](auto&... a) { return take(ranks, extent_t{1}, a...); });
    });
    for (auto const& r : results) check_same(r, whole, list);
  }
}

}  // namespace

TEST_CASE("a tiny BASIC: N ranks in micro-batches equal one with its batch whole, for each policy",
          "[ranks]") {
  parameter_list list;
  auto const model = contrastive::basic(scope{list}, tiny());
  pairs const d;
  for (auto remat : {rematerialize::nothing, rematerialize::everything})
    check_ranks(list, [&](auto& ranks, extent_t micro, auto& c, auto& store, extent_t first, extent_t n,
                          random_key key) {
      return contrastive::contrastive_step(c, ranks, model, store, d.images(first, n), d.captions(first, n),
                                           {.micro_batch = micro, .random = key, .remat = remat})
          .loss;
    });
}

TEST_CASE("a tiny CoAtNet learns classes on N ranks as on one", "[ranks]") {
  parameter_list list;
  scope const s{list};
  auto const config = tiny().image;
  contrastive::image_classifier const model{
      s, towers::coatnet<>{s / "image", config}, {.width = config.features(), .classes = 3}};
  pairs const d;
  check_ranks(list, [&](auto& ranks, extent_t micro, auto& c, auto& store, extent_t first, extent_t n,
                        random_key key) {
    return contrastive::classification_step(c, ranks, model, store, d.images(first, n),
                                            view<std::int32_t const, 1>{d.classes.data() + first, {{n}}},
                                            {.micro_batch = micro, .random = key, .label_smoothing = 0.1})
        .loss;
  });
}

TEST_CASE("a tiny BASIC: the plan of each policy is the real step's use, to the byte") {
  parameter_list list;
  auto const model = contrastive::basic(scope{list}, tiny());
  pairs const d;
  parallel::solo alone;
  for (auto remat : train::every_policy)
    for (extent_t micro : {batch, extent_t{1}}) {
      contrastive::step_options const options{.micro_batch = micro, .remat = remat};
      auto const plan = train::plan_step<bf16>(model, list, batch, shape{side, side, 3}, longest, options);
      cpu::context<bf16> c{plan.activations, plan.gradients};
      parameter_store<cpu::context<bf16>> store{c, list};
      initialize(c, list, 1, store);
      contrastive::contrastive_step(c, alone, model, store, d.images(0, batch), d.captions(0, batch),
                                    options);
      CHECK(c.memory.peak() == plan.activations);
      CHECK(c.gradient_memory.peak() == plan.gradients);
    }
}
