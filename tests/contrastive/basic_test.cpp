// BASIC's presets: their sizes, and the step's contracts for the tiny one.
#include <yoke/contrastive/basic.hpp>
#include <yoke/contrastive/contrastive_step.hpp>
#include <yoke/contrastive/inputs.hpp>
#include <yoke/cpu/context.hpp>
#include <yoke/parallel/solo.hpp>
#include <yoke/train/plan.hpp>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

using namespace yoke;

namespace {

std::string millions(extent_t parameters) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", 1e-6 * static_cast<double>(parameters));
  return text;
}

/// Elements of the parameters whose names begin so.
extent_t count(parameter_list const& list, std::string_view beginning) {
  extent_t n = 0;
  for (auto const& p : list.infos())
    if (p.name.starts_with(beginning))
      n += p.size();
  return n;
}

constexpr extent_t batch = 6, side = 32, longest = 16;

struct outcome {
  double loss;
  std::vector<double> gradients, running;
};

/// The loss, the gradients and the running values of one step of random images and captions.
template <class Model>
outcome step(Model const& model, parameter_list const& list, extent_t micro, rematerialize policy) {
  random_sequence random{4};
  std::vector<std::uint8_t> pixels(batch * side * side * 3);
  for (auto& p : pixels) p = static_cast<std::uint8_t>(random.below(256));
  std::vector<std::int32_t> ids, offsets{0};
  for (extent_t i = 0; i < batch; ++i) {
    for (auto n = 1 + random.below(longest); n > 0; --n)
      ids.push_back(static_cast<std::int32_t>(random.below(1024)));
    offsets.push_back(static_cast<std::int32_t>(ids.size()));
  }
  using context_type = cpu::context<double>;
  context_type c{mebibytes(64), mebibytes(16)};
  parameter_store<context_type> store{c, list};
  initialize(c, list, 1, store);
  parallel::solo alone;
  auto const result = contrastive::contrastive_step(
      c, alone, model, store, contrastive::pixel_batch{.pixels = {pixels.data(), {{batch, side, side, 3}}}},
      contrastive::caption_batch{{segments::packed({offsets.data(), {{batch + 1}}}, longest),
                                  {ids.data(), {{static_cast<extent_t>(ids.size())}}}}},
      {.micro_batch = micro, .random = {.seed = 3, .step = 5}, .remat = policy});
  store.absorb_observations(c);
  auto const values = [](view<double, 1> v) { return std::vector<double>(v.data, v.data + v.size()); };
  return {result.loss, values(store.gradients()), values(store.statistics())};
}

contrastive::basic_config tiny() {
  auto config = contrastive::basic_preset("basic_tiny").value();
  config.image.stochastic_depth = config.text.stochastic_depth = 0.2f;
  return config;
}

constexpr auto nothing = rematerialize::nothing;

}  // namespace

TEST_CASE("BASIC's presets have the reference's sizes") {
  struct row {
    char const *name, *image, *text;
    extent_t layers, width;
  };
  for (auto const& r : {row{"basic_s", "23.7", "108.3", 6, 1024}, row{"basic_m", "163.1", "183.8", 12, 1024},
                        row{"basic_l", "2429.5", "669.5", 12, 2048}}) {
    INFO(r.name);
    auto const config = contrastive::basic_preset(r.name).value();
    parameter_list list;
    auto const model = contrastive::basic(scope{list}, config);
    CHECK(millions(count(list, "image.")) == r.image);
    // The reference counts the matrices of the blocks and the table of tokens.
    auto const matrices = 12 * r.layers * r.width * r.width + 32'000 * r.width;
    CHECK(millions(matrices) == r.text);
    auto const biases_and_norms = r.layers * 13 * r.width, positions = 64 * r.width, last_norm = 2 * r.width;
    CHECK(count(list, "text.") ==
          matrices + biases_and_norms + positions + last_norm + r.width * config.image.features());
    CHECK(model.embedding == config.image.stages.back().width);
    CHECK(list.count() == count(list, "image.") + count(list, "text.") + 1);
  }
  parameter_list s, m, l;
  contrastive::basic_s(scope{s}), contrastive::basic_m(scope{m}), contrastive::basic_l(scope{l});
  CHECK(millions(s.count()) == "132.9");
  CHECK(millions(m.count()) == "348.6");
  CHECK(millions(l.count()) == "3105.7");  // "3 B weights"
  CHECK(!contrastive::basic_preset("basic_xl"));
}

TEST_CASE("every preset of BASIC plans a step, and keeps less by each policy") {
  for (auto name : contrastive::basic_preset_names) {
    INFO(name);
    auto const config = contrastive::basic_preset(name).value();
    parameter_list list;
    auto const model = contrastive::basic(scope{list}, config);
    auto const size = config.image.image_size;
    auto const plan = [&](rematerialize policy) {
      return train::plan_step<bf16>(model, list, 4, shape{size.height, size.width, 3},
                                    config.text.context_length, {.remat = policy});
    };
    auto const all = plan(nothing), cheap = plan(rematerialize::cheap), blocks = plan(rematerialize::blocks);
    CHECK(cheap.activations < all.activations);
    CHECK(blocks.activations < cheap.activations);
    CHECK(20 * cheap.multiply_adds < 21 * all.multiply_adds);  // only depthwise convolutions are run again
    CHECK(20 * blocks.multiply_adds > 23 * all.multiply_adds);
  }
}

TEST_CASE("the image tower for two cores takes at most 50 million multiply-adds an image") {
  auto const config = contrastive::basic_preset("basic_cifar").value();
  parameter_list list;
  auto const model = contrastive::basic(scope{list}, config);
  dry::context<bf16> c;
  parameter_store<dry::context<bf16>> store{c, list};
  tape<dry::context<bf16>> t{c, store.views(), {.record = false}};
  model.image(t, t.constant(view<bf16 const, 4>{nullptr, {{1, 32, 32, 3}}}));
  INFO(c.multiply_adds);
  CHECK(c.multiply_adds < 50'000'000);
}

TEST_CASE("a tiny BASIC: k micro-batches equal one batch for every parameter") {
  parameter_list list;
  auto const model = contrastive::basic(scope{list}, tiny());
  auto const whole = step(model, list, batch, nothing);
  for (extent_t micro : {1, 2, 3}) {
    auto const parts = step(model, list, micro, nothing);
    CHECK(std::abs(parts.loss - whole.loss) < 1e-12 * std::abs(whole.loss));
    for (auto const& p : list.infos()) {
      double worst = 0, largest = 0;
      for (auto i = static_cast<std::size_t>(p.offset); i < static_cast<std::size_t>(p.offset + p.size());
           ++i) {
        worst = std::max(worst, std::abs(parts.gradients[i] - whole.gradients[i]));
        largest = std::max(largest, std::abs(whole.gradients[i]));
      }
      INFO(p.name);
      CHECK(worst <= 1e-12 * std::max(1.0, largest));
      CHECK(largest > 0);
    }
  }
}

TEST_CASE("a tiny BASIC: each policy of rematerialisation gives the same bits") {
  auto const same = [](auto const& model, parameter_list const& list) {
    for (extent_t micro : {extent_t{3}, batch}) {
      auto const kept = step(model, list, micro, nothing);
      for (auto policy : {rematerialize::cheap, rematerialize::blocks, rematerialize::everything}) {
        auto const again = step(model, list, micro, policy);
        CHECK(again.loss == kept.loss);
        CHECK(again.gradients == kept.gradients);
        CHECK(again.running == kept.running);  // observed once
      }
    }
  };
  parameter_list list, normalized;
  same(contrastive::basic(scope{list}, tiny()), list);
  same(contrastive::basic<nn::batch_norm>(scope{normalized}, tiny()), normalized);
  CHECK(normalized.statistic_elements() > 0);
}

TEST_CASE("BatchNorm's step depends on the micro-batch, as its header says") {
  parameter_list list;
  auto const model = contrastive::basic<nn::batch_norm>(scope{list}, tiny());
  CHECK(step(model, list, batch, nothing).loss != step(model, list, 2, nothing).loss);
}

TEST_CASE("towers of two widths are no BASIC") {
  auto config = tiny();
  config.text.embedding += 1;
  parameter_list list;
  CHECK_THROWS_WITH(
      contrastive::basic(scope{list}, config),
      Catch::Matchers::ContainsSubstring("the text tower's embedding is as wide as the image's"));
}
